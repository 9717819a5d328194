//! How memory behaves as it grows.
//!
//! ```text
//! cargo bench --bench growth                 # 10,000 and 100,000 memories
//! cargo bench --bench growth -- --million    # 1,000,000 besides
//! cargo bench --bench growth -- --check      # fails when an aim is missed
//! ```
//!
//! Memories are stored at a constant rate of 10,000 a month, so that ten times as many are ten times as many months. Each
//! query has two words, by a Zipf-like choice, and asks for ten hits: in the last full month, and in all months. Tantivy
//! alone answers the same queries in turn, over one index of its own for the month and one for everything: the ten best
//! texts with their identifiers, and no more. All figures of a row are of the same run.

mod alone;
mod text;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use orchd::clock::{Clock, Timestamp};
use orchd::ledger::{Ledger, Options};
use orchd::memory::{Config, Memory};

/// Memories of each month.
const MONTHLY: usize = 10_000;
/// Memories that are stored at the same time.
const TOGETHER: usize = 512;
/// Queries of each kind.
const QUERIES: usize = 1_000;
/// Milliseconds of a month, on average.
const MONTH_MS: i64 = 2_629_746_000;
/// The moment of the last memory: 2026-11-01T00:00:00Z, so that the last month is full.
const END: i64 = 1_793_491_200_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What one size was measured at.
struct Row {
    records: usize,
    stores_per_second: f64,
    start: Duration,
    month: Pair,
    all: Pair,
    rss_idle: u64,
    rss_after: u64,
}

/// The same queries, asked of memory and of tantivy alone; sorted.
struct Pair {
    memory: Vec<Duration>,
    alone: Vec<Duration>,
}

impl Pair {
    fn ratio(&self) -> f64 {
        percentile(&self.memory, 99).as_secs_f64() / percentile(&self.alone, 99).as_secs_f64()
    }
}

fn run() -> Result<bool, Failure> {
    let (mut check, mut million) = (false, false);
    // Cargo says --bench to every benchmark.
    for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
        match argument.as_str() {
            "--check" => check = true,
            "--million" => million = true,
            other => return Err(format!("{other}: expected --check or --million").into()),
        }
    }
    let sizes = if million { &[10_000, 100_000, 1_000_000][..] } else { &[10_000, 100_000] };
    let mut rows = Vec::new();
    for records in sizes {
        rows.push(measure(*records)?);
        eprintln!("{records} done");
    }
    println!(
        "| memories | stores/s | start | range | p50 | p99 | tantivy alone p50 | p99 | p99 ratio | RSS idle | RSS after |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for row in &rows {
        for (range, pair) in [("a month", &row.month), ("all", &row.all)] {
            let us = |times: &[Duration], percent| format!("{} µs", percentile(times, percent).as_micros());
            println!(
                "| {} | {:.0} | {} ms | {range} | {} | {} | {} | {} | {:.2} | {:.1} MB | {:.1} MB |",
                row.records,
                row.stores_per_second,
                row.start.as_millis(),
                us(&pair.memory, 50),
                us(&pair.memory, 99),
                us(&pair.alone, 50),
                us(&pair.alone, 99),
                pair.ratio(),
                row.rss_idle as f64 / 1e6,
                row.rss_after as f64 / 1e6,
            );
        }
    }
    let mut fine = true;
    let mut aim = |what: &str, figure: f64, good: bool| {
        println!("{} {what}: {figure:.2}", if good { "met" } else { "MISSED" });
        fine &= good;
    };
    println!();
    for pair in rows.windows(2) {
        let p99 = |row: &Row| percentile(&row.month.memory, 99).as_secs_f64();
        let growth = p99(&pair[1]) / p99(&pair[0]);
        aim("p99 of a month, ten times the memories, at most 2", growth, growth <= 2.0);
        let stores = pair[1].stores_per_second / pair[0].stores_per_second;
        aim("stores per second, ten times the memories, at least 0.8", stores, stores >= 0.8);
    }
    for row in &rows {
        aim("p99 of a month against tantivy alone, at most 1.5", row.month.ratio(), row.month.ratio() <= 1.5);
        let start = row.start.as_secs_f64();
        aim("seconds to start, under 1", start, start < 1.0);
    }
    Ok(fine || !check)
}

fn measure(records: usize) -> Result<Row, Failure> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let from = END - MONTH_MS * (records / MONTHLY) as i64;
    let now = Arc::new(AtomicI64::new(from));
    let contents = text::Contents::new(records);
    let started = Instant::now();
    let month_start = Timestamp::parse("2026-10-01T00:00:00Z")?.millis();
    runtime.block_on(async {
        let (ledger, memory) = open(dir.path(), &now)?;
        let step = (END - from) * TOGETHER as i64 / records as i64;
        for first in (0..records).step_by(TOGETHER) {
            let stores = (first..records.min(first + TOGETHER)).map(|number| {
                let request = serde_json::json!({ "content": contents.of(number), "importance": (number % 7) as f64 / 6.0 });
                let (ledger, memory) = (&ledger, memory.clone());
                async move {
                    let mut request: orchd::memory::model::Store = serde_json::from_value(request)?;
                    request.validate(10_000)?;
                    Ok::<_, Failure>(ledger.write(move |unit| memory.store(unit, &request)).await?)
                }
            });
            for stored in futures_util::future::join_all(stores).await {
                stored?;
            }
            now.fetch_add(step, Ordering::SeqCst);
        }
        ask(&memory, serde_json::json!({ "text": "a1", "consistency": "latest", "limit": 1 })).await?;
        memory.close();
        ledger.close();
        Ok::<_, Failure>(())
    })?;
    let stores_per_second = records as f64 / started.elapsed().as_secs_f64();
    now.store(END, Ordering::SeqCst);

    let whole =
        alone::Alone::build(&dir.path().join("alone"), (0..records).map(|number| contents.of(number)))?;
    let in_month = (0..records).filter(|number| {
        let step = (END - from) * TOGETHER as i64 / records as i64;
        from + (*number / TOGETHER) as i64 * step >= month_start
    });
    let month =
        alone::Alone::build(&dir.path().join("alone-month"), in_month.map(|number| contents.of(number)))?;

    let started = Instant::now();
    let (ledger, memory) = runtime.block_on(async { open(dir.path(), &now) })?;
    let start = started.elapsed();
    let rss_idle = rss();
    let queries = text::queries(QUERIES);
    let month_range = Timestamp::from_millis(month_start);
    let pair = |range: Option<Timestamp>, alone: &alone::Alone| -> Result<Pair, Failure> {
        let mut pair = Pair { memory: Vec::new(), alone: Vec::new() };
        // The first round opens what there is to open.
        for round in 0..2 {
            for words in &queries {
                let query = serde_json::json!({ "text": words, "from": range });
                let started = Instant::now();
                runtime.block_on(ask(&memory, query))?;
                let asked = started.elapsed();
                let started = Instant::now();
                alone.ask(words)?;
                if round > 0 {
                    pair.memory.push(asked);
                    pair.alone.push(started.elapsed());
                }
            }
        }
        pair.memory.sort_unstable();
        pair.alone.sort_unstable();
        Ok(pair)
    };
    let month = pair(Some(month_range), &month)?;
    let all = pair(None, &whole)?;
    let rss_after = rss();
    memory.close();
    ledger.close();
    Ok(Row { records, stores_per_second, start, month, all, rss_idle, rss_after })
}

async fn ask(memory: &Arc<Memory>, query: serde_json::Value) -> Result<(), Failure> {
    let found = memory.query(serde_json::from_value(query)?).await?.body;
    if found.partial { Err("an answer was partial".into()) } else { Ok(()) }
}

fn open(dir: &Path, now: &Arc<AtomicI64>) -> Result<(Ledger, Arc<Memory>), Failure> {
    let now = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(now.load(Ordering::SeqCst)));
    let ledger = Ledger::open(dir, &Options { reserve_bytes: 1 << 20, ..Options::default() }, clock)?;
    let config = Config { latest_limit: Duration::from_secs(600), ..Config::default() };
    let memory = Memory::open(ledger.clone(), config)?;
    Ok((ledger, memory))
}

/// Of sorted times.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Resident bytes of this process; 0 where the system does not tell.
fn rss() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}
