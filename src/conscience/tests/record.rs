//! What an evaluation leaves behind: decisions, reviews, memories; and what the cache may not do.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::*;

/// A rule under which the word `lever` waits for a person.
fn review_rule() -> Value {
    json!({ "name": "levers", "weight": 3, "stance": "forbids", "review": true, "patterns": ["lever"] })
}

/// A node whose clock the test owns.
async fn timed(dir: &Path, config: Config) -> (Node, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_000_000));
    let shared = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(shared.load(Ordering::SeqCst)));
    let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
    let ledger = Ledger::open(dir, &options, clock).unwrap();
    (Node::over(ledger, config).await, now)
}

#[tokio::test]
async fn decisions_are_recorded_and_found_by_entity_and_outcome_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    for i in 0..5 {
        node.call("evaluate", json!({ "action": format!("read file {i}") })).await.unwrap();
    }
    let call = json!({ "tool": "send_email", "args": { "to": "bob", "body": "I will kill him" } });
    let refused = node.call("evaluate", json!({ "action": call, "entity": "bob" })).await.unwrap();
    let list = |wanted: Value| node.call("decisions", wanted);
    let found = list(json!({ "outcome": "refused" })).await.unwrap();
    assert_eq!(found["decisions"][0]["decision_id"], refused["decision_id"]);
    assert_eq!(found["decisions"][0]["action"], call);
    assert_eq!(found["decisions"][0]["rules"][0]["matched"]["field"], "args.body");
    assert_eq!(found["decisions"], list(json!({ "entity": "bob" })).await.unwrap()["decisions"]);
    let first = list(json!({ "limit": 4 })).await.unwrap();
    let second = list(json!({ "limit": 4, "after": first["next"] })).await.unwrap();
    assert_eq!(first["decisions"].as_array().unwrap().len(), 4);
    assert_eq!(second["decisions"].as_array().unwrap().len(), 2);
    assert_eq!(second["next"], Value::Null);
    assert_eq!(list(json!({ "from": "1970-01-01T00:00:02Z" })).await.unwrap()["decisions"], json!([]));
    assert_eq!(list(json!({ "limit": 0 })).await.unwrap_err().code, Code::Invalid);
    node.stop();
}

#[tokio::test]
async fn what_needs_a_review_waits_for_one_and_the_same_question_joins_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut events = node.events.listen();
    node.call("rules/set", review_rule()).await.unwrap();
    let ask = || node.call("evaluate", json!({ "action": "pull the lever" }));
    let verdict = ask().await.unwrap();
    assert_eq!((&verdict["approved"], &verdict["needs_review"]), (&json!(false), &json!(true)));
    assert_eq!(ask().await.unwrap()["review_id"], verdict["review_id"]);
    let news: Value = serde_json::from_slice(&events.recv().await.unwrap().payload).unwrap();
    assert_eq!((&news["review_id"], &news["state"]), (&verdict["review_id"], &json!("open")));

    let open = node.call("reviews/list", json!({})).await.unwrap();
    assert_eq!(open["reviews"].as_array().unwrap().len(), 1);
    assert_eq!(open["reviews"][0]["decision"]["action"], "pull the lever");
    let resolve = |approve: bool| {
        let id = verdict["review_id"].clone();
        node.call("reviews/resolve", json!({ "review_id": id, "approve": approve, "note": "go" }))
    };
    let resolved = resolve(true).await.unwrap();
    assert_eq!((&resolved["state"], &resolved["resolved_by"]), (&json!("approved"), &json!("tester")));
    assert_eq!(resolve(false).await.unwrap_err().code, Code::Conflict);
    let unknown = node.call("reviews/resolve", json!({ "review_id": "x", "approve": true })).await;
    assert_eq!(unknown.unwrap_err().code, Code::NotFound);
    let news: Value = serde_json::from_slice(&events.recv().await.unwrap().payload).unwrap();
    assert_eq!(news["state"], "approved");
    assert_ne!(ask().await.unwrap()["review_id"], verdict["review_id"]);
    node.stop();
}

#[tokio::test]
async fn a_review_that_nobody_resolves_expires() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { review_expiry: Duration::from_secs(60), ..Config::default() };
    let (node, now) = timed(dir.path(), config).await;
    node.call("rules/set", review_rule()).await.unwrap();
    let verdict = node.call("evaluate", json!({ "action": "pull the lever" })).await.unwrap();
    now.fetch_add(60_000, Ordering::SeqCst);
    // Before anyone has marked it, and after.
    for _ in 0..2 {
        let all = node.call("reviews/list", json!({ "all": true })).await.unwrap();
        assert_eq!(all["reviews"][0]["state"], "expired");
        assert_eq!(node.call("reviews/list", json!({})).await.unwrap()["reviews"], json!([]));
        let late = json!({ "review_id": verdict["review_id"], "approve": true });
        let fault = node.call("reviews/resolve", late).await.unwrap_err();
        assert_eq!((fault.code, fault.message.contains("expired")), (Code::Conflict, true));
        let mut events = node.events.listen();
        node.conscience.expire().await.unwrap();
        if let Ok(event) = events.try_recv() {
            assert_eq!(serde_json::from_slice::<Value>(&event.payload).unwrap()["state"], "expired");
        }
    }
    node.stop();
}

#[tokio::test]
async fn old_decisions_are_forgotten_and_so_are_those_beyond_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { keep_decisions: Duration::from_secs(60), decision_rows: 150, ..Config::default() };
    let (node, now) = timed(dir.path(), config).await;
    let fill = async |count: usize| {
        for i in 0..count {
            node.call("evaluate", json!({ "action": format!("file {i}"), "entity": "x" })).await.unwrap();
        }
    };
    let count = async || {
        let rows = node.ledger.read(|c| {
            Ok(c.query_row("SELECT count(*) FROM conscience_decision", [], |row| row.get::<_, i64>(0))?)
        });
        rows.await.unwrap()
    };
    fill(300).await;
    node.conscience.prune().await.unwrap();
    assert_eq!(count().await, 150);
    now.fetch_add(61_000, Ordering::SeqCst);
    fill(3).await;
    node.conscience.prune().await.unwrap();
    assert_eq!(count().await, 3);
    node.stop();
}

#[tokio::test]
async fn what_is_judged_is_put_down_while_a_removal_that_does_not_end_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { keep_decisions: Duration::from_secs(60), ..Config::default() };
    let (node, _) = timed(dir.path(), config).await;
    // For each old decision that is removed another comes, so that a removal finds no end.
    let endless = node.ledger.write(|unit| {
        let another = "INSERT INTO conscience_decision (id, at, outcome, body)
                       VALUES (lower(hex(randomblob(16))), 0, 'approved', '{}');";
        unit.execute_batch(&another.repeat(100))?;
        Ok(unit.execute_batch(&format!(
            "CREATE TRIGGER endless AFTER DELETE ON conscience_decision BEGIN {another} END;"
        ))?)
    });
    endless.await.unwrap();
    let number = async |sql: &'static str| {
        let read = node.ledger.read(|ledger| Ok(ledger.query_row(sql, [], |row| row.get::<_, i64>(0))?));
        read.await.unwrap()
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let keeping = tokio::spawn(node.conscience.clone().keep_house(stop.clone()));
    let watched = async {
        // More than once over: it goes on and on.
        while number("SELECT max(seq) FROM conscience_decision").await <= 300 {
            tokio::task::yield_now().await;
        }
        node.call("evaluate", json!({ "action": "read a file" })).await.unwrap();
        while number("SELECT count(*) FROM conscience_decision WHERE at > 0").await == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), watched).await.expect("nothing is put down");
    // Nor does the end wait for it.
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), keeping).await.expect("it does not end").unwrap();
    node.stop();
}

#[tokio::test]
async fn an_evaluation_is_remembered_when_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let verdict = node.call("evaluate", json!({ "action": "harm someone", "remember": true })).await.unwrap();
    assert!(verdict["memory_id"].as_str().unwrap().starts_with("refused Refused, score"), "{verdict}");
    let verdict = node.call("evaluate", json!({ "action": "harm someone" })).await.unwrap();
    assert_eq!(verdict["memory_id"], Value::Null);
    node.stop();
}

#[tokio::test]
async fn a_repeated_action_is_answered_from_the_cache_until_the_rules_change() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let ask = async || node.call("evaluate", json!({ "action": "play the trumpet" })).await.unwrap();
    let (first, second) = (ask().await, ask().await);
    assert_eq!((&first["cached"], &second["cached"]), (&json!(false), &json!(true)));
    assert_ne!(first["decision_id"], second["decision_id"]);
    let rule = json!({ "name": "no-noise", "description": "Never play the trumpet", "weight": 5 });
    node.call("rules/set", rule).await.unwrap();
    let third = ask().await;
    assert_eq!((&third["cached"], &third["approved"]), (&json!(false), &json!(false)));
    node.call("rules/remove", json!({ "name": "no-noise" })).await.unwrap();
    // The same rules as at first have the same hash: what was judged by them still holds.
    assert_eq!(ask().await["approved"], true);
    let [judgements, _, rules] = node.conscience.cache_stats();
    assert!(judgements.1.hits >= 1 && judgements.1.misses >= 2, "{judgements:?}");
    assert!(rules.1.hits > 10, "{rules:?}");
    node.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_who_has_seen_a_change_answered_is_judged_by_the_old_rules() {
    let dir = tempfile::tempdir().unwrap();
    let node = Arc::new(Node::start(dir.path()).await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    // Others keep the cache full of judgements by whatever rules are in force.
    let others: Vec<_> = (0..3)
        .map(|_| {
            let (node, stop) = (node.clone(), stop.clone());
            tokio::task::spawn_blocking(move || {
                while !stop.load(Ordering::SeqCst) {
                    node.conscience.evaluate("play the trumpet").unwrap();
                }
            })
        })
        .collect();
    for round in 0..30 {
        let rule = json!({ "name": "no-noise", "weight": 5, "patterns": ["trumpet"], "stance": "forbids",
                           "description": format!("round {round}") });
        let hash = node.call("rules/set", rule).await.unwrap()["rule_set_hash"].clone();
        let verdict = node.conscience.evaluate("play the trumpet").unwrap();
        assert_eq!((verdict.approved, json!(verdict.rule_set_hash)), (false, hash));
        node.call("rules/remove", json!({ "name": "no-noise" })).await.unwrap();
        assert!(node.conscience.evaluate("play the trumpet").unwrap().approved);
    }
    stop.store(true, Ordering::SeqCst);
    for other in others {
        other.await.unwrap();
    }
    node.ledger.close();
}
