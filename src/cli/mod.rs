//! The command line: one file for each group of subcommands, each an [`clap::Args`] struct with a `run` function that
//! takes what all subcommands share and answers an [`Exit`].
//!
//! What a person asked for goes to standard output, all else to standard error. Nothing ends the process from within:
//! `main` returns the exit code, so that destructors run.

mod ask;
mod audit;
mod backup;
mod broker;
mod call;
mod certs;
mod chat;
mod client;
mod completions;
mod config;
mod demo;
mod files;
mod init;
mod keys;
mod ledger;
mod memory;
mod nodes;
mod policy;
pub mod profile;
mod reviews;
mod rules;
mod run;
mod schedule;
mod soul;
mod token;
mod topics;
mod watch;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Config, DEFAULT_PATH, Mistake, Provenance, Role, Severity, Sources, check_credentials};

/// How a command ended. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Ok,
    /// 1: the answer was an error.
    Failed,
    /// 2: the arguments or the configuration are wrong.
    Usage,
    /// 3: no answer in time.
    Timeout,
    /// 4: the broker or node could not be reached.
    Unreachable,
    /// 10: the action is not approved.
    NotApproved,
    /// 11: the action needs a review.
    NeedsReview,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Timeout => 3,
            Exit::Unreachable => 4,
            Exit::NotApproved => 10,
            Exit::NeedsReview => 11,
        })
    }
}

/// How long threads that still block are waited for at the end.
const STRAGGLERS: std::time::Duration = std::time::Duration::from_millis(200);

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 error answer, 2 usage or configuration, 3 timeout, 4 unreachable, \
10 not approved, 11 needs review.";

/// The agent of an ORCH node: commands come in over MQTT, take effect once, and are answered.
#[derive(Debug, Parser)]
#[command(name = "orchd", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

/// What all subcommands share.
#[derive(Args, Debug)]
pub struct Shared {
    /// Configuration file of the node [default: $ORCHD_CONFIG, else /etc/orchd/orchd.toml]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Set one configuration key, above file and environment; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Evaluate(ask::Evaluate),
    Remember(ask::Remember),
    Recall(ask::Recall),
    Chat(chat::Args),
    Memory(memory::Args),
    Ping(ask::Ping),
    Status(ask::Status),
    Nodes(nodes::Args),
    Soul(soul::Args),
    Schedule(schedule::Args),
    Backup(backup::Args),
    Rules(rules::Args),
    Reviews(reviews::Reviews),
    Decisions(reviews::Decisions),
    Watch(watch::Args),
    Call(call::Args),
    Config(config::Args),
    Init(init::Args),
    Run(run::Args),
    Demo(demo::Args),
    Broker(broker::Args),
    Ledger(ledger::Args),
    Audit(audit::Args),
    Keys(keys::Args),
    Policy(policy::Args),
    Token(token::Args),
    Certs(certs::Args),
    Topics(topics::Args),
    Completions(completions::Args),
}

/// Runs the command line of `arguments`, the program's name first.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, and end in 0. There is nowhere left to report a failed write.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let exit = match cli.command {
        Command::Evaluate(args) => args.run(&cli.shared),
        Command::Remember(args) => args.run(&cli.shared),
        Command::Recall(args) => args.run(&cli.shared),
        Command::Chat(args) => args.run(&cli.shared),
        Command::Memory(args) => args.run(&cli.shared),
        Command::Ping(args) => args.run(&cli.shared),
        Command::Status(args) => args.run(&cli.shared),
        Command::Nodes(args) => args.run(&cli.shared),
        Command::Soul(args) => args.run(&cli.shared),
        Command::Backup(args) => args.run(&cli.shared),
        Command::Schedule(args) => args.run(&cli.shared),
        Command::Rules(args) => args.run(&cli.shared),
        Command::Reviews(args) => args.run(&cli.shared),
        Command::Decisions(args) => args.run(&cli.shared),
        Command::Watch(args) => args.run(&cli.shared),
        Command::Call(args) => args.run(&cli.shared),
        Command::Config(args) => args.run(&cli.shared),
        Command::Init(args) => args.run(&cli.shared),
        Command::Run(args) => args.run(&cli.shared),
        Command::Demo(args) => args.run(),
        Command::Broker(args) => args.run(&cli.shared),
        Command::Ledger(args) => args.run(&cli.shared),
        Command::Audit(args) => args.run(&cli.shared),
        Command::Keys(args) => args.run(&cli.shared),
        Command::Policy(args) => args.run(&cli.shared),
        Command::Token(args) => args.run(),
        Command::Certs(args) => args.run(),
        Command::Topics(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    exit.into()
}

/// The whole command line, for completions.
fn command() -> clap::Command {
    Cli::command()
}

impl Shared {
    /// Reads and checks the configuration for `role`; what is wrong has been printed otherwise. Credentials may be out of
    /// reach: who reads a secret asks `need` for it.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    pub fn load(&self, role: Role) -> Result<(Config, Provenance), Exit> {
        self.sources(role).and_then(|sources| Config::load(&sources)).map_err(|mistakes| {
            report(&mistakes);
            Exit::Usage
        })
    }

    /// As [`Shared::load`] for a node, where the flags that are named in `missing` would do as well: on a machine without any
    /// configuration these are asked for.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    fn load_instead_of(&self, missing: &str) -> Result<(Config, Provenance), Exit> {
        let sources = self.sources(Role::Node);
        let nowhere = sources.as_ref().is_ok_and(|sources| sources.path.as_os_str().is_empty());
        sources.and_then(|sources| Config::load(&sources)).map_err(|mistakes| {
            if nowhere {
                complain(format_args!(
                    "name {missing}, or a configuration with --config: there is none at {DEFAULT_PATH}"
                ));
            } else {
                report(&mistakes);
            }
            Exit::Usage
        })
    }

    fn sources(&self, role: Role) -> Result<Sources, Vec<Mistake>> {
        Sources::of_process(self.config.as_deref(), self.set.clone(), role).map_err(|mistake| vec![mistake])
    }
}

/// Whether the secrets of `keys` can be read: a credential is there only in the unit that loads it. What is wrong has been
/// printed.
///
/// # Errors
/// [`Exit::Usage`].
fn need(provenance: &Provenance, role: Role, keys: impl Fn(&str) -> bool) -> Result<(), Exit> {
    let mut missing = check_credentials(provenance, role);
    missing.retain(|mistake| keys(&mistake.key));
    report(&missing);
    if missing.is_empty() { Ok(()) } else { Err(Exit::Usage) }
}

/// Prints mistakes, one on each line, and how many there are.
fn report(mistakes: &[Mistake]) {
    for mistake in mistakes {
        complain(mistake);
    }
    let errors = mistakes.iter().filter(|mistake| mistake.severity == Severity::Error).count();
    if errors > 0 {
        let s = if errors == 1 { "" } else { "s" };
        complain(format_args!("{errors} mistake{s} in the configuration"));
    }
}

/// Runs `main` on a runtime of its own. Whatever still blocks a thread when it ends does not hold up the stop.
///
/// It has half of the processors: the other half is for the ledger's writer, searches and the broker next door. With more
/// workers than that, each message costs more time in waking the others than they take over (`docs/performance.md`).
///
/// # Errors
/// The threads cannot be started.
fn run_async<T>(main: impl Future<Output = T>) -> std::io::Result<T> {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = processors.div_ceil(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let ended = runtime.block_on(main);
    runtime.shutdown_timeout(STRAGGLERS);
    Ok(ended)
}

/// Writes to standard output. A reader that has gone away (`orchd … | head`) is no failure.
pub(crate) fn print(text: &str) -> Exit {
    print_more(text).err().unwrap_or(Exit::Ok)
}

/// As [`print`], for what more may follow: nothing does after an error, which is how to end.
pub(crate) fn print_more(text: &str) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == ErrorKind::BrokenPipe {
            return Exit::Ok;
        }
        complain(format_args!("cannot write to standard output: {error}"));
        Exit::Failed
    })
}

/// Writes a line to standard error. Where that fails there is nowhere left to say so.
pub(crate) fn complain(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_declaration_of_the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
