//! Gives a command its guarantees.

pub mod command;
pub mod jobs;
