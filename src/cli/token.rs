//! `orchd token`: keys, and the tokens that they sign, for brokers that let clients and nodes in by JWT.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use serde_json::Value;

use super::client::text;
use super::{Exit, complain, files, print};
use crate::broker::acl::Principal;
use crate::clock::{Clock, Timestamp};
use crate::gate::access::{AccessVerifier, KeyFiles};
use crate::gate::inspect::{self, Inspected};
use crate::gate::permissions::Permissions;
use crate::gate::token::{self, Claims, SigningKey};

/// Make signing keys, and tokens (JWT) that let nodes and clients in at a broker (works on files of this machine)
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a token for a node or client; a secret until it ends
    Mint {
        /// File of the Ed25519 private key that signs it
        #[arg(long, value_name = "PATH")]
        key: PathBuf,
        /// Name of the node or client
        #[arg(long, value_name = "NAME")]
        subject: String,
        /// What it is
        #[arg(long)]
        role: Role,
        /// A topic filter that it may give commands on, at nodes with `auth.mode = "required"`; may be repeated
        #[arg(long = "permission", value_name = "FILTER")]
        permissions: Vec<String>,
        /// How long it is valid: a number and s, m, h or d
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = span)]
        ttl: Duration,
        /// Issuer (`iss`), as the broker expects it
        #[arg(long, default_value = "orchd")]
        issuer: String,
        /// Audience (`aud`), as the broker expects it
        #[arg(long, default_value = "orch")]
        audience: String,
    },
    /// Show what a token says, and whether it could be believed; ends in 1 when not
    Inspect {
        /// File with the token [default: standard input, so that it stands in no list of processes]
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// Public key (PEM) that should have signed it
        #[arg(long, value_name = "PATH")]
        key: Option<PathBuf>,
    },
    /// Make an Ed25519 key pair: the private key at PATH, the public one beside it with the ending .pub.pem
    Key {
        /// Where the private key goes; nothing is ever replaced
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Sends commands.
    Client,
    /// Takes commands and answers them.
    Node,
}

impl From<Role> for token::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Client => Self::Client,
            Role::Node => Self::Node,
        }
    }
}

/// Longest time that a token may be valid: ten years.
const MAX_TTL: Duration = Duration::from_secs(3_653 * 86_400);

/// Reads `90s`, `15m`, `12h` or `1d`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number and s, m, h or d, such as 12h; at most 3653d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = text[..text.len() - 1].parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds.map(Duration::from_secs).filter(|ttl| !ttl.is_zero() && *ttl <= MAX_TTL).ok_or_else(wrong)
}

impl Args {
    pub(super) fn run(self) -> Exit {
        match self.command {
            Command::Mint { key, subject, role, permissions, ttl, issuer, audience } => {
                let iat = Clock::system().now().millis().div_euclid(1_000);
                // At most ten years: the seconds fit.
                let exp = iat.saturating_add_unsigned(ttl.as_secs());
                let role = role.into();
                mint(&key, &Claims { iss: issuer, aud: audience, sub: subject, role, permissions, iat, exp })
            }
            Command::Inspect { file, key } => inspect(file.as_deref(), key),
            Command::Key { out } => make_key(&out),
        }
    }
}

fn mint(key: &Path, claims: &Claims) -> Exit {
    if Principal::new(claims.role, &claims.sub).is_none() {
        complain(format_args!(
            "`{}` cannot name a {}; use 1 to 64 letters, digits, `.`, `_` or `-`, and no word that stands for a kind of topic",
            claims.sub.escape_debug(),
            claims.role.as_str()
        ));
        return Exit::Usage;
    }
    if let Err(mistake) = Permissions::new(claims.permissions.clone()) {
        complain(mistake);
        return Exit::Usage;
    }
    let minted = SigningKey::from_pem_file(key).and_then(|key| token::mint(&key, claims));
    match minted {
        Ok(token) => print(&format!("{token}\n")),
        Err(error) => {
            complain(error);
            Exit::Usage
        }
    }
}

fn inspect(file: Option<&Path>, key: Option<PathBuf>) -> Exit {
    let mut text = String::new();
    let longest = token::MAX_TOKEN_BYTES as u64 + 64;
    let read = match file {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(longest).read_to_string(&mut text)),
        None => std::io::stdin().lock().take(longest).read_to_string(&mut text),
    };
    if let Err(error) = read {
        complain(format_args!("the token cannot be read: {error}"));
        return Exit::Usage;
    }
    let text = text.trim();
    let token = text.strip_prefix("Bearer ").unwrap_or(text);
    let Inspected { header, claims } = match inspect::inspect(token) {
        Ok(inspected) => inspected,
        Err(error) => {
            complain(format_args!("this could never be believed: {error}"));
            return Exit::Failed;
        }
    };
    let now = Clock::system().now();
    let (time, in_time) = validity(&claims, now);
    let (signature, signed) = match key {
        None => ("not looked at: name the public key with --key".to_owned(), true),
        Some(key) => match believed(token, &claims, key, now) {
            Ok(()) => ("made with that key".to_owned(), true),
            Err(error) => (error, false),
        },
    };
    // Both come from JSON, and JSON escapes control characters.
    let shown =
        format!("header     {header}\nclaims     {claims}\ntime       {time}\nsignature  {signature}\n");
    match print(&shown) {
        Exit::Ok if !(in_time && signed) => Exit::Failed,
        exit => exit,
    }
}

/// Whether `exp`, `nbf` and `iat` allow it now, in words and as an answer.
fn validity(claims: &Value, now: Timestamp) -> (String, bool) {
    let seconds = |name: &str| claims[name].as_f64();
    let now = now.millis() as f64 / 1_000.0;
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let span = |seconds: f64| text::span(seconds as i64);
    match (seconds("exp"), seconds("nbf").into_iter().chain(seconds("iat")).fold(f64::MIN, f64::max)) {
        (None, _) => ("it has no end (`exp`), which is not accepted".to_owned(), false),
        (Some(end), _) if end <= now => (format!("it ended {} ago", span(now - end)), false),
        (_, start) if start > now => (format!("it begins in {}", span(start - now)), false),
        (Some(end), _) => (format!("it ends in {}", span(end - now)), true),
    }
}

/// Whether the key has signed it, whatever issuer and audience it names.
fn believed(token: &str, claims: &Value, key: PathBuf, now: Timestamp) -> Result<(), String> {
    let files = KeyFiles { public: vec![key], ..KeyFiles::default() };
    let (issuer, audience) = (claims["iss"].as_str(), claims["aud"].as_str());
    let (Some(issuer), Some(audience)) = (issuer, audience) else {
        return Err("not believed: issuer (`iss`) and audience (`aud`) have to be texts".to_owned());
    };
    let verifier = AccessVerifier::load(&files, issuer, audience, 0).map_err(|error| error.to_string())?;
    verifier.verify(token, now).map(drop).map_err(|error| format!("not believed: {error}"))
}

fn make_key(out: &Path) -> Exit {
    let public = out.with_extension("pub.pem");
    let key = match SigningKey::generate() {
        Ok(key) => key,
        Err(error) => {
            complain(error);
            return Exit::Failed;
        }
    };
    // Before the private key is written, so that a pair is made whole or not at all in all but a race.
    if let Some(there) = [out, &public].into_iter().find(|path| path.exists()) {
        complain(format_args!("{} exists; nothing is replaced", there.display()));
        return Exit::Usage;
    }
    for (path, text, mode) in [(out, key.to_pem(), 0o600), (&*public, key.public_pem(), 0o644)] {
        if let Err(error) = files::write(path, &text, mode, false) {
            complain(format_args!("cannot write {}: {error}", path.display()));
            return Exit::Failed;
        }
    }
    complain(format_args!(
        "wrote {} (secret) and {} (name it in listener.node_key_files, or that of an issuer in listener.trusted_key_files)",
        out.display(),
        public.display()
    ));
    Exit::Ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn spans_are_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("1d", 86_400)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "d", "1", "0s", "-1d", "1w", "1.5h", "99999d", "99999999999999999999d", "1é"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn issuer_and_audience_are_those_that_a_broker_expects_by_default() {
        use clap::Parser;
        #[derive(Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let line = ["x", "mint", "--key", "k", "--subject", "s", "--role", "client"];
        let Command::Mint { issuer, audience, .. } = Line::parse_from(line).args.command else {
            panic!("expected mint")
        };
        let config = Config::from_toml("node.name = \"n\"\nbroker.url = \"mqtts://b\"").unwrap();
        assert_eq!((issuer, audience), (config.listener.issuer, config.listener.audience));
    }
}
