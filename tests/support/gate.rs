//! Who commands a node: its gate's settings, keys, tokens, and commands with credentials and signatures.

use std::path::PathBuf;
use std::process::Command;

use orchd::clock::Timestamp;
use orchd::gate::signature::Signed;
use ring::hmac;
use rumqttc::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};

use super::{Answer, Asker, Daemon, DaemonOptions, Mosquitto, MosquittoOptions, Via, mosquitto};

/// The secret of the node's HS256.
pub const SECRET: &str = "an-hs256-secret-of-more-than-32-bytes";

/// A broker and a node with these lines in `[auth]`.
pub async fn setup(auth: &str) -> Option<(Mosquitto, Daemon)> {
    let broker = mosquitto(MosquittoOptions::default()).await?;
    let secret = broker.ca().with_file_name("hs256");
    std::fs::write(&secret, SECRET).unwrap();
    let mut options = DaemonOptions::new("n1", Via::Plain(broker.addr()));
    options.extra = format!("[auth]\nhs256_secret_file = {secret:?}\n{auth}\n");
    Some((broker, Daemon::start(options).await))
}

/// Limits that a test of something else does not meet.
pub const NO_LIMITS: &str =
    "rate_per_min = 6000000\nburst = 1000000\nunauthenticated_per_min = 6000000\ncooldown_s = 0\n";

/// `orchd keys …` on the node's machine; what it printed.
pub fn keys(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_orchd"))
        .env_remove("ORCHD_PROFILE")
        .arg("--config")
        .arg(daemon.config())
        .arg("keys")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The id in a key.
pub fn id(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

/// Seconds since the epoch.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Base64url without padding.
pub fn b64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().enumerate().fold(0u32, |n, (at, byte)| n | u32::from(*byte) << (16 - 8 * at));
        out.extend((0..=chunk.len()).map(|at| char::from(DIGITS[(n >> (18 - 6 * at)) as usize & 63])));
    }
    out
}

/// A JWT with HS256, its header and claims changed.
pub fn jwt(header: Value, changes: Value, secret: &str) -> String {
    let mut claims = json!({
        "iss": "orchd", "aud": "orch", "sub": "app", "iat": now(), "exp": now() + 600, "permissions": ["orch/#"],
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let input = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), input.as_bytes());
    format!("{input}.{}", b64(tag.as_ref()))
}

/// A JWT that the node believes, its claims changed.
pub fn good_jwt(changes: Value) -> String {
    jwt(json!({ "alg": "HS256", "typ": "JWT" }), changes, SECRET)
}

/// What is sent, and what is signed where that differs.
#[derive(Clone)]
pub struct Attempt {
    pub topic: String,
    pub payload: String,
    pub reply_to: String,
    pub properties: Vec<(String, String)>,
}

impl Attempt {
    /// A command of node `n1`, without credentials.
    pub fn new(command: &str, payload: &Value) -> Self {
        Self {
            topic: format!("orch/n1/{command}"),
            payload: payload.to_string(),
            reply_to: "orch/inbox/app".to_owned(),
            properties: Vec::new(),
        }
    }

    /// With this user property.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.properties.retain(|(known, _)| known != name);
        self.properties.push((name.to_owned(), value.into()));
        self
    }

    /// With a token or key.
    pub fn bearer(self, token: &str) -> Self {
        self.with("authorization", format!("Bearer {token}"))
    }

    /// Signed as it stands, `offset` seconds from now.
    pub fn signed(self, key: &str, nonce: &str, offset: i64) -> Self {
        let signed_at = Timestamp::from_millis((now() + offset) * 1_000).to_string();
        let message_id = self.properties.iter().find(|(name, _)| name == "message-id");
        let signature = Signed {
            key_id: id(key),
            message_id: message_id.map_or("", |(_, value)| value.as_str()),
            topic: &self.topic,
            reply_to: &self.reply_to,
            signed_at: &signed_at,
            nonce,
            payload: self.payload.as_bytes(),
        }
        .sign(key);
        self.with("x-signature", signature).with("x-signed-at", signed_at).with("x-nonce", nonce)
    }

    /// Sends it as `app`, and waits for the answer.
    pub async fn send(&self, app: &mut Asker) -> Answer {
        let (properties, reply_to) = (self.properties.clone(), self.reply_to.clone());
        app.ask_with(&self.topic, self.payload.clone(), |publish: &mut PublishProperties| {
            publish.user_properties = properties;
            publish.response_topic = (!reply_to.is_empty()).then_some(reply_to);
        })
        .await
    }
}

/// A nonce, another one for each number.
pub fn nonce(n: usize) -> String {
    format!("nonce-of-a-test-{n:06}")
}

/// A harmless command.
pub fn ping() -> Attempt {
    Attempt::new("node/ping", &json!({}))
}

/// A sensitive command.
pub fn rule() -> Attempt {
    let rule = json!({ "name": "r", "weight": 1.0, "stance": "forbids", "patterns": ["gossip"], "description": "d" });
    Attempt::new("conscience/rules/set", &rule)
}

/// Every file below the state folder that holds `text`.
pub fn files_with(daemon: &Daemon, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![daemon.state_dir()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => {
                    let bytes = std::fs::read(entry.path()).unwrap();
                    if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                        found.push(entry.path());
                    }
                }
                _ => {}
            }
        }
    }
    found
}
