//! Queries against a plain list that is searched with nothing but `==` and `<`.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

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
                model.push(node.get(&id).await.unwrap().record);
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
                let filter = query.filter(&expression::Expression::default(), query::Linked::new());
                let expected: BTreeSet<_> = model
                    .iter()
                    .filter(|record| filter.admits(record) && has_words(&text, &record.content))
                    .map(|record| record.id.clone())
                    .collect();
                let found = node.query(json.clone()).await;
                assert!(!found.partial);
                assert_eq!(found.total, expected.len() as u64, "{json}");
                let hits: BTreeSet<_> = found.hits.iter().map(|hit| hit.record.id.clone()).collect();
                assert_eq!(hits, expected, "{json}");
                assert!(found.hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "{json}");
            }
        });
    }
}
