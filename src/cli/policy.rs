//! `orchd policy`: policies on this machine.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::client::text;
use super::{Exit, Shared, complain, print};
use crate::config::Role;
use crate::gate::authorize::RULE;
use crate::policy::{TrialOutcome, trials};

/// Check policies before a node loads them (works on the files of this machine)
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile the policies in a folder, and run their tests: the rules whose names begin with test_
    Test {
        /// The folder [default: policy.folder of the configuration]
        #[arg(long, value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

impl Args {
    pub(super) fn run(self, shared: &Shared) -> Exit {
        let Command::Test { folder } = self.command;
        match folder.map_or_else(|| configured(shared), Ok) {
            Ok(folder) => test(&folder),
            Err(exit) => exit,
        }
    }
}

fn configured(shared: &Shared) -> Result<PathBuf, Exit> {
    let (config, _) = shared.load(Role::Node)?;
    config.policy.folder.ok_or_else(|| {
        complain("policy.folder is not set: name a folder with --folder");
        Exit::Usage
    })
}

fn test(folder: &Path) -> Exit {
    let trials = match trials(folder, RULE) {
        Ok(trials) => trials,
        Err(error) => {
            complain(text::plain(&error.to_string()));
            return Exit::Failed;
        }
    };
    let mut lines = String::new();
    for trial in &trials {
        let name = text::plain(&trial.name);
        let took = trial.took.as_secs_f64() * 1_000.0;
        lines += &match &trial.outcome {
            TrialOutcome::Passed => format!("pass  {name} ({took:.1} ms)\n"),
            TrialOutcome::Failed => format!("FAIL  {name} ({took:.1} ms)\n"),
            TrialOutcome::Error(reason) => format!("FAIL  {name}: {}\n", text::plain(reason)),
        };
    }
    let failed = trials.iter().filter(|trial| !trial.passed()).count();
    lines += &format!("{} tests, {failed} failed\n", trials.len());
    match print(&lines) {
        Exit::Ok if failed > 0 => Exit::Failed,
        exit => exit,
    }
}
