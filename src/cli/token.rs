//! `orchd token`: keys, and the tokens that they sign, for brokers that let clients and nodes in by JWT.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::{Exit, complain, files, print};
use crate::broker::acl::Principal;
use crate::clock::Clock;
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
            Command::Mint { key, subject, role, ttl, issuer, audience } => {
                mint(&key, subject, role.into(), ttl, issuer, audience)
            }
            Command::Key { out } => make_key(&out),
        }
    }
}

fn mint(
    key: &Path,
    subject: String,
    role: token::Role,
    ttl: Duration,
    issuer: String,
    audience: String,
) -> Exit {
    if Principal::new(role, &subject).is_none() {
        complain(format_args!(
            "`{}` cannot name a {}; use 1 to 64 letters, digits, `.`, `_` or `-`, and no word that stands for a kind of topic",
            subject.escape_debug(),
            role.as_str()
        ));
        return Exit::Usage;
    }
    let minted = SigningKey::from_pem_file(key).and_then(|key| {
        let iat = Clock::system().now().millis().div_euclid(1_000);
        // At most ten years: the seconds fit.
        let exp = iat.saturating_add_unsigned(ttl.as_secs());
        token::mint(&key, &Claims { iss: issuer, aud: audience, sub: subject, role, iat, exp })
    });
    match minted {
        Ok(token) => print(&format!("{token}\n")),
        Err(error) => {
            complain(error);
            Exit::Usage
        }
    }
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
        "wrote {} (secret) and {} (name it in listener.trusted_key_files)",
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
