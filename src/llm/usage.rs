//! What a provider was used for today, in memory and in the ledger.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::wire::Completed;
use crate::clock::{Clock, Timestamp};
use crate::ledger::Ledger;
use crate::wire::Fault;

/// Millionths of a US dollar in one.
const MICRO: f64 = 1e6;

/// What was used on a day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Day {
    day: String,
    requests: u64,
    tokens: u64,
    /// Millionths of a US dollar.
    micro_usd: u64,
}

/// Usage of one provider.
pub(super) struct Usage {
    provider: &'static str,
    ledger: Ledger,
    clock: Clock,
    today: Mutex<Day>,
}

impl Usage {
    /// As the ledger has it.
    pub(super) async fn open(provider: &'static str, ledger: Ledger, clock: Clock) -> Result<Self, Fault> {
        let wanted = day_of(clock.now());
        let today = ledger.read(move |connection| read(connection, wanted, provider)).await?;
        Ok(Self { provider, ledger, clock, today: Mutex::new(today) })
    }

    /// Today's figures; those of an earlier day are gone.
    fn today(&self) -> MutexGuard<'_, Day> {
        let now = day_of(self.clock.now());
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.day != now {
            *today = Day { day: now, ..Day::default() };
        }
        today
    }

    pub(super) fn requests_today(&self) -> u64 {
        self.today().requests
    }

    pub(super) fn tokens_today(&self) -> u64 {
        self.today().tokens
    }

    /// US dollars.
    pub(super) fn cost_today(&self) -> f64 {
        self.today().micro_usd as f64 / MICRO
    }

    /// Counts an answer that cost `cost` US dollars. What the ledger cannot keep counts until the next start.
    pub(super) async fn count(&self, completed: &Completed, cost: f64) {
        let (tokens_in, tokens_out) = (completed.tokens_in, completed.tokens_out);
        // A provider's nonsense costs nothing, or all there is; it overflows nothing.
        let micro_usd = (cost * MICRO).round().clamp(0.0, 1e15) as u64;
        let day = {
            let mut today = self.today();
            today.requests += 1;
            today.tokens = today.tokens.saturating_add(tokens_in).saturating_add(tokens_out);
            today.micro_usd += micro_usd;
            today.day.clone()
        };
        let provider = self.provider;
        let counted = self.ledger.write(move |unit| {
            unit.prepare_cached(
                "INSERT INTO llm_usage (day, provider, requests, tokens_in, tokens_out, micro_usd)
                 VALUES (?1, ?2, 1, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET requests = requests + 1, tokens_in = tokens_in + excluded.tokens_in,
                     tokens_out = tokens_out + excluded.tokens_out, micro_usd = micro_usd + excluded.micro_usd",
            )?
            .execute(params![day, provider, tokens_in as i64, tokens_out as i64, micro_usd as i64])?;
            Ok(())
        });
        if let Err(fault) = counted.await {
            tracing::warn!(provider, code = %fault.code, "a model's use could not be recorded");
        }
    }
}

fn read(connection: &Connection, day: String, provider: &str) -> Result<Day, Fault> {
    let found = connection
        .prepare_cached(
            "SELECT requests, tokens_in + tokens_out, micro_usd FROM llm_usage WHERE day = ?1 AND provider = ?2",
        )?
        .query_row(params![day, provider], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let (requests, tokens, micro_usd): (i64, i64, i64) = found.unwrap_or_default();
    Ok(Day {
        day,
        requests: requests.unsigned_abs(),
        tokens: tokens.unsigned_abs(),
        micro_usd: micro_usd.unsigned_abs(),
    })
}

/// yyyy-mm-dd, UTC.
fn day_of(now: Timestamp) -> String {
    now.to_datetime().date().to_string()
}
