//! Memory through its public face, over a real ledger.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;

use super::model::{Consistency, Found, Hit};
use super::*;
use crate::clock::Clock;
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
    Config { index, ..Config::default() }
}

fn brisk() -> Config {
    let short = Duration::from_millis(1);
    let index = index::Options { commit_interval: short, writer_idle: short, ..index::Options::default() };
    Config { index, ..Config::default() }
}

fn open(dir: &Path, now: &Arc<AtomicI64>, config: Config) -> (Ledger, Arc<Memory>) {
    let now = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(now.load(Ordering::SeqCst)));
    let options = crate::ledger::Options { reserve_bytes: 1 << 20, ..Default::default() };
    let ledger = Ledger::open(dir, &options, clock).unwrap();
    let memory = Memory::open(ledger.clone(), config).unwrap();
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
        let (memory, request) = (self.memory.clone(), Forget { id: id.into() });
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
    assert_eq!(found.total, Some(1));
    let hit = &found.hits[0];
    assert!(hit.score > 0.9 && hit.score <= 1.0);
    assert!((hit.parts.unwrap().text - 1.0).abs() < 1e-9);
    let record = node.memory.get(Get { id }).await.unwrap();
    assert_eq!(record, hit.record);
    assert_eq!(record.checksum, model::checksum(&record.content));
}

#[tokio::test]
async fn what_was_forgotten_is_in_no_answer_and_not_in_the_ledger() {
    let node = Node::new(lazy());
    let id = node.store("the secret garden").await;
    let kept = node.store("a garden").await;
    assert_eq!(node.find("garden").await.len(), 2);
    node.forget(&id).await.unwrap();
    let found = node.query(serde_json::json!({ "text": "garden" })).await;
    assert_eq!(found.hits[0].record.id, kept, "also before the index knows");
    assert_eq!(found.hits.len(), 1);
    assert_eq!(node.find("secret garden").await, ["a garden"]);
    assert_eq!(node.memory.get(Get { id: id.clone() }).await.unwrap_err().code, Code::NotFound);
    assert_eq!(node.forget(&id).await.unwrap_err().code, Code::NotFound);
    let rows = |connection: &rusqlite::Connection| {
        let sql = "SELECT count(*) FROM memory_record WHERE content LIKE '%secret%'";
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?)
    };
    assert_eq!(node.ledger.read(rows).await.unwrap(), 0);
    let found =
        node.query(serde_json::json!({ "text": "garden", "consistency": "latest", "explain": true })).await;
    assert_eq!(found.total, Some(1), "it left the index, too");
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
    let left = |connection: &rusqlite::Connection| {
        let sql = "SELECT (SELECT count(*) FROM memory_change), (SELECT min(settled) FROM memory_shard)";
        Ok(connection.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while node.ledger.read(left).await.unwrap() != (0, 5) {
        assert!(std::time::Instant::now() < deadline, "the projector never rested");
        tokio::task::yield_now().await;
    }
    // And nothing is missed by a start after that.
    let node = node.restart(lazy(), |_| {});
    assert_eq!(node.find("number").await.len(), 5);
}

/// Stores in two months, settles, damages the older month's folder while stopped, and sees it come back.
async fn comes_back_after(damage: impl FnOnce(&Path)) {
    let node = Node::new(brisk());
    node.set_time("2026-10-15T00:00:00Z");
    for number in 0..20 {
        node.store(&format!("october leaf {number}")).await;
    }
    node.set_time(NOVEMBER);
    node.store("november leaf").await;
    assert_eq!(
        node.query(serde_json::json!({ "text": "leaf", "consistency": "latest", "limit": 100 }))
            .await
            .hits
            .len(),
        21
    );
    settle(&node).await;
    let node = node.restart(brisk(), |index| damage(&index.join("short_term/2026-10")));
    let found = node.query(serde_json::json!({ "text": "leaf" })).await;
    assert!(found.partial, "the damage shows");
    assert_eq!(contents(&found.hits), ["november leaf"], "the rest goes on");
    node.whole().await;
    let found = node.query(serde_json::json!({ "text": "leaf", "limit": 100 })).await;
    assert_eq!((found.hits.len(), found.partial), (21, false));
}

/// Waits until the ledger keeps no change any more.
async fn settle(node: &Node) {
    let left = |connection: &rusqlite::Connection| {
        Ok(connection.query_row("SELECT count(*) FROM memory_change", [], |row| row.get::<_, i64>(0))?)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while node.ledger.read(left).await.unwrap() > 0 {
        assert!(std::time::Instant::now() < deadline, "the projector never rested");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_deleted_folder_is_rebuilt() {
    comes_back_after(|folder| std::fs::remove_dir_all(folder).unwrap()).await;
}

#[tokio::test]
async fn a_broken_meta_json_is_rebuilt() {
    comes_back_after(|folder| std::fs::write(folder.join("meta.json"), "{\"segments\": [").unwrap()).await;
}

#[tokio::test]
async fn a_truncated_segment_is_rebuilt() {
    comes_back_after(|folder| {
        let entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in entries.iter().filter(|path| path.extension().is_some_and(|extension| extension == "idx"))
        {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn another_shard_in_its_place_is_rebuilt() {
    comes_back_after(|folder| {
        std::fs::remove_dir_all(folder).unwrap();
        std::fs::create_dir(folder).unwrap();
        for entry in std::fs::read_dir(folder.with_file_name("2026-11")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_shard_of_another_schema_is_rebuilt() {
    comes_back_after(|folder| {
        let path = folder.join("meta.json");
        let mut meta: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut mark: serde_json::Value = serde_json::from_str(meta["payload"].as_str().unwrap()).unwrap();
        mark["schema"] = "0123456789abcdef".into();
        meta["payload"] = mark.to_string().into();
        std::fs::write(&path, meta.to_string()).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_vanishes_under_a_running_node_comes_back_with_the_next_queries() {
    let node = Node::new(lazy());
    node.store("here today").await;
    assert_eq!(node.find("today").await.len(), 1);
    std::fs::remove_dir_all(node.shard("short_term", "2026-11")).unwrap();
    let found = node.query(serde_json::json!({ "text": "today" })).await;
    assert!(found.partial && found.hits.is_empty());
    node.whole().await;
    assert_eq!(node.find("today").await, ["here today"]);
    node.store("today again").await;
    assert_eq!(node.find("today").await.len(), 2);
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
        let rebuilt = node.memory.rebuild(&progress).await.unwrap();
        assert_eq!(rebuilt, Rebuilt { shards: 2, records: 1_201 });
        let step = *steps.borrow();
        assert_eq!((step.done, step.total), (2, 2));
    }
    let found =
        node.query(serde_json::json!({ "text": "pebble", "consistency": "latest", "explain": true })).await;
    assert_eq!((found.total, found.partial), (Some(1_201), false));
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
    assert!(parts.iter().all(|parts| parts.text > 0.99), "{parts:?}");
    assert!((found.hits[0].record.importance - 1.0).abs() < 1e-9);
    assert!(found.hits[1].record.created > found.hits[2].record.created);
    assert!(found.hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)));
}

#[tokio::test]
async fn phrases_required_and_excluded_words_are_obeyed_and_nothing_else_is_an_error() {
    let node = Node::new(lazy());
    for content in ["red fox", "fox red", "red hen", "blue hen"] {
        node.store(content).await;
    }
    let sorted = |mut found: Vec<String>| {
        found.sort();
        found
    };
    assert_eq!(node.find("\"red fox\"").await, ["red fox"]);
    assert_eq!(sorted(node.find("+red hen").await), ["fox red", "red fox", "red hen"]);
    assert_eq!(node.find("+red +hen").await, ["red hen"]);
    assert_eq!(sorted(node.find("hen -red").await), ["blue hen"]);
    assert_eq!(sorted(node.find("-red").await), ["blue hen"]);
    assert_eq!(node.find("the of and").await, [""; 0]);
    assert_eq!(node.find("  ").await.len(), 4, "no text at all");
    for text in ["\"", "+", "-", "fox AND (", "a:b:c", "[* TO", "\\", "+\"\" -\"", "~^*?", "\u{0}", "\"fox"] {
        let found = node.query(serde_json::json!({ "text": text })).await;
        assert!(!found.partial, "{text:?}");
    }
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
        ["memory/store", "memory/get", "memory/query", "memory/forget", "memory/stats", "memory/rebuild"]
    );
    let payload = Payload::new(Encoding::Json, r#"{"layers":["attic"]}"#.into());
    let fault = payload.decode::<Query>().unwrap_err();
    assert_eq!(fault.code, Code::Invalid);
    assert!(fault.message.contains("episodic"));
}

/// A record and a query of few values, so that they often meet.
fn small_store() -> impl Strategy<Value = (i64, serde_json::Value)> {
    let word = prop::sample::select(vec!["fox", "hen", "owl"]);
    (
        0_i64..90,
        prop::sample::select(Layer::ALL.to_vec()),
        prop::collection::vec(word.clone(), 1..4),
        prop::collection::btree_set(prop::sample::select(vec!["a", "B", "c d"]), 0..3),
        prop::option::of(prop::sample::select(vec!["ann", "bob"])),
    )
        .prop_map(|(day, layer, words, tags, entity)| {
            let content = words.join(" ");
            (day, serde_json::json!({ "content": content, "layer": layer, "tags": tags, "entity": entity }))
        })
}

fn small_query() -> impl Strategy<Value = serde_json::Value> {
    let text =
        prop::sample::select(vec!["", "fox", "fox owl", "+fox +hen", "\"fox hen\"", "-fox", "owl -hen"]);
    let day = || prop::option::of(0_i64..90);
    (
        text,
        prop::collection::btree_set(prop::sample::select(Layer::ALL.to_vec()), 0..3),
        prop::collection::btree_set(prop::sample::select(vec!["a", "B", "c d"]), 0..2),
        prop::option::of(prop::sample::select(vec!["ann", "bob"])),
        (day(), day()),
    )
        .prop_map(|(text, layers, tags, entity, (from, to))| {
            let time = |day: Option<i64>| day.map(day_at);
            serde_json::json!({
                "text": text, "layers": layers, "tags": tags, "entity": entity,
                "from": time(from), "to": time(to), "limit": 100, "consistency": "latest", "explain": true,
            })
        })
}

fn day_at(day: i64) -> Timestamp {
    Timestamp::parse("2026-10-01T00:00:00Z").unwrap().plus_millis(day * 86_400_000)
}

/// What the words of [`small_query`] mean, without an index.
fn has_words(text: &str, content: &str) -> bool {
    let has = |word: &str| content.split(' ').any(|other| other == word);
    match text {
        "" => true,
        "fox" => has("fox"),
        "fox owl" => has("fox") || has("owl"),
        "+fox +hen" => has("fox") && has("hen"),
        "\"fox hen\"" => content.contains("fox hen"),
        "-fox" => !has("fox"),
        "owl -hen" => has("owl") && !has("hen"),
        other => unreachable!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_query_finds_exactly_what_a_plain_list_would(
        records in prop::collection::vec(small_store(), 1..40),
        forget in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        queries in prop::collection::vec(small_query(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::new(lazy());
            let mut model = Vec::new();
            for (day, json) in &records {
                node.now.store(day_at(*day).millis(), Ordering::SeqCst);
                let id = node.store_request(request(json)).await.id;
                model.push(node.memory.get(Get { id }).await.unwrap());
            }
            node.now.store(day_at(90).millis(), Ordering::SeqCst);
            for index in forget {
                if !model.is_empty() {
                    let record = model.remove(index.index(model.len()));
                    node.forget(&record.id).await.unwrap();
                }
            }
            for json in &queries {
                let query: Query = serde_json::from_value(json.clone()).unwrap();
                let text = query.text.clone().unwrap_or_default();
                let expected: BTreeSet<_> = model
                    .iter()
                    .filter(|record| query.admits(record) && has_words(&text, &record.content))
                    .map(|record| record.id.clone())
                    .collect();
                assert_eq!(query.consistency, Consistency::Latest);
                let found = node.query(json.clone()).await;
                assert!(!found.partial);
                assert_eq!(found.total, Some(expected.len() as u64), "{json}");
                let hits: BTreeSet<_> = found.hits.iter().map(|hit| hit.record.id.clone()).collect();
                assert_eq!(hits, expected, "{json}");
                assert!(found.hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "{json}");
            }
        });
    }
}
