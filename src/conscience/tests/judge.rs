//! A judge beside the rules: when it is asked, what comes of what it says, what is kept of it.

use std::sync::Mutex;

use super::*;
use crate::engine::command::BoxFuture;

/// A judge that says what it is told to say.
#[derive(Default)]
struct Parrot {
    says: Mutex<Option<f64>>,
    briefs: Mutex<Vec<Brief>>,
}

impl Parrot {
    fn says(&self, score: Option<f64>) {
        *self.says.lock().unwrap() = score;
    }

    fn asked(&self) -> usize {
        self.briefs.lock().unwrap().len()
    }
}

impl Judge for Parrot {
    fn ask(&self, brief: Brief) -> BoxFuture<Result<Spoken, Vec<String>>> {
        self.briefs.lock().unwrap().push(brief);
        let said = match *self.says.lock().unwrap() {
            None => Err(vec!["llm_remote".to_owned(), "llm_local".to_owned()]),
            Some(score) => Ok(Spoken {
                opinion: Opinion { score, reason: "It is so.".into() },
                by: "local",
                model: "near".into(),
                missed: vec!["llm_remote".to_owned()],
            }),
        };
        Box::pin(async move { said })
    }
}

async fn judged(dir: &Path, asked: Asked) -> (Node, Arc<Parrot>) {
    let options = Options { reserve_bytes: 1 << 20, ..Options::default() };
    let ledger = Ledger::open(dir, &options, Clock::from_fn(|| Timestamp::from_millis(1_000))).unwrap();
    let parrot = Arc::new(Parrot::default());
    let config = Config { judge: Bounds { asked, ..Bounds::default() }, ..Config::default() };
    (Node::judged(ledger, config, Some(parrot.clone())).await, parrot)
}

#[tokio::test]
async fn what_the_rules_leave_open_the_judge_decides_and_its_opinion_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (node, parrot) = judged(dir.path(), Asked::Open).await;
    parrot.says(Some(-1.0));
    let ask = || node.call("evaluate", json!({ "action": "wobble the gizmo" }));
    let verdict = ask().await.unwrap();
    assert_eq!((&verdict["approved"], &verdict["moral_score"]), (&json!(false), &json!(-0.5)));
    assert_eq!((&verdict["judge"], &verdict["model"]), (&json!("local"), &json!("near")));
    assert_eq!((&verdict["degraded"], &verdict["cached"]), (&json!(false), &json!(false)));
    assert_eq!(verdict["by_rules"], "approved");
    assert!(verdict["explanation"].as_str().unwrap().ends_with("The local model: “It is so.”"), "{verdict}");
    let counted = || node.conscience.cache_stats().map(|(_, stats)| (stats.hits, stats.misses));
    assert_eq!(counted()[..2], [(0, 1), (0, 1)], "judgements, opinions: looked for once");
    // The rules say nothing about it, so that the judge is told all of them, and the action as data.
    let brief = parrot.briefs.lock().unwrap()[0].clone();
    let case: Value = serde_json::from_str(&brief.case).unwrap();
    assert_eq!(case["action"], "wobble the gizmo");
    assert!(case["rules"].as_array().unwrap().iter().any(|rule| rule["name"] == "no-harm"));

    let again = ask().await.unwrap();
    assert_eq!((&again["cached"], &again["moral_score"], parrot.asked()), (&json!(true), &json!(-0.5), 1));
    assert_eq!(counted()[..2], [(1, 1), (1, 1)]);
    // By other rules it is another question.
    node.call("rules/set", no_spam()).await.unwrap();
    ask().await.unwrap();
    assert_eq!(parrot.asked(), 2);
    assert_eq!(counted()[..2], [(1, 2), (1, 2)]);
    // What is too long to be looked for on the way is so as a job.
    let long = json!({ "action": "wobble the gizmo, ".repeat(200) });
    for expected in [(1, 3), (2, 3)] {
        node.call("evaluate", long.clone()).await.unwrap();
        assert_eq!(counted()[..2], [expected, expected]);
    }
    node.stop();
}

#[tokio::test]
async fn what_is_dangerous_or_clear_or_never_to_be_judged_is_not_put_to_a_judge() {
    let dir = tempfile::tempdir().unwrap();
    let (node, parrot) = judged(dir.path(), Asked::Open).await;
    parrot.says(Some(1.0));
    for action in ["I will harm someone", "I will help someone in need"] {
        let verdict = node.call("evaluate", json!({ "action": action })).await.unwrap();
        assert_eq!(verdict["judge"], "rules", "{action}");
    }
    assert_eq!(parrot.asked(), 0);
    node.stop();
    for (asked, times) in [(Asked::Always, 1), (Asked::Never, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let (node, parrot) = judged(dir.path(), asked).await;
        parrot.says(Some(1.0));
        for action in ["I will harm someone", "I will help someone in need"] {
            node.call("evaluate", json!({ "action": action })).await.unwrap();
        }
        assert_eq!(parrot.asked(), times, "{asked:?}");
        node.stop();
    }
}

#[tokio::test]
async fn when_no_judge_speaks_the_rules_judge_alone_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (node, parrot) = judged(dir.path(), Asked::Open).await;
    let ask = || node.call("evaluate", json!({ "action": "wobble the gizmo" }));
    for times in 1..=2 {
        let verdict = ask().await.unwrap();
        assert_eq!((&verdict["approved"], &verdict["moral_score"]), (&json!(true), &json!(0.0)));
        assert_eq!((&verdict["judge"], &verdict["degraded"]), (&json!("rules"), &json!(true)));
        assert_eq!((&verdict["model"], &verdict["by_rules"]), (&Value::Null, &Value::Null));
        assert_eq!(parrot.asked(), times, "that nobody spoke is not kept");
    }
    parrot.says(Some(0.25));
    assert_eq!(ask().await.unwrap()["moral_score"], 0.25);
    let listed = node.call("decisions", json!({})).await.unwrap();
    let found: Vec<_> = listed["decisions"].as_array().unwrap().iter().map(|d| &d["judge"]).collect();
    assert_eq!(found, ["local", "rules", "rules"]);
    assert_eq!(
        (&listed["decisions"][0]["model"], &listed["decisions"][1]["degraded"]),
        (&json!("near"), &json!(true))
    );
    node.stop();
}

#[tokio::test]
async fn an_evaluation_by_a_judge_is_about_an_entity_and_remembered_and_reviewed_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (node, parrot) = judged(dir.path(), Asked::Open).await;
    parrot.says(Some(-0.1));
    let ask = json!({ "action": "wobble the gizmo", "entity": "ada", "remember": true });
    let verdict = node.call("evaluate", ask).await.unwrap();
    assert_eq!((&verdict["needs_review"], &verdict["memory_id"].is_string()), (&json!(true), &true));
    let listed = node.call("reviews/list", json!({})).await.unwrap();
    assert_eq!(listed["reviews"][0]["review_id"], verdict["review_id"]);
    assert_eq!(listed["reviews"][0]["decision"]["entity"], "ada");
    node.stop();
}

#[tokio::test]
async fn a_dry_run_compares_what_the_rules_make_of_it_and_not_what_a_judge_did() {
    let dir = tempfile::tempdir().unwrap();
    let (node, parrot) = judged(dir.path(), Asked::Open).await;
    parrot.says(Some(-1.0));
    node.call("evaluate", json!({ "action": "wobble the gizmo" })).await.unwrap();
    let simulated = node.call("rules/simulate", json!({})).await.unwrap();
    assert_eq!((&simulated["examined"], &simulated["changed"]), (&json!(1), &json!(0)));
    let rule = json!({ "name": "gizmos", "weight": 5, "stance": "forbids", "patterns": ["gizmo"] });
    let simulated = node.call("rules/simulate", json!({ "set": [rule] })).await.unwrap();
    assert_eq!(
        (&simulated["changes"][0]["was"], &simulated["changes"][0]["becomes"]),
        (&json!("approved"), &json!("refused"))
    );
    node.stop();
}

#[tokio::test]
async fn a_rule_that_comes_while_the_judge_thinks_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (node, parrot) = judged(dir.path(), Asked::Open).await;
    parrot.says(Some(1.0));
    let entry = commands().into_iter().find(|entry| entry.declaration.verb == "evaluate").unwrap();
    let Handler::Either { long, .. } = entry.bind(&node.conscience).handler else { unreachable!() };
    let call = Call {
        principal: "tester".into(),
        signed_with: None,
        message_id: None,
        received: Timestamp::from_millis(0),
        target: Target::Node,
    };
    let payload =
        Payload::new(Encoding::Json, Bytes::from(json!({ "action": "wobble the gizmo" }).to_string()));
    let Ending::Effect(mut effect) = (long.run)(call, payload, Progress::new().0).await.unwrap() else {
        unreachable!()
    };
    assert_eq!(parrot.asked(), 1);
    let veto =
        json!({ "name": "gizmos", "weight": 5, "stance": "forbids", "veto": true, "patterns": ["gizmo"] });
    node.call("rules/set", veto).await.unwrap();
    let outcome = node.ledger.write(move |unit| effect(unit)).await.unwrap();
    let verdict: Value = serde_json::from_str(outcome.payload.unwrap().get()).unwrap();
    assert_eq!((&verdict["moral_score"], &verdict["judge"]), (&json!(-1.0), &json!("rules")));
    node.stop();
}
