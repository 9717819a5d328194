//! Pruning and promotion: what goes, what stays, what is given back, and who has to be asked.

use super::*;
use crate::memory::requests::{Promoted, Prune, Pruned};
use crate::memory::retention::Keep;

impl Node {
    async fn prune(&self, json: serde_json::Value) -> Result<Pruned, Fault> {
        let (progress, _, _) = Progress::new();
        self.memory.prune(&serde_json::from_value(json).unwrap(), None, &progress).await
    }

    async fn confirm_prune(&self, word: &str) -> Result<Pruned, Fault> {
        let (progress, _, _) = Progress::new();
        self.memory.prune(&Prune::default(), Some(word), &progress).await
    }

    async fn promote(&self, json: serde_json::Value) -> Result<Promoted, Fault> {
        let (progress, _, _) = Progress::new();
        self.memory.promote(&serde_json::from_value(json).unwrap(), &progress).await
    }

    pub(super) async fn store_at(&self, time: &str, json: serde_json::Value) -> String {
        self.set_time(time);
        self.store_request(request(&json)).await.id
    }

    /// Stores `count` records of some words in one transaction.
    async fn store_many(&self, layer: Layer, from: u64, count: u64) {
        for start in (from..from + count).step_by(100) {
            let memory = self.memory.clone();
            let end = (start + 100).min(from + count);
            self.ledger
                .write(move |unit| {
                    for number in start..end {
                        memory.store(unit, &Store { layer, ..Store::new(words(number)) })?;
                    }
                    Ok(())
                })
                .await
                .unwrap();
        }
    }

    async fn ids(&self) -> Vec<String> {
        let read = |connection: &rusqlite::Connection| {
            let mut statement = connection.prepare("SELECT id FROM memory_record ORDER BY id").unwrap();
            let ids = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            Ok(ids)
        };
        self.ledger.read(read).await.unwrap()
    }
}

/// A content of about 120 bytes that has much in common with the others.
fn words(number: u64) -> String {
    const WORDS: [&str; 16] = [
        "pump", "valve", "sensor", "kettle", "rattles", "leaks", "warm", "cold", "morning", "night", "hall",
        "lab", "checked", "replaced", "noted", "quiet",
    ];
    let pick = |step: u64| {
        WORDS[(number.wrapping_mul(2_654_435_761).wrapping_add(step * 40_503) >> 7) as usize % 16]
    };
    format!("note{number} {}", (0..18).map(pick).collect::<Vec<_>>().join(" "))
}

fn with(retention: Retention) -> Config {
    // A loaded machine may take long to index a year.
    Config { retention, latest_limit: LONG, ..lazy() }
}

fn layer_of(pruned: &Pruned, layer: Layer) -> requests::PrunedLayer {
    pruned.layers.iter().find(|pruned| pruned.layer == layer).unwrap().clone()
}

#[tokio::test]
async fn each_layer_keeps_its_days_and_what_is_pinned_stays() {
    let node = Node::new(lazy());
    let mut kept = Vec::new();
    // In the middle of a month, at the very edge of each layer's days before the 21st of November.
    for (layer, too_old, just_right) in [
        ("short_term", "2026-11-14T11:59:59.999Z", "2026-11-14T12:00:00Z"),
        ("working", "2026-10-22T11:59:59.999Z", "2026-10-22T12:00:00Z"),
        ("long_term", "2025-11-21T11:59:59.999Z", "2025-11-21T12:00:00Z"),
        ("episodic", "2024-11-21T11:59:59.999Z", "2024-11-21T12:00:00Z"),
    ] {
        node.store_at(too_old, serde_json::json!({ "content": "old", "layer": layer })).await;
        kept.push(
            node.store_at(
                too_old,
                serde_json::json!({ "content": "old and pinned", "layer": layer, "pinned": true }),
            )
            .await,
        );
        kept.push(node.store_at(just_right, serde_json::json!({ "content": "young", "layer": layer })).await);
    }
    kept.push(
        node.store_at("1999-01-01T00:00:00Z", serde_json::json!({ "content": "fact", "layer": "semantic" }))
            .await,
    );
    node.set_time(NOVEMBER);
    let planned = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap();
    assert_eq!(planned.layers.iter().map(|layer| layer.removed).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
    assert_eq!(planned.confirm, None);
    assert_eq!(node.ids().await.len(), 13, "a dry run removes nothing");
    let some = node.prune(serde_json::json!({ "layers": ["working"] })).await.unwrap();
    assert_eq!((some.layers.len(), some.layers[0].removed), (1, 1));
    let pruned = node.prune(serde_json::json!({})).await.unwrap();
    assert_eq!(pruned.layers.iter().map(|layer| layer.removed).collect::<Vec<_>>(), [1, 1, 0, 1, 0]);
    kept.sort();
    assert_eq!(node.ids().await, kept);
    let found =
        node.query(serde_json::json!({ "text": "old", "consistency": "latest", "explain": true })).await;
    assert_eq!((found.hits.len(), found.partial), (4, false));
    assert!(node.memory.stats().await.unwrap().last_prune.is_some());
}

#[tokio::test]
async fn a_clock_that_jumped_a_year_ahead_empties_nothing_unasked() {
    let node = Node::new(lazy());
    node.store_many(Layer::LongTerm, 0, 150).await;
    node.store_at(NOVEMBER, serde_json::json!({ "content": "fact", "layer": "semantic" })).await;
    node.set_time("2027-12-05T12:00:00Z");
    let fault = node.prune(serde_json::json!({})).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    assert!(fault.message.contains("150 of 151") && fault.message.contains("confirm"), "{}", fault.message);
    assert_eq!(node.ids().await.len(), 151);
    let word = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap().confirm.unwrap();
    assert!(fault.message.contains(&word));
    let wrong = node.confirm_prune("0123456789abcdef").await;
    assert_eq!(wrong.unwrap_err().code, Code::Conflict);
    // The word is for this day: not for one that the clock jumps to later.
    node.set_time("2028-01-10T00:00:00Z");
    assert_eq!(node.confirm_prune(&word).await.unwrap_err().code, Code::Conflict);
    node.set_time("2027-12-05T23:00:00Z");
    let pruned = node.confirm_prune(&word).await.unwrap();
    let long_term = layer_of(&pruned, Layer::LongTerm);
    assert_eq!((long_term.removed, long_term.months_dropped, long_term.records_after), (150, 1, 0));
    assert_eq!(node.ids().await.len(), 1);
    assert!(!node.shard("long_term", "2026-11").exists());
    // The month can come back.
    node.set_time("2026-11-23T00:00:00Z");
    node.store_many(Layer::LongTerm, 0, 3).await;
    let found = node
        .query(serde_json::json!({ "text": "note1", "layers": ["long_term"], "consistency": "latest" }))
        .await;
    assert_eq!((found.hits.len(), found.partial), (1, false));
}

#[tokio::test]
async fn a_clock_that_jumped_ahead_does_not_purge_most_of_what_can_be_brought_back_unasked() {
    let node = Node::new(lazy());
    node.store_many(Layer::Semantic, 0, 10).await;
    let ids = node.ids().await;
    for id in &ids[..6] {
        node.forget(id).await.unwrap();
    }
    for number in 0..12 {
        let update = requests::Update {
            id: ids[9].clone(),
            content: Some(format!("version {number}")),
            ..Default::default()
        };
        let memory = node.memory.clone();
        node.ledger.write(move |unit| memory.update(unit, &update, "tester")).await.unwrap();
    }
    // Nothing of it is due, and this is the last regular run.
    node.prune(serde_json::json!({})).await.unwrap();
    node.set_time("2027-12-05T12:00:00Z");
    let fault = node.prune(serde_json::json!({})).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    let told = "0 of 4 records, 6 of 6 forgotten ones and 12 of 12 old versions";
    assert!(fault.message.contains(told), "{fault}");
    let planned = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap();
    assert_eq!((planned.purged, planned.versions, planned.confirm.is_some()), (6, 12, true));
    // Once the clock is right again everything is as it was.
    node.set_time("2026-11-22T12:00:00Z");
    let back = Forget { id: ids[0].clone(), undo: true, purge: false };
    assert!(!node.forget_request(back).await.unwrap().forgotten);
    assert_eq!(node.get(&ids[9]).await.unwrap().history.unwrap().len(), 12);
    // Where time passes and runs come when they should, what is due goes without a word.
    for day in ["2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26", "2026-11-27", "2026-11-28"] {
        node.set_time(&format!("{day}T12:00:00Z"));
        assert_eq!(
            node.prune(serde_json::json!({})).await.unwrap().purged,
            if day < "2026-11-28" { 0 } else { 5 }
        );
    }
}

#[tokio::test]
async fn after_a_gap_what_has_become_due_meanwhile_waits_for_the_next_run() {
    let node = Node::new(lazy());
    node.store_many(Layer::Semantic, 0, 20).await;
    let ids = node.ids().await;
    node.forget(&ids[0]).await.unwrap();
    let update =
        requests::Update { id: ids[1].clone(), content: Some("another".into()), ..Default::default() };
    let memory = node.memory.clone();
    node.ledger.write(move |unit| memory.update(unit, &update, "tester")).await.unwrap();
    node.prune(serde_json::json!({})).await.unwrap();
    // Far less than the share, and yet it is not lost to a clock that is soon put right.
    node.set_time("2027-12-05T12:00:00Z");
    let planned = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap();
    assert_eq!((planned.purged, planned.versions, planned.confirm), (0, 0, None));
    let pruned = node.prune(serde_json::json!({})).await.unwrap();
    assert_eq!((pruned.purged, pruned.versions), (0, 0));
    node.set_time("2026-11-22T12:00:00Z");
    let undo = Forget { id: ids[0].clone(), undo: true, purge: false };
    assert!(!node.forget_request(undo).await.unwrap().forgotten);
    assert_eq!(node.get(&ids[1]).await.unwrap().history.unwrap().len(), 1);
    // A node that runs once in a while purges nevertheless, by its next run.
    node.forget(&ids[0]).await.unwrap();
    for (day, expected) in [("2026-11-23", (0, 0)), ("2027-01-10", (0, 0)), ("2027-02-20", (1, 1))] {
        node.set_time(&format!("{day}T12:00:00Z"));
        let pruned = node.prune(serde_json::json!({})).await.unwrap();
        assert_eq!((pruned.purged, pruned.versions), expected, "{day}");
    }
}

#[tokio::test]
async fn what_does_not_fit_goes_the_oldest_first() {
    let mut retention = Retention { max_share: 1.0, ..Retention::default() };
    retention.layers[Layer::Semantic as usize] = Keep { days: 0, max_bytes: 0 };
    let node = Node::new(with(retention.clone()));
    for month in 1..=6 {
        node.set_time(&format!("2026-{month:02}-15T00:00:00Z"));
        node.store_many(Layer::Semantic, month * 1_000, 60).await;
        node.set_time(&format!("2026-{month:02}-20T00:00:00Z"));
        node.store_many(Layer::Semantic, month * 1_000 + 60, 60).await;
    }
    let pinned = node
        .store_at(
            "2026-01-10T00:00:00Z",
            serde_json::json!({ "content": "pinned", "layer": "semantic", "pinned": true }),
        )
        .await;
    node.set_time(NOVEMBER);
    node.find("note1000").await;
    let stats = node.memory.stats().await.unwrap();
    let of = |stats: &StatsReport| {
        stats.layers.iter().find(|layer| layer.layer == Layer::Semantic).unwrap().clone()
    };
    let size = of(&stats).content_bytes + of(&stats).index_bytes;
    retention.layers[Layer::Semantic as usize].max_bytes = size * 5 / 12;
    let node = node.restart(with(retention), |_| {});
    let pruned = node.prune(serde_json::json!({})).await.unwrap();
    let semantic = layer_of(&pruned, Layer::Semantic);
    // Seven of twelve halves of a month, more or less a few for the index.
    assert!((400..=480).contains(&semantic.removed), "{semantic:?}");
    assert!(semantic.bytes_after.unwrap() < semantic.bytes_before * 6 / 12, "{semantic:?}");
    let oldest = node.query(serde_json::json!({ "layers": ["semantic"], "to": "2026-04-16T00:00:00Z", "consistency": "latest" })).await;
    let ids: Vec<_> = oldest.hits.iter().map(|hit| hit.record.id.clone()).collect();
    assert_eq!(ids, [pinned], "everything before is gone, but for what is pinned");
    let june = node
        .query(
            serde_json::json!({ "from": "2026-06-01T00:00:00Z", "explain": true, "consistency": "latest" }),
        )
        .await;
    assert_eq!(june.total, 120);
}

#[tokio::test]
async fn what_matters_or_is_often_recalled_is_promoted_and_keeps_its_id_and_history() {
    let node = Node::new(lazy());
    let matters =
        node.store_at(NOVEMBER, serde_json::json!({ "content": "matters", "importance": 0.9 })).await;
    let recalled =
        node.store_at(NOVEMBER, serde_json::json!({ "content": "recalled", "importance": 0.1 })).await;
    let plain = node.store_at(NOVEMBER, serde_json::json!({ "content": "plain" })).await;
    let named = node.store_at(NOVEMBER, serde_json::json!({ "content": "named" })).await;
    let update =
        requests::Update { id: matters.clone(), content: Some("matters most".into()), ..Default::default() };
    let memory = node.memory.clone();
    node.ledger.write(move |unit| memory.update(unit, &update, "tester")).await.unwrap();
    for _ in 0..3 {
        node.get(&recalled).await.unwrap();
    }
    node.memory.write_recalls().await.unwrap();
    assert_eq!(node.promote(serde_json::json!({})).await.unwrap().promoted, 0, "there is time");
    assert_eq!(node.promote(serde_json::json!({ "ids": [named] })).await.unwrap().promoted, 1);
    let twice = node.promote(serde_json::json!({ "ids": [named] })).await.unwrap_err();
    assert_eq!(twice.code, Code::Conflict);
    node.set_time("2026-11-28T11:00:00Z");
    let planned = node.promote(serde_json::json!({ "dry_run": true })).await.unwrap();
    assert_eq!((planned.promoted, planned.ids), (2, vec![matters.clone(), recalled.clone()]));
    node.set_time("2026-11-29T12:00:00Z");
    let planned = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap();
    assert_eq!((planned.promoted, planned.layers[0].removed), (2, 1));
    let pruned = node.prune(serde_json::json!({})).await.unwrap();
    assert_eq!((pruned.promoted, pruned.layers[0].removed), (2, 1), "before what is too old goes");
    assert_eq!(node.get(&plain).await.unwrap_err().code, Code::NotFound);
    let got = node.get(&matters).await.unwrap();
    assert_eq!((got.record.layer, got.record.version), (Layer::LongTerm, 2));
    assert_eq!(got.history.unwrap()[0].content, "matters");
    for text in ["matters", "recalled", "named"] {
        let found =
            node.query(serde_json::json!({ "text": text, "consistency": "latest", "explain": true })).await;
        assert_eq!(found.total, 1, "{text}");
        assert_eq!(found.hits[0].record.layer, Layer::LongTerm);
    }
}

#[tokio::test]
async fn a_month_that_is_being_dropped_and_comes_back_loses_nothing_that_is_new() {
    let node = Node::new(lazy());
    node.store_many(Layer::Working, 0, 20).await;
    node.find("note1").await;
    // As a crash in the middle of a drop leaves it.
    let begun = node.ledger.write(|unit| {
        Ok(unit.execute_batch(
            "INSERT INTO memory_change (shard, record) VALUES (1, 0), (1, 0);
             UPDATE memory_shard SET dropping = 1, settled = (SELECT max(sequence) - 1 FROM memory_change),
                 changed = (SELECT max(sequence) FROM memory_change);
             DELETE FROM memory_change; DELETE FROM memory_record WHERE key <= 10;
             UPDATE memory_shard SET records = 10;",
        )?)
    });
    begun.await.unwrap();
    let node = node.restart(lazy(), |_| {});
    assert!(
        node.query(serde_json::json!({ "text": "note15" })).await.hits.is_empty(),
        "it is on its way out"
    );
    let id = node
        .store_request(request(&serde_json::json!({ "content": "brand new", "layer": "working" })))
        .await
        .id;
    let first = node.query(serde_json::json!({ "text": "new", "consistency": "latest" })).await;
    if first.partial {
        node.whole().await;
    }
    let found = node
        .query(serde_json::json!({ "text": "new note15", "consistency": "latest", "explain": true }))
        .await;
    assert_eq!((found.total, found.partial), (2, false));
    assert!(found.hits.iter().any(|hit| hit.record.id == id));
    // And a later pruning ends what was begun.
    node.set_time("2027-01-21T12:00:00Z");
    let word = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap().confirm.unwrap();
    let pruned = node.confirm_prune(&word).await.unwrap();
    assert_eq!(layer_of(&pruned, Layer::Working).removed, 11);
    assert!(node.ids().await.is_empty());
}

#[tokio::test]
async fn a_small_layer_is_not_emptied_unasked_after_a_jump_of_the_clock() {
    let node = Node::new(lazy());
    node.store_many(Layer::Semantic, 0, 50).await;
    node.store_many(Layer::Working, 1_000, 5).await;
    node.prune(serde_json::json!({})).await.unwrap();
    node.set_time("2027-09-21T12:00:00Z");
    let fault = node.prune(serde_json::json!({})).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    assert_eq!(node.ids().await.len(), 55);
    let word = node.prune(serde_json::json!({ "dry_run": true })).await.unwrap().confirm.unwrap();
    assert_eq!(layer_of(&node.confirm_prune(&word).await.unwrap(), Layer::Working).removed, 5);
}

/// Bytes that a folder takes up on disk.
fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries
        .map(|entry| {
            let meta = entry.path().symlink_metadata().unwrap();
            let below = if meta.is_dir() { disk_usage(&entry.path()) } else { 0 };
            below + meta.blocks() * 512
        })
        .sum()
}

/// Twelve months of `each` records; interleaved, as an import may bring them, or month by month. Returns what the state
/// takes before and after all but the last month are pruned, and what a fresh state with only that month takes.
async fn prune_a_year(each: u64, interleaved: bool) -> (u64, u64, u64) {
    let month = |month: u64| format!("2026-{month:02}-20T00:00:00Z");
    let retention = || {
        let mut retention = Retention { max_share: 1.0, ..Retention::default() };
        retention.layers[Layer::Episodic as usize].days = 30;
        with(retention)
    };
    let node = Node::new(retention());
    const CHUNK: u64 = 100;
    let chunks = each / CHUNK;
    let order: Vec<(u64, u64)> = if interleaved {
        (0..chunks).flat_map(|chunk| (1..=12).map(move |number| (number, chunk))).collect()
    } else {
        (1..=12).flat_map(|number| (0..chunks).map(move |chunk| (number, chunk))).collect()
    };
    for (number, chunk) in order {
        node.set_time(&month(number));
        node.store_many(Layer::Episodic, number * 10_000_000 + chunk * CHUNK, CHUNK).await;
    }
    node.find("pump").await;
    let state = node.ledger.folder().to_owned();
    node.memory.give_back(&[]).await.unwrap();
    let before = disk_usage(&state);
    node.set_time("2026-12-21T00:00:00Z");
    let (pruned, longest) = tokio::select! {
        biased;
        pruned = node.prune(serde_json::json!({})) => (pruned.unwrap(), LONGEST.with(std::cell::Cell::get)),
        () = node.commands() => unreachable!("it goes on for ever"),
    };
    println!("a command waited for {longest:?} at most");
    let episodic = layer_of(&pruned, Layer::Episodic);
    assert_eq!(
        (episodic.removed, episodic.months_dropped),
        (each * 11, 10),
        "the last one began before the cutoff"
    );
    node.until_quiet().await;
    let after = disk_usage(&state);
    let found =
        node.query(serde_json::json!({ "text": "pump", "consistency": "latest", "explain": true })).await;
    assert!(found.total > each / 2 && !found.partial);

    let fresh = Node::new(retention());
    fresh.set_time(&month(12));
    for chunk in 0..chunks {
        fresh.store_many(Layer::Episodic, 120_000_000 + chunk * CHUNK, CHUNK).await;
    }
    fresh.find("pump").await;
    fresh.memory.give_back(&[]).await.unwrap();
    fresh.until_quiet().await;
    (before, after, disk_usage(fresh.ledger.folder()))
}

thread_local! {
    /// The longest that [`Node::commands`] has waited.
    static LONGEST: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

impl Node {
    /// One small write after the other, for ever.
    async fn commands(&self) {
        loop {
            let asked = std::time::Instant::now();
            let write =
                |unit: &mut Unit<'_>| Ok(unit.execute("UPDATE meta SET value = value WHERE key = 'x'", [])?);
            self.ledger.write(write).await.unwrap();
            LONGEST.with(|longest| longest.set(longest.get().max(asked.elapsed())));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Has the projector close its writers, so that merges that are under way end, and empties the log.
    async fn until_quiet(&self) {
        let memory = self.memory.clone();
        tokio::task::spawn_blocking(move || memory.close()).await.unwrap();
        self.ledger.empty_log().await.unwrap();
    }
}

#[tokio::test]
async fn after_a_year_is_pruned_to_a_month_the_disk_is_given_back() {
    for interleaved in [false, true] {
        let (before, after, fresh) = prune_a_year(500, interleaved).await;
        assert!(after * 10 <= fresh * 13, "interleaved {interleaved}: {before} to {after}, fresh {fresh}");
    }
}

/// At full scale, by hand: `cargo test --lib a_hundred_thousand -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "takes minutes; the figures are in docs/performance.md"]
async fn a_hundred_thousand_records_of_a_year_are_pruned_to_a_month() {
    for interleaved in [false, true] {
        let started = std::time::Instant::now();
        let (before, after, fresh) = prune_a_year(8_400, interleaved).await;
        let ratio = after as f64 / fresh as f64;
        println!(
            "interleaved {interleaved}: {before} bytes before, {after} after, {fresh} fresh, ratio {ratio:.2}, {:?}",
            started.elapsed()
        );
        assert!(ratio <= 1.3);
    }
}
