//! How long commands wait while memory is pruned.

use std::time::{Duration, Instant};

use orchd::engine::Events;
use orchd::engine::jobs::Progress;
use orchd::memory::Config;
use orchd::memory::retention::Retention;
use tokio_util::sync::CancellationToken;

use crate::support::{Failure, Measured};

/// Memories of each month.
const MONTHLY: usize = 8_400;
/// Memories that are stored at the same time.
const TOGETHER: usize = 512;
/// Pause between two commands.
const PAUSE: Duration = Duration::from_millis(2);
/// The 20th of January 2026, 00:00 UTC.
const START: i64 = 1_768_867_200_000;
/// Milliseconds from one month's memories to the next's: the 20th or so of each.
const MONTH_MS: i64 = 2_629_746_000;

/// What was measured.
pub struct Waits {
    /// Records that were removed.
    pub removed: u64,
    /// How long the pruning took.
    pub took: Duration,
    /// How long each command waited; sorted.
    pub waits: Vec<Duration>,
}

/// Twelve months, of which all but the last are pruned while one small write follows the other.
pub fn measure(interleaved: bool) -> Result<Waits, Failure> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _inside = runtime.enter();
    let mut retention = Retention { max_share: 1.0, ..Retention::default() };
    retention.layers.iter_mut().for_each(|layer| layer.days = 30);
    let memory = Measured::open(dir.path(), START, Config { retention, ..Config::default() })?;
    let contents = crate::text::Contents::new(12 * MONTHLY);
    let mut groups: Vec<(i64, usize)> =
        (0..12).flat_map(|month| (0..MONTHLY).step_by(TOGETHER).map(move |first| (month, first))).collect();
    if interleaved {
        groups.sort_by_key(|(month, first)| (*first, *month));
    }
    for (month, first) in groups {
        memory.set_time(START + month * MONTH_MS);
        let numbers = first..MONTHLY.min(first + TOGETHER);
        // Twelve months fit in any integer.
        let base = month as usize * MONTHLY;
        runtime.block_on(memory.store(numbers.map(|number| (contents.of(base + number), 0.5)).collect()))?;
    }
    // Waits for the index.
    runtime.block_on(memory.ask(serde_json::json!({ "consistency": "latest", "limit": 1 })))?;
    memory.set_time(START + 11 * MONTH_MS + 1_000);
    runtime.block_on(async {
        let started = Instant::now();
        let mut waits = Vec::new();
        let commands = async {
            loop {
                let asked = Instant::now();
                if let Err(failure) = memory.touch().await {
                    return failure;
                }
                waits.push(asked.elapsed());
                tokio::time::sleep(PAUSE).await;
            }
        };
        let removed = tokio::select! {
            removed = memory.prune() => removed?,
            failure = commands => return Err(failure),
        };
        waits.sort_unstable();
        Ok(Waits { removed, took: started.elapsed(), waits })
    })
}

impl Measured {
    /// A small write, as a command makes one.
    async fn touch(&self) -> Result<(), Failure> {
        self.ledger
            .write(|unit| {
                unit.execute(
                    "INSERT INTO meta VALUES ('touched', 1) ON CONFLICT DO UPDATE SET value = value + 1",
                    [],
                )?;
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// Prunes, with the upkeep of a node beside it; how many records are gone.
    async fn prune(&self) -> Result<u64, Failure> {
        let stop = CancellationToken::new();
        let upkeep = tokio::spawn(self.memory.clone().upkeep(Events::default(), stop.clone()));
        let request = serde_json::from_value(serde_json::json!({}))?;
        let pruned = self.memory.prune(&request, None, &Progress::new().0).await;
        stop.cancel();
        upkeep.await?;
        Ok(pruned?.layers.iter().map(|layer| layer.removed).sum())
    }
}
