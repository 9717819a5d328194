//! From the configuration to what each part takes.

use std::path::PathBuf;
use std::sync::Arc;

use super::RunError;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::conscience;
use crate::engine::{Bounds, Limits};
use crate::gate;
use crate::ledger::{self, Ledger};
use crate::llm;
use crate::memory;
use crate::mqtt::{ConnectOptions, Login};
use crate::observe::Metrics;
use crate::tls;
use crate::wire::Names;

pub(super) async fn open_ledger(
    config: &Config,
    metrics: &Metrics,
    clock: Clock,
) -> Result<Ledger, RunError> {
    let committed = metrics.clone();
    let options = ledger::Options {
        reserve_bytes: config.ledger.reserve_bytes,
        wal_limit_bytes: config.ledger.wal_limit_bytes,
        readers: config.ledger.readers,
        committed: Some(Arc::new(move |units, elapsed| committed.ledger_commit(units, elapsed))),
    };
    let state_dir: PathBuf = config.node.state_dir.clone();
    tokio::task::spawn_blocking(move || Ledger::open(&state_dir, &options, clock))
        .await
        .map_err(|error| RunError::Io {
            what: "the ledger".to_owned(),
            source: std::io::Error::other(error),
        })?
        .map_err(RunError::from)
}

pub(super) fn memory_config(config: &Config) -> memory::Config {
    let mut memory =
        memory::Config { max_content_chars: config.memory.content_max_chars, ..memory::Config::default() };
    memory.index.commit_interval = config.memory.index_commit;
    memory
}

pub(super) fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        max_payload_bytes: limits.max_payload_bytes as usize,
        reads_in_flight: limits.reads_in_flight,
        command_deadline: limits.command_deadline,
        job_deadline: limits.job_deadline,
        inbox_window: limits.inbox,
        inbox_rows: limits.inbox_rows,
        outbox: Bounds { rows: limits.outbox_rows, bytes: limits.outbox_bytes },
        reply_expiry: limits.reply_expiry,
        reply_topics: config.reply.topics.clone(),
    }
}

pub(super) fn connect_options(config: &Config, names: &Names) -> ConnectOptions {
    let broker = &config.broker;
    let login = match broker.login() {
        config::Login::None => Login::None,
        config::Login::Password(username, file) => {
            Login::Password { username: username.to_owned(), password_file: file.to_owned() }
        }
        config::Login::Jwt(username, key_file) => Login::Jwt {
            key_file: key_file.to_owned(),
            issuer: broker.jwt_issuer.clone(),
            audience: broker.jwt_audience.clone(),
            subject: username.unwrap_or(names.node()).to_owned(),
            role: gate::token::Role::Node,
            ttl: broker.jwt_ttl,
        },
    };
    ConnectOptions {
        host: broker.url.host.clone(),
        port: broker.url.port,
        tls: broker.url.tls,
        ca_file: broker.ca_file.clone(),
        identity: broker.client_cert_file.clone().zip(broker.client_key_file.clone()),
        client_id: broker.client_id.clone(),
        keep_alive: broker.keep_alive,
        session_expiry: broker.session_expiry,
        connect_timeout: broker.connect_timeout,
        max_packet_bytes: config.limits.max_packet_bytes,
        login,
    }
}

pub(super) fn llm_config(config: &Config) -> llm::Config {
    let llm = &config.llm;
    let model = |url: &Option<String>, name: &Option<String>, limit| {
        let (url, name) = url.clone().zip(name.clone())?;
        Some(llm::Model { url, name, key_file: None, limit, daily_tokens: None })
    };
    let remote = model(&llm.remote_url, &llm.remote_model, llm.remote_timeout).map(|remote| llm::Model {
        key_file: llm.remote_key_file.clone(),
        daily_tokens: Some(llm.remote_daily_tokens).filter(|tokens| *tokens > 0),
        ..remote
    });
    llm::Config {
        remote,
        local: model(&llm.local_url, &llm.local_model, llm.local_timeout),
        ca_file: llm.ca_file.clone().unwrap_or_else(|| tls::SYSTEM_AUTHORITIES.into()),
        at_once: llm.at_once,
        breaker_failures: llm.breaker_failures,
        breaker_pause: llm.breaker_pause,
    }
}

/// How the conscience judges, with the rules of the rule file.
pub(super) async fn conscience_config(config: &Config) -> Result<conscience::Config, RunError> {
    let settings = &config.conscience;
    let rules = match &settings.rules_file {
        None => None,
        Some(path) => {
            let wrong = |reason: String| RunError::Rules { path: path.clone(), reason };
            let toml = tokio::fs::read_to_string(path).await.map_err(|error| wrong(error.to_string()))?;
            let rules = conscience::read_rules(&toml).map_err(|fault| wrong(fault.message))?;
            conscience::check_rules(rules.clone()).map_err(|fault| wrong(fault.message))?;
            Some(rules)
        }
    };
    Ok(conscience::Config {
        thresholds: conscience::Thresholds {
            approve_at: settings.approve_at,
            refuse_below: settings.refuse_below,
        },
        review_expiry: settings.review_expiry,
        keep_decisions: settings.decisions,
        decision_rows: settings.decision_rows,
        rules,
    })
}
