//! Reviews: what the rules leave to a person.
//!
//! A review is opened in the ledger before the verdict that needs it is answered. The same question of the same asker joins
//! the review that is open. One that nobody resolves in time counts as refused from that moment on.

use rusqlite::{Connection, OptionalExtension, Row};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decisions::Decision;
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::{Code, Fault};

/// Reviews that may be open at the same time.
const MAX_OPEN: i64 = 10_000;

/// Reviews that one unit of work expires or removes.
const BATCH: u32 = 100;

const MAX_LIMIT: u32 = 100;
const MAX_NOTE: usize = 500;

/// What became of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReviewState {
    /// It waits for a person.
    Open,
    /// The action may be done.
    Approved,
    /// The action may not be done.
    Refused,
    /// Nobody resolved it in time: the action may not be done.
    Expired,
}

impl ReviewState {
    const ALL: [Self; 4] = [Self::Open, Self::Approved, Self::Refused, Self::Expired];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Approved => "approved",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

/// A review.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Review {
    /// Names it; a UUID.
    pub review_id: String,
    /// What became of it.
    pub state: ReviewState,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it counts as refused unless it is resolved before.
    pub expires: Timestamp,
    /// When it was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Timestamp>,
    /// Who resolved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<String>,
    /// What they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The decision that opened it.
    pub decision: Decision,
}

/// What is told on `events/reviews`: that a review was opened, resolved or has expired. What it is about is for
/// `reviews/list`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ReviewNews {
    /// Which one.
    pub review_id: String,
    /// What became of it.
    pub state: ReviewState,
    /// When it counts as refused unless it is resolved before.
    pub expires: Timestamp,
}

/// Asks for reviews, the newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListReviews {
    /// Only those in this state; `open` by default, unless `all` is set.
    #[serde(default)]
    pub state: Option<ReviewState>,
    /// Whether to list reviews in any state.
    #[serde(default)]
    pub all: bool,
    /// Most reviews, from 1 to 100; 20 by default.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 100))]
    pub limit: u32,
    /// `next` of the answer before, for those that follow.
    #[serde(default)]
    pub after: Option<String>,
}

const fn default_limit() -> u32 {
    20
}

/// Reviews.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reviews {
    /// The newest first.
    pub reviews: Vec<Review>,
    /// Where the next page begins; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Resolves a review.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveReview {
    /// Which one.
    pub review_id: String,
    /// Whether the action may be done.
    pub approve: bool,
    /// Why: at most 500 characters.
    #[serde(default)]
    pub note: Option<String>,
}

impl ListReviews {
    pub(super) fn check(&self) -> Result<(), Fault> {
        if (1..=MAX_LIMIT).contains(&self.limit) {
            Ok(())
        } else {
            Err(Fault::invalid(format!("limit: expected a number from 1 to {MAX_LIMIT}")))
        }
    }
}

impl ResolveReview {
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE) {
            return Err(Fault::invalid(format!("note: expected at most {MAX_NOTE} characters")));
        }
        Ok(())
    }
}

/// Opens a review for `decision`, or joins the one that is open about the same; its id, and what is news then.
///
/// # Errors
/// `busy` when too many are open; when the ledger cannot be written.
pub(super) fn open(
    unit: &Unit<'_>,
    decision: &Decision,
    life_ms: i64,
) -> Result<(String, Vec<ReviewNews>), Fault> {
    let mut news = expire(unit, unit.now())?;
    let about = about(decision)?;
    let joined: Option<String> = unit
        .prepare_cached("SELECT id FROM conscience_review WHERE about = ?1 AND state = 'open'")?
        .query_row([about.as_slice()], |row| row.get(0))
        .optional()?;
    if let Some(id) = joined {
        return Ok((id, news));
    }
    let open: i64 = unit
        .prepare_cached("SELECT count(*) FROM conscience_review WHERE state = 'open'")?
        .query_row([], |row| row.get(0))?;
    if open >= MAX_OPEN {
        return Err(Fault::new(Code::Busy, "too many reviews are open").retry_after(60_000));
    }
    let review_id = uuid::Uuid::now_v7().to_string();
    let expires = unit.now().plus_millis(life_ms);
    let mut opened_by = decision.clone();
    opened_by.review_id = Some(review_id.clone());
    let body = serde_json::to_string(&opened_by).map_err(|_| Fault::internal())?;
    unit.prepare_cached(
        "INSERT INTO conscience_review (id, about, state, opened_at, expires_at, body)
         VALUES (?1, ?2, 'open', ?3, ?4, ?5)",
    )?
    .execute((&review_id, about.as_slice(), unit.now().millis(), expires.millis(), body))?;
    news.push(ReviewNews { review_id: review_id.clone(), state: ReviewState::Open, expires });
    Ok((review_id, news))
}

fn about(decision: &Decision) -> Result<Vec<u8>, Fault> {
    let parts = (&decision.principal, &decision.entity, &decision.action, &decision.context);
    let bytes = serde_json::to_vec(&parts).map_err(|_| Fault::internal())?;
    Ok(ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref().to_vec())
}

const COLUMNS: &str = "id, state, opened_at, expires_at, resolved_at, resolved_by, note, body";

type Columns = (String, String, i64, i64, Option<i64>, Option<String>, Option<String>, String);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
    ))
}

/// The review of a row as it is at `now`.
fn read(columns: Columns, now: Timestamp) -> Result<Review, Fault> {
    let (review_id, state, opened, expires, resolved, resolved_by, note, body) = columns;
    let state = ReviewState::ALL.into_iter().find(|known| known.as_str() == state);
    let (Some(state), Ok(decision)) = (state, serde_json::from_str(&body)) else {
        tracing::error!(review_id, "a review in the ledger cannot be read");
        return Err(Fault::internal());
    };
    let expires = Timestamp::from_millis(expires);
    let state = if state == ReviewState::Open && expires <= now { ReviewState::Expired } else { state };
    Ok(Review {
        review_id,
        state,
        opened: Timestamp::from_millis(opened),
        expires,
        resolved: resolved.map(Timestamp::from_millis),
        resolved_by,
        note,
        decision,
    })
}

/// The reviews that `wanted` asks for, as they are at `now`.
///
/// # Errors
/// When the ledger cannot be read.
pub(super) fn list(connection: &Connection, wanted: &ListReviews, now: Timestamp) -> Result<Reviews, Fault> {
    let state = if wanted.all { None } else { Some(wanted.state.unwrap_or(ReviewState::Open)) };
    // Ids are UUIDs of version 7: they sort by time.
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM conscience_review
         WHERE (?1 IS NULL OR id < ?1)
           AND (?2 IS NULL OR ?2 = CASE WHEN state = 'open' AND expires_at <= ?3 THEN 'expired' ELSE state END)
         ORDER BY id DESC LIMIT ?4"
    ))?;
    let limit = wanted.limit as usize;
    let rows = statement.query_map(
        (&wanted.after, state.map(ReviewState::as_str), now.millis(), wanted.limit + 1),
        columns,
    )?;
    let mut reviews = rows.map(|row| read(row?, now)).collect::<Result<Vec<_>, Fault>>()?;
    let more = reviews.len() > limit;
    reviews.truncate(limit);
    let next = reviews.last().filter(|_| more).map(|review| review.review_id.clone());
    Ok(Reviews { reviews, next })
}

/// Resolves a review.
///
/// # Errors
/// `not_found`; `conflict` when it is no longer open; when the ledger cannot be written.
pub(super) fn resolve(unit: &Unit<'_>, request: &ResolveReview, by: &str) -> Result<Review, Fault> {
    let state = if request.approve { ReviewState::Approved } else { ReviewState::Refused };
    let resolved = unit
        .prepare_cached(&format!(
            "UPDATE conscience_review SET state = ?2, resolved_at = ?3, resolved_by = ?4, note = ?5
             WHERE id = ?1 AND state = 'open' AND expires_at > ?3 RETURNING {COLUMNS}"
        ))?
        .query_row((&request.review_id, state.as_str(), unit.now().millis(), by, &request.note), columns)
        .optional()?;
    if let Some(resolved) = resolved {
        return read(resolved, unit.now());
    }
    let state: Option<String> = unit
        .prepare_cached("SELECT state FROM conscience_review WHERE id = ?1")?
        .query_row([&request.review_id], |row| row.get(0))
        .optional()?;
    Err(match state {
        None => Fault::not_found("no review has this id"),
        Some(state) => {
            let state = if state == "open" { "expired" } else { &state };
            Fault::new(Code::Conflict, format!("the review is no longer open: it is {state}"))
        }
    })
}

/// When the next open review expires.
///
/// # Errors
/// When the ledger cannot be read.
pub(super) fn next_expiry(connection: &Connection) -> Result<Option<Timestamp>, Fault> {
    let next: Option<i64> = connection
        .prepare_cached("SELECT min(expires_at) FROM conscience_review WHERE state = 'open'")?
        .query_row([], |row| row.get(0))?;
    Ok(next.map(Timestamp::from_millis))
}

/// Marks some of the reviews whose time has passed; their news.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn expire(unit: &Unit<'_>, now: Timestamp) -> Result<Vec<ReviewNews>, Fault> {
    let mut statement = unit.prepare_cached(
        "UPDATE conscience_review SET state = 'expired', resolved_at = expires_at
         WHERE id IN (SELECT id FROM conscience_review WHERE state = 'open' AND expires_at <= ?1 LIMIT ?2)
         RETURNING id, expires_at",
    )?;
    let rows = statement.query_map((now.millis(), BATCH), |row| {
        Ok(ReviewNews {
            review_id: row.get(0)?,
            state: ReviewState::Expired,
            expires: Timestamp::from_millis(row.get(1)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes some of the reviews that were opened before `before` and are not open; whether there may be more.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn prune(unit: &Unit<'_>, before: Timestamp) -> Result<bool, Fault> {
    let removed = unit
        .prepare_cached(
            "DELETE FROM conscience_review WHERE id IN (
                 SELECT id FROM conscience_review WHERE state <> 'open' AND opened_at < ?1 LIMIT ?2)",
        )?
        .execute((before.millis(), BATCH))?;
    Ok(removed == BATCH as usize)
}
