//! `orchd audit`: the audit trail on this machine, whether the node runs or not.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use rusqlite::{Connection, OpenFlags};

use super::client::text;
use super::{Exit, Shared, complain, need, print, print_more};
use crate::clock::Clock;
use crate::config::{Config, Role};
use crate::gate::node_key::NodeKey;
use crate::ledger::audit::seal::{PURPOSE, Sealer};
use crate::ledger::audit::verify::{Sound, check};
use crate::ledger::audit::{self, Record};
use crate::node::AuditRecord;

/// Check, show or export the audit trail (works on the files of this machine, while the node runs or not)
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that nobody has changed, added or removed records: chain, checkpoint, and the seal made with the node key
    Verify,
    /// Show the newest records
    Tail {
        /// How many
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// Wait for more, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// One JSON object for each record
        #[arg(long)]
        json: bool,
    },
    /// Write all records, one JSON object on each line, the oldest first
    Export {
        /// Only those after this number
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: i64,
        /// A new file for them, of mode 0600 [default: standard output]
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
    },
}

type Failed = Box<dyn std::error::Error>;

/// Records that are read at a time.
const PAGE: u32 = 1_000;

/// From one look for new records to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Args {
    pub(super) fn run(self, shared: &Shared) -> Exit {
        let loaded = shared.load(Role::Node).and_then(|(config, provenance)| {
            need(&provenance, Role::Node, |key| {
                matches!(self.command, Command::Verify) && key == "node.key_file"
            })?;
            Ok(config)
        });
        let config = match loaded {
            Ok(config) => config,
            Err(exit) => return exit,
        };
        let done = open(&config.node.state_dir).and_then(|trail| match self.command {
            Command::Verify => verify(&trail, &config),
            Command::Tail { count, follow, json } => tail(&trail, count, follow, json),
            Command::Export { after, out } => export(&trail, after, out.as_deref()),
        });
        done.unwrap_or_else(|error| {
            complain(error);
            Exit::Failed
        })
    }
}

/// The ledger of the current generation. Nothing is changed, and nothing is made where nothing is.
fn open(state: &Path) -> Result<Connection, Failed> {
    let path = state.join("current").join(crate::ledger::LEDGER_FILE);
    if !path.is_file() {
        return Err(format!("{}: no node has run here yet; is node.state_dir right?", path.display()).into());
    }
    // Not read-only: a write-ahead log that a crash left behind has to be read with it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "query_only", true)?;
    if connection.prepare("SELECT decision FROM audit").is_err() {
        return Err("the ledger is of an older version: start the node once, so that it is migrated".into());
    }
    Ok(connection)
}

fn verify(trail: &Connection, config: &Config) -> Result<Exit, Failed> {
    let key = NodeKey::load(&config.node.key_file)?;
    // One snapshot: a node that runs goes on writing.
    let snapshot = trail.unchecked_transaction()?;
    let sound = match check(&snapshot, &Sealer::new(key.hmac(PURPOSE)))? {
        Ok(sound) => sound,
        Err(tampering) => {
            complain(tampering);
            return Ok(Exit::Failed);
        }
    };
    let Sound { records, head, checkpoint, alarms } = sound;
    let removed = checkpoint.map_or_else(String::new, |checkpoint| {
        format!("; those up to {} are no longer kept", checkpoint.head.seq)
    });
    let exit = print(&format!(
        "{records} records are as the node wrote them, the last is {} with hash {}{removed}\n",
        head.seq,
        head.hex()
    ));
    if alarms.is_empty() {
        return Ok(exit);
    }
    for seq in alarms {
        complain(format_args!("record {seq}: the trail was not as it should be when the node started"));
    }
    Ok(Exit::Failed)
}

fn tail(trail: &Connection, count: u32, follow: bool, json: bool) -> Result<Exit, Failed> {
    let mut records = audit::tail(trail, 0, count)?;
    let mut last = 0;
    loop {
        for record in records {
            last = record.seq;
            if let Err(end) = print_more(&line(record, json)?) {
                return Ok(end);
            }
        }
        if !follow {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(LOOK_EVERY);
        records = audit::page(trail, last, PAGE)?;
    }
}

fn line(record: Record, json: bool) -> Result<String, Failed> {
    let seq = record.seq;
    let record = AuditRecord::from(record);
    if json {
        return Ok(serde_json::to_string(&record)? + "\n");
    }
    let mut line = format!(
        "{seq} {} {} {} {}",
        text::when(record.at, Clock::system().now()),
        text::short(&record.principal, 64),
        text::short(&record.command, 64),
        record.outcome
    );
    if record.count > 1 {
        line += &format!(" ({} times)", record.count);
    }
    if let Some(reason) = &record.reason {
        line += &format!(": {}", text::plain(reason));
    }
    Ok(line + "\n")
}

fn export(trail: &Connection, after: i64, out: Option<&Path>) -> Result<Exit, Failed> {
    let snapshot = trail.unchecked_transaction()?;
    let mut sink: Box<dyn Write> = match out {
        Some(path) => {
            use std::os::unix::fs::OpenOptionsExt;
            let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            Box::new(file.map_err(|error| format!("cannot write {}: {error}", path.display()))?)
        }
        None => Box::new(std::io::stdout().lock()),
    };
    let (mut last, mut count) = (after, 0u64);
    loop {
        let page = audit::page(&snapshot, last, PAGE)?;
        let Some(end) = page.last().map(|record| record.seq) else { break };
        for record in page {
            match sink.write_all(line(record, true)?.as_bytes()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
                written => written?,
            }
            count += 1;
        }
        last = end;
    }
    sink.flush()?;
    let head = audit::head(&snapshot)?;
    complain(format_args!("{count} records; the last of the trail is {} with hash {}", head.seq, head.hex()));
    Ok(Exit::Ok)
}
