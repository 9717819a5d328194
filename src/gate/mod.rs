//! The gate: who may do what.

pub mod token;
