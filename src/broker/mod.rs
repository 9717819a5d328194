//! The embedded broker.

pub mod acl;
