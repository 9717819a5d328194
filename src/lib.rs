//! `orchd`, the agent of an ORCH node: commands come in over MQTT, take effect once in the ledger, and are
//! answered from it.

pub mod clock;
pub mod conscience;
pub mod engine;
pub mod ledger;
pub mod observe;
pub mod wire;
