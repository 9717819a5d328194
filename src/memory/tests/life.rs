//! A record's life: versions, seals, forgetting and purging, limits, pins, recalls.

use super::*;
use crate::memory::requests::{OneOrMany, Update};
use crate::soul;

impl Node {
    async fn update(&self, json: serde_json::Value) -> Result<requests::Updated, Fault> {
        let request: Update = serde_json::from_value(json).unwrap();
        request.validate(10_000)?;
        let memory = self.memory.clone();
        self.ledger.write(move |unit| memory.update(unit, &request, "tester")).await
    }

    async fn pin(&self, id: &str, pinned: bool) -> Result<requests::Pinned, Fault> {
        let (memory, request) = (self.memory.clone(), Pin { id: id.into(), pinned });
        self.ledger.write(move |unit| memory.pin(unit, &request)).await
    }

    async fn try_store(&self, json: serde_json::Value) -> Result<requests::StoreAnswer, Fault> {
        let mut request: StoreRequest = serde_json::from_value(json).unwrap();
        request.validate(10_000, "tester")?;
        let memory = self.memory.clone();
        self.ledger.write(move |unit| memory.store_all(unit, &request)).await
    }

    /// Changes the ledger from outside.
    pub(super) async fn tamper(&self, sql: &str) {
        let sql = sql.to_owned();
        self.ledger.write(move |unit| Ok(unit.execute_batch(&sql)?)).await.unwrap();
    }

    /// Whether any file of the state holds `text`.
    fn is_on_disk(&self, text: &str) -> bool {
        fn search(folder: &Path, text: &[u8]) -> bool {
            std::fs::read_dir(folder).unwrap().flatten().any(|entry| {
                let path = entry.path();
                if path.is_symlink() {
                    false
                } else if path.is_dir() {
                    search(&path, text)
                } else {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    bytes.windows(text.len()).any(|window| window == text)
                }
            })
        }
        search(self.dir.path(), text.as_bytes())
    }

    async fn until_nothing_is_left_to_purge(&self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            self.memory.projection.control().request_compaction();
            self.memory.empty_log().await.unwrap();
            if self.memory.stats().await.unwrap().purging == 0 {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "what was purged never left");
            tokio::task::yield_now().await;
        }
    }
}

fn config(retention: Retention) -> Config {
    Config { retention, ..lazy() }
}

#[tokio::test]
async fn an_update_is_a_new_version_and_the_old_ones_are_in_its_history() {
    let node = Node::new(lazy());
    let id = node.store("the pump rattles").await;
    node.set_time("2026-11-22T12:00:00Z");
    node.update(
        serde_json::json!({ "id": id, "content": "the pump hums", "tags": ["a", "a"], "entity": "pump" }),
    )
    .await
    .unwrap();
    let updated = node
        .update(serde_json::json!({ "id": id, "if_version": 2, "entity": null, "importance": 0.9 }))
        .await
        .unwrap();
    assert_eq!(updated.version, 3);
    let stale = node.update(serde_json::json!({ "id": id, "if_version": 2, "importance": 0.1 })).await;
    assert_eq!(stale.unwrap_err().code, Code::Conflict);
    let got = node.get(&id).await.unwrap();
    assert_eq!((got.record.content.as_str(), got.record.entity), ("the pump hums", None));
    assert_eq!((got.record.tags, got.record.source), (vec!["a".to_owned()], Some("tester".to_owned())));
    assert_eq!(got.record.created, Timestamp::parse(NOVEMBER).unwrap());
    let history = got.history.unwrap();
    let told: Vec<_> =
        history.iter().map(|old| (old.version, old.content.as_str(), old.entity.as_deref())).collect();
    assert_eq!(told, [(2, "the pump hums", Some("pump")), (1, "the pump rattles", None)]);
    assert_eq!(node.find("rattles").await, [""; 0]);
    assert_eq!(node.find("hums").await, ["the pump hums"]);
    let nothing = node.update(serde_json::json!({ "id": id })).await;
    assert_eq!(nothing.unwrap_err().code, Code::Invalid);
    let unknown = node.update(serde_json::json!({ "id": "nobody", "importance": 0.5 })).await;
    assert_eq!(unknown.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn what_was_changed_from_outside_is_in_no_answer_and_every_answer_says_so() {
    for change in [
        "UPDATE memory_record SET content = 'the reactor is safe'",
        "UPDATE memory_record SET importance = 1.0",
        "UPDATE memory_record SET namespace = 'other'",
        "UPDATE memory_record SET tags = 'not json'",
        "UPDATE memory_record SET content = CAST(x'ff80' AS TEXT)",
        "UPDATE memory_record SET seal = NULL",
        "UPDATE memory_record SET seal = zeroblob(32)",
        "UPDATE memory_record SET expires = 0",
        "UPDATE memory_record SET pinned = 1",
        "UPDATE memory_shard SET layer = 'semantic'",
    ] {
        let node = Node::new(lazy());
        let id = node.store("the reactor is hot").await;
        node.find("reactor").await;
        node.tamper(change).await;
        let fault = node.get(&id).await.unwrap_err();
        assert_eq!(fault.code, Code::Conflict, "{change}");
        assert!(fault.message.contains("seal"), "{}", fault.message);
        let answer = node.memory.query(serde_json::from_value(serde_json::json!({})).unwrap()).await.unwrap();
        assert!(answer.body.hits.is_empty(), "{change}");
        // A shard of another name has no index yet: the record cannot even be found.
        if !change.contains("memory_shard") {
            assert_eq!(answer.body.broken, std::slice::from_ref(&id), "{change}");
            assert!(answer.degraded.contains(&"integrity".to_owned()));
        }
        assert!(node.memory.stats().await.unwrap().broken > 0);
        let told = node.memory.news.take().unwrap().changes;
        assert!(told.iter().any(|change| change.what == news::What::Broken && change.id == id), "{told:?}");
        // Nothing makes it good again, but it can be purged.
        let refused = node.update(serde_json::json!({ "id": id, "content": "x" })).await;
        assert_eq!(refused.unwrap_err().code, Code::Conflict, "{change}");
        assert_eq!(node.pin(&id, false).await.unwrap_err().code, Code::Conflict, "{change}");
        node.purge(&id).await.unwrap();
        assert_eq!(node.get(&id).await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn an_old_version_that_was_changed_from_outside_is_named() {
    for change in [
        "content = 'the pump was never heard'",
        "tags = 'not json'",
        "entity = 'bob'",
        "content = CAST(x'ff80' AS TEXT)",
        "seal = zeroblob(32)",
    ] {
        let node = Node::new(lazy());
        let id = node.store("the pump rattles").await;
        for content in ["the pump hums", "the pump is silent"] {
            node.update(serde_json::json!({ "id": id, "content": content })).await.unwrap();
        }
        assert!(node.get(&id).await.unwrap().answer().degraded.is_empty());
        node.tamper(&format!("UPDATE memory_version SET {change} WHERE version = 1")).await;
        let got = node.get(&id).await.unwrap();
        let history: Vec<_> = got.history.iter().flatten().map(|old| old.version).collect();
        assert_eq!((history, &*got.broken_versions), (vec![2], &[1][..]), "{change}");
        assert_eq!(got.answer().degraded, ["integrity"]);
        assert_eq!(node.memory.broken_seals(), 1);
        let told = node.memory.news.take().unwrap().changes;
        assert!(told.iter().any(|change| change.what == news::What::Broken && change.id == id), "{told:?}");
    }
}

#[tokio::test]
async fn records_from_before_the_seals_are_sealed_once_and_another_key_is_refused() {
    let node = Node::new(lazy());
    let id = node.store("from before").await;
    node.tamper(
        "UPDATE memory_record SET seal = NULL, digest = NULL; INSERT INTO meta VALUES ('memory_unsealed', 1)",
    )
    .await;
    node.memory.prepare().await.unwrap();
    assert_eq!(node.get(&id).await.unwrap().record.content, "from before");
    node.tamper("UPDATE memory_record SET seal = NULL").await;
    node.memory.prepare().await.unwrap();
    assert_eq!(node.get(&id).await.unwrap_err().code, Code::Conflict, "only once");

    let other = Seal::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &[8; 32]));
    let memory = Memory::open(node.ledger.clone(), other, lazy()).unwrap();
    let fault = memory.prepare().await.unwrap_err();
    assert!(fault.message.contains("node.key"), "{}", fault.message);
}

#[tokio::test]
async fn what_is_forgotten_can_be_brought_back_until_it_is_purged() {
    let node = Node::new(lazy());
    let id = node.store("a passing thought").await;
    let forgotten = node.forget(&id).await.unwrap();
    assert!(forgotten.forgotten && !forgotten.purged);
    assert_eq!(forgotten.purge_after.unwrap().to_string(), "2026-11-28T12:00:00.000Z");
    assert_eq!(node.get(&id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(node.find("thought").await, [""; 0]);
    let stats = &node.memory.stats().await.unwrap().layers[0];
    assert_eq!((stats.records, stats.forgotten), (0, 1));
    let undo = || Forget { id: id.clone(), undo: true, purge: false };
    assert!(!node.forget_request(undo()).await.unwrap().forgotten);
    assert_eq!(node.forget_request(undo()).await.unwrap_err().code, Code::Conflict);
    assert_eq!(node.find("thought").await, ["a passing thought"]);

    node.forget(&id).await.unwrap();
    node.set_time("2026-11-28T11:59:59Z");
    let (progress, _, _) = Progress::new();
    assert_eq!(node.memory.prune(&Prune::default(), None, &progress).await.unwrap().purged, 0);
    node.set_time("2026-11-28T12:00:00Z");
    assert_eq!(node.memory.prune(&Prune::default(), None, &progress).await.unwrap().purged, 1);
    assert_eq!(node.forget_request(undo()).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn what_is_purged_is_in_no_file_any_more() {
    let node = Node::new(lazy());
    // Of many sizes, also larger than a page, so that pages are split and merged around them.
    let filler = |number: usize| format!("filler{number} {}", "lorem ipsum ".repeat(number * 37 % 600));
    let mut secrets = Vec::new();
    for number in 0..60 {
        node.store(&filler(number)).await;
        let id = node.store(&format!("xyzzysecret{number} {}", "plugh ".repeat(number * 53 % 900))).await;
        node.update(serde_json::json!({ "id": id, "content": format!("xyzzysecret again {}", "plugh ".repeat(number)) }))
            .await
            .unwrap();
        secrets.push(id);
    }
    assert_eq!(
        node.query(serde_json::json!({ "text": "plugh", "consistency": "latest", "limit": 100 }))
            .await
            .hits
            .len(),
        59
    );
    assert!(node.is_on_disk("xyzzysecret") && node.is_on_disk("plugh"));
    for id in secrets {
        node.purge(&id).await.unwrap();
    }
    node.until_nothing_is_left_to_purge().await;
    for text in ["xyzzysecret", "plugh"] {
        assert!(!node.is_on_disk(text), "{text}");
    }
    assert_eq!(
        node.query(serde_json::json!({ "text": "ipsum", "consistency": "latest", "limit": 100 }))
            .await
            .hits
            .len(),
        59
    );
}

#[tokio::test]
async fn the_same_content_is_answered_with_the_record_that_is_there_when_that_is_asked_for() {
    let node = Node::new(lazy());
    let stored = |answer: requests::StoreAnswer| match answer {
        OneOrMany::One(stored) => (stored.id, stored.existing),
        OneOrMany::Many(_) => unreachable!(),
    };
    let ask = |namespace: &str| serde_json::json!({ "content": "twice", "namespace": namespace, "if_absent": true });
    let (first, existing) = stored(node.try_store(ask("a")).await.unwrap());
    assert!(!existing);
    assert_eq!(stored(node.try_store(ask("a")).await.unwrap()), (first.clone(), true));
    assert_ne!(stored(node.try_store(ask("b")).await.unwrap()).0, first, "namespaces are apart");
    let unasked = node.try_store(serde_json::json!({ "content": "twice", "namespace": "a" })).await.unwrap();
    assert_ne!(stored(unasked).0, first);
    node.update(serde_json::json!({ "id": first, "content": "once" })).await.unwrap();
    let again = stored(node.try_store(ask("a")).await.unwrap());
    assert!(again.1 && again.0 != first, "the other one is still there");
}

#[tokio::test]
async fn who_a_record_is_about_is_linked_whichever_command_says_so() {
    let node = Node::new(lazy());
    let linked = |name: &'static str| node.ledger.read(move |ledger| soul::linked(ledger, name));
    let id = node.store("a note").await;
    let same = serde_json::json!({ "content": "a note", "if_absent": true, "entity": "ann" });
    node.try_store(same).await.unwrap();
    assert_eq!(linked("ann").await.unwrap(), std::slice::from_ref(&id));
    node.update(serde_json::json!({ "id": id, "entity": "ann" })).await.unwrap();
    node.update(serde_json::json!({ "id": id, "entity": "bob" })).await.unwrap();
    assert!(linked("ann").await.unwrap().is_empty());
    assert_eq!(linked("bob").await.unwrap(), std::slice::from_ref(&id));
    node.update(serde_json::json!({ "id": id, "entity": null })).await.unwrap();
    assert!(linked("bob").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_batch_is_stored_as_a_whole_or_not_at_all() {
    let limits = Limits { namespace: Share { records: 3, bytes: 0 }, user: Share { records: 0, bytes: 10 } };
    let node = Node::new(Config { limits, ..lazy() });
    let batch = |contents: &[&str], user: Option<&str>| {
        let records: Vec<_> =
            contents.iter().map(|content| serde_json::json!({ "content": content, "user": user })).collect();
        serde_json::json!({ "records": records })
    };
    let OneOrMany::Many(stored) = node.try_store(batch(&["a", "b"], None)).await.unwrap() else {
        unreachable!()
    };
    assert_eq!(stored.stored.len(), 2);
    assert_eq!(node.get(&stored.stored[1].id).await.unwrap().record.source.as_deref(), Some("tester"));
    let fault = node.try_store(batch(&["c", "d"], None)).await.unwrap_err();
    assert_eq!(fault.code, Code::Conflict);
    assert!(fault.message.contains("3 records"), "{}", fault.message);
    assert_eq!(node.memory.stats().await.unwrap().layers[0].records, 2, "neither of them");
    // Who forgets makes room.
    node.forget(&stored.stored[0].id).await.unwrap();
    node.try_store(batch(&["c", "d"], None)).await.unwrap();
    let other = |content: &str, namespace: &str| serde_json::json!({ "content": content, "user": "ann", "namespace": namespace });
    node.try_store(other("12345678", "x")).await.unwrap();
    let fault = node.try_store(other("123", "y")).await.unwrap_err();
    assert!(fault.message.contains("user") && fault.message.contains("10 bytes"), "{}", fault.message);
    node.try_store(other("12", "y")).await.unwrap();

    let many: Vec<_> = (0..101).map(|_| "x").collect();
    assert_eq!(node.try_store(batch(&many, None)).await.unwrap_err().code, Code::Invalid);
    assert_eq!(node.try_store(batch(&[], None)).await.unwrap_err().code, Code::Invalid);
    let fault = node.try_store(batch(&["fine", ""], None)).await.unwrap_err();
    assert!(fault.message.starts_with("records[1]: content"), "{}", fault.message);
    let payload = Payload::new(Encoding::Json, r#"{"records":[{"content":"x","layer":"attic"}]}"#.into());
    let fault = payload.decode::<StoreRequest>().unwrap_err();
    assert!(fault.code == Code::Invalid && fault.message.contains("episodic"), "{}", fault.message);
}

#[tokio::test]
async fn recalls_are_counted_and_kept_and_what_has_ended_is_in_no_answer() {
    let node = Node::new(lazy());
    let id = node.store("recalled").await;
    node.find("recalled").await;
    node.get(&id).await.unwrap();
    node.memory.write_recalls().await.unwrap();
    let record = node.get(&id).await.unwrap().record;
    assert_eq!((record.accesses, record.last_access), (2, Some(record.created)));

    let ending = serde_json::json!({ "content": "ending", "expires": "2026-11-22T00:00:00Z" });
    let id = node.store_request(request(&ending)).await.id;
    assert_eq!(node.find("ending").await, ["ending"]);
    node.set_time("2026-11-22T00:00:00Z");
    assert_eq!(node.get(&id).await.unwrap_err().code, Code::NotFound);
    assert_eq!(node.find("ending").await, [""; 0]);
    let (progress, _, _) = Progress::new();
    let pruned = node.memory.prune(&Prune::default(), None, &progress).await.unwrap();
    assert_eq!(pruned.layers[0].removed, 1);
}

#[tokio::test]
async fn old_versions_are_kept_as_long_as_configured() {
    let node = Node::new(config(Retention { history_days: 2, ..Retention::default() }));
    let id = node.store("one").await;
    node.update(serde_json::json!({ "id": id, "content": "two" })).await.unwrap();
    let (progress, _, _) = Progress::new();
    node.set_time("2026-11-23T11:59:59Z");
    assert_eq!(node.memory.prune(&Prune::default(), None, &progress).await.unwrap().versions, 0);
    node.set_time("2026-11-23T12:00:00Z");
    assert_eq!(node.memory.prune(&Prune::default(), None, &progress).await.unwrap().versions, 1);
    assert_eq!(node.get(&id).await.unwrap().history, Some(Vec::new()));
    let none = Node::new(config(Retention { history_days: 0, ..Retention::default() }));
    let id = none.store("one").await;
    none.update(serde_json::json!({ "id": id, "content": "two" })).await.unwrap();
    assert_eq!(none.get(&id).await.unwrap().history, Some(Vec::new()));
}

#[tokio::test]
async fn a_version_that_was_changed_from_outside_is_left_out() {
    let node = Node::new(lazy());
    let id = node.store("one").await;
    node.update(serde_json::json!({ "id": id, "content": "two" })).await.unwrap();
    node.tamper("UPDATE memory_version SET content = 'zero'").await;
    assert_eq!(node.get(&id).await.unwrap().history, Some(Vec::new()));
}

#[tokio::test]
async fn a_month_that_is_over_becomes_one_segment_and_many_months_stay_open_within_bounds() {
    let index = index::Options { merge_records: 1_000, open_bytes: 1, ..brisk().index };
    let node = Node::new(Config { index, ..brisk() });
    for month in ["2026-08", "2026-09", "2026-10", "2026-11"] {
        for day in 10..15 {
            node.set_time(&format!("{month}-{day}T00:00:00Z"));
            node.store(&format!("leaf of {month} and {day}")).await;
            // A commit, and so a segment, of its own.
            node.query(serde_json::json!({ "text": "leaf", "consistency": "latest" })).await;
        }
    }
    let segments = |month: &str| {
        let files = std::fs::read_dir(node.shard("short_term", month)).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "idx")).count()
    };
    let mut ticks = node.memory.projection.control().ticks();
    while ["2026-08", "2026-09", "2026-10"].into_iter().any(|month| segments(month) > 1) {
        ticks.changed().await.unwrap();
    }
    // Room for one at a time: each is opened anew, and all are asked.
    for _ in 0..2 {
        let found = node.query(serde_json::json!({ "text": "leaf", "limit": 100 })).await;
        assert_eq!((found.total, found.partial), (20, false));
    }
    let found = node.query(serde_json::json!({ "text": "+leaf +12 +08" })).await;
    assert_eq!(contents(&found.hits), ["leaf of 2026-08 and 12"]);
}
