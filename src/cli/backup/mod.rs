//! `orchd backup`: a node's backups, on the node, over MQTT, or on the files of a machine without a running node.

mod release;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::ask::ask;
use super::client::text::cell;
use super::client::{self, Answer, Reach};
use super::memory::work::job;
use super::{Exit, Shared, complain, need, print};
use crate::config::Role;
use crate::phoenix::{Access, Ask, Location, Repository, worker};
use crate::storage::S3Access;
use release::{release_here, show_released};
use show::{show_list, show_made, show_one, show_pruned, show_restored, show_verified};

/// Make, list, check, restore and prune the backups of a node
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// Without a running node: on the repository itself.
#[derive(clap::Args, Debug)]
struct Here {
    /// The node on this machine is stopped, or there is none: work on its files
    #[arg(long)]
    stopped: bool,
    /// Folder of the repository, or s3:https://HOST/BUCKET/PREFIX [default: phoenix.repository]
    #[arg(long, value_name = "PLACE", requires = "stopped")]
    repository: Option<Location>,
    /// File with its password [default: phoenix.password_file]
    #[arg(long, value_name = "PATH", requires = "stopped")]
    password_file: Option<PathBuf>,
    /// File with the keys for object storage [default: phoenix.s3_credentials_file]
    #[arg(long, value_name = "PATH", requires = "stopped")]
    s3_credentials_file: Option<PathBuf>,
    /// Region of the object storage [default: phoenix.s3_region]
    #[arg(long, value_name = "NAME", requires = "stopped")]
    s3_region: Option<String>,
    /// Authorities that the object storage is trusted by [default: phoenix.s3_ca_file]
    #[arg(long, value_name = "PATH", requires = "stopped")]
    s3_ca_file: Option<PathBuf>,
    /// Only backups of this node
    #[arg(long, value_name = "NAME", requires = "stopped")]
    of: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put the node's state away in the repository
    #[command(after_help = client::HELP)]
    Create {
        /// Begin a new repository where the one that this node has made backups in is gone
        #[arg(long)]
        anew: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// List the backups
    #[command(after_help = client::HELP)]
    List {
        #[command(flatten)]
        here: Here,
        #[command(flatten)]
        reach: Reach,
    },
    /// Show what is in a backup
    #[command(after_help = client::HELP)]
    Show {
        /// An id or its first digits, `latest`, or a time
        #[arg(default_value = "latest")]
        snapshot: String,
        #[command(flatten)]
        here: Here,
        #[command(flatten)]
        reach: Reach,
    },
    /// Check the repository, or prove a backup by restoring it into a scratch folder
    #[command(after_help = client::HELP)]
    Verify {
        /// Read the data too, all of it or this percentage
        #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "100", value_parser = percent)]
        read_data: Option<f64>,
        /// Restore the newest backup into a scratch folder, start on it, and look for a memory
        #[arg(long, conflicts_with_all = ["read_data", "stopped"])]
        drill: bool,
        #[command(flatten)]
        here: Here,
        #[command(flatten)]
        reach: Reach,
    },
    /// Restore a backup: beside the present state, to be used from the next start on; with --stopped at once
    #[command(after_help = client::HELP)]
    Restore {
        /// An id or its first digits, `latest`, or a time, of which it is the last one before
        snapshot: String,
        #[command(flatten)]
        here: Here,
        /// State folder to restore into [default: node.state_dir]
        #[arg(long, value_name = "PATH", requires = "stopped")]
        state_dir: Option<PathBuf>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove backups that are not kept any longer, and data that none uses
    #[command(after_help = client::HELP)]
    Prune {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove the states from before restores and rollbacks, or give up a restored state
    #[command(after_help = client::HELP)]
    Release {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Give up the restored state that waits for the next start, in place of the states from before
        #[arg(long)]
        pending: bool,
        /// The node on this machine is stopped, or does not start: work on its files
        #[arg(long, requires = "pending")]
        stopped: bool,
        /// Its state folder [default: node.state_dir]
        #[arg(long, value_name = "PATH", requires = "stopped")]
        state_dir: Option<PathBuf>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove locks that programs which were cut off have left in the repository
    #[command(after_help = client::HELP)]
    Unlock {
        /// Also those that look as if they were in use; nobody may be working on the repository
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Change the password to what stands in the file beside the present one, with `.new` at its end
    #[command(after_help = client::HELP)]
    Password {
        #[command(flatten)]
        reach: Reach,
    },
    /// Work for the daemon
    #[command(hide = true)]
    Worker {
        /// Most memory in bytes
        #[arg(long, default_value_t = 0)]
        memory: u64,
    },
}

/// A percentage, from 0 to 100.
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "write a number from 0 to 100".to_owned())
}

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        match &self.command {
            Command::Create { anew, reach } => {
                let payload = json!({ "anew": anew });
                job(reach, shared, "phoenix/backup", &payload, |answer| show_made(answer.payload()))
            }
            Command::List { here, reach } => match here.access(shared) {
                None => ask(
                    reach,
                    shared,
                    "phoenix/list",
                    &json!({}),
                    |answer| show_list(answer.payload()),
                    |_| Exit::Ok,
                ),
                Some(access) => directly(access, &Ask::List, reach, show_list),
            },
            Command::Show { snapshot, here, reach } => match here.access(shared) {
                None => {
                    let payload = json!({ "snapshot": snapshot });
                    ask(
                        reach,
                        shared,
                        "phoenix/show",
                        &payload,
                        |answer| show_one(answer.payload()),
                        |_| Exit::Ok,
                    )
                }
                Some(access) => directly(access, &Ask::Show(snapshot.clone()), reach, show_one),
            },
            Command::Verify { read_data, drill, here, reach } => match here.access(shared) {
                None => {
                    let payload = json!({ "read_data": read_data, "drill": drill });
                    job(reach, shared, "phoenix/verify", &payload, |answer| show_verified(answer.payload()))
                }
                Some(access) => directly(access, &Ask::Verify(*read_data), reach, |verified| {
                    show_verified(&json!({ "repository": verified }))
                }),
            },
            Command::Restore { snapshot, here, state_dir, reach } => match here.access(shared) {
                None => {
                    let payload = json!({ "snapshot": snapshot });
                    job(reach, shared, "phoenix/restore", &payload, |answer| show_restored(answer.payload()))
                }
                Some(access) => restore_here(access, shared, snapshot, state_dir.clone(), reach),
            },
            Command::Prune { dry_run, reach } => {
                let payload = json!({ "dry_run": dry_run });
                job(reach, shared, "phoenix/prune", &payload, |answer| show_pruned(answer.payload()))
            }
            Command::Release { dry_run, stopped: true, state_dir, reach, .. } => {
                release_here(shared, state_dir.clone(), *dry_run, reach)
            }
            Command::Release { dry_run, pending, reach, .. } => {
                let payload = json!({ "dry_run": dry_run, "pending": pending });
                job(reach, shared, "phoenix/release", &payload, |answer| show_released(answer.payload()))
            }
            Command::Unlock { all, reach } => {
                let said =
                    |answer: &Answer| format!("{} locks were removed\n", cell(&answer.payload()["removed"]));
                job(reach, shared, "phoenix/unlock", &json!({ "all": all }), said)
            }
            Command::Password { reach } => {
                let said = |_: &Answer| "the password was changed\n".to_owned();
                job(reach, shared, "phoenix/password", &json!({}), said)
            }
            Command::Worker { memory } => match worker::serve(*memory) {
                Ok(true) => Exit::Ok,
                Ok(false) => Exit::Failed,
                Err(error) => {
                    complain(format_args!("the backup worker: {error}"));
                    Exit::Failed
                }
            },
        }
    }
}

impl Here {
    /// How to reach the repository without a node; `None` when the node is to be asked.
    fn access(&self, shared: &Shared) -> Option<Result<Access, Exit>> {
        self.stopped.then(|| {
            let node = self.of.clone().unwrap_or_default();
            // Who names both needs no configuration: a fresh machine has none.
            let flags = [
                ("--repository", self.repository.is_some()),
                ("--password-file", self.password_file.is_some()),
            ];
            let missing: Vec<_> = flags.iter().filter(|(_, given)| !given).map(|(flag, _)| *flag).collect();
            let (location, password_file, mut s3) = if missing.is_empty() {
                (None, None, S3Access::default())
            } else {
                let (config, provenance) = shared.load_instead_of(&missing.join(" and "))?;
                need(&provenance, Role::Node, |key| match key {
                    "phoenix.password_file" => self.password_file.is_none(),
                    "phoenix.s3_credentials_file" => {
                        self.repository.is_none() && self.s3_credentials_file.is_none()
                    }
                    _ => false,
                })?;
                let s3 = config.phoenix.s3();
                (config.phoenix.repository, config.phoenix.password_file, s3)
            };
            s3.credentials_file = self.s3_credentials_file.clone().or(s3.credentials_file);
            s3.region = self.s3_region.clone().unwrap_or(s3.region);
            s3.ca_file = self.s3_ca_file.clone().unwrap_or(s3.ca_file);
            let location = self.repository.clone().or(location);
            let Some((location, password_file)) = location.zip(self.password_file.clone().or(password_file)) else {
                complain("name the repository: --repository and --password-file, or [phoenix] in the configuration");
                return Err(Exit::Usage);
            };
            Ok(Access { repository: Repository { location, password_file, s3 }, node })
        })
    }
}

fn directly(
    access: Result<Access, Exit>,
    ask: &Ask,
    reach: &Reach,
    show: impl FnOnce(&Value) -> String,
) -> Exit {
    let access = match access {
        Ok(access) => access,
        Err(exit) => return exit,
    };
    let bar = bar();
    let step = bar.clone();
    let told = access.ask(ask, move |done, total| {
        step.set_length(total);
        step.set_position(done);
    });
    bar.finish_and_clear();
    match told {
        Ok(answer) => {
            let printed = print(&if reach.json { format!("{answer}\n") } else { show(&answer) });
            if answer["whole"] == false { Exit::Failed } else { printed }
        }
        Err(error) => {
            complain(error);
            Exit::Failed
        }
    }
}

fn restore_here(
    access: Result<Access, Exit>,
    shared: &Shared,
    snapshot: &str,
    state_dir: Option<PathBuf>,
    reach: &Reach,
) -> Exit {
    let access = match access {
        Ok(access) => access,
        Err(exit) => return exit,
    };
    let (state, key_file) = match state_dir {
        Some(state) => (state.clone(), state.join("node.key")),
        None => {
            let loaded = shared.load_instead_of("the state folder with --state-dir").and_then(
                |(config, provenance)| {
                    need(&provenance, Role::Node, |key| key == "node.key_file")?;
                    Ok((config.node.state_dir, config.node.key_file))
                },
            );
            match loaded {
                Ok(folders) => folders,
                Err(exit) => return exit,
            }
        }
    };
    let bar = bar();
    let step = bar.clone();
    let restored = access.restore(snapshot, &state, &key_file, move |done, total| {
        step.set_length(total);
        step.set_position(done);
    });
    bar.finish_and_clear();
    tell(restored, reach.json, show_restored)
}

/// Prints what was done here, without a node, as one document or as `show` writes it for people.
fn tell<T: Serialize, E: std::fmt::Display>(
    done: Result<T, E>,
    json: bool,
    show: impl FnOnce(&Value) -> String,
) -> Exit {
    let done = done.map_err(|error| error.to_string());
    match done.and_then(|done| serde_json::to_value(done).map_err(|error| error.to_string())) {
        Ok(answer) if json => print(&format!("{answer}\n")),
        Ok(answer) => print(&show(&answer)),
        Err(error) => {
            complain(error);
            Exit::Failed
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // What the template cannot say is shown in the default style.
    if let Ok(style) =
        ProgressStyle::with_template("[{bar:32}] {percent:>3} %  {bytes} of {total_bytes}  {elapsed}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
