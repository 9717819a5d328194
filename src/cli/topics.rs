//! `orchd topics`: the interface of a node as files. Needs neither configuration nor node.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Exit, complain, print};
use crate::topics;

/// Write or check the AsyncAPI document, JSON Schemas and access rules (no node is asked)
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the files anew
    Generate {
        /// The folder to write to
        #[arg(long, value_name = "DIR", default_value = "topics")]
        out: PathBuf,
    },
    /// Say which files are out of date; ends with 1 when any is
    Check {
        /// The folder to look at
        #[arg(long, value_name = "DIR", default_value = "topics")]
        out: PathBuf,
    },
}

impl Args {
    pub(super) fn run(&self) -> Exit {
        match &self.command {
            Command::Generate { out } => generate(out),
            Command::Check { out } => check(out),
        }
    }
}

fn generate(folder: &Path) -> Exit {
    let files = topics::files();
    for (path, text) in &files {
        if let Err(error) = write(&folder.join(path), text) {
            complain(format_args!("{}: {error}", folder.join(path).display()));
            return Exit::Failed;
        }
    }
    for path in surplus(folder) {
        if let Err(error) = fs::remove_file(folder.join(&path)) {
            complain(format_args!("{}: {error}", folder.join(&path).display()));
            return Exit::Failed;
        }
    }
    print(&format!("{} files in {}\n", files.len(), folder.display()))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text)
}

fn check(folder: &Path) -> Exit {
    let mut wrong = 0;
    for (path, text) in topics::files() {
        let path = folder.join(path);
        match fs::read_to_string(&path) {
            Ok(found) if found == text => continue,
            Ok(_) => complain(format_args!("{}: out of date", path.display())),
            Err(error) => complain(format_args!("{}: {error}", path.display())),
        }
        wrong += 1;
    }
    for path in surplus(folder) {
        complain(format_args!("{}: belongs to no command", folder.join(path).display()));
        wrong += 1;
    }
    if wrong > 0 {
        complain(format_args!("`orchd topics generate --out {}` writes them anew", folder.display()));
        return Exit::Failed;
    }
    print("up to date\n")
}

/// Schemas of commands that are no more. Only `schemas/*.json` is ours to remove.
fn surplus(folder: &Path) -> BTreeSet<String> {
    let files = topics::files();
    let entries = fs::read_dir(folder.join("schemas")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .map(|name| format!("schemas/{name}"))
        .filter(|path| !files.contains_key(path))
        .collect()
}
