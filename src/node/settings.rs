//! From the configuration to what each part takes.

use std::sync::Arc;
use std::time::Duration;

use super::RunError;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::conscience;
use crate::engine::{Bounds, Limits};
use crate::gate::access::{AccessVerifier, KeyFiles};
use crate::gate::authorize::Policies;
use crate::gate::bundle;
use crate::gate::guard::{self, Guard};
use crate::gate::jwks;
use crate::gate::keys::Keys;
use crate::gate::node_key::NodeKey;
use crate::gate::permissions::Permissions;
use crate::gate::rate::Rate;
use crate::gate::seal::Seal;
use crate::gate::{SECURITY_LOG, token};
use crate::ledger::audit::seal::{self, Sealer};
use crate::ledger::{self, Ledger, StateLock};
use crate::llm;
use crate::memory::index::Analysis;
use crate::memory::model::Layer;
use crate::memory::{self, Ranking, Rankings};
use crate::mqtt::{ConnectOptions, Login};
use crate::observe::Metrics;
use crate::phoenix;
use crate::policy::OpaOptions;
use crate::small_file;
use crate::tls;
use crate::wire::{Fault, Names};

pub(super) async fn open_ledger(
    state: StateLock,
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
    tokio::task::spawn_blocking(move || Ledger::open_locked(state, &options, clock))
        .await
        .map_err(|error| RunError::Io {
            what: "the ledger".to_owned(),
            source: std::io::Error::other(error),
        })?
        .map_err(RunError::from)
}

/// The node's own key, made where neither it nor anything that was sealed with it is there: another key would take the whole
/// state for tampered with. Blocks shortly; the state folder is held.
pub(super) fn node_key(config: &Config) -> Result<NodeKey, RunError> {
    let (key_file, state_dir) = (&config.node.key_file, &config.node.state_dir);
    if matches!(key_file.try_exists(), Ok(false)) && ledger::is_sealed(state_dir)? {
        return Err(RunError::KeyMissing { key_file: key_file.clone(), state_dir: state_dir.clone() });
    }
    Ok(NodeKey::load_or_create(key_file)?)
}

/// Whether a reload applies a new value of this key; all others wait for the next start.
pub(super) fn is_read_again(key: &str) -> bool {
    key == "log.filter" || key.starts_with("auth.") || key.starts_with("policy.")
}

/// What the audit trail is sealed with.
pub(super) fn audit_sealer(key: &NodeKey) -> Sealer {
    Sealer::new(key.hmac(seal::PURPOSE))
}

/// Seals the audit trail from here on. Blocks shortly.
pub(super) fn seal_audit(ledger: &Ledger, key: &NodeKey) -> Result<(), RunError> {
    let found = ledger
        .seal_audit(audit_sealer(key))
        .map_err(|fault| RunError::Service { service: "the audit trail", fault })?;
    if let Some(tampering) = found {
        tracing::error!(target: SECURITY_LOG, %tampering, "the audit trail was changed while the node was stopped");
    }
    Ok(())
}

/// What the memories are sealed with.
pub(super) fn memory_seal(key: &NodeKey) -> memory::Seal {
    memory::Seal::new(key.hmac(memory::Seal::PURPOSE))
}

pub(super) fn memory_config(config: &Config) -> memory::Config {
    const MEGABYTE: u64 = 1 << 20;
    let (written, kept) = (&config.memory, &config.retention);
    let keep = |days, megabytes| memory::retention::Keep { days, max_bytes: megabytes * MEGABYTE };
    let share = |records, megabytes| memory::Share { records, bytes: megabytes * MEGABYTE };
    let mut memory = memory::Config {
        max_content_chars: written.content_max_chars,
        limits: memory::Limits {
            namespace: share(written.namespace_max_records, written.namespace_max_mb),
            user: share(written.user_max_records, written.user_max_mb),
        },
        retention: memory::retention::Retention {
            layers: [
                keep(kept.short_term_days, kept.short_term_max_mb),
                keep(kept.long_term_days, kept.long_term_max_mb),
                keep(kept.working_days, kept.working_max_mb),
                keep(kept.episodic_days, kept.episodic_max_mb),
                keep(kept.semantic_days, kept.semantic_max_mb),
            ],
            forgotten_days: written.forgotten_days,
            history_days: written.history_days,
            interval: config
                .schedule
                .memory_prune
                .period()
                .and_then(|millis| u64::try_from(millis).ok())
                .map(Duration::from_millis),
            max_share: kept.max_share,
            max_share_floor: kept.max_share_floor,
            promote_importance: written.promote_importance,
            promote_accesses: written.promote_accesses,
            half_life_days: written.importance_half_life_days,
        },
        transfer_dir: Some(written.transfer_dir.clone()),
        archive: written.remote(),
        embeddings: embeddings(&config.embeddings),
        ..memory::Config::default()
    };
    memory.index.commit_interval = written.index_commit;
    memory.index.look_interval = config.memory.index_look;
    // Every word that the key accepts is a language: a test tries them all.
    memory.index.analysis = Analysis::in_language(&config.memory.language).unwrap_or_default();
    let ranking = &config.ranking;
    memory.rankings = Rankings::new(|layer| {
        let weights = match layer {
            Layer::ShortTerm => ranking.short_term,
            Layer::LongTerm => ranking.long_term,
            Layer::Working => ranking.working,
            Layer::Episodic => ranking.episodic,
            Layer::Semantic => ranking.semantic,
        };
        let config::Weights { text, recency, importance, half_life_days } = weights;
        Ranking { text, recency, importance, half_life_days }
    });
    memory
}

/// How memories are found by their meaning, where that is on.
fn embeddings(written: &config::Embeddings) -> Option<memory::semantic::Options> {
    let (url, model) = written.url.clone().zip(written.model.clone())?;
    Some(memory::semantic::Options {
        url,
        model,
        prefixes: (written.query_prefix.clone(), written.content_prefix.clone()),
        ca_file: written.ca_file.clone().unwrap_or_else(|| tls::SYSTEM_AUTHORITIES.into()),
        limit: written.timeout,
        batch: written.batch,
        min_similarity: written.min_similarity,
        // At most 64 GiB.
        memory_bytes: usize::try_from(written.memory_mb << 20).unwrap_or(usize::MAX),
        breaker_failures: written.breaker_failures,
        breaker_pause: written.breaker_pause,
    })
}

/// What a node's commands pass.
pub(super) struct Gated {
    /// Seals secrets.
    pub seal: Arc<Seal>,
    /// The API keys.
    pub keys: Arc<Keys>,
    /// The gate.
    pub guard: Arc<Guard>,
}

/// Opens the gate's parts. Blocks shortly: it reads files and the ledger.
pub(super) fn gate(config: &Config, node_key: &NodeKey, ledger: &Ledger) -> Result<Gated, RunError> {
    let failed = |fault| RunError::Service { service: "the gate", fault };
    let seal = Arc::new(Seal::new(node_key).map_err(|_| failed(Fault::internal()))?);
    let keys = Arc::new(Keys::open(ledger.clone(), seal.clone()).map_err(failed)?);
    let guard = Arc::new(Guard::new(keys.clone(), auth(config)?));
    Ok(Gated { seal, keys, guard })
}

/// Who may command the node. Blocks shortly: it reads the keys that tokens are checked with.
pub(super) fn auth(config: &Config) -> Result<guard::Settings, RunError> {
    let auth = &config.auth;
    let cache = config.node.state_dir.join("jwks.json");
    let files = KeyFiles {
        public: auth.trusted_key_files.clone(),
        hs256_secret: auth.hs256_secret_file.clone(),
        jwks: auth.jwks_file.clone(),
        fetched: auth.jwks_url.clone().map(|url| (cache.clone(), url)),
    };
    let leeway = i64::try_from(auth.leeway.as_secs()).unwrap_or(i64::MAX);
    let policy = &config.policy;
    let opa = policy.opa_url.clone().map(|url| OpaOptions {
        url,
        ca_file: policy.opa_ca_file.clone().unwrap_or_else(|| tls::SYSTEM_AUTHORITIES.into()),
        token_file: policy.opa_token_file.clone(),
        limit: policy.opa_timeout,
        cached: policy.opa_cache,
    });
    let source = bundle::source(policy.folder.clone(), policy.signature_key_file.as_deref())?;
    let policies = Policies::load(&config.node.name, source.as_ref(), opa)?;
    let verifier = AccessVerifier::load(&files, &auth.issuer, &auth.audience, leeway)?;
    // A tenth of a minute's worth may come at once, and a thousand in any case: many clients share these.
    let shared = |per_minute: u32| Rate { per_minute, burst: (per_minute / 10).max(1_000) };
    Ok(guard::Settings {
        mode: auth.mode,
        // Checked by the configuration, one by one; more than there may be allow nothing.
        broker_permissions: Permissions::new(auth.broker_permissions.clone()).unwrap_or_default(),
        verifier,
        issuer: auth.issuer.clone(),
        rate: Rate { per_minute: auth.rate_per_min, burst: auth.burst },
        broker_rate: (auth.broker_rate_per_min > 0).then(|| shared(auth.broker_rate_per_min)),
        node_rate: (auth.node_rate_per_min > 0).then(|| shared(auth.node_rate_per_min)),
        unknown_rate: Rate {
            per_minute: auth.unauthenticated_per_min,
            burst: (auth.unauthenticated_per_min / 10).max(1),
        },
        cooldown: auth.cooldown,
        anomaly_cooldown: auth.anomaly_cooldown,
        jwks: auth.jwks_url.clone().map(|url| jwks::Source {
            url,
            ca_file: auth.jwks_ca_file.clone().unwrap_or_else(|| tls::SYSTEM_AUTHORITIES.into()),
            every: auth.jwks_refresh,
            cache,
        }),
        policy_source: source,
        policies,
    })
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
        audit_kept: config.audit.kept,
        audit_records: config.audit.max_records,
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
            role: token::Role::Node,
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
        Some(llm::Model { url, name, key_file: None, limit, budget: llm::Budget::default() })
    };
    let remote = model(&llm.remote_url, &llm.remote_model, llm.remote_timeout).map(|remote| llm::Model {
        key_file: llm.remote_key_file.clone(),
        budget: llm::Budget {
            tokens: Some(llm.remote_daily_tokens).filter(|tokens| *tokens > 0),
            usd: Some(llm.remote_daily_usd).filter(|usd| *usd > 0.0),
            usd_per_million: (llm.remote_usd_per_million_in, llm.remote_usd_per_million_out),
        },
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

/// How backups are made and kept.
pub(super) fn phoenix_config(config: &Config, signals: &super::Signals) -> phoenix::Config {
    let kept = &config.phoenix;
    phoenix::Config {
        repository: kept
            .repository
            .clone()
            .zip(kept.password_file.clone())
            .map(|(location, password_file)| phoenix::Repository { location, password_file, s3: kept.s3() }),
        worker_memory: kept.worker_memory << 20,
        keep: phoenix::retention::Keep {
            last: kept.keep_last,
            daily: kept.keep_daily,
            weekly: kept.keep_weekly,
            monthly: kept.keep_monthly,
            yearly: kept.keep_yearly,
            within_days: kept.keep_within_days,
            floor: kept.keep_floor,
        },
        time_zone: config.schedule.time_zone.clone(),
        append_only: kept.append_only,
        index: kept.include_index,
        state_dir: config.node.state_dir.clone(),
        node: config.node.name.clone(),
        text: signals.config_text.clone(),
        files: signals.config_files.clone(),
        key_file: config.node.key_file.clone(),
    }
}

/// How the conscience judges, with the rules of the rule file.
pub(super) async fn conscience_config(config: &Config) -> Result<conscience::Config, RunError> {
    let settings = &config.conscience;
    let rules = match &settings.rules_file {
        None => None,
        Some(path) => {
            let wrong = |reason: String| RunError::Rules { path: path.clone(), reason };
            let toml = tokio::task::block_in_place(|| small_file::read(path))
                .map_err(|error| wrong(error.to_string()))?;
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
        judge: conscience::Bounds {
            asked: match settings.judge {
                config::JudgeAsked::Open => conscience::Asked::Open,
                config::JudgeAsked::Always => conscience::Asked::Always,
                config::JudgeAsked::Never => conscience::Asked::Never,
            },
            above: settings.judge_above,
            below: settings.judge_below,
            reach: settings.judge_reach,
            limit: settings.judge_timeout,
        },
        review_expiry: settings.review_expiry,
        keep_decisions: settings.decisions,
        decision_rows: settings.decision_rows,
        rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str) -> Config {
        let text = format!("node.name = \"n1\"\nbroker.url = \"mqtts://b\"\n{key}");
        Config::from_toml(&text).unwrap()
    }

    #[test]
    fn every_language_that_can_be_configured_is_one() {
        let Some(config::Kind::Choice(words)) = config::key("memory.language").map(|key| key.kind) else {
            panic!()
        };
        for word in words {
            let config = with(&format!("memory.language = \"{word}\""));
            assert_eq!(Some(memory_config(&config).index.analysis), Analysis::in_language(word));
        }
        assert_eq!(words.len(), crate::memory::index::LANGUAGES.len() + 1);
    }

    #[test]
    fn the_ranking_of_each_layer_is_configured_and_has_the_documented_default() {
        assert_eq!(memory_config(&with("")).rankings, Rankings::default());
        for layer in Layer::ALL {
            let name = layer.as_str();
            let text = "text 0.5, recency 0.25, importance 0.125, half_life_days 11";
            let rankings = memory_config(&with(&format!("ranking.{name} = \"{text}\""))).rankings;
            let changed = Ranking { text: 0.5, recency: 0.25, importance: 0.125, half_life_days: 11.0 };
            for other in Layer::ALL {
                let expected = if other == layer { changed } else { *Rankings::default().of(other) };
                assert_eq!(*rankings.of(other), expected, "{name} {}", other.as_str());
            }
        }
    }
}
