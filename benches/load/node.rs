//! `orchd run` as a child process, and what can be seen of it from outside.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orchd::clock::Clock;
use orchd::gate::node_key::NodeKey;
use orchd::ledger::{self, Ledger};
use orchd::memory::model::{Layer, Store};
use orchd::memory::{self, Memory};
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, QoS, SubscribeFilter};
use rustix::process::{Pid, Signal, kill_process};

use super::Failure;
use super::link::{self, Broker};
use super::work::{NODE, content};

/// How long a node may take to come up or to stop.
const LIMIT: Duration = Duration::from_secs(60);

/// A running node; killed when dropped.
pub struct Node {
    child: Child,
    /// From its start to the retained status that says online.
    pub ready: Duration,
}

/// Memory of a process in megabytes.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// All of it, the program's own file included.
    pub total: f64,
    /// What it has allocated.
    pub anonymous: f64,
}

impl Node {
    /// Starts a node over the state in `folder` and waits until it is online.
    pub async fn start(broker: &Broker, folder: &Path) -> Result<Self, Failure> {
        let config = configure(broker, folder)?;
        let (client, mut event_loop) =
            AsyncClient::builder(link::options(broker, "load-watch")?).capacity(16).try_build()?;
        let status = format!("orch/{NODE}/events/status");
        client.subscribe_many([SubscribeFilter::new(status, QoS::AtLeastOnce)]).await?;
        while !matches!(event_loop.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
        let log = std::fs::File::create(folder.join("log"))?;
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_orchd"))
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut node = Self { child, ready: Duration::ZERO };
        let online = async {
            loop {
                if let Event::Incoming(Packet::Publish(status)) = event_loop.poll().await?
                    // What an earlier run left behind is marked as retained.
                    && !status.retain
                    && status.payload.windows(8).any(|part| part == br#""online""#)
                {
                    return Ok::<_, Failure>(());
                }
            }
        };
        tokio::time::timeout(LIMIT, online).await.map_err(|_| {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            format!("the node does not come online: {log}")
        })??;
        node.ready = started.elapsed();
        client.disconnect().await?;
        while event_loop.poll().await.is_ok() {}
        Ok(node)
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Its memory now.
    pub fn resident(&self) -> Result<Resident, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kib / 1_024.0)
        };
        let both = field("VmRSS:").zip(field("RssAnon:"));
        let (total, anonymous) = both.ok_or("the node is gone")?;
        Ok(Resident { total, anonymous })
    }

    /// Stops it as an operator would.
    pub async fn stop(mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > LIMIT {
                return Err("the node does not stop".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration that is all defaults but for the names, the broker and no port for metrics.
fn configure(broker: &Broker, folder: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(folder)?;
    let mut text = format!("[node]\nname = \"{NODE}\"\nstate_dir = \"{}\"\n", state(folder).display());
    writeln!(text, "[broker]\nurl = \"{}\"", broker.url())?;
    if let Some(ca) = &broker.ca {
        writeln!(text, "ca_file = \"{}\"", ca.display())?;
    }
    text.push_str("[observe]\nlisten = \"\"\n");
    let path = folder.join("orchd.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

fn state(folder: &Path) -> PathBuf {
    folder.join("state")
}

/// Puts `count` memories into the ledger under `folder`, and all of them into the search index. No node may run on it.
pub async fn remember(folder: &Path, count: u64) -> Result<(), Failure> {
    /// Records in one transaction.
    const BATCH: u64 = 1_000;
    std::fs::create_dir_all(folder)?;
    let state = state(folder);
    let opened = tokio::task::spawn_blocking(move || {
        Ledger::open(&state, &ledger::Options::default(), Clock::system())
    });
    let ledger = opened.await??;
    let key = NodeKey::load_or_create(&folder.join("state").join("node.key"))?;
    let seal = memory::Seal::new(key.hmac(memory::Seal::PURPOSE));
    let memory = Memory::open(ledger.clone(), seal, memory::Config::default())?;
    memory.prepare().await?;
    for first in (0..count).step_by(BATCH as usize) {
        let memory = memory.clone();
        let write = move |unit: &mut ledger::Unit<'_>| {
            for number in first..(first + BATCH).min(count) {
                memory.store(unit, &record(number))?;
            }
            Ok(())
        };
        ledger.write(write).await?;
    }
    while memory.stats().await?.lag > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let closing: Arc<Memory> = memory.clone();
    tokio::task::spawn_blocking(move || {
        closing.close();
        ledger.close();
    })
    .await?;
    Ok(())
}

fn record(number: u64) -> Store {
    Store { layer: Layer::Semantic, tags: vec!["seed".to_owned()], ..Store::new(content(number)) }
}
