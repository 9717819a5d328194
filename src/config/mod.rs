//! The configuration: which keys there are, what was written, and whether it is right.
//!
//! Each key is declared once, in [`resolved`](Config): parsing, checks, `orchd config show`, the JSON Schema,
//! `config/orchd.toml` and `docs/configuration.md` come from that declaration. Sources, later wins: defaults, the
//! TOML file, `ORCHD_…` environment variables, flags. All mistakes are found at once, each with its place and what
//! would be right.
//!
//! Loading opens no file but the configuration itself, and reads the environment only as [`Sources`] hands it over.
//! Secrets are never in here: their keys name files.

mod checks;
mod choices;
mod files;
mod keys;
mod kind;
mod load;
mod mistake;
mod raw;
mod remembered;
mod render;
mod resolved;
mod rules;
mod upkeep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::small_file;
pub use choices::{Auth, AuthMode, JudgeAsked, LogFormat};
pub(crate) use files::paths;
pub use files::{check_credentials, check_files, public_files};
pub use keys::{Absent, Key, Role, Section, key, keys, sections};
pub use kind::{Holds, Kind, Unit, Value};
pub use load::{Provenance, Setting};
pub use mistake::{Mistake, Origin, Severity};
pub use raw::overrides;
pub use remembered::{Embeddings, Memory};
pub use render::{annotated_toml, portable, reference, schema, show, show_json};
pub use resolved::{
    Access, Broker, Config, Conscience, Control, Ledger, Limits, Listener, Log, Login, Node, Observe, Reply,
};
pub use rules::{BrokerUrl, Weights};

/// Where the configuration file is when none is named.
pub const DEFAULT_PATH: &str = "/etc/orchd/orchd.toml";

/// All that a configuration is made of. The caller owns it: nothing else is looked at.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name of the file, for messages; relative paths in it start from its folder. Empty where there is none.
    pub path: PathBuf,
    /// Content of the file.
    pub text: String,
    /// Environment variables; others than ours, `STATE_DIRECTORY` and `CREDENTIALS_DIRECTORY` are ignored.
    pub environment: BTreeMap<String, String>,
    /// `key=value` overrides.
    pub flags: Vec<String>,
    /// The host name, where it is known.
    pub hostname: Option<String>,
    /// What the configuration is for.
    pub role: Role,
}

impl Sources {
    /// The sources of this process: its environment, its host name, `flags`, and the file at `path`, else at
    /// `$ORCHD_CONFIG`, else at [`DEFAULT_PATH`] where there is one.
    ///
    /// # Errors
    /// The file could not be read, or is not UTF-8.
    pub fn of_process(path: Option<&Path>, flags: Vec<String>, role: Role) -> Result<Self, Mistake> {
        // What is not UTF-8 is kept as far as it goes: a key's value is refused then, instead of passed over.
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let environment: BTreeMap<String, String> =
            std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        let named = path.map(Path::to_owned).or_else(|| environment.get("ORCHD_CONFIG").map(PathBuf::from));
        let (path, text) = match named {
            Some(path) => (path.clone(), read(&path)?),
            None if Path::new(DEFAULT_PATH).exists() => (DEFAULT_PATH.into(), read(Path::new(DEFAULT_PATH))?),
            None => (PathBuf::new(), String::new()),
        };
        Ok(Self { path, text, environment, flags, hostname: hostname(), role })
    }

    /// A TOML text alone, without environment, flags and host name.
    #[must_use]
    pub fn toml(text: impl Into<String>) -> Self {
        Self { path: "orchd.toml".into(), text: text.into(), ..Self::default() }
    }
}

/// The name of this machine, where it can name a node.
#[must_use]
pub fn hostname() -> Option<String> {
    let names = rustix::system::uname();
    names.nodename().to_str().ok().filter(|name| rules::node_name(name).is_ok()).map(str::to_owned)
}

fn read(path: &Path) -> Result<String, Mistake> {
    small_file::read(path).map_err(|error| {
        let origin = Origin::File { path: path.to_owned(), line: 1 };
        let right = match error.kind() {
            std::io::ErrorKind::NotFound => "make one with `orchd init`, or name another with --config",
            std::io::ErrorKind::PermissionDenied => "run as a user who may read it",
            _ => "make it a text file in UTF-8, of at most 4 MiB",
        };
        Mistake::error(origin, "", format!("cannot be read: {error}"), right)
    })
}

/// What could be read of a configuration, and every mistake in the rest, in no order: for who looks at the files that it names
/// whatever else is wrong. Keys that refer to `node.root`, `node.name` or `node.state_dir` where these are wrong are left out.
#[must_use]
pub fn survey(sources: &Sources) -> (Provenance, Vec<Mistake>) {
    load::survey(sources)
}

/// Puts mistakes into the order of their places: by line, then the environment, then flags.
pub fn in_order(mistakes: &mut [Mistake]) {
    load::in_order(mistakes);
}

/// The TOML of a value that was given without quotes, as in the environment, for [`annotated_toml`]. Placeholders and
/// relative paths stay as they are.
///
/// # Errors
/// There is no such key, or it does not accept the value.
pub fn answer_to_toml(path: &str, text: &str) -> Result<String, Mistake> {
    load::answer_to_toml(path, text)
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// All mistakes, ordered by their place.
    pub fn load(sources: &Sources) -> Result<(Self, Provenance), Vec<Mistake>> {
        load::load(sources)
    }

    /// Reads and checks a TOML text alone; its relative paths stay relative.
    ///
    /// # Errors
    /// All mistakes, ordered by their place.
    pub fn from_toml(text: &str) -> Result<Self, Vec<Mistake>> {
        Self::load(&Sources::toml(text)).map(|(config, _)| config)
    }
}

#[cfg(test)]
mod tests;
