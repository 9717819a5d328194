//! Answers as the ledger keeps them.

use bytes::Bytes;
use rusqlite::{Connection, Row, params};

use super::{Pending, Route, Stored};
use crate::clock::Timestamp;
use crate::ledger::Unit;
use crate::wire::{Encoding, Fault};

/// Writes a reply; returns its row. Open when it is to be published; `kept` when the inbox will refer to it.
pub(in crate::engine) fn insert(
    unit: &Unit<'_>,
    stored: &Stored,
    route: &Route,
    kept: bool,
) -> Result<i64, Fault> {
    let mut outcome = stored.outcome.clone();
    if route.topic.is_none() {
        // Given out by the caller at once, and kept for repeats alone, which get no secrets.
        outcome.secret = None;
    }
    let outcome = serde_json::to_string(&outcome).map_err(|_| Fault::internal())?;
    unit.prepare_cached(
        "INSERT INTO outbox (reply_id, in_reply_to, command, outcome, made_at, topic, correlation_data, correlation_id,
                             cbor, expires_at, due_at, open, kept)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(params![
        stored.reply_id,
        route.in_reply_to,
        stored.command,
        outcome,
        stored.made_at.millis(),
        route.topic,
        route.correlation_data.as_deref(),
        route.correlation_id,
        route.encoding == Encoding::Cbor,
        route.expires_at.millis(),
        route.due_at.millis(),
        route.topic.is_some(),
        kept,
    ])?;
    Ok(unit.last_insert_rowid())
}

const COLUMNS: &str = "id, reply_id, in_reply_to, command, outcome, made_at, topic, correlation_data, correlation_id, cbor, expires_at, due_at";

fn from_row(row: &Row<'_>) -> Result<Pending, Fault> {
    let outcome: String = row.get(4)?;
    let stored = Stored {
        reply_id: row.get(1)?,
        command: row.get(3)?,
        outcome: serde_json::from_str(&outcome).map_err(|_| Fault::internal())?,
        made_at: Timestamp::from_millis(row.get(5)?),
    };
    let route = Route {
        topic: row.get(6)?,
        correlation_data: row.get::<_, Option<Vec<u8>>>(7)?.map(Bytes::from),
        correlation_id: row.get(8)?,
        encoding: if row.get(9)? { Encoding::Cbor } else { Encoding::Json },
        in_reply_to: row.get(2)?,
        expires_at: Timestamp::from_millis(row.get(10)?),
        due_at: Timestamp::from_millis(row.get(11)?),
    };
    Ok(Pending { id: row.get(0)?, bytes: outcome.len() as u64, stored, route })
}

/// Closes a row that was published when it was due at `due_at`: it is kept while a repeat of its command may ask for it,
/// else removed. Whether it was open: a reply that a look found before it was offered is published, and closed, twice.
/// A row that is to be sent again has another time by now, and stays open. A secret in the answer is erased.
pub(super) fn close(unit: &Unit<'_>, id: i64, due_at: Timestamp) -> Result<bool, Fault> {
    let which = params![id, due_at.millis()];
    // Hardly any has a secret: the word is looked for first, because reading JSON takes longer.
    let kept = unit
        .prepare_cached(
            r#"UPDATE outbox SET open = 0,
                    outcome = CASE instr(outcome, '"secret"') WHEN 0 THEN outcome ELSE json_remove(outcome, '$.secret') END
             WHERE id = ?1 AND due_at = ?2 AND open = 1 AND kept = 1"#,
        )?
        .execute(which)?;
    let removed = unit
        .prepare_cached("DELETE FROM outbox WHERE id = ?1 AND due_at = ?2 AND open = 1 AND kept = 0")?
        .execute(which)?;
    Ok(kept + removed > 0)
}

/// The reply in an open row is wanted once more: it is published after this, even if it has just been.
pub(in crate::engine) fn send_again(unit: &Unit<'_>, id: i64) -> Result<(), Fault> {
    unit.prepare_cached("UPDATE outbox SET due_at = max(due_at + 1, ?2) WHERE id = ?1 AND open = 1")?
        .execute(params![id, unit.now().millis()])?;
    Ok(())
}

/// The inbox no longer refers to the row: it goes now, or when it is closed.
pub(in crate::engine) fn release(unit: &Unit<'_>, id: i64) -> Result<(), Fault> {
    let open = unit.prepare_cached("UPDATE outbox SET kept = 0 WHERE id = ?1 AND open = 1")?.execute([id])?;
    if open == 0 {
        unit.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
    }
    Ok(())
}

/// The reply in row `id`, and where it is still to be published.
pub(in crate::engine) fn load(connection: &Connection, id: i64) -> Result<(Stored, Option<Route>), Fault> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS}, open FROM outbox WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    let row = rows.next()?.ok_or_else(Fault::internal)?;
    let open: bool = row.get(12)?;
    let pending = from_row(row)?;
    Ok((pending.stored, open.then_some(pending.route)))
}

/// At most `limit` open rows after `after`, in the order in which they were written.
pub(super) fn open_after(connection: &Connection, after: i64, limit: u32) -> Result<Vec<Pending>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM outbox WHERE open = 1 AND id > ?1 ORDER BY id LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after, limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(from_row(row)?);
    }
    Ok(page)
}
