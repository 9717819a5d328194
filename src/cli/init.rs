//! `orchd init`: writes a first configuration, from flags or by asking. Works on one file alone.
//!
//! What it writes has passed the same checks as `orchd config check`, holds no secret, and replaces nothing unless
//! told to: the file appears whole or not at all.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{Exit, Shared, complain, files, report};
use crate::config::{self, Auth, Config, Kind, Mistake, Origin, Provenance, Role, Sources, Value};

/// Write a first configuration, by asking or from flags (works on the files of this machine)
///
/// Asks for what no flag gave; with --yes it asks nothing and takes the defaults.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Name of the node
    #[arg(long)]
    name: Option<String>,
    /// Address of the broker: mqtts://host:port
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Certificates (PEM) of the authorities that the broker's certificate may come from
    #[arg(long, value_name = "PATH")]
    ca: Option<String>,
    /// How to log in to the broker
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(Auth::WORDS))]
    auth: Option<String>,
    /// User name at the broker
    #[arg(long)]
    username: Option<String>,
    /// File that holds the password
    #[arg(long, value_name = "PATH")]
    password_file: Option<String>,
    /// File that holds the Ed25519 key which signs JWTs
    #[arg(long, value_name = "PATH")]
    jwt_key_file: Option<String>,
    /// Certificate that the node shows the broker
    #[arg(long, value_name = "PATH")]
    client_cert: Option<String>,
    /// Private key of that certificate
    #[arg(long, value_name = "PATH")]
    client_key: Option<String>,
    /// Folder of the node's state
    #[arg(long, value_name = "PATH")]
    state_dir: Option<String>,
    /// Where to write it [default: --config, else orchd.toml in the working folder]
    #[arg(long, short, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Ask nothing
    #[arg(long, short)]
    yes: bool,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
}

/// What a file's mode is: it names where secrets are, and holds none.
const MODE: u32 = 0o640;

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let out = self.out.clone().or_else(|| shared.config.clone()).unwrap_or_else(|| "orchd.toml".into());
        if !self.force && out.exists() {
            complain(format_args!("{} exists; add --force to replace it", out.display()));
            return Exit::Usage;
        }
        let mut answers = match self.given(&shared.set) {
            Ok(answers) => answers,
            Err(mistake) => {
                report(&[mistake]);
                return Exit::Usage;
            }
        };
        if !self.yes {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                complain("A first configuration. Enter takes what stands in [ ].");
            }
            if let Err(error) = ask_all(&mut answers, &mut stdin.lock(), &mut io::stderr().lock()) {
                complain(format_args!("{error}; give all answers as flags and add --yes"));
                return Exit::Usage;
            }
        }
        let (text, provenance) = match compose(&answers, &out) {
            Ok(composed) => composed,
            Err(mistakes) => {
                report(&mistakes);
                return Exit::Usage;
            }
        };
        match files::write(&out, &text, MODE, self.force) {
            Ok(()) => {
                // Files that are named may come later: this is what is left to do, and no failure.
                for left in config::check_files(&provenance, Role::Node) {
                    complain(left.as_warning());
                }
                complain(format_args!(
                    "wrote {}\nnext: orchd config check --config {}",
                    out.display(),
                    out.display()
                ));
                Exit::Ok
            }
            Err(error) => {
                complain(format_args!("cannot write {}: {error}", out.display()));
                Exit::Failed
            }
        }
    }

    /// What the flags say, by key: those of `init`, and any other key by `--set`.
    fn given(&self, set: &[String]) -> Result<BTreeMap<&'static str, String>, Mistake> {
        let own = [
            ("node.name", &self.name),
            ("node.state_dir", &self.state_dir),
            ("broker.url", &self.broker),
            ("broker.ca_file", &self.ca),
            ("broker.auth", &self.auth),
            ("broker.username", &self.username),
            ("broker.password_file", &self.password_file),
            ("broker.jwt_key_file", &self.jwt_key_file),
            ("broker.client_cert_file", &self.client_cert),
            ("broker.client_key_file", &self.client_key),
        ];
        let mut given: BTreeMap<_, _> =
            own.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect();
        for (key, value) in config::overrides(set)? {
            given.insert(key.path, value);
        }
        Ok(given)
    }
}

/// The questions, in their order: what is asked, its key, what is taken for an empty answer, and for which
/// `broker.auth` it is asked (empty: for each).
const QUESTIONS: [(&str, &str, Option<&str>, &str); 8] = [
    ("Name of the node", "node.name", Some(""), ""),
    ("Address of the broker, mqtts://host:port", "broker.url", None, ""),
    (
        "Certificates of the authorities to trust (path; empty for the system's)",
        "broker.ca_file",
        Some(""),
        "",
    ),
    ("Log in to the broker: none, password or jwt", "broker.auth", Some("none"), ""),
    ("User name", "broker.username", None, "password"),
    ("File that holds the password", "broker.password_file", Some("/etc/orchd/password"), "password"),
    ("File that holds the signing key", "broker.jwt_key_file", Some("/etc/orchd/jwt.key"), "jwt"),
    ("Folder of the node's state", "node.state_dir", Some("/var/lib/orchd"), ""),
];

/// Asks for what `answers` lacks, each until the answer is right. An empty answer takes the default.
fn ask_all(
    answers: &mut BTreeMap<&'static str, String>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<()> {
    for (question, key, default, auth) in QUESTIONS {
        let asked = auth.is_empty() || answers.get("broker.auth").is_some_and(|chosen| chosen == auth);
        if answers.contains_key(key) || !asked {
            continue;
        }
        let hostname = config::hostname();
        let default = if key == "node.name" { hostname.as_deref() } else { default };
        loop {
            let answer = ask(question, default, input, output)?;
            if answer.is_empty() {
                break;
            }
            match config::answer_to_toml(key, &from_working_folder(key, &answer)) {
                Ok(_) => {
                    answers.insert(key, answer);
                    break;
                }
                Err(mistake) => writeln!(output, "{mistake}")?,
            }
        }
    }
    Ok(())
}

/// Asks one question until it has an answer, which may be empty where the default is.
fn ask(
    question: &str,
    default: Option<&str>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<String> {
    loop {
        match default {
            Some(default) if !default.is_empty() => write!(output, "{question} [{default}]: ")?,
            _ => write!(output, "{question}: ")?,
        }
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the input ended before all was answered",
            ));
        }
        match (line.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => writeln!(output, "This one is needed.")?,
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

/// The file's text, checked, and where its values stand.
fn compose(
    answers: &BTreeMap<&'static str, String>,
    out: &Path,
) -> Result<(String, Provenance), Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut chosen = BTreeMap::new();
    for (key, answer) in answers {
        match config::answer_to_toml(key, &from_working_folder(key, answer)) {
            Ok(toml) => _ = chosen.insert(*key, toml),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if let Some(hostname) = config::hostname() {
        // Written down, so that a later change of the host name does not change the topics.
        chosen.entry("node.name").or_insert(Value::Text(hostname).to_toml());
    }
    if !answers.contains_key("broker.url") {
        let right = "add --broker mqtts://host:8883";
        mistakes.push(Mistake::error(Origin::Answer, "broker.url", "is missing", right));
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let text = config::annotated_toml(&chosen);
    let sources = Sources { path: out.to_owned(), text: text.clone(), ..Sources::default() };
    Config::load(&sources).map(|(_, provenance)| (text, provenance))
}

/// An answer as it is written down. Who answers means paths from the working folder; the file is read from elsewhere.
fn from_working_folder(key: &str, answer: &str) -> String {
    let is_path = config::key(key).is_some_and(|key| matches!(key.kind, Kind::Path(_)));
    if !is_path || answer.starts_with("credential:") || answer.starts_with('{') {
        return answer.to_owned();
    }
    std::path::absolute(answer).map_or_else(|_| answer.to_owned(), |path| path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(given: &[(&'static str, &str)], input: &str) -> io::Result<BTreeMap<&'static str, String>> {
        let mut answers = given.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        ask_all(&mut answers, &mut input.as_bytes(), &mut Vec::new())?;
        Ok(answers)
    }

    #[test]
    fn only_what_no_flag_gave_is_asked() {
        let answers =
            asked(&[("node.name", "n1"), ("broker.auth", "password")], "\nmqtts://b\n\nme\n\n/tmp/state\n")
                .unwrap();
        let expected = [
            ("broker.auth", "password"),
            ("broker.password_file", "/etc/orchd/password"),
            ("broker.url", "mqtts://b"),
            ("broker.username", "me"),
            ("node.name", "n1"),
            ("node.state_dir", "/tmp/state"),
        ];
        assert!(answers.iter().map(|(k, v)| (*k, v.as_str())).eq(expected), "{answers:?}");
    }

    #[test]
    fn an_input_that_ends_too_early_is_an_error() {
        assert_eq!(asked(&[], "n1\n").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_composed_loads_and_keeps_odd_characters() {
        let answers =
            [("node.name", "n1"), ("broker.url", "mqtts://b:1"), ("broker.ca_file", "/a \"b\"\\c.pem")];
        let answers = answers.into_iter().map(|(key, value)| (key, value.to_owned())).collect();
        let (text, _) = compose(&answers, Path::new("/x/orchd.toml")).unwrap();
        let config = Config::from_toml(&text).unwrap();
        assert_eq!(config.broker.ca_file.as_deref(), Some(Path::new("/a \"b\"\\c.pem")));
    }
}
