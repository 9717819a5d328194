//! The figures: as a table for people and as one line of JSON for programs.

use serde_json::{Value, json};

use super::asker::Measured;
use super::cpu::Used;
use super::node::Resident;
use super::work::Operation;

/// Idle memory that a node may have, in megabytes.
const IDLE_AIM: f64 = 30.0;

/// Time to ready that a node may take, in milliseconds.
const READY_AIM: f64 = 300.0;

/// What one operation reached.
#[derive(Debug)]
pub struct Row {
    operation: Operation,
    /// With many in flight, one of each round.
    many: Vec<Measured>,
    /// One at a time, one of each round.
    single: Vec<Measured>,
}

impl Row {
    /// Without rounds yet.
    pub const fn new(operation: Operation) -> Self {
        Self { operation, many: Vec::new(), single: Vec::new() }
    }

    /// What it measures.
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// Takes the figures of a round.
    pub fn add(&mut self, many: Measured, single: Measured) {
        self.many.push(many);
        self.single.push(single);
    }

    /// The best round's throughput: what disturbs only ever slows down.
    fn rate(&self) -> f64 {
        self.many.iter().map(Measured::rate).fold(0.0, f64::max)
    }

    /// Median and 99th percentile of the round with the best median.
    fn latency(&self) -> (u32, u32) {
        let of = |measured: &Measured| (measured.percentile(0.5), measured.percentile(0.99));
        self.single.iter().map(of).min().unwrap_or_default()
    }

    /// Processor time of an answer in the round that needed least of it.
    fn used(&self) -> Used {
        let used = self.many.iter().map(Measured::used);
        used.min_by(|one, other| one.all.total_cmp(&other.all)).unwrap_or_default()
    }

    /// The ratio to the echo of the same round, lowest and highest.
    fn spread(&self, echo: &Self) -> (f64, f64) {
        let ratios = self.many.iter().zip(&echo.many).map(|(own, echo)| own.rate() / echo.rate());
        ratios.fold((f64::MAX, 0.0), |(low, high), ratio| (low.min(ratio), high.max(ratio)))
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub struct Report {
    /// Whether the connections were encrypted.
    pub tls: bool,
    /// Questions in flight.
    pub in_flight: usize,
    /// The echo first.
    pub rows: Vec<Row>,
    /// A fresh node that does nothing.
    pub idle: Option<Resident>,
    /// The node after the load, when it has done nothing for a while.
    pub after: Option<Resident>,
    /// Memories in the ledger, and the time from the start to ready in milliseconds, best first.
    pub ready: Option<(u64, Vec<f64>)>,
}

impl Report {
    /// For people.
    pub fn print(&self) {
        let transport = if self.tls { "TLS 1.3" } else { "plain" };
        println!(
            "\n{:<20} {:>15} {:>8} {:>11} {:>5} {:>11} {:>10} {:>7} {:>7} {:>7}",
            transport,
            format!("/s, {} in flight", self.in_flight),
            "of echo",
            "by round",
            "aim",
            "CPU µs, all",
            "answering",
            "of echo",
            "p50 µs",
            "p99 µs"
        );
        let Some(echo) = self.rows.first() else { return };
        for row in &self.rows {
            let (low, high) = row.spread(echo);
            let (p50, p99) = row.latency();
            let used = row.used();
            println!(
                "{:<20} {:>15.0} {:>8.2} {:>11} {:>5} {:>11.0} {:>10.0} {:>7.2} {p50:>7} {p99:>7}",
                row.operation.name(),
                row.rate(),
                row.rate() / echo.rate(),
                format!("{low:.2}–{high:.2}"),
                row.operation.aim().map_or_else(|| "–".to_owned(), |aim| format!("{aim:.1}")),
                used.all * 1e6,
                used.answering * 1e6,
                echo.used().all / used.all,
            );
        }
        for (name, memory) in [("idle", self.idle), ("10 s after the load", self.after)] {
            if let Some(memory) = memory {
                println!(
                    "memory, {name}: {:.1} MB, of it {:.1} MB anonymous",
                    memory.total, memory.anonymous
                );
            }
        }
        if let Some((count, times)) = &self.ready {
            let times: Vec<_> = times.iter().map(|time| format!("{time:.0}")).collect();
            println!("ready with {count} memories: {} ms", times.join(", "));
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let echo = self.rows.first().map_or(1.0, Row::rate);
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let (p50, p99) = row.latency();
                json!({ "operation": row.operation.name(), "per_second": row.rate().round(),
                    "of_echo": row.rate() / echo, "cpu_us": (row.used().all * 1e6).round(),
                    "cpu_answering_us": (row.used().answering * 1e6).round(), "aim": row.operation.aim(), "p50_us": p50, "p99_us": p99 })
            })
            .collect();
        let memory = |found: Option<Resident>| {
            found.map(|found| json!([found.total.round(), found.anonymous.round()]))
        };
        json!({ "tls": self.tls, "in_flight": self.in_flight, "rows": rows,
            "idle_mb": memory(self.idle), "after_load_mb": memory(self.after),
            "ready_ms": self.ready.as_ref().map(|(_, times)| times.iter().map(|time| time.round()).collect::<Vec<_>>()) })
    }

    /// Every aim that was missed, in words.
    pub fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let echo = self.rows.first().map_or(1.0, Row::rate);
        for row in &self.rows {
            if let Some(aim) = row.operation.aim()
                && row.rate() / echo < aim
            {
                missed.push(format!("{}: {:.2} of the echo, aim {aim}", row.operation, row.rate() / echo));
            }
        }
        if let Some(idle) = self.idle.filter(|idle| idle.total >= IDLE_AIM) {
            missed.push(format!("idle memory: {:.1} MB, aim {IDLE_AIM} MB", idle.total));
        }
        let best = self.ready.as_ref().and_then(|(_, times)| times.first());
        if let Some(best) = best.filter(|best| **best > READY_AIM) {
            missed.push(format!("ready: {best:.0} ms, aim {READY_AIM} ms"));
        }
        missed
    }
}
