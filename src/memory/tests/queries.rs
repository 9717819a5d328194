//! What a query may say, and what it is answered.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn sorted(mut found: Vec<String>) -> Vec<String> {
    found.sort();
    found
}

#[tokio::test]
async fn phrases_required_and_excluded_words_are_obeyed() {
    let node = Node::new(lazy());
    for content in ["red fox", "fox red", "red hen", "blue hen"] {
        node.store(content).await;
    }
    assert_eq!(node.find("\"red fox\"").await, ["red fox"]);
    assert_eq!(sorted(node.find("+red hen").await), ["fox red", "red fox", "red hen"]);
    assert_eq!(node.find("+red +hen").await, ["red hen"]);
    assert_eq!(sorted(node.find("hen -red").await), ["blue hen"]);
    assert_eq!(sorted(node.find("-red").await), ["blue hen"]);
    assert_eq!(sorted(node.find("hen -\"red hen\"").await), ["blue hen"]);
    assert_eq!(sorted(node.find("hen -\"hen red\"").await), ["blue hen", "red hen"]);
    assert_eq!(sorted(node.find("hen -red_hen -\"hen hen\"").await), ["blue hen"]);
    assert_eq!(node.find("the of and").await, [""; 0]);
    assert_eq!(node.find("  ").await.len(), 4, "no text at all");
}

#[tokio::test]
async fn fields_narrow_the_search() {
    let node = Node::new(lazy());
    for (content, layer, tag, entity) in [
        ("pump one", "working", "hall", "ann"),
        ("pump two", "semantic", "hall", "bob"),
        ("pump three", "semantic", "yard gate", "ann"),
    ] {
        let json = json!({ "content": content, "layer": layer, "tags": [tag], "entity": entity });
        node.store_request(request(&json)).await;
    }
    for (text, expected) in [
        ("pump tag:hall", &["pump one", "pump two"][..]),
        ("tag:hall -layer:semantic", &["pump one"]),
        ("pump entity:ann layer:semantic", &["pump three"]),
        ("tag:\"yard gate\"", &["pump three"]),
        ("-tag:hall", &["pump three"]),
        ("pump -entity:ann", &["pump two"]),
        ("tag:hall tag:\"yard gate\"", &[]),
        ("layer:working layer:semantic one", &["pump one"]),
        ("entity:ann entity:bob", &[]),
        ("tag:HALL", &[]),
    ] {
        assert_eq!(sorted(node.find(text).await), expected, "{text}");
    }
    let both = node.query(json!({ "text": "tag:hall", "entity": "bob", "layers": ["semantic"] })).await;
    assert_eq!(contents(&both.hits), ["pump two"]);
}

#[tokio::test]
async fn what_is_not_well_formed_is_answered_as_plain_words_and_says_so() {
    let node = Node::new(lazy());
    for content in ["red fox", "blue hen"] {
        node.store(content).await;
    }
    node.find("red").await;
    for (text, plain, hits) in [
        ("\"red fox", true, 1),
        ("+red - hen", true, 2),
        ("layer:attic hen", true, 1),
        ("-", true, 0),
        ("tag:", true, 0),
        ("fox AND (", false, 1),
        ("red:blue:hen ~^*? [* TO \\", false, 2),
        ("\u{0}", false, 0),
        ("+red -hen", false, 1),
    ] {
        let found = node.query(json!({ "text": text })).await;
        assert_eq!((found.plain_words, found.hits.len(), found.partial), (plain, hits, false), "{text:?}");
    }
}

#[tokio::test]
async fn identifiers_are_found_whole() {
    let node = Node::new(lazy());
    let contents = [
        "failed with ERR_CONN_42.",
        "failed with ERR_CONN_43.",
        "commit deadbeef01ed arrived",
        "commit deadbeef01 arrived",
        "device 0198c2d4-7a51-7c3e-9f4b-2d5e8a1c6b70 is up",
        "device 0198c2d4-7a51-7c3e-9f4b-2d5e8a1c6b71 is up",
        "login from 192.168.1.10",
        "login from 192.168.1.100",
        "wrote /var/lib/orchd/state.db",
        "wrote /var/lib/orchd/state.db-wal",
        "mail from ann.lee@example.org",
        "mail from ann.lee@example.com",
    ];
    for content in contents {
        node.store(content).await;
    }
    for (text, expected) in [
        ("ERR_CONN_42", 0),
        ("err_conn_43", 1),
        ("deadbeef01ed", 2),
        ("DEADBEEF01", 3),
        ("0198c2d4-7a51-7c3e-9f4b-2d5e8a1c6b70", 4),
        ("192.168.1.10", 6),
        ("192.168.1.100", 7),
        ("ann.lee@example.org", 10),
    ] {
        for text in [text.to_owned(), format!("+{text}"), format!("\"{text}\"")] {
            assert_eq!(node.find(&text).await, [contents[expected]], "{text}");
        }
    }
    // A path is also found by what it begins with, and the whole one comes first.
    assert_eq!(node.find("/var/lib/orchd/state.db").await[0], contents[8]);
    assert_eq!(node.find("/var/lib").await.len(), 2);
    assert_eq!(node.find("-ERR_CONN_42 failed").await, [contents[1]]);
    assert_eq!(node.find("conn").await.len(), 2, "its words are words, too");
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let node = Node::new(lazy());
    for number in 0..60_i64 {
        let day = Timestamp::parse("2026-09-01T00:00:00Z").unwrap().plus_millis(number % 7 * 13 * 86_400_000);
        node.now.store(day.millis(), Ordering::SeqCst);
        let content = format!("kettle {}", "copper ".repeat(number as usize % 3));
        let importance = f64::from(u8::try_from(number % 5).unwrap()) / 4.0;
        node.store_request(request(&json!({ "content": content, "importance": importance }))).await;
    }
    node.set_time("2026-12-24T00:00:00Z");
    for text in ["copper kettle", "kettle", ""] {
        let all = node.query(json!({ "text": text, "limit": 100, "consistency": "latest" })).await;
        assert_eq!((all.hits.len(), all.total, all.cursor.is_some()), (60, 60, false), "{text}");
        let ids = |found: &Found| found.hits.iter().map(|hit| hit.record.id.clone()).collect::<Vec<_>>();
        let (mut pages, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = node.query(json!({ "text": text, "limit": 7, "cursor": cursor })).await;
            assert_eq!(page.total, 60);
            pages.extend(ids(&page));
            // Time passes between pages, and their order stays.
            node.now.fetch_add(3_600_000, Ordering::SeqCst);
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, ids(&all), "{text}");
    }
    let fault = node.memory.query(serde_json::from_value(json!({ "cursor": "1-2-3" })).unwrap()).await;
    assert_eq!(fault.unwrap_err().code, Code::Invalid);
}

#[tokio::test]
async fn hits_that_were_forgotten_meanwhile_make_room_for_others() {
    let node = Node::new(lazy());
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(node.store(&format!("pebble {number}")).await);
    }
    node.find("pebble").await;
    // The newest are the best; the index does not know yet that they are gone.
    for id in &ids[10..] {
        node.forget(id).await.unwrap();
    }
    let found = node.query(json!({ "text": "pebble", "limit": 5 })).await;
    assert_eq!(found.hits.len(), 5);
    assert!(found.cursor.is_some());
}

#[tokio::test]
async fn recent_and_important_records_are_found_among_any_number_of_equal_texts() {
    let node = Node::new(lazy());
    node.set_time("2026-11-01T00:00:00Z");
    for number in 0..400 {
        let importance = if number == 123 { 1.0 } else { 0.0 };
        node.store_request(request(&json!({ "content": "the pump rattles", "importance": importance })))
            .await;
    }
    node.set_time("2026-11-20T00:00:00Z");
    node.store_request(request(&json!({ "content": "the pump rattles", "importance": 0.0 }))).await;
    let found = node.query(json!({ "text": "pump", "limit": 2, "consistency": "latest" })).await;
    assert!(found.hits.iter().any(|hit| hit.record.importance > 0.9), "the most important");
    assert!(
        found.hits.iter().any(|hit| hit.record.created > Timestamp::parse("2026-11-02T00:00:00Z").unwrap())
    );
    assert_eq!(found.total, 401);
}

#[tokio::test]
async fn snippets_can_be_left_out_and_need_words() {
    let node = Node::new(lazy());
    node.store("a <red> fox").await;
    let snippet = |found: &Found| found.hits[0].snippet.clone();
    let found = node.query(json!({ "text": "fox", "consistency": "latest" })).await;
    assert_eq!(snippet(&found).as_deref(), Some("a &lt;red&gt; <mark>fox</mark>"));
    assert_eq!(snippet(&node.query(json!({ "text": "fox", "snippet": false })).await), None);
    assert_eq!(snippet(&node.query(json!({})).await), None);
}

#[tokio::test]
async fn another_language_has_its_own_words_and_its_shards_are_built_anew() {
    let node = Node::new(brisk());
    node.store("Die Häuser am Fluss").await;
    assert_eq!(node.find("Haus").await.len(), 0);
    settle(&node).await;
    let mut config = brisk();
    config.index.analysis = index::Analysis::in_language("german").unwrap();
    let node = node.restart(config, |_| {});
    assert!(node.query(json!({ "text": "Haus" })).await.partial, "the old shard does not serve");
    node.whole().await;
    assert_eq!(node.find("Haus").await.len(), 1);
    assert_eq!(node.find("die am").await.len(), 0, "stop words");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_text_is_answered(texts in prop::collection::vec("[-+\" a-zä:._/@\\\\(){}*~^\\[\\]]{0,40}|(tag:|entity:|layer:|fox|\"|[-+ ]){0,12}|.{0,60}", 32)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::new(lazy());
            node.store("the quick red fox, e@x.org: 10.0.0.1").await;
            node.find("fox").await;
            for text in texts {
                let found = node.query(json!({ "text": text, "explain": true })).await;
                assert!(!found.partial && found.total <= 1, "{text:?}");
                assert_eq!(found.total, found.hits.len() as u64, "{text:?}");
                assert!(found.hits.iter().all(|hit| (0.0..=1.0).contains(&hit.score)), "{text:?}");
            }
        });
    }
}

#[tokio::test]
async fn it_does_not_matter_how_an_accent_was_written() {
    let node = Node::new(lazy());
    let (composed, decomposed) = ("the Résumé of Ann", "the Re\u{301}sume\u{301} of Bob");
    node.store(composed).await;
    node.store(decomposed).await;
    node.store("from İstanbul").await;
    for text in ["resume", "Résumé", "Re\u{301}sume\u{301}", "+\"re\u{301}sume\u{301}\"", "RÉSUMÉ"] {
        let mut found = node.find(text).await;
        found.sort_unstable();
        assert_eq!(found, [decomposed, composed], "{text}");
    }
    for text in ["istanbul", "İSTANBUL", "I\u{307}stanbul"] {
        assert_eq!(node.find(text).await, ["from İstanbul"], "{text}");
    }
    let found = node.query(serde_json::json!({ "text": "resume bob" })).await;
    let snippet = "the <mark>Re\u{301}sume\u{301}</mark> of <mark>Bob</mark>";
    assert_eq!(found.hits[0].snippet.as_deref(), Some(snippet));
}

#[tokio::test]
async fn what_is_excluded_alone_leaves_all_others_be_it_a_stop_word_or_not() {
    let node = Node::new(lazy());
    node.store("the fox").await;
    node.store("a hen").await;
    for (text, expected) in [
        ("-the", &["a hen", "the fox"][..]),
        ("-zzz", &["a hen", "the fox"]),
        ("-the -fox", &["a hen"]),
        ("the", &[]),
        ("the -fox", &[]),
    ] {
        let found = node.find(text).await;
        assert_eq!(found, expected, "{text}");
    }
}
