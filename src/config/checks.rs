//! Rules between keys: what must come together, what excludes each other, what must not be larger than the other.
//!
//! They look at what could be read, so that a mistake in one key hides none in another.

use super::Role;
use super::kind::Value;
use super::load::Settled;
use super::mistake::Mistake;
use super::rules::BrokerUrl;
use crate::phoenix::Location;

/// Longest path of a Unix socket on Linux, in bytes, without the zero at its end.
const SOCKET_PATH_BYTES: usize = 107;

/// All mistakes between keys.
pub(super) fn check(settled: &Settled, role: Role) -> Vec<Mistake> {
    let mut checks = Checks { settled, mistakes: Vec::new() };
    checks.login();
    checks.encryption();
    checks.open();
    checks.pairs();
    checks.object_storage();
    checks.orders();
    checks.judge();
    checks.socket();
    if role == Role::Broker {
        checks.listener();
    }
    checks.mistakes
}

struct Checks<'a> {
    settled: &'a Settled,
    mistakes: Vec<Mistake>,
}

impl Checks<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        match self.settled.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.settled.value(key)? {
            Value::Float(x) => Some(*x),
            #[expect(clippy::cast_precision_loss, reason = "compared with another one; both far below 2^53")]
            value @ Value::Integer(n, _) => Some(value.duration().map_or(*n as f64, |d| d.as_secs_f64())),
            _ => None,
        }
    }

    fn report(&mut self, key: &str, wrong: impl Into<String>, right: impl Into<String>) {
        self.mistakes.push(Mistake::error(self.settled.origin(key), key, wrong, right));
    }

    /// `key` is missing, and `because` needs it.
    fn missing(&mut self, key: &str, because: &str) {
        if self.settled.is_absent(key) && !self.settled.torn {
            let right = format!("set it, or {because}");
            self.report(key, "is missing", right);
        }
    }

    fn login(&mut self) {
        let Some(auth) = self.text("broker.auth").map(str::to_owned) else { return };
        let because = format!("choose another broker.auth than \"{auth}\"");
        let unused: &[&str] = match auth.as_str() {
            "password" => {
                self.missing("broker.username", &because);
                self.missing("broker.password_file", &because);
                &["broker.jwt_key_file"]
            }
            "jwt" => {
                self.missing("broker.jwt_key_file", &because);
                &["broker.password_file"]
            }
            _ => &["broker.username", "broker.password_file", "broker.jwt_key_file"],
        };
        for key in unused {
            if self.settled.value(key).is_some() {
                let user = if key.ends_with("jwt_key_file") { "jwt" } else { "password" };
                self.report(
                    key,
                    format!("is not used with broker.auth = \"{auth}\""),
                    format!("take it out, or set broker.auth = \"{user}\""),
                );
            }
        }
    }

    fn encryption(&mut self) {
        let Some(Ok(url)) = self.text("broker.url").map(str::parse::<BrokerUrl>) else { return };
        for key in ["broker.ca_file", "broker.client_cert_file", "broker.client_key_file"] {
            if !url.tls && self.settled.value(key).is_some() {
                self.report(
                    key,
                    "is not used: broker.url has no TLS",
                    "take it out, or write mqtts:// in broker.url",
                );
            }
        }
    }

    /// A node that lets everyone do everything is for this machine alone.
    fn open(&mut self) {
        let Some(Ok(url)) = self.text("broker.url").map(str::parse::<BrokerUrl>) else { return };
        if self.text("auth.mode") == Some("open") && !url.is_loopback() {
            self.report(
                "auth.mode",
                "is \"open\" with a broker on another machine: everyone there could do everything",
                "write \"required\" or \"broker\", or name a broker on this machine in broker.url",
            );
        }
    }

    fn pairs(&mut self) {
        for (one, other) in [
            ("broker.client_cert_file", "broker.client_key_file"),
            ("listener.cert_file", "listener.key_file"),
            ("llm.remote_url", "llm.remote_model"),
            ("llm.local_url", "llm.local_model"),
            ("embeddings.url", "embeddings.model"),
            ("phoenix.repository", "phoenix.password_file"),
        ] {
            for (set, missing) in [(one, other), (other, one)] {
                if self.settled.value(set).is_some() && self.settled.is_absent(missing) && !self.settled.torn
                {
                    let right = format!("set {missing} too: the two belong together");
                    self.report(set, "stands alone", right);
                }
            }
        }
    }

    /// Object storage lets nobody in without keys.
    fn object_storage(&mut self) {
        for (place, keys) in [
            ("phoenix.repository", "phoenix.s3_credentials_file"),
            ("memory.archive", "memory.s3_credentials_file"),
        ] {
            let is_bucket = self.text(place).is_some_and(Location::is_bucket);
            if is_bucket && self.settled.is_absent(keys) && !self.settled.torn {
                let wrong = format!("is in object storage, and {keys} is not set");
                self.report(place, wrong, format!("set {keys} too"));
            }
        }
    }

    fn orders(&mut self) {
        for (small, large) in [
            ("broker.reconnect_min_ms", "broker.reconnect_max_s"),
            ("limits.max_payload_bytes", "limits.max_packet_bytes"),
            ("conscience.refuse_below", "conscience.approve_at"),
            ("conscience.judge_above", "conscience.judge_below"),
        ] {
            if let (Some(a), Some(b)) = (self.number(small), self.number(large))
                && a > b
            {
                // Whichever was written, and not the other's default, is the one to blame.
                let blamed = if self.settled.is_set(small) { small } else { large };
                self.report(
                    blamed,
                    format!("{small} is larger than {large}"),
                    format!("choose {small} no larger than {large}"),
                );
            }
        }
    }

    /// A judge that is always asked has to be there.
    fn judge(&mut self) {
        let is_missing = |key| self.settled.is_absent(key);
        if self.text("conscience.judge") == Some("always")
            && is_missing("llm.remote_url")
            && is_missing("llm.local_url")
            && !self.settled.torn
        {
            self.report(
                "conscience.judge",
                "is \"always\", and there is no model to ask",
                "name one in llm.remote_url or llm.local_url, or write \"open\"",
            );
        }
    }

    fn socket(&mut self) {
        if let Some(path) = self.text("control.socket")
            && path.len() > SOCKET_PATH_BYTES
        {
            let wrong = format!("is {} bytes long; the system allows {SOCKET_PATH_BYTES}", path.len());
            self.report("control.socket", wrong, "choose a shorter path, or a shorter node.state_dir");
        }
    }

    fn listener(&mut self) {
        let empty = |key| matches!(self.settled.value(key), Some(Value::Texts(list)) if list.is_empty());
        if empty("listener.trusted_key_files") && empty("listener.node_key_files") && !self.settled.torn {
            self.report(
                "listener.trusted_key_files",
                "is empty: nobody could log in",
                "name the public key of whoever signs the JWTs, such as [\"/etc/orchd/jwt.pub\"]",
            );
        }
    }
}
