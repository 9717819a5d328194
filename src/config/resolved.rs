//! Every key of the configuration, declared once: the comment, type, limits and default below are what parsing,
//! `orchd config show`, the JSON Schema, `config/orchd.toml` and `docs/configuration.md` are made of.
//!
//! In each declaration: field and its type, key, what it accepts, what stands for it when it is not set, an example.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::choices::{Auth, AuthMode, JudgeAsked, LogFormat};
use super::keys::{Absent, Role, Section, section};
use super::kind::{Holds, Kind, Unit, Value};
use super::remembered::{Embeddings, Memory, Ranking, Retention};
use super::rules::{self, BrokerUrl};
use super::upkeep::{Phoenix, Schedule};

use Absent::Value as Is;
use Absent::{Hostname, Required, StateDirectory, Unset};
use Kind::{Bool, Choice, Float, Integer, Path, Paths, Text, Texts};
use Unit::{Bytes, Count, Days, Hours, Milliseconds, Seconds};

section! {
    /// The node itself.
    "node" Node {
        /// Name of the node, its level in every topic: `{root}/{name}/…`. Unique on the broker. The host name serves
        /// where it is a valid name (letters, digits, `.`, `_`, `-`); otherwise the key is required.
        name: String = "name", Text("a name", rules::node_name), Hostname, r#""node-7""#;
        /// First level of every topic.
        root: String = "root", Text("a name", rules::name), Is(r#""orch""#), "";
        /// Group that shares the commands addressed to any one node (`$share/{group}/{root}/any/…`).
        group: String = "group", Text("a name", rules::name), Is(r#""orchd""#), "";
        /// Folder of all state: ledger, index, control socket. Under systemd it is the one that the unit made
        /// (`$STATE_DIRECTORY`).
        state_dir: PathBuf = "state_dir", Path(Holds::Folder), StateDirectory(r#""/var/lib/orchd""#), "";
        /// Whether the node counts as started before it has reached its broker.
        start_offline: bool = "start_offline", Bool, Is("false"), "";
        /// File that holds the node's own key, made at the first start. The seals of the memories are made with it, and the
        /// signing keys of API keys are sealed with it: without it no memory is given out and no signature can be checked, so
        /// back it up with the state.
        key_file: PathBuf = "key_file", Path(Holds::OwnSecret), Is(r#""{state_dir}/node.key""#), "";
    }
}

section! {
    /// The broker that the node connects to, and how it logs in.
    "broker" Broker {
        /// Address of the broker: `mqtts://host:port`. `mqtt://`, without encryption, is accepted for this machine
        /// alone. Not needed by `orchd broker`.
        url: BrokerUrl = "url", Text("`mqtts://host:port`", rules::broker_url), Required(Role::Node), r#""mqtts://broker.example.org:8883""#;
        /// Certificates (PEM) of the authorities that the broker's certificate may come from. Those of the system
        /// are used when it is not set.
        ca_file: Option<PathBuf> = "ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/ca.pem""#;
        /// Certificate chain (PEM) that the node shows the broker. Needs `client_key_file`.
        client_cert_file: Option<PathBuf> = "client_cert_file", Path(Holds::Public), Unset, r#""/etc/orchd/client.pem""#;
        /// Private key (PEM) of the client certificate.
        client_key_file: Option<PathBuf> = "client_key_file", Path(Holds::Secret), Unset, r#""/etc/orchd/client.key""#;
        /// MQTT client identifier; names the session that the broker keeps.
        client_id: String = "client_id", Text("a word", rules::word), Is(r#""orchd-{root}-{node}""#), "";
        /// Longest silence on the connection before either side asks whether the other is there.
        keep_alive: Duration = "keep_alive_s", Integer(5, 3_600, Seconds), Is("30"), "";
        /// How long the broker keeps the session, and the commands that arrive for it, while the node is away.
        session_expiry: Duration = "session_expiry_s", Integer(60, 31_536_000, Seconds), Is("86_400"), "";
        /// Longest time that a connection may take, from the first packet to the broker's acceptance.
        connect_timeout: Duration = "connect_timeout_s", Integer(1, 300, Seconds), Is("10"), "";
        /// How the node logs in: not at all (or by its client certificate), with `username` and `password_file`, or
        /// with a JWT that it signs itself with `jwt_key_file` and renews before it ends.
        auth: Auth = "auth", Choice(Auth::WORDS), Is(r#""none""#), "";
        /// User name. For `password` it is required; for `jwt` the node's name is used when it is not set.
        username: Option<String> = "username", Text("a word", rules::word), Unset, r#""node-7""#;
        /// File that holds the password; a line break at its end does not count.
        password_file: Option<PathBuf> = "password_file", Path(Holds::Secret), Unset, r#""/etc/orchd/password""#;
        /// Ed25519 private key (PKCS#8, PEM) that signs the node's JWTs.
        jwt_key_file: Option<PathBuf> = "jwt_key_file", Path(Holds::Secret), Unset, r#""/etc/orchd/jwt.key""#;
        /// Issuer (`iss`) of the node's JWTs.
        jwt_issuer: String = "jwt_issuer", Text("a word", rules::word), Is(r#""orchd""#), "";
        /// Audience (`aud`) of the node's JWTs.
        jwt_audience: String = "jwt_audience", Text("a word", rules::word), Is(r#""orch""#), "";
        /// How long each JWT is valid.
        jwt_ttl: Duration = "jwt_ttl_s", Integer(60, 86_400, Seconds), Is("600"), "";
        /// First pause before connecting again; it doubles with each failure, with jitter.
        reconnect_min: Duration = "reconnect_min_ms", Integer(10, 60_000, Milliseconds), Is("500"), "";
        /// Longest pause before connecting again.
        reconnect_max: Duration = "reconnect_max_s", Integer(1, 3_600, Seconds), Is("60"), "";
    }
}

section! {
    /// Who may command the node, and how often. Read again on reload.
    "auth" Access {
        /// `required`: every command needs a JWT or an API key. `broker`: one without is the principal `broker`, with the
        /// permissions below, and may give no sensitive command; for brokers that know their clients. `open`: everyone may
        /// do everything; only with a broker on this machine, for trials.
        mode: AuthMode = "mode", Choice(AuthMode::WORDS), Is(r#""broker""#), "";
        /// Topic filters of the commands that the principal `broker` may give.
        broker_permissions: Vec<String> = "broker_permissions", Texts("a topic filter of names, `+` and `#`", rules::permission), Is(r#"["{root}/{node}/#", "{root}/all/#", "{root}/any/#"]"#), "";
        /// Public keys (PEM: Ed25519, EC P-256, RSA of 2048 bits or more) whose JWTs are believed.
        trusted_key_files: Vec<PathBuf> = "trusted_key_files", Paths(Holds::Public), Is("[]"), r#"["/etc/orchd/issuer.pub"]"#;
        /// Secret of 32 bytes or more whose JWTs (HS256) are believed; a line break at its end does not count.
        hs256_secret_file: Option<PathBuf> = "hs256_secret_file", Path(Holds::Secret), Unset, r#""/etc/orchd/hs256.secret""#;
        /// JWKS with further public keys, as identity providers publish them.
        jwks_file: Option<PathBuf> = "jwks_file", Path(Holds::Public), Unset, r#""/etc/orchd/jwks.json""#;
        /// Address of a JWKS with further public keys. It is fetched at the start and at intervals, and kept with the state for
        /// a start without the network.
        jwks_url: Option<String> = "jwks_url", Text("`https://host/path`", rules::remote_url), Unset, r#""https://id.example.org/jwks.json""#;
        /// Certificates (PEM) of the authorities that the certificate of that address may come from; those of the system when
        /// it is not set.
        jwks_ca_file: Option<PathBuf> = "jwks_ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/id-ca.pem""#;
        /// Time from one fetch to the next.
        jwks_refresh: Duration = "jwks_refresh_s", Integer(1, 86_400, Seconds), Is("300"), "";
        /// Issuer (`iss`) that JWTs must have.
        issuer: String = "issuer", Text("a word without spaces", rules::issuer), Is(r#""orchd""#), "";
        /// Audience (`aud`) that JWTs must have.
        audience: String = "audience", Text("a word", rules::word), Is(r#""orch""#), "";
        /// Clock difference that is tolerated with JWTs.
        leeway: Duration = "leeway_s", Integer(0, 30, Seconds), Is("10"), "";
        /// Commands in a minute for each principal, unless its API key says otherwise.
        rate_per_min: u32 = "rate_per_min", Integer(1, 6_000_000, Count), Is("60"), "";
        /// Commands that a principal may give at once when it was quiet before.
        burst: u32 = "burst", Integer(1, 1_000_000, Count), Is("30"), "";
        /// Commands in a minute of the principal `broker`, which is everyone without credentials; 0 for any number.
        broker_rate_per_min: u32 = "broker_rate_per_min", Integer(0, 6_000_000, Count), Is("0"), "";
        /// Commands in a minute of all principals together; 0 for any number.
        node_rate_per_min: u32 = "node_rate_per_min", Integer(0, 6_000_000, Count), Is("0"), "";
        /// Messages in a minute whose credentials are not known to be good; all of them share it, and it is charged before
        /// their credentials are looked into.
        unauthenticated_per_min: u32 = "unauthenticated_per_min", Integer(1, 6_000_000, Count), Is("600"), "";
        /// How long a principal that does not heed its limit is refused altogether; 0 for never.
        cooldown: Duration = "cooldown_s", Integer(0, 86_400, Seconds), Is("60"), "";
        /// How long a principal that stands out (a burst, repeated refusals, a replay) is refused altogether; 0 for never. It
        /// is counted and told in any case.
        anomaly_cooldown: Duration = "anomaly_cooldown_s", Integer(0, 86_400, Seconds), Is("0"), "";
    }
}

section! {
    /// Policies in Rego: what a command has to fulfil besides credentials, permissions and signatures. They can only
    /// refuse. Read again on reload.
    "policy" Policy {
        /// Folder of Rego files with their tests and data; `config/policy` is one to begin with. None is asked when it is
        /// not set.
        folder: Option<PathBuf> = "folder", Path(Holds::Bundle), Unset, r#""/etc/orchd/policy""#;
        /// Public key (PEM: Ed25519, EC on P-256 or RSA) of whoever signs the bundle with `opa sign`. When it is set, a bundle
        /// without their signature, or that is not as they signed it, is not loaded.
        signature_key_file: Option<PathBuf> = "signature_key_file", Path(Holds::Public), Unset, r#""/etc/orchd/policy-signer.pub""#;
        /// Address of a rule at an OPA server, which is asked besides; its value is as that of `orchd.gate.deny` in a bundle.
        opa_url: Option<String> = "opa_url", Text("`https://host/path`", rules::remote_url), Unset, r#""http://127.0.0.1:8181/v1/data/orchd/gate/deny""#;
        /// Certificates (PEM) of the authorities that the server's certificate may come from; those of the system when it is
        /// not set.
        opa_ca_file: Option<PathBuf> = "opa_ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/opa-ca.pem""#;
        /// File with the token that is shown to the server.
        opa_token_file: Option<PathBuf> = "opa_token_file", Path(Holds::Secret), Unset, r#""/etc/orchd/opa.token""#;
        /// Longest time that the server may take; then the command is refused.
        opa_timeout: Duration = "opa_timeout_ms", Integer(10, 10_000, Milliseconds), Is("1_000"), "";
        /// How long an answer of the server stands for the same question; 0 for asking each time.
        opa_cache: Duration = "opa_cache_s", Integer(0, 300, Seconds), Is("5"), "";
    }
}

section! {
    /// How much the node takes on. What exceeds a limit is refused or held back, never taken and lost.
    "limits" Limits {
        /// Largest MQTT packet that the broker may send to the node.
        max_packet_bytes: u32 = "max_packet_bytes", Integer(4_096, 16_777_216, Bytes), Is("1_048_576"), "";
        /// Largest payload of a command; a larger one is answered `too_large`.
        max_payload_bytes: u32 = "max_payload_bytes", Integer(1_024, 16_777_216, Bytes), Is("262_144"), "";
        /// Commands that only read and run at the same time.
        reads_in_flight: usize = "reads_in_flight", Integer(1, 4_096, Count), Is("64"), "";
        /// Jobs (backups, pruning) that run at the same time. Questions to models do not count: see `llm.at_once`.
        jobs_in_flight: usize = "jobs_in_flight", Integer(1, 64, Count), Is("2"), "";
        /// Longest time that a job may run.
        job_deadline: Duration = "job_deadline_s", Integer(1, 604_800, Seconds), Is("3_600"), "";
        /// Longest time that any other command may take, when its sender set no expiry.
        command_deadline: Duration = "command_deadline_s", Integer(1, 3_600, Seconds), Is("30"), "";
        /// How long a command is remembered, so that a repeat of it is answered and not run again.
        inbox: Duration = "inbox_hours", Integer(1, 8_760, Hours), Is("24"), "";
        /// How many commands are remembered at most; beyond that the oldest are forgotten first.
        inbox_rows: u64 = "inbox_rows", Integer(1_000, 100_000_000, Count), Is("1_000_000"), "";
        /// Replies that may wait for the broker; beyond that new commands are answered `busy`.
        outbox_rows: u64 = "outbox_rows", Integer(100, 10_000_000, Count), Is("10_000"), "";
        /// Bytes of the replies that may wait for the broker.
        outbox_bytes: u64 = "outbox_bytes", Integer(1_048_576, 17_179_869_184, Bytes), Is("67_108_864"), "";
        /// How long a reply waits for the broker, when the command set no expiry.
        reply_expiry: Duration = "reply_expiry_s", Integer(1, 604_800, Seconds), Is("3_600"), "";
    }
}

section! {
    /// Where answers may go.
    "reply" Reply {
        /// Topic filters besides the asker's own inbox, which is `{root}/inbox/NAME/…` for one who shows credentials (the
        /// API key's name, the JWT's `sub`), and `{root}/inbox/#` for others. A command that asks for its answer elsewhere
        /// is refused. Topics of commands and of the broker (`$…`) are refused whatever stands here.
        topics: Vec<String> = "topics", Texts("a topic filter", rules::filter), Is("[]"), r#"["plant/answers/#"]"#;
    }
}

section! {
    /// The ledger: the database that holds everything the node must not lose.
    "ledger" Ledger {
        /// Space that is set aside, and given up when the disk is full, so that forgetting and pruning still work. It is at most
        /// an eighth of the file system, and the node needs half as much again to be free at the start.
        reserve_bytes: u64 = "reserve_bytes", Integer(1_048_576, 1_073_741_824, Bytes), Is("33_554_432"), "";
        /// Size at which the write-ahead log is cut back.
        wal_limit_bytes: u64 = "wal_limit_bytes", Integer(1_048_576, 1_073_741_824, Bytes), Is("67_108_864"), "";
        /// Connections that read.
        readers: usize = "readers", Integer(1, 16, Count), Is("2"), "";
    }
}

section! {
    /// The audit trail: who gave which command, and what became of it.
    "audit" Audit {
        /// How long its records are kept.
        kept: Duration = "keep_days", Integer(1, 36_500, Days), Is("365"), "";
        /// How many are kept at most; beyond that the oldest are removed first.
        max_records: u64 = "max_records", Integer(10_000, 1_000_000_000, Count), Is("1_000_000"), "";
    }
}

section! {
    /// How actions are judged: a score from -1 (forbidden) to 1 (favoured).
    "conscience" Conscience {
        /// An action with at least this score is approved.
        approve_at: f64 = "approve_at", Float(-1.0, 1.0), Is("0.0"), "";
        /// An action with a lower score is refused; one from here up to `approve_at` needs a review.
        refuse_below: f64 = "refuse_below", Float(-1.0, 1.0), Is("-0.25"), "";
        /// When a model is asked for its opinion, where any is configured in `[llm]`: `open`, about what the rules leave open;
        /// `always`, about everything that the rules do not call dangerous; `never`.
        judge: JudgeAsked = "judge", Choice(JudgeAsked::WORDS), Is(r#""open""#), "";
        /// An action with a lower score by the rules is dangerous: no model is asked about it, as about one that a veto
        /// refuses.
        judge_above: f64 = "judge_above", Float(-1.0, 1.0), Is("-0.5"), "";
        /// With `judge = "open"`, an action with at least this score by the rules is no longer open.
        judge_below: f64 = "judge_below", Float(-1.0, 1.0), Is("0.5"), "";
        /// How far a model can move the score of the rules, up or down.
        judge_reach: f64 = "judge_reach", Float(0.0, 2.0), Is("0.5"), "";
        /// Longest time that models may take over one action, all of them together; then the rules judge alone.
        judge_timeout: Duration = "judge_timeout_s", Integer(1, 600, Seconds), Is("20"), "";
        /// File of rules (TOML) that are put in force at each start, besides those that commands have set; a rule that
        /// is taken out of the file goes at the next start.
        rules_file: Option<PathBuf> = "rules_file", Path(Holds::Public), Unset, r#""/etc/orchd/rules.toml""#;
        /// How long a review waits for a person; then its action counts as refused.
        review_expiry: Duration = "review_expiry_s", Integer(1, 31_536_000, Seconds), Is("86_400"), "";
        /// How long decisions are kept, and reviews once they are resolved.
        decisions: Duration = "decisions_hours", Integer(1, 87_600, Hours), Is("720"), "";
        /// How many decisions are kept at most; beyond that the oldest are forgotten first.
        decision_rows: u64 = "decision_rows", Integer(100, 10_000_000, Count), Is("100_000"), "";
    }
}

section! {
    /// Language models: the remote one is asked first, the local one when that fails. None is asked unless it stands here.
    "llm" Llm {
        /// Base address of an OpenAI-compatible provider, such as OpenRouter. Needs `remote_model`.
        remote_url: Option<String> = "remote_url", Text("`https://host/path`", rules::remote_url), Unset, r#""https://openrouter.ai/api/v1""#;
        /// The remote model.
        remote_model: Option<String> = "remote_model", Text("a word", rules::word), Unset, r#""meta-llama/llama-3.3-70b-instruct""#;
        /// File of the remote provider's API key.
        remote_key_file: Option<PathBuf> = "remote_key_file", Path(Holds::Secret), Unset, r#""/etc/orchd/openrouter.key""#;
        /// Longest time that the remote model may take.
        remote_timeout: Duration = "remote_timeout_s", Integer(1, 600, Seconds), Is("15"), "";
        /// Tokens (question and answer) that the remote model may use in a day (UTC); 0 for no limit.
        remote_daily_tokens: u64 = "remote_daily_tokens", Integer(0, 1_000_000_000_000, Count), Is("1_000_000"), "";
        /// US dollars that the remote model may cost in a day (UTC); 0 for no limit.
        remote_daily_usd: f64 = "remote_daily_usd", Float(0.0, 1_000_000.0), Is("0.0"), "";
        /// US dollars for a million tokens of questions, where the provider does not say what an answer cost. OpenRouter
        /// says so.
        remote_usd_per_million_in: f64 = "remote_usd_per_million_in", Float(0.0, 1_000_000.0), Is("0.0"), "";
        /// US dollars for a million tokens of answers, where the provider does not say what an answer cost.
        remote_usd_per_million_out: f64 = "remote_usd_per_million_out", Float(0.0, 1_000_000.0), Is("0.0"), "";
        /// Base address of Ollama. Needs `local_model`.
        local_url: Option<String> = "local_url", Text("`http://host:port`", rules::local_url), Unset, r#""http://127.0.0.1:11434""#;
        /// The local model.
        local_model: Option<String> = "local_model", Text("a word", rules::word), Unset, r#""llama3.2""#;
        /// Longest time that the local model may take.
        local_timeout: Duration = "local_timeout_s", Integer(1, 600, Seconds), Is("60"), "";
        /// Certificates (PEM) of the authorities that a provider's certificate may come from; those of the system when it
        /// is not set.
        ca_file: Option<PathBuf> = "ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/proxy-ca.pem""#;
        /// Questions to models at the same time, and as many judgements; one more question is answered `busy`, one more
        /// action is judged by the rules alone.
        at_once: usize = "at_once", Integer(1, 32, Count), Is("4"), "";
        /// Failures in a row after which a provider is left alone.
        breaker_failures: u32 = "breaker_failures", Integer(1, 1_000, Count), Is("3"), "";
        /// How long it is left alone before one question tries it again.
        breaker_pause: Duration = "breaker_pause_s", Integer(1, 3_600, Seconds), Is("30"), "";
    }
}

section! {
    /// How the node can be watched.
    "observe" Observe {
        /// Address of `/metrics` and `/health`, on this machine alone; `""` for none.
        listen: Option<SocketAddr> = "listen", Text("an address and port, or \"\"", rules::loopback), Is(r#""127.0.0.1:9464""#), "";
        /// Time from one heartbeat event to the next.
        heartbeat: Duration = "heartbeat_s", Integer(1, 3_600, Seconds), Is("30"), "";
    }
}

section! {
    /// The log.
    "log" Log {
        /// Where it goes and what it looks like; `auto` is journald under systemd, else text.
        format: LogFormat = "format", Choice(LogFormat::WORDS), Is(r#""auto""#), "";
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels by module.
        filter: String = "filter", Text("a level, or levels by module", rules::log_filter), Is(r#""info""#), "";
    }
}

section! {
    /// The control socket, by which the command line on this machine talks to the node.
    "control" Control {
        /// Path of the socket. Who may open it may do everything: it is made with mode 0600.
        socket: PathBuf = "socket", Path(Holds::Socket), Is(r#""{state_dir}/control.sock""#), "";
    }
}

section! {
    /// The embedded broker, run alone with `orchd broker`. A node does not read this section.
    "listener" Listener {
        /// Address and port to listen on, TLS 1.3 only.
        address: SocketAddr = "address", Text("an address and port", rules::address), Is(r#""127.0.0.1:8883""#), "";
        /// Certificate chain (PEM) that it shows.
        cert_file: Option<PathBuf> = "cert_file", Path(Holds::Public), Required(Role::Broker), r#""/etc/orchd/broker.pem""#;
        /// Private key (PEM) of that certificate.
        key_file: Option<PathBuf> = "key_file", Path(Holds::Secret), Required(Role::Broker), r#""/etc/orchd/broker.key""#;
        /// Certificates (PEM) of the authorities that clients' certificates must come from. Clients need none when
        /// it is not set.
        client_ca_file: Option<PathBuf> = "client_ca_file", Path(Holds::Public), Unset, r#""/etc/orchd/clients-ca.pem""#;
        /// Ed25519 public keys (PEM) of those whose JWTs let anyone in, as a client or node of any name: issuers, never nodes.
        trusted_key_files: Vec<PathBuf> = "trusted_key_files", Paths(Holds::Public), Is("[]"), r#"["/etc/orchd/jwt.pub"]"#;
        /// Ed25519 public keys (PEM) of nodes, each in a file that is called after its node, `NAME.pub.pem` or `NAME.pem`. Such a
        /// key lets in that node alone.
        node_key_files: Vec<PathBuf> = "node_key_files", Paths(Holds::Public), Is("[]"), r#"["/etc/orchd/nodes/node-7.pub.pem"]"#;
        /// Issuer (`iss`) that clients' JWTs must have.
        issuer: String = "issuer", Text("a word", rules::word), Is(r#""orchd""#), "";
        /// Audience (`aud`) that clients' JWTs must have.
        audience: String = "audience", Text("a word", rules::word), Is(r#""orch""#), "";
        /// Folder for sessions and retained messages; they are kept in memory alone when it is not set.
        storage_dir: Option<PathBuf> = "storage_dir", Path(Holds::Folder), Unset, r#""/var/lib/orchd/broker""#;
        /// Clients that may be connected at the same time.
        max_connections: usize = "max_connections", Integer(1, 100_000, Count), Is("1_024"), "";
        /// Largest MQTT packet that a client may send.
        max_packet_bytes: u32 = "max_packet_bytes", Integer(4_096, 16_777_216, Bytes), Is("1_048_576"), "";
    }
}

/// All sections, in the order in which they are explained. `node` comes first: others refer to it.
pub(super) static SECTIONS: [Section; 20] = [
    Node::SECTION,
    Broker::SECTION,
    Access::SECTION,
    Policy::SECTION,
    Limits::SECTION,
    Reply::SECTION,
    Ledger::SECTION,
    Audit::SECTION,
    Memory::SECTION,
    Embeddings::SECTION,
    Ranking::SECTION,
    Retention::SECTION,
    Schedule::SECTION,
    Phoenix::SECTION,
    Conscience::SECTION,
    Llm::SECTION,
    Observe::SECTION,
    Log::SECTION,
    Control::SECTION,
    Listener::SECTION,
];

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The node itself.
    pub node: Node,
    /// The broker it connects to.
    pub broker: Broker,
    /// Who may command it.
    pub auth: Access,
    /// What else a command has to fulfil.
    pub policy: Policy,
    /// How much it takes on.
    pub limits: Limits,
    /// Where answers may go.
    pub reply: Reply,
    /// The ledger.
    pub ledger: Ledger,
    /// The audit trail.
    pub audit: Audit,
    /// What it remembers.
    pub memory: Memory,
    /// How that is found by its meaning.
    pub embeddings: Embeddings,
    /// How what it remembers is ranked.
    pub ranking: Ranking,
    /// How long.
    pub retention: Retention,
    /// What it does by itself.
    pub schedule: Schedule,
    /// Backups.
    pub phoenix: Phoenix,
    /// How actions are judged.
    pub conscience: Conscience,
    /// Language models.
    pub llm: Llm,
    /// How it can be watched.
    pub observe: Observe,
    /// The log.
    pub log: Log,
    /// The control socket.
    pub control: Control,
    /// The embedded broker, run alone.
    pub listener: Listener,
}

impl Config {
    /// Fills all sections; the path of the key that has no fitting value otherwise.
    pub(super) fn build<'v>(get: impl Fn(&str) -> Option<&'v Value>) -> Result<Self, &'static str> {
        Ok(Self {
            node: Node::build(&get)?,
            broker: Broker::build(&get)?,
            auth: Access::build(&get)?,
            policy: Policy::build(&get)?,
            limits: Limits::build(&get)?,
            reply: Reply::build(&get)?,
            ledger: Ledger::build(&get)?,
            audit: Audit::build(&get)?,
            memory: Memory::build(&get)?,
            embeddings: Embeddings::build(&get)?,
            ranking: Ranking::build(&get)?,
            retention: Retention::build(&get)?,
            schedule: Schedule::build(&get)?,
            phoenix: Phoenix::build(&get)?,
            conscience: Conscience::build(&get)?,
            llm: Llm::build(&get)?,
            observe: Observe::build(&get)?,
            log: Log::build(&get)?,
            control: Control::build(&get)?,
            listener: Listener::build(&get)?,
        })
    }
}

/// How to log in to the broker, with what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login<'a> {
    /// Not at all, or by client certificate.
    None,
    /// User name, and the file that holds the password.
    Password(&'a str, &'a std::path::Path),
    /// User name where one is configured, and the file that holds the key which signs JWTs.
    Jwt(Option<&'a str>, &'a std::path::Path),
}

impl Broker {
    /// How to log in. A configuration that was loaded has what its `auth` needs.
    #[must_use]
    pub fn login(&self) -> Login<'_> {
        match (self.auth, &self.username, &self.password_file, &self.jwt_key_file) {
            (Auth::Password, Some(name), Some(file), _) => Login::Password(name, file),
            (Auth::Jwt, name, _, Some(file)) => Login::Jwt(name.as_deref(), file),
            // Loading has refused a configuration that lacks a part; were one made otherwise, the broker refuses.
            (Auth::None | Auth::Password | Auth::Jwt, ..) => Login::None,
        }
    }
}
