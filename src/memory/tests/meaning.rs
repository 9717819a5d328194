//! Finding by meaning, with a scripted endpoint in the place of Ollama.

use serde_json::json;

use super::*;
use crate::engine::command::Answer;
use crate::memory::semantic::Options;
use crate::scripted_provider::{Act, Provider};

struct Site {
    server: Provider,
    authorities: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let authorities = tempfile::tempdir().unwrap();
        let authority = rcgen::generate_simple_self_signed(["nobody".to_owned()]).unwrap();
        std::fs::write(authorities.path().join("ca.pem"), authority.cert.pem()).unwrap();
        Self { server: Provider::start(vec![Act::Embed]).await, authorities }
    }

    fn config(&self, model: &str) -> Config {
        let embeddings = Options {
            url: self.server.url(),
            model: model.into(),
            prefixes: ("question: ".into(), "memory: ".into()),
            ca_file: self.authorities.path().join("ca.pem"),
            limit: Duration::from_secs(60),
            batch: 4,
            min_similarity: 0.3,
            memory_bytes: 1 << 20,
            breaker_failures: 2,
            breaker_pause: LONG,
        };
        Config { embeddings: Some(embeddings), ..lazy() }
    }

    /// The texts of contents that were asked for.
    fn contents(&self) -> Vec<String> {
        let requests = self.server.requests();
        let texts = requests.iter().filter_map(|request| request["input"].as_array()).flatten();
        let texts = texts.filter_map(|text| text.as_str()?.strip_prefix("memory: ").map(str::to_owned));
        texts.collect()
    }
}

impl Node {
    /// Gives vectors until no record waits for one.
    async fn fill(&self) {
        let semantic = self.memory.semantic.as_ref().unwrap();
        let done = async {
            while self.memory.stats().await.unwrap().embeddings.unwrap().waiting > 0 {
                tokio::task::yield_now().await;
            }
            // Once this is done, so is the commit before it; and who waits for that goes on first, at the latest now.
            self.ledger.write(|_| Ok(())).await.unwrap();
            tokio::task::yield_now().await;
        };
        tokio::select! {
            biased;
            () = semantic.fill(&self.ledger, self.memory.seal()) => unreachable!("it goes on for ever"),
            () = done => {}
        }
    }

    async fn ask(&self, mut query: serde_json::Value) -> Answer<Found> {
        query["consistency"] = json!("latest");
        query["explain"] = json!(true);
        self.memory.query(serde_json::from_value(query).unwrap()).await.unwrap()
    }

    async fn means(&self, text: &str) -> Vec<String> {
        let answer = self.ask(json!({ "text": text })).await;
        assert!(answer.degraded.is_empty(), "{:?}", answer.degraded);
        contents(&answer.body.hits)
    }

    async fn vectors(&self) -> Vec<Vec<u8>> {
        let all = |connection: &rusqlite::Connection| {
            let mut statement = connection.prepare("SELECT vector FROM memory_vector ORDER BY record")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.ledger.read(all).await.unwrap()
    }
}

#[tokio::test]
async fn what_a_query_means_is_found_though_no_word_is_the_same() {
    let site = Site::new().await;
    let node = Node::new(site.config("toy"));
    for content in ["my car is red", "an apple a day", "heavy rain today"] {
        node.store(content).await;
    }
    assert_eq!(node.means("car").await, ["my car is red"], "without vectors by its words");
    node.fill().await;
    let answer = node.ask(json!({ "text": "automobile" })).await;
    let found = answer.body;
    assert_eq!(contents(&found.hits), ["my car is red"]);
    assert_eq!(found.total, 1);
    let parts = found.hits[0].parts.unwrap();
    assert!(parts.similarity.unwrap() > 0.9 && parts.text < 1e-9 && parts.importance > 0.49, "{parts:?}");
    assert!(found.hits[0].score > 0.4 && found.hits[0].snippet.is_none());
    // Found both ways: first.
    assert_eq!(node.means("rain or a truck").await, ["heavy rain today", "my car is red"]);
    let both = node.ask(json!({ "text": "fruit apple" })).await.body.hits.remove(0);
    assert!(both.score > 0.99, "{}", both.score);
    assert_eq!(both.snippet.as_deref(), Some("an <mark>apple</mark> a day"));
    assert_eq!(site.contents().len(), 3, "each content once");
}

#[tokio::test]
async fn filters_hold_and_who_writes_operators_is_answered_by_words_alone() {
    let site = Site::new().await;
    let node = Node::new(site.config("toy"));
    for (content, namespace, layer) in [
        ("a car", "here", "working"),
        ("a truck", "there", "working"),
        ("the automobile", "here", "semantic"),
    ] {
        let stored = json!({ "content": content, "namespace": namespace, "layer": layer, "tags": [layer] });
        node.store_request(request(&stored)).await;
    }
    node.set_time("2026-12-24T12:00:00Z");
    node.store("last car").await;
    node.fill().await;
    for (query, expected) in [
        (json!({ "text": "truck", "namespace": "here", "layers": ["working"] }), &["a car"][..]),
        (json!({ "text": "tag:semantic car" }), &["the automobile"]),
        (json!({ "text": "automobile", "from": "2026-12-01T00:00:00Z" }), &["last car"]),
        (json!({ "text": "truck", "from": "2026-12-24T00:00:00Z" }), &["last car"]),
        (json!({ "text": "truck", "from": "2026-12-25T00:00:00Z" }), &[]),
        (json!({ "text": "+truck" }), &["a truck"]),
        (json!({ "text": "\"automobile\"" }), &["the automobile"]),
        (json!({ "text": "automobile -last" }), &["the automobile"]),
    ] {
        let answer = node.ask(query.clone()).await;
        assert_eq!(contents(&answer.body.hits), expected, "{query}");
        assert!(answer.degraded.is_empty());
    }
}

#[tokio::test]
async fn when_the_endpoint_is_away_words_answer_and_say_so_and_it_is_left_alone() {
    let site = Site::new().await;
    let node = Node::new(site.config("toy"));
    node.store("my car is red").await;
    node.fill().await;
    site.server.play(vec![Act::Say(500, "", String::new())]);
    let before = site.server.asked();
    for (number, text) in ["red automobile", "red truck", "red car", "red"].into_iter().enumerate() {
        let answer = node.ask(json!({ "text": text })).await;
        assert_eq!(contents(&answer.body.hits), ["my car is red"]);
        assert_eq!((answer.degraded, answer.body.partial), (vec!["embeddings".to_owned()], false));
        assert_eq!(node.memory.is_without_embeddings(), number > 0);
    }
    assert_eq!(site.server.asked(), before + 2, "its breaker has opened");
    let answer = node.ask(json!({ "text": "+red" })).await;
    assert!(answer.degraded.is_empty(), "who needs no meaning misses none");
    let stats = node.memory.stats().await.unwrap().embeddings.unwrap();
    assert_eq!((stats.breaker.as_str(), stats.trips, stats.given), ("open", 1, 1));
}

#[tokio::test]
async fn a_vector_goes_with_its_content_and_its_record() {
    let site = Site::new().await;
    let node = Node::new(site.config("toy"));
    let id = node.store("my car is red").await;
    let other = node.store("a pear").await;
    node.fill().await;
    let first = node.vectors().await;
    assert_eq!((first.len(), node.means("automobile").await.len()), (2, 1));
    let update =
        requests::Update { id: id.clone(), content: Some("my apple is red".into()), ..Default::default() };
    let memory = node.memory.clone();
    node.ledger.write(move |unit| memory.update(unit, &update, "tester")).await.unwrap();
    assert_eq!(node.vectors().await, first[1..], "the old one is gone with the old content");
    assert!(node.means("automobile").await.is_empty());
    node.fill().await;
    let mut found = node.means("fruit").await;
    found.sort();
    assert_eq!(found, ["a pear", "my apple is red"]);

    node.forget(&id).await.unwrap();
    assert_eq!(node.means("fruit").await, ["a pear"]);
    let undo = Forget { id: id.clone(), undo: true, purge: false };
    node.forget_request(undo).await.unwrap();
    assert_eq!(node.means("fruit").await.len(), 2);

    let vectors = node.vectors().await;
    let file = |name: &str| std::fs::read(node.ledger.folder().join(name)).unwrap_or_default();
    let holds = |vector: &Vec<u8>| {
        ["ledger.db", "ledger.db-wal"]
            .map(file)
            .iter()
            .any(|bytes| bytes.windows(vector.len()).any(|window| window == vector))
    };
    assert!(vectors.iter().all(holds));
    node.purge(&id).await.unwrap();
    assert_eq!(node.means("fruit").await, ["a pear"]);
    while !node.memory.empty_log().await.unwrap() {
        tokio::task::yield_now().await;
    }
    assert_eq!(vectors.iter().map(holds).collect::<Vec<_>>(), [false, true]);
    node.purge(&other).await.unwrap();
    assert!(node.vectors().await.is_empty() && node.means("fruit").await.is_empty());
}

#[tokio::test]
async fn vectors_survive_a_restart_and_are_made_anew_for_another_model_or_when_asked() {
    let site = Site::new().await;
    let mut node = Node::new(site.config("toy"));
    for number in 0..10 {
        node.store(&format!("car number {number}")).await;
    }
    node.fill().await;
    for (model, contents) in [("toy", 10), ("other", 20), ("other", 20)] {
        node = node.restart(site.config(model), |_| {});
        if contents == 20 && site.contents().len() == 10 {
            assert!(node.means("automobile").await.is_empty(), "those of another model say nothing");
        }
        node.fill().await;
        assert_eq!((node.means("automobile").await.len(), site.contents().len()), (10, contents));
    }
    let progress = Progress::new().0;
    node.memory.rebuild(&Rebuild { embeddings: true }, &progress).await.unwrap();
    assert!(node.vectors().await.is_empty());
    node.fill().await;
    assert_eq!((node.vectors().await.len(), site.contents().len()), (10, 30));
}

#[tokio::test]
async fn what_the_endpoint_does_not_take_is_found_by_its_words_and_holds_up_nothing() {
    let site = Site::new().await;
    let node = Node::new(site.config("toy"));
    for content in ["first car", "unfit car", "last car"] {
        node.store(content).await;
    }
    let forgotten = node.store("forgotten car").await;
    node.forget(&forgotten).await.unwrap();
    node.fill().await;
    let mut found = node.means("automobile").await;
    found.sort();
    assert_eq!(found, ["first car", "last car"]);
    let answer = node.ask(json!({ "text": "unfit car" })).await;
    assert_eq!((answer.body.hits.len(), answer.degraded), (3, vec!["embeddings".to_owned()]));
    assert!(!site.contents().iter().any(|text| text.contains("forgotten")));
    let stats = node.memory.stats().await.unwrap().embeddings.unwrap();
    assert_eq!((stats.given, stats.refused, stats.waiting, stats.breaker.as_str()), (2, 1, 0, "closed"));
    node.forget_request(Forget { id: forgotten, undo: true, purge: false }).await.unwrap();
    node.fill().await;
    assert_eq!(node.means("automobile").await.len(), 3);
}

#[tokio::test]
async fn pages_of_both_rankings_have_no_gap_and_no_repetition() {
    let site = Site::new().await;
    let node = Node::new(site.config("toy"));
    for number in 0..30 {
        let word = ["car", "truck", "automobile"][number % 3];
        node.store(&format!("{word} number {number}")).await;
    }
    node.fill().await;
    let asked = site.server.asked();
    let (mut seen, mut cursor) = (Vec::new(), serde_json::Value::Null);
    loop {
        let mut query = json!({ "text": "car", "limit": 7 });
        if !cursor.is_null() {
            query["cursor"] = cursor;
        }
        let found = node.ask(query).await.body;
        assert_eq!(found.total, 30);
        assert!(found.hits.is_sorted_by(|a, b| a.score >= b.score));
        seen.extend(contents(&found.hits));
        match found.cursor {
            Some(next) => cursor = json!(next),
            None => break,
        }
    }
    assert_eq!(seen.len(), 30);
    assert!(seen[..10].iter().all(|content| content.starts_with("car")), "both rankings find them: {seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), site.server.asked()), (30, asked + 1), "a query is asked for once");
}
