//! `orchd`, the agent of an ORCH node: commands come in over MQTT, take effect once in the ledger, and are
//! answered from it.
//!
//! The map of the house, in the direction that data flows:
//!
//! - [`mqtt`] talks to the broker, and is alone in knowing the client library; [`tls`] makes its TLS 1.3.
//! - [`wire`] decodes and encodes what travels: topics, envelopes, error codes. Pure.
//! - [`gate`] decides who asks and whether they may.
//! - [`policy`] evaluates policies in Rego.
//! - [`engine`] gives each command its guarantees: once, answered, in time.
//! - [`ledger`] is the one source of truth, a SQLite database with one writer.
//! - [`conscience`] judges actions by rules; [`memory`] keeps what is to be remembered; [`soul`] knows whom the node deals
//!   with.
//! - [`schedule`] runs what recurs, at the times that [`when`] reckons.
//! - [`phoenix`] puts the node's state away in a repository, and brings it back.
//! - [`storage`] asks S3-compatible object storage.
//! - [`llm`] has language models answer, the remote one first, then the local one.
//! - [`observe`] says how things are: metrics, health, logs.
//! - [`config`] is what the operator wrote, checked.
//! - [`topics`] writes the interface down: AsyncAPI, JSON Schemas, access rules.
//! - [`broker`] is the embedded broker of the demo, of small sites, and of the tests.
//!
//! Imports point one way: cli → node → mqtt, engine, services → ledger, wire.

pub mod broker;
mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conscience;
pub mod engine;
pub mod entity;
pub mod gate;
pub mod ledger;
pub mod llm;
pub mod memory;
pub mod mqtt;
pub mod node;
pub mod observe;
mod outbound;
pub mod phoenix;
pub mod policy;
mod regular_file;
pub mod schedule;
/// Compiled into the integration tests, too.
#[cfg(test)]
#[allow(dead_code, reason = "they use the rest")]
#[path = "../tests/support/provider.rs"]
mod scripted_provider;
mod small_file;
pub mod soul;
pub mod storage;
pub mod tls;
pub mod topics;
pub mod when;
pub mod wire;
