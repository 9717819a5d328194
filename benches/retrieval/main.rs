//! How well memory finds what is relevant, on a public test collection, through `memory/query` itself.
//!
//! ```text
//! cargo bench --bench retrieval -- FOLDER             # doc-text.trec, query-text.trec, qrels
//! cargo bench --bench retrieval -- FOLDER --check     # fails when nDCG@10 is below 0.43
//! cargo bench --bench retrieval -- FOLDER --run FILE  # writes the hits for trec_eval
//! ```
//!
//! Every document is a memory, stored at the same moment and equally important, so that the text alone decides. The same is
//! done with parts of the analysis left out, to show what each contributes; and with documents of random age and importance,
//! to show what ranking by them costs where they say nothing.

mod ndcg;
#[path = "../support/mod.rs"]
mod support;
mod trec;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use orchd::memory::index::Analysis;
use orchd::memory::model::Layer;
use orchd::memory::{Config, Ranking, Rankings};
use support::{Failure, Measured, exit};
use trec::Collection;

/// What nDCG@10 should reach.
const AIM: f64 = 0.43;
const DEPTH: usize = 10;
/// Documents that are stored at the same time.
const TOGETHER: usize = 512;
/// The moment of every query.
const NOW: i64 = 1_795_000_000_000;
const DAY_MS: i64 = 86_400_000;

type Hits = HashMap<String, Vec<(String, f64)>>;

fn main() -> ExitCode {
    exit(run())
}

fn run() -> Result<bool, Failure> {
    // Cargo says --bench to every benchmark.
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut folder, mut check, mut out) = (None, false, None);
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--check" => check = true,
            "--run" => out = Some(PathBuf::from(given.next().ok_or("--run: expected a file")?)),
            path => folder = Some(PathBuf::from(path)),
        }
    }
    let Some(folder) = folder else {
        println!("skipped: give the folder of a test collection in TREC format");
        return Ok(!check);
    };
    let collection = Collection::read(&folder)?;
    let judged: usize = collection.judgements.values().map(HashMap::len).sum();
    let (documents, topics) = (collection.documents.len(), collection.topics.len());
    println!("{documents} documents, {topics} topics, {judged} judgements\n");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let all = Analysis::default();
    let bare = Analysis { folding: false, stop_words: false, stems: false, ..all };
    println!("| analysis | nDCG@{DEPTH} | without this part of the whole |\n|---|---|---|");
    let measure = |analysis: Analysis| -> Result<f64, Failure> {
        Ok(score(&collection, &runtime.block_on(hits(&collection, analysis, Rankings::default(), None))?))
    };
    println!("| words in lower case | {:.4} | – |", measure(bare)?);
    println!(
        "| + ASCII folding | {:.4} | {:.4} |",
        measure(Analysis { folding: true, ..bare })?,
        measure(Analysis { folding: false, ..all })?
    );
    println!(
        "| + stop words | {:.4} | {:.4} |",
        measure(Analysis { stems: false, ..all })?,
        measure(Analysis { stop_words: false, ..all })?
    );
    let found = runtime.block_on(hits(&collection, all, Rankings::default(), None))?;
    let whole = score(&collection, &found);
    println!(
        "| + stems: the default | **{whole:.4}** | {:.4} |\n",
        measure(Analysis { stems: false, ..all })?
    );
    if let Some(out) = out {
        std::fs::write(&out, as_run(&found))?;
    }

    println!("Ages and importance at random, which is the worst that they can say:\n");
    println!(
        "| layer | text | recency | importance | half-life, days | ages up to, days | nDCG@{DEPTH} | kept |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let noisy = |name: &str, ranking: Ranking, days: i64| -> Result<(), Failure> {
        let found = runtime.block_on(hits(&collection, all, Rankings::new(|_| ranking), Some(days)))?;
        let score = score(&collection, &found);
        let Ranking { text, recency, importance, half_life_days } = ranking;
        let kept = 100.0 * score / whole;
        println!(
            "| {name} | {text:.2} | {recency:.2} | {importance:.2} | {half_life_days} | {days} | {score:.4} | {kept:.1} % |"
        );
        Ok(())
    };
    // Each layer as it is configured, with ages up to what it is meant to keep.
    let spans = [
        (Layer::ShortTerm, 7),
        (Layer::LongTerm, 365),
        (Layer::Working, 30),
        (Layer::Episodic, 730),
        (Layer::Semantic, 730),
    ];
    for (layer, days) in spans {
        noisy(layer.as_str(), *Rankings::default().of(layer), days)?;
    }
    for (recency, importance) in [(0.03, 0.03), (0.05, 0.05), (0.1, 0.05), (0.2, 0.1)] {
        let ranking = Ranking { text: 1.0 - recency - importance, recency, importance, half_life_days: 30.0 };
        noisy("–", ranking, 365)?;
    }
    Ok(!check || whole >= AIM)
}

/// The mean over all topics that have judgements.
fn score(collection: &Collection, found: &Hits) -> f64 {
    let scores = collection.judgements.iter().map(|(topic, judged)| {
        ndcg::ndcg(found.get(topic).map(Vec::as_slice).unwrap_or_default(), judged, DEPTH)
    });
    scores.sum::<f64>() / collection.judgements.len() as f64
}

/// What `memory/query` finds for each topic, with every document a memory. With `ages` they are up to so many days old, and
/// more or less important, at random.
async fn hits(
    collection: &Collection,
    analysis: Analysis,
    rankings: Rankings,
    ages: Option<i64>,
) -> Result<Hits, Failure> {
    let dir = tempfile::tempdir()?;
    let mut config = Config { rankings, ..Config::default() };
    config.index.analysis = analysis;
    let memory = Measured::open(dir.path(), NOW, config)?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut numbers = HashMap::new();
    let mut documents = collection.documents.clone();
    if ages.is_some() {
        random.shuffle(&mut documents);
    }
    let step = ages.map_or(0, |days| days * DAY_MS * TOGETHER as i64 / documents.len() as i64);
    let mut at = NOW - ages.unwrap_or(0) * DAY_MS;
    for group in documents.chunks(TOGETHER) {
        memory.set_time(at);
        at += step;
        let contents = group.iter().map(|(_, text)| {
            let importance = if ages.is_some() { random.f64() } else { 0.5 };
            // A memory has a content.
            (if text.is_empty() { "-".to_owned() } else { text.clone() }, importance)
        });
        let ids = memory.store(contents.collect()).await?;
        numbers.extend(ids.into_iter().zip(group.iter().map(|(number, _)| number.clone())));
    }
    memory.set_time(NOW);
    let mut found = HashMap::new();
    for (topic, text) in &collection.topics {
        let query = serde_json::json!({ "text": text, "limit": DEPTH, "consistency": "latest" });
        let hits = memory.ask(query).await?.hits.into_iter();
        found.insert(topic.clone(), hits.map(|hit| (numbers[&hit.record.id].clone(), hit.score)).collect());
    }
    Ok(found)
}

/// As `trec_eval` reads it.
fn as_run(found: &Hits) -> String {
    let mut out = String::new();
    for (topic, hits) in found {
        for (rank, (document, score)) in hits.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{topic} Q0 {document} {} {score:.9} orchd", rank + 1);
        }
    }
    out
}
