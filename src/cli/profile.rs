//! The client profile, `client.toml`: how a person or program on any machine reaches nodes through a broker.
//!
//! ```toml
//! node = "node-7"                    # asked when a command names none
//! name = "alice"                     # answers come to {root}/inbox/alice/…; the user name when not set
//! root = "orch"
//! timeout_s = 10
//! api_key_file = "api-key"            # signs the commands
//!
//! [broker]
//! url = "mqtts://broker.example.org:8883"
//! ca_file = "ca.pem"
//! username = "alice"
//! password_file = "password"         # or token_file, a JWT
//! ```
//!
//! Relative paths start from the profile's folder. A profile names files that hold secrets, and holds none itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::files;
use crate::config::{BrokerUrl, Mistake, Origin};
use crate::mqtt::{ConnectOptions, Login};
use crate::wire::Names;
use crate::wire::topic::is_name;

/// How long an answer may take unless something else is said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that can be asked for.
pub const MAX_TIMEOUT_S: u64 = 86_400;

/// First level of all topics unless something else is said.
const DEFAULT_ROOT: &str = "orch";

/// The system's profile.
const SYSTEM_PATH: &str = "/etc/orchd/client.toml";

/// Mode of a profile that is written: no secret is in it.
const MODE: u32 = 0o644;

/// Largest packet that is taken from the broker.
const MAX_PACKET_BYTES: u32 = 16 << 20;

/// How a client reaches nodes.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The broker.
    pub url: BrokerUrl,
    /// Authorities (PEM) that the broker's certificate may come from; the system's when not set.
    pub ca_file: Option<PathBuf>,
    /// Client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How to log in.
    pub login: Login,
    /// First level of all topics.
    pub root: String,
    /// The node that is asked when a command names none.
    pub node: Option<String>,
    /// The client's name: answers come to `{root}/inbox/{name}/…`.
    pub name: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// API key that signs the commands.
    pub api_key_file: Option<PathBuf>,
}

/// As it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    root: Option<Spanned<String>>,
    node: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    timeout_s: Option<Spanned<u64>>,
    api_key_file: Option<PathBuf>,
    broker: Spanned<WrittenBroker>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenBroker {
    // With its place, because it has a form to be checked.
    url: Option<Spanned<String>>,
    ca_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// The first mistake, with its place and what would be right.
    pub fn load(path: &Path) -> Result<Self, Mistake> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let origin = Origin::File { path: path.to_owned(), line: 1 };
            let right = "name a client profile with --profile or $ORCHD_PROFILE";
            Mistake::error(origin, "", format!("cannot be read: {error}"), right)
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, Mistake> {
        let file = File { path, text };
        // Not the error as a whole: it shows the line, which may hold a secret that was put in the wrong place.
        let written: Written = toml::from_str(text).map_err(|error| {
            let right = match error.message() {
                message if message.contains("`password`") || message.contains("`token`") => {
                    "secrets come from files only: name one in broker.password_file or broker.token_file"
                }
                _ => "a profile has root, node, name, timeout_s, api_key_file and a section [broker]",
            };
            let at = error.span().map_or(0, |span| span.start);
            file.mistake(at, "", error.message().trim(), right)
        })?;
        file.resolve(written)
    }

    /// Where to look for a profile that nobody named: the first of these that exists. `env` answers as
    /// [`std::env::var_os`]. What `$ORCHD_PROFILE` names is taken even if it is not there, so that the mistake is seen.
    #[must_use]
    pub fn find(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(named) = set("ORCHD_PROFILE") {
            return Some(named);
        }
        let user = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        user.map(|folder| folder.join("orchd/client.toml"))
            .into_iter()
            .chain([PathBuf::from(SYSTEM_PATH)])
            .find(|path| path.exists())
    }

    /// The topics of `node`, or of the profile's own; `None` when neither is given or it is no node's name.
    #[must_use]
    pub fn names(&self, node: Option<&str>) -> Option<Names> {
        Names::new(&self.root, node.or(self.node.as_deref())?)
    }

    /// How to connect, as a client that leaves no session behind.
    #[must_use]
    pub fn connect_options(&self) -> ConnectOptions {
        ConnectOptions {
            host: self.url.host.clone(),
            port: self.url.port,
            tls: self.url.tls,
            ca_file: self.ca_file.clone(),
            identity: self.identity.clone(),
            // Several commands of one person may run at the same time.
            client_id: format!("orchd-cli-{}-{}", self.name, uuid::Uuid::new_v4().simple()),
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::ZERO,
            connect_timeout: self.timeout,
            max_packet_bytes: MAX_PACKET_BYTES,
            login: self.login.clone(),
        }
    }

    /// Writes the profile to `path`, in place of what is there. Paths below its folder are written relative to it, so
    /// that the folder can be moved.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = self.to_toml(path.parent().unwrap_or(Path::new(""))).map_err(std::io::Error::other)?;
        files::write(path, &text, MODE, true)
    }

    /// The text of a profile in `folder`.
    ///
    /// # Errors
    /// A path that has no form in TOML.
    pub(super) fn to_toml(&self, folder: &Path) -> Result<String, toml::ser::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            root: &'a str,
            node: Option<&'a str>,
            name: &'a str,
            timeout_s: u64,
            api_key_file: Option<PathBuf>,
            broker: WrittenBroker,
        }
        let near = |path: &PathBuf| path.strip_prefix(folder).map_or_else(|_| path.clone(), Path::to_owned);
        let mut broker = WrittenBroker {
            url: Some(Spanned::new(0..0, self.url.to_string())),
            ca_file: self.ca_file.as_ref().map(near),
            client_cert_file: self.identity.as_ref().map(|(certificate, _)| near(certificate)),
            client_key_file: self.identity.as_ref().map(|(_, key)| near(key)),
            ..WrittenBroker::default()
        };
        match &self.login {
            // A client has no key that signs: who mints for itself is a node.
            Login::None | Login::Jwt { .. } => {}
            Login::Password { username, password_file } => {
                broker.username = Some(username.clone());
                broker.password_file = Some(near(password_file));
            }
            Login::Token { username, token_file } => {
                broker.username = Some(username.clone());
                broker.token_file = Some(near(token_file));
            }
        }
        let timeout_s = self.timeout.as_secs();
        toml::to_string(&Out {
            root: &self.root,
            node: self.node.as_deref(),
            name: &self.name,
            timeout_s,
            api_key_file: self.api_key_file.as_ref().map(near),
            broker,
        })
    }
}

/// A file that is being read.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn mistake(&self, at: usize, key: &str, wrong: &str, right: &str) -> Mistake {
        let line = 1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        Mistake::error(Origin::File { path: self.path.to_owned(), line }, key, wrong, right)
    }

    /// A text that has to be a name.
    fn name(&self, key: &str, written: Spanned<String>) -> Result<String, Mistake> {
        let at = written.span().start;
        let name = written.into_inner();
        if is_name(&name) && !(key == "node" && Names::new(DEFAULT_ROOT, &name).is_none()) {
            return Ok(name);
        }
        let right = "use 1 to 64 letters, digits, `.`, `_` or `-`; a node is not `all`, `any` or `inbox`";
        Err(self.mistake(at, key, "cannot be used", right))
    }

    fn resolve(&self, written: Written) -> Result<Profile, Mistake> {
        let section = written.broker.span().start;
        let broker = written.broker.into_inner();
        let wrong = |key: &str, wrong: &str, right: &str| Err(self.mistake(section, key, wrong, right));
        let Some(url) = broker.url else {
            return wrong("broker.url", "is missing", "write url = \"mqtts://host:8883\" below [broker]");
        };
        let at = url.span().start;
        let url: BrokerUrl = url
            .into_inner()
            .parse()
            .map_err(|right: String| self.mistake(at, "broker.url", "cannot be used", &right))?;
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let file = |path: PathBuf| folder.join(path);
        let identity = match (broker.client_cert_file, broker.client_key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((file(certificate), file(key))),
            _ => {
                return wrong(
                    "broker.client_cert_file",
                    "needs broker.client_key_file",
                    "write both or none",
                );
            }
        };
        let own = written.name.map(|name| self.name("name", name)).transpose()?;
        // The broker knows a client by its user name, so that is where it may listen.
        let name = own.or_else(|| broker.username.clone().filter(|name| is_name(name)));
        let Some(name) = name else {
            return wrong(
                "name",
                "is missing",
                "write name = \"…\" at the top: the name that the broker knows",
            );
        };
        let login = match (broker.username, broker.password_file, broker.token_file) {
            (_, Some(_), Some(_)) => {
                return wrong(
                    "broker.token_file",
                    "stands beside broker.password_file",
                    "keep one of the two",
                );
            }
            (Some(username), Some(password), None) => {
                Login::Password { username, password_file: file(password) }
            }
            (None, Some(_), None) => {
                return wrong(
                    "broker.username",
                    "is missing",
                    "write it: broker.password_file is its password",
                );
            }
            (username, None, Some(token)) => {
                Login::Token { username: username.unwrap_or_else(|| name.clone()), token_file: file(token) }
            }
            (_, None, None) => Login::None,
        };
        let timeout = match written.timeout_s {
            None => DEFAULT_TIMEOUT,
            Some(seconds) if (1..=MAX_TIMEOUT_S).contains(seconds.get_ref()) => {
                Duration::from_secs(seconds.into_inner())
            }
            Some(seconds) => {
                let at = seconds.span().start;
                return Err(self.mistake(at, "timeout_s", "is out of range", "use 1 to 86400 seconds"));
            }
        };
        Ok(Profile {
            url,
            ca_file: broker.ca_file.map(file),
            identity,
            login,
            root: written.root.map_or_else(|| Ok(DEFAULT_ROOT.to_owned()), |root| self.name("root", root))?,
            node: written.node.map(|node| self.name("node", node)).transpose()?,
            name,
            timeout,
            api_key_file: written.api_key_file.map(file),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Profile, String> {
        Profile::parse(Path::new("/p/client.toml"), text).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn what_is_written_reads_the_same_again_and_moves_with_its_folder() {
        let text = "node = \"n1\"\nname = \"alice\"\napi_key_file = \"key\"\n[broker]\nurl = \"mqtts://b:1\"\nca_file = \"ca.pem\"\n\
                    username = \"al\"\ntoken_file = \"/run/token\"\n";
        let profile = parse(text).unwrap();
        assert_eq!(profile.ca_file.as_deref(), Some(Path::new("/p/ca.pem")));
        let written = profile.to_toml(Path::new("/p")).unwrap();
        let moved = Profile::parse(Path::new("/q/client.toml"), &written).unwrap();
        assert_eq!(moved.ca_file.as_deref(), Some(Path::new("/q/ca.pem")));
        assert_eq!(moved.api_key_file.as_deref(), Some(Path::new("/q/key")));
        assert_eq!(
            (moved.name.as_str(), moved.node.as_deref(), moved.url),
            ("alice", Some("n1"), profile.url)
        );
        assert!(
            matches!(&moved.login, Login::Token { username, token_file } if username == "al" && token_file == Path::new("/run/token"))
        );
    }

    #[test]
    fn every_mistake_names_file_and_line_and_what_would_be_right() {
        for (text, expected) in [
            (
                "name = \"a\"\n[broker]\nurl = \"http://b\"\n",
                "/p/client.toml:3: broker.url: cannot be used; write `mqtts://",
            ),
            (
                "name = \"a\"\n[broker]\nurl = \"mqtt://10.0.0.1\"\n",
                "/p/client.toml:3: broker.url: cannot be used; write `mqtts://10.0.0.1",
            ),
            (
                "\nname = \"a/b\"\n[broker]\nurl = \"mqtts://b\"\n",
                "/p/client.toml:2: name: cannot be used; use 1 to 64",
            ),
            (
                "node = \"all\"\nname = \"a\"\n[broker]\nurl = \"mqtts://b\"\n",
                "/p/client.toml:1: node: cannot be used",
            ),
            ("[broker]\nurl = \"mqtts://b\"\n", "/p/client.toml:1: name: is missing"),
            ("name = \"a\"\n[broker]\n", "/p/client.toml:2: broker.url: is missing"),
            (
                "timeout_s = 0\nname = \"a\"\n[broker]\nurl = \"mqtts://b\"\n",
                "/p/client.toml:1: timeout_s: is out of range",
            ),
            (
                "name = \"a\"\n[broker]\nurl = \"mqtts://b\"\nulr = 1\n",
                "/p/client.toml:4: unknown field `ulr`",
            ),
            (
                "name = \"a\"\n[broker]\nurl = \"mqtts://b\"\npassword_file = \"p\"\n",
                "/p/client.toml:2: broker.username: is missing",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_password_in_the_profile_is_refused_without_being_repeated() {
        let error =
            parse("name = \"a\"\n[broker]\nurl = \"mqtts://b\"\npassword = \"hunter2\"\n").unwrap_err();
        assert!(error.contains("broker.password_file") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_search_goes_from_the_most_to_the_least_particular() {
        let folder = tempfile::tempdir().unwrap();
        let (xdg, home) = (folder.path().join("xdg"), folder.path().join("home"));
        for base in [xdg.clone(), home.join(".config")] {
            std::fs::create_dir_all(base.join("orchd")).unwrap();
            std::fs::write(base.join("orchd/client.toml"), "").unwrap();
        }
        let find = |set: &[(&str, &Path)]| {
            Profile::find(|name| {
                set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_os_str().to_owned())
            })
        };
        let named = Path::new("/nowhere/client.toml");
        assert_eq!(find(&[("ORCHD_PROFILE", named), ("HOME", &home)]).as_deref(), Some(named));
        let both: [(&str, &Path); 2] = [("XDG_CONFIG_HOME", &xdg), ("HOME", &home)];
        assert_eq!(find(&both), Some(xdg.join("orchd/client.toml")));
        assert_eq!(find(&[("HOME", &home)]), Some(home.join(".config/orchd/client.toml")));
    }
}
