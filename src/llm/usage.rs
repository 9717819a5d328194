//! What a provider was used for today, in memory and in the ledger.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::wire::Completed;
use crate::clock::{Clock, Timestamp};
use crate::ledger::Ledger;
use crate::wire::Fault;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Day {
    day: String,
    requests: u64,
    tokens: u64,
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
        let day = day_of(clock.now());
        let wanted = day.clone();
        let (requests, tokens) = ledger.read(move |connection| read(connection, &wanted, provider)).await?;
        Ok(Self { provider, ledger, clock, today: Mutex::new(Day { day, requests, tokens }) })
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

    /// Counts an answer. What the ledger cannot keep counts until the next start.
    pub(super) async fn count(&self, completed: &Completed) {
        let (tokens_in, tokens_out) = (completed.tokens_in, completed.tokens_out);
        let day = {
            let mut today = self.today();
            today.requests += 1;
            today.tokens += tokens_in + tokens_out;
            today.day.clone()
        };
        let provider = self.provider;
        let counted = self.ledger.write(move |unit| {
            unit.prepare_cached(
                "INSERT INTO llm_usage (day, provider, requests, tokens_in, tokens_out) VALUES (?1, ?2, 1, ?3, ?4)
                 ON CONFLICT DO UPDATE SET requests = requests + 1, tokens_in = tokens_in + excluded.tokens_in,
                                           tokens_out = tokens_out + excluded.tokens_out",
            )?
            .execute(params![day, provider, tokens_in as i64, tokens_out as i64])?;
            Ok(())
        });
        if let Err(fault) = counted.await {
            tracing::warn!(provider, code = %fault.code, "a model's use could not be recorded");
        }
    }
}

fn read(connection: &Connection, day: &str, provider: &str) -> Result<(u64, u64), Fault> {
    let found = connection
        .prepare_cached(
            "SELECT requests, tokens_in + tokens_out FROM llm_usage WHERE day = ?1 AND provider = ?2",
        )?
        .query_row(params![day, provider], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let (requests, tokens) = found.unwrap_or((0, 0));
    Ok((requests.unsigned_abs(), tokens.unsigned_abs()))
}

/// yyyy-mm-dd, UTC.
fn day_of(now: Timestamp) -> String {
    now.to_datetime().date().to_string()
}
