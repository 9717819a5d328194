//! Questions to others over HTTP: a client that is bounded in time and size, and a breaker for who fails again and again.
//!
//! Nothing here knows who is asked, or what.

mod breaker;
mod http;

pub(crate) use breaker::{Breaker, Permit};
pub(crate) use http::{Http, HttpError, Response};
