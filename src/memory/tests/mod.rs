//! Memory through its public face, over a real ledger.

mod against_a_map;
mod copies;
mod damage;
mod filters;
mod life;
mod meaning;
mod pruning;
mod queries;
mod transfer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use super::model::{Store, Stored};
use super::query::{Found, Hit};
use super::requests::{Forgotten, Got};
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::wire::{Encoding, Payload};

const NOVEMBER: &str = "2026-11-21T12:00:00Z";
const LONG: Duration = Duration::from_secs(3_600);

/// A memory whose clock the test owns.
struct Node {
    dir: tempfile::TempDir,
    now: Arc<AtomicI64>,
    ledger: Ledger,
    memory: Arc<Memory>,
}

/// Commits only when someone waits, and settles only when asked to rest.
fn lazy() -> Config {
    let index = index::Options { commit_interval: LONG, writer_idle: LONG, ..index::Options::default() };
    Config { index, latest_limit: LONG, ..Config::default() }
}

fn brisk() -> Config {
    let short = Duration::from_millis(1);
    let index = index::Options {
        commit_interval: short,
        writer_idle: short,
        look_interval: short,
        // What a test damages stays where it is.
        merge_records: 0,
        ..index::Options::default()
    };
    Config { index, latest_limit: LONG, ..Config::default() }
}

fn seal() -> Seal {
    Seal::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[7; 32]))
}

fn open(dir: &Path, now: &Arc<AtomicI64>, config: Config) -> (Ledger, Arc<Memory>) {
    let now = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(now.load(Ordering::SeqCst)));
    let options = crate::ledger::Options { reserve_bytes: 1 << 20, ..Default::default() };
    let ledger = Ledger::open(dir, &options, clock).unwrap();
    let memory = Memory::open(ledger.clone(), seal(), config).unwrap();
    (ledger, memory)
}

impl Node {
    fn new(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(Timestamp::parse(NOVEMBER).unwrap().millis()));
        let (ledger, memory) = open(dir.path(), &now, config);
        Self { dir, now, ledger, memory }
    }

    /// Ends without committing the index, does something to its folder, and starts again.
    fn restart(self, config: Config, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { dir, now, ledger, memory } = self;
        memory.close();
        ledger.close();
        let folder = ledger.folder().join(INDEX_FOLDER);
        drop((memory, ledger));
        meanwhile(&folder);
        let (ledger, memory) = open(dir.path(), &now, config);
        Self { dir, now, ledger, memory }
    }

    fn set_time(&self, text: &str) {
        self.now.store(Timestamp::parse(text).unwrap().millis(), Ordering::SeqCst);
    }

    async fn store_request(&self, mut request: Store) -> Stored {
        request.validate(10_000).unwrap();
        let memory = self.memory.clone();
        self.ledger.write(move |unit| memory.store(unit, &request)).await.unwrap()
    }

    async fn store(&self, content: &str) -> String {
        self.store_request(request(&serde_json::json!({ "content": content }))).await.id
    }

    async fn forget(&self, id: &str) -> Result<Forgotten, Fault> {
        self.forget_request(Forget { id: id.into(), ..Forget::default() }).await
    }

    /// Removes a record for good.
    async fn purge(&self, id: &str) -> Result<Forgotten, Fault> {
        self.forget_request(Forget { id: id.into(), purge: true, undo: false }).await
    }

    async fn get(&self, id: &str) -> Result<Got, Fault> {
        self.memory.get(Get { id: id.into(), history: true }).await
    }

    async fn forget_request(&self, request: Forget) -> Result<Forgotten, Fault> {
        let memory = self.memory.clone();
        self.ledger.write(move |unit| memory.forget(unit, &request)).await
    }

    async fn query(&self, json: serde_json::Value) -> Found {
        let answer = self.memory.query(serde_json::from_value(json).unwrap()).await.unwrap();
        assert_eq!(answer.degraded.is_empty(), !answer.body.partial);
        answer.body
    }

    /// The contents that a latest query for `text` finds.
    async fn find(&self, text: &str) -> Vec<String> {
        let found = self.query(serde_json::json!({ "text": text, "consistency": "latest" })).await;
        assert!(!found.partial);
        contents(&found.hits)
    }

    /// Resolves when the index is whole and lags behind nothing.
    async fn whole(&self) {
        let mut ticks = self.memory.projection.control().ticks();
        while self.memory.stats().await.unwrap().damaged > 0 {
            ticks.changed().await.unwrap();
        }
    }

    fn shard(&self, layer: &str, month: &str) -> PathBuf {
        self.ledger.folder().join(INDEX_FOLDER).join(layer).join(month)
    }
}

/// Waits until the ledger keeps no change any more.
async fn settle(node: &Node) {
    let left = |connection: &rusqlite::Connection| {
        Ok(connection.query_row("SELECT count(*) FROM memory_change", [], |row| row.get::<_, i64>(0))?)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while node.ledger.read(left).await.unwrap() > 0 {
        assert!(std::time::Instant::now() < deadline, "the projector never rested");
        tokio::task::yield_now().await;
    }
}

fn request(json: &serde_json::Value) -> Store {
    serde_json::from_value(json.clone()).unwrap()
}

fn contents(hits: &[Hit]) -> Vec<String> {
    hits.iter().map(|hit| hit.record.content.clone()).collect()
}

#[tokio::test]
async fn what_was_stored_is_found_by_the_next_latest_query_and_by_its_id() {
    let node = Node::new(lazy());
    let id = node.store("The quick brown foxes are running").await;
    node.store("A lazy dog").await;
    let found =
        node.query(serde_json::json!({ "text": "fox run", "consistency": "latest", "explain": true })).await;
    assert_eq!(contents(&found.hits), ["The quick brown foxes are running"]);
    assert_eq!(found.total, 1);
    let hit = &found.hits[0];
    let parts = hit.parts.unwrap();
    assert!(parts.text > 0.3 && parts.text < 1.0, "{parts:?}");
    assert!((parts.recency - 1.0).abs() < 1e-9 && (parts.importance - 0.5).abs() < 1e-9);
    assert!(hit.score > parts.text * 0.5 && hit.score <= 1.0);
    assert_eq!(hit.snippet.as_deref(), Some("The quick brown <mark>foxes</mark> are <mark>running</mark>"));
    let record = node.get(&id).await.unwrap().record;
    assert_eq!(record, hit.record);
    assert_eq!(record.checksum, model::checksum(&record.content));
}

#[tokio::test]
async fn what_was_forgotten_is_in_no_answer_and_not_in_the_ledger() {
    let node = Node::new(lazy());
    let id = node.store("the secret garden").await;
    let kept = node.store("a garden").await;
    assert_eq!(node.find("garden").await.len(), 2);
    node.purge(&id).await.unwrap();
    let found = node.query(serde_json::json!({ "text": "garden" })).await;
    assert_eq!(found.hits[0].record.id, kept, "also before the index knows");
    assert_eq!(found.hits.len(), 1);
    assert_eq!(node.find("secret garden").await, ["a garden"]);
    assert_eq!(node.get(&id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(node.forget(&id).await.unwrap_err().code, Code::NotFound);
    let rows = |connection: &rusqlite::Connection| {
        let sql = "SELECT count(*) FROM memory_record WHERE content LIKE '%secret%'";
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(node.ledger.read(rows).await.unwrap(), 0);
    let found =
        node.query(serde_json::json!({ "text": "garden", "consistency": "latest", "explain": true })).await;
    assert_eq!(found.total, 1, "it left the index, too");
}

#[tokio::test]
async fn a_restart_finds_what_the_index_never_committed() {
    let node = Node::new(lazy());
    node.store("committed early").await;
    assert_eq!(node.find("committed").await.len(), 1);
    let forgotten = node.store("committed late").await;
    node.store("committed later").await;
    node.forget(&forgotten).await.unwrap();
    let node = node.restart(lazy(), |_| {});
    assert_eq!(node.find("committed").await.len(), 2);
    let stats = node.memory.stats().await.unwrap();
    assert_eq!((stats.sequence, stats.lag, stats.damaged), (4, 0, 0));
}

#[tokio::test]
async fn changes_leave_the_ledger_once_the_index_has_them() {
    let node = Node::new(brisk());
    for number in 0..5 {
        node.store(&format!("number {number}")).await;
    }
    assert_eq!(node.find("number").await.len(), 5);
    settle(&node).await;
    // And nothing is missed by a start after that.
    let node = node.restart(lazy(), |_| {});
    assert_eq!(node.find("number").await.len(), 5);
}

#[tokio::test]
async fn a_rebuild_answers_with_what_it_built_and_can_be_repeated() {
    let node = Node::new(lazy());
    for number in 0..1_200 {
        node.store(&format!("pebble {number}")).await;
    }
    node.set_time("2026-12-01T00:00:00Z");
    node.store("a december pebble").await;
    for _ in 0..2 {
        let (progress, steps, _) = Progress::new();
        let rebuilt = node.memory.rebuild(&Rebuild::default(), &progress).await.unwrap();
        assert_eq!(rebuilt, Rebuilt { shards: 2, records: 1_201 });
        let step = *steps.borrow();
        assert_eq!((step.done, step.total), (2, 2));
    }
    let found =
        node.query(serde_json::json!({ "text": "pebble", "consistency": "latest", "explain": true })).await;
    assert_eq!((found.total, found.partial), (1_201, false));
    node.store("one more pebble").await;
    assert_eq!(node.find("\"more pebble\"").await, ["one more pebble"]);
}

#[tokio::test]
async fn queries_that_wait_together_all_see_what_was_stored_before_them() {
    let node = Arc::new(Node::new(lazy()));
    let tasks = (0..16).map(|number| {
        let node = node.clone();
        async move {
            node.store(&format!("shared wait{number}")).await;
            assert_eq!(node.find(&format!("wait{number}")).await.len(), 1);
        }
    });
    futures_util::future::join_all(tasks).await;
    assert_eq!(node.find("shared").await.len(), 10, "the default limit");
}

#[tokio::test]
async fn without_text_the_newest_come_first_across_months() {
    let node = Node::new(lazy());
    for time in [
        "2026-09-30T23:59:59.999Z",
        "2026-10-01T00:00:00Z",
        "2026-10-31T23:59:59.999Z",
        "2026-11-01T00:00:00Z",
    ] {
        node.set_time(time);
        node.store(time).await;
    }
    let all = node.query(serde_json::json!({ "consistency": "latest" })).await;
    assert_eq!(
        contents(&all.hits),
        [
            "2026-11-01T00:00:00Z",
            "2026-10-31T23:59:59.999Z",
            "2026-10-01T00:00:00Z",
            "2026-09-30T23:59:59.999Z"
        ]
    );
    let october =
        node.query(serde_json::json!({ "from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z" })).await;
    assert_eq!(contents(&october.hits), ["2026-10-31T23:59:59.999Z", "2026-10-01T00:00:00Z"]);
    let two = node.query(serde_json::json!({ "limit": 2 })).await;
    assert_eq!(contents(&two.hits), ["2026-11-01T00:00:00Z", "2026-10-31T23:59:59.999Z"]);
    assert!(node.shard("short_term", "2026-10").join("meta.json").exists());
}

#[tokio::test]
async fn scores_compare_across_months_and_recent_and_important_records_win_ties() {
    let node = Node::new(lazy());
    node.set_time("2026-06-01T00:00:00Z");
    node.store("copper kettle").await;
    node.set_time(NOVEMBER);
    node.store("copper kettle").await;
    node.store_request(request(&serde_json::json!({ "content": "copper kettle", "importance": 1.0 }))).await;
    // Filler, so that the two months have very different document frequencies.
    for number in 0..30 {
        node.store(&format!("copper wire {number}")).await;
    }
    let found = node
        .query(serde_json::json!({ "text": "copper kettle", "consistency": "latest", "limit": 3, "explain": true }))
        .await;
    let parts: Vec<_> = found.hits.iter().map(|hit| hit.parts.unwrap()).collect();
    let spread = |of: fn(&query::Parts) -> f64| {
        let values = parts.iter().map(of);
        values.clone().fold(0.0, f64::max) - values.fold(1.0, f64::min)
    };
    assert!(spread(|parts| parts.text) < 1e-4, "{parts:?}");
    assert!((found.hits[0].record.importance - 1.0).abs() < 1e-9);
    assert!(found.hits[1].record.created > found.hits[2].record.created);
    assert!(found.hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)));
}

#[tokio::test]
async fn stats_count_by_layer_and_follow_what_is_forgotten() {
    let node = Node::new(lazy());
    let id = node.store("12345").await;
    for layer in Layer::ALL {
        node.store_request(request(&serde_json::json!({ "content": "äö", "layer": layer }))).await;
    }
    node.forget(&id).await.unwrap();
    let stats = node.memory.stats().await.unwrap();
    assert_eq!((stats.sequence, stats.indexed, stats.lag), (7, 0, 7));
    node.find("nothing").await;
    let stats = node.memory.stats().await.unwrap();
    assert_eq!((stats.sequence, stats.indexed, stats.lag), (7, 7, 0));
    for layer in &stats.layers {
        assert_eq!((layer.records, layer.content_bytes, layer.shards), (1, 4, 1), "{layer:?}");
        assert!(layer.index_bytes > 0);
    }
}

#[tokio::test]
async fn opening_touches_no_shard_that_is_up_to_date() {
    let node = Node::new(brisk());
    node.store("quiet").await;
    node.find("quiet").await;
    settle(&node).await;
    // Were it opened at the start, the damage would show without a query.
    let node = node.restart(lazy(), |index| std::fs::remove_dir_all(index).unwrap());
    node.store_request(request(&serde_json::json!({ "content": "loud", "layer": "working" }))).await;
    let loud = node
        .query(serde_json::json!({ "text": "loud", "layers": ["working"], "consistency": "latest" }))
        .await;
    assert_eq!((loud.hits.len(), loud.partial), (1, false));
    assert_eq!(node.memory.stats().await.unwrap().damaged, 0);
    assert!(node.dir.path().exists());
}

#[test]
fn each_verb_is_declared_once_and_refuses_what_it_does_not_know() {
    let names: Vec<_> = commands().iter().map(|entry| entry.declaration.name()).collect();
    assert_eq!(
        names,
        [
            "memory/store",
            "memory/get",
            "memory/query",
            "memory/update",
            "memory/forget",
            "memory/pin",
            "memory/stats",
            "memory/prune",
            "memory/prune/confirm",
            "memory/promote",
            "memory/export",
            "memory/import",
            "memory/archive",
            "memory/rebuild"
        ]
    );
    let payload = Payload::new(Encoding::Json, r#"{"layers":["attic"]}"#.into());
    let fault = payload.decode::<Query>().unwrap_err();
    assert_eq!(fault.code, Code::Invalid);
    assert!(fault.message.contains("episodic"));
}
