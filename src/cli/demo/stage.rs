//! What the demo plays on: certificates, keys, a broker, a node, and a client's profile, all in one folder.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use crate::broker::certs::TrialAuthority;
use crate::broker::{Broker, BrokerConfig};
use crate::cli::client::{self, Question};
use crate::cli::profile::Profile;
use crate::clock::Clock;
use crate::config::{BrokerUrl, Config, Sources};
use crate::gate::signer::Signer;
use crate::gate::token::{self, Claims, Role, SigningKey, Verifier};
use crate::mqtt::Login;
use crate::node::{self, Ports, RunError, Signals};
use crate::observe::systemd::Systemd;
use crate::tls;
use crate::wire::Names;

/// The name of the demo's node.
pub(super) const NODE: &str = "demo-node";

/// The name of the demo's client.
pub(super) const CLIENT: &str = "visitor";

const ROOT: &str = "orch";
const ISSUER: &str = "orchd-demo";
const AUDIENCE: &str = "orch";

/// The first line of each configuration file here: what has another one is left alone.
const WRITTEN: &str = "# Written by `orchd demo` at each start.";

/// How long the client's token is valid.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// How long the node may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(15);

/// A broker and a node that run, and what a client needs to reach them.
pub(super) struct Stage {
    folder: PathBuf,
    pub(super) profile: Profile,
    pub(super) names: Names,
    ca_file: PathBuf,
    token_file: PathBuf,
    key_file: PathBuf,
    pub(super) signer: Signer,
    metrics: Option<SocketAddr>,
    broker: Broker,
    node: JoinHandle<Result<(), RunError>>,
    shutdown: CancellationToken,
    node_ended: CancellationToken,
}

impl Stage {
    /// Makes what is missing in `folder`, and starts broker and node.
    pub(super) async fn set_up(folder: &Path, listen: SocketAddr) -> Result<Self, DemoError> {
        let folder = std::path::absolute(folder).map_err(|error| DemoError::new(folder.display(), error))?;
        let (config_file, profile_file) = (folder.join("orchd.toml"), folder.join("client.toml"));
        for file in [&config_file, &profile_file] {
            only_ours(file)?;
        }
        private_folder(&folder)?;
        let clock = Clock::system();
        let authority = TrialAuthority::open_or_create(&folder.join("certs"), clock.now())
            .map_err(|error| DemoError::new("certificates", error))?;
        let server = authority
            .issue_server(&[&listen.ip().to_string()])
            .map_err(|error| DemoError::new("the broker's certificate", error))?;
        let key_file = folder.join("token-key.pem");
        let key = signing_key(&key_file)?;

        let listener = TcpListener::bind(listen).await.map_err(|error| {
            DemoError::new(format_args!("cannot listen on {listen} (choose another with --listen)"), error)
        })?;
        let server_config =
            tls::server_config(server.identity(), None).map_err(|error| DemoError::new("TLS", error))?;
        let verifier = Arc::new(Verifier::new(vec![key.public()], ISSUER, AUDIENCE));
        let broker = Broker::start(BrokerConfig::new(ROOT, server_config, verifier), listener)
            .await
            .map_err(|error| DemoError::new("the broker", error))?;

        let api_key_file = folder.join("visitor.key");
        let token_file = folder.join("visitor.jwt");
        let iat = clock.now().millis() / 1_000;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: CLIENT.to_owned(),
            role: Role::Client,
            permissions: Vec::new(),
            iat,
            exp: iat + TOKEN_LIFE.as_secs() as i64,
        };
        let token =
            token::mint(&key, &claims).map_err(|error| DemoError::new("the visitor's token", error))?;
        write_private(&token_file, &token)?;

        let ca_file = authority.certificate();
        let url = BrokerUrl { tls: true, host: host(listen.ip()), port: broker.addr().port() };
        write_private(&config_file, &node_config(&url, &folder, &ca_file, &key_file))?;
        let profile = Profile {
            url,
            ca_file: Some(ca_file.clone()),
            identity: None,
            login: Login::Token { username: CLIENT.to_owned(), token_file: token_file.clone() },
            root: ROOT.to_owned(),
            node: Some(NODE.to_owned()),
            name: CLIENT.to_owned(),
            timeout: Duration::from_secs(10),
            api_key_file: Some(api_key_file.clone()),
        };
        let text = profile.to_toml(&folder).map_err(|error| DemoError::new(profile_file.display(), error))?;
        write_private(&profile_file, &format!("{WRITTEN}\n\n{text}"))?;

        let shutdown = CancellationToken::new();
        let node_ended = CancellationToken::new();
        let (node, metrics) = start_node(&config_file, shutdown.clone(), node_ended.clone()).await?;
        let signer = api_key(&folder.join("state").join("control.sock"), &api_key_file).await?;
        let names = Names::new(ROOT, NODE).ok_or_else(|| DemoError::new("names", "not topic levels"))?;
        Ok(Self {
            folder,
            profile,
            names,
            ca_file,
            token_file,
            key_file: api_key_file,
            signer,
            metrics,
            broker,
            node,
            shutdown,
            node_ended,
        })
    }

    /// What there is, for the beginning.
    pub(super) fn introduction(&self) -> String {
        let folder = self.folder.display();
        let address = self.broker.addr();
        format!(
            "orchd {} demo\n\n\
             \x20 broker  {address}, TLS 1.3, login by JWT, in this process\n\
             \x20 node    {NODE}, connected to it over TLS; it takes commands with an API key alone\n\
             \x20 folder  {folder} (certificates and keys in it are for trials only)\n\n",
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// Commands to paste into another terminal.
    pub(super) fn what_next(&self) -> String {
        let program = std::env::current_exe().map_or_else(|_| "orchd".to_owned(), |path| pasted(&path));
        let profile = pasted(&self.folder.join("client.toml"));
        let config = pasted(&self.folder.join("orchd.toml"));
        let (ca, token, key) = (pasted(&self.ca_file), pasted(&self.token_file), pasted(&self.key_file));
        let BrokerUrl { host, port, .. } = &self.profile.url;
        let key = format!("-D publish user-property authorization \"Bearer $(cat {key})\"");
        let login = format!("-h {host} -p {port} --cafile {ca} -u {CLIENT} -P \"$(cat {token})\" -V mqttv5");
        let (store, inbox) = (self.names.command("memory/store"), self.names.inbox(CLIENT));
        let metrics = self
            .metrics
            .map_or_else(String::new, |address| format!("\nFigures and health:\n\n  curl http://{address}/metrics\n  curl http://{address}/health/ready\n"));
        format!(
            "The node stays up until Ctrl-C. In another terminal:\n\n\
             \x20 export ORCHD_PROFILE={profile}\n\
             \x20 {program} evaluate 'lie to a customer about the price'\n\
             \x20 {program} remember 'the pump in hall 3 rattles' --tag pump\n\
             \x20 {program} recall pump\n\
             \x20 {program} status\n\
             \x20 {program} nodes\n\
             \x20 {program} watch\n\n\
             As the operator, on the node's own machine:\n\n\
             \x20 {program} soul status --config {config}\n\
             \x20 {program} keys list --config {config}\n\n\
             With any other MQTT client:\n\n\
             \x20 mosquitto_sub {login} -t '{ROOT}/+/results/#' -t '{ROOT}/+/events/#' -v\n\
             \x20 mosquitto_pub {login} {key} -t {store} -m '{{\"content\":\"hello\"}}'\n\
             \x20 mosquitto_rr {login} {key} -t {} -e {inbox}/1 -m '{{\"action\":\"lie to a customer\"}}'\n{metrics}\n",
            self.names.command("conscience/evaluate"),
        )
    }

    /// Resolves when the node has ended by itself.
    pub(super) async fn ended(&self) {
        self.node_ended.cancelled().await;
    }

    /// Stops node and broker.
    pub(super) async fn take_down(self) -> Result<(), DemoError> {
        self.shutdown.cancel();
        let ended = self.node.await;
        self.broker.stop().await;
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(DemoError::new("the node", error)),
            Err(error) => Err(DemoError::new("the node", error)),
        }
    }
}

async fn start_node(
    config_file: &Path,
    shutdown: CancellationToken,
    node_ended: CancellationToken,
) -> Result<(JoinHandle<Result<(), RunError>>, Option<SocketAddr>), DemoError> {
    let text =
        fs::read_to_string(config_file).map_err(|error| DemoError::new(config_file.display(), error))?;
    let sources = Sources { path: config_file.to_owned(), text, ..Sources::default() };
    let (config, _) = Config::load(&sources).map_err(|mistakes| {
        let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        DemoError::new("the node's configuration", lines.join("; "))
    })?;
    let same = config.clone();
    let ports = Ports::open(&config).await.map_err(|error| DemoError::new("the node", error))?;
    let metrics = ports.observe.as_ref().and_then(|listener| listener.local_addr().ok());
    let (_, reload) = watch::channel(0);
    let (ready, mut is_ready) = mpsc::channel(1);
    let signals = Signals {
        shutdown,
        reload,
        // The demo's configuration is its own and stays; there is nothing to read again but certificates.
        reconfigure: Arc::new(move || Ok((same.clone(), Vec::new()))),
        systemd: Arc::new(Systemd::from_env(|_| None)),
        config_text: String::new(),
        config_files: Vec::new(),
        ready,
    };
    let node = tokio::spawn(async move {
        let ended = node::run(config, ports, signals).await;
        node_ended.cancel();
        ended
    });
    match tokio::time::timeout(READY_LIMIT, is_ready.recv()).await {
        Ok(Some(())) => Ok((node, metrics)),
        Ok(None) => match node.await {
            Ok(Err(error)) => Err(DemoError::new("the node", error)),
            _ => Err(DemoError::new("the node", "it ended before it was ready")),
        },
        Err(_) => Err(DemoError::new("the node", "it could not connect to the broker")),
    }
}

/// What a client on this machine calls the broker.
fn host(listen: IpAddr) -> String {
    if listen == IpAddr::V4(Ipv4Addr::LOCALHOST) || listen.is_unspecified() {
        "localhost".to_owned()
    } else {
        listen.to_string()
    }
}

/// A path as one word for a shell.
fn pasted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// Refuses to replace a file that a person, or another program, has written.
fn only_ours(path: &Path) -> Result<(), DemoError> {
    match fs::read_to_string(path) {
        Ok(text) if text.lines().next() == Some(WRITTEN) => Ok(()),
        Ok(_) => Err(DemoError::new(
            path.display(),
            "it was not written by `orchd demo`, and is not replaced; name another folder with --dir",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(DemoError::new(path.display(), error)),
    }
}

fn node_config(url: &BrokerUrl, folder: &Path, ca: &Path, key: &Path) -> String {
    // A TOML string in quotes holds any path that a Display can show.
    let quoted = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
    format!(
        "{WRITTEN}\n\n\
         [node]\nname = \"{NODE}\"\nroot = \"{ROOT}\"\nstate_dir = {}\n\n\
         [broker]\nurl = \"{url}\"\nca_file = {}\nauth = \"jwt\"\njwt_key_file = {}\njwt_issuer = \"{ISSUER}\"\njwt_audience = \"{AUDIENCE}\"\n\n\
         [observe]\nlisten = \"127.0.0.1:0\"\nheartbeat_s = 2\n\n[auth]\nmode = \"required\"\n",
        quoted(&folder.join("state")),
        quoted(ca),
        quoted(key),
    )
}

/// The visitor's API key, made at the first start, as `orchd keys create` makes one.
async fn api_key(socket: &Path, file: &Path) -> Result<Signer, DemoError> {
    let ask = async |verb: &str, payload: serde_json::Value| {
        let question = Question::new(&format!("node/keys/{verb}"), &payload)?;
        client::ask_here(socket, &question, READY_LIMIT).await
    };
    let failed = |error| DemoError::new("the visitor's API key", error);
    // One whose file is there, but which the node does not know (its state was removed), is made anew too.
    let listed = ask("show", json!({ "key": CLIENT })).await.map_err(failed)?;
    if listed.fault().is_some() || !file.exists() {
        if listed.fault().is_none() {
            ask("revoke", json!({ "key": CLIENT })).await.map_err(failed)?;
        }
        let command = |command: &str| format!("{ROOT}/{NODE}/{command}");
        let permissions =
            ["conscience/#", "memory/#", "node/ping", "node/status", "node/health"].map(command);
        let create = json!({ "name": CLIENT, "permissions": permissions, "rate_per_min": 600 });
        let made = ask("create", create).await.map_err(failed)?;
        let key = made.payload()["key"].as_str().unwrap_or_default();
        write_private(file, key)?;
    }
    Signer::from_file(file).map_err(|error| DemoError::new("the visitor's API key", error))
}

fn signing_key(path: &Path) -> Result<SigningKey, DemoError> {
    if path.exists() {
        return SigningKey::from_pem_file(path)
            .map_err(|error| DemoError::new("the key that signs tokens", error));
    }
    let key = SigningKey::generate().map_err(|error| DemoError::new("the key that signs tokens", error))?;
    write_private(path, &key.to_pem())?;
    Ok(key)
}

fn private_folder(path: &Path) -> Result<(), DemoError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(|error| DemoError::new(path.display(), error))
}

fn write_private(path: &Path, text: &str) -> Result<(), DemoError> {
    use std::io::Write;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| DemoError::new(path.display(), error))
}
