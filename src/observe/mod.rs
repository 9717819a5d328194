//! How a node shows what it does: figures, health, logs, and the service manager.
//!
//! Nothing here is global except the subscriber of `tracing`: the node owns one [`Metrics`] and one [`Health`] and
//! passes them on. No payload, no secret and no value that a client can choose becomes a label, a log field or a
//! reason; so the memory that observing takes is bounded.

mod figure;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod process;
pub mod recurring;
pub mod systemd;

pub use health::{Condition, Health, Pulse};
pub use metrics::Metrics;
