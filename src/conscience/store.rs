//! The rules in the ledger. SQL only: what a rule means is the model's, when a set takes effect is the service's.

use rusqlite::{Connection, OptionalExtension};

use super::model::Rule;
use crate::ledger::Unit;
use crate::wire::Fault;

/// In `meta`: which default rules were put in; its value is the number of the last pack.
const SEEDED: &str = "conscience_seeded";

/// The number of the default rules that this program brings.
const PACK: i64 = 2;

/// The default rules of pack 1.
const PACK_1: [&str; 2] = ["no-harm", "truth"];

/// Where a rule came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The default rules.
    Pack,
    /// The rule file of the configuration.
    File,
    /// A command.
    Set,
}

impl Origin {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::File => "file",
            Self::Set => "set",
        }
    }
}

/// Puts the default rules in, each once: one that was removed or changed stays so.
pub(super) fn seed(unit: &Unit<'_>, rules: &[Rule]) -> Result<(), Fault> {
    let seeded: Option<i64> =
        unit.query_row("SELECT value FROM meta WHERE key = ?1", [SEEDED], |row| row.get(0)).optional()?;
    if seeded == Some(PACK) {
        return Ok(());
    }
    unit.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", (SEEDED, PACK))?;
    rules
        .iter()
        .filter(|rule| seeded.is_none() || !PACK_1.contains(&rule.name.as_str()))
        .try_for_each(|rule| set(unit, rule, Origin::Pack).map(drop))
}

/// Makes the rules of the file those that came from it: new ones are put in, those that it no longer has are taken out.
pub(super) fn take_file(unit: &Unit<'_>, rules: &[Rule]) -> Result<(), Fault> {
    unit.execute("DELETE FROM conscience_rule WHERE origin = 'file'", [])?;
    rules.iter().try_for_each(|rule| set(unit, rule, Origin::File).map(drop))
}

/// All rules, ordered by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<Rule>, Fault> {
    let mut statement = connection.prepare_cached("SELECT name, body FROM conscience_rule ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (name, body): (String, String) = row?;
        serde_json::from_str(&body).map_err(|error| {
            tracing::error!(rule = name, %error, "a rule in the ledger cannot be read");
            Fault::internal()
        })
    })
    .collect()
}

/// Puts a rule in, or in the place of the one with its name; whether there was one.
pub(super) fn set(unit: &Unit<'_>, rule: &Rule, origin: Origin) -> Result<bool, Fault> {
    let body = serde_json::to_string(rule).map_err(|_| Fault::internal())?;
    let replaced = remove(unit, &rule.name)?;
    unit.prepare_cached(
        "INSERT INTO conscience_rule (name, body, origin, changed_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute((&rule.name, body, origin.as_str(), unit.now().millis()))?;
    Ok(replaced)
}

/// Takes a rule out; whether there was one.
pub(super) fn remove(unit: &Unit<'_>, name: &str) -> Result<bool, Fault> {
    Ok(unit.prepare_cached("DELETE FROM conscience_rule WHERE name = ?1")?.execute([name])? > 0)
}

/// Takes all rules out; how many there were.
pub(super) fn clear(unit: &Unit<'_>) -> Result<usize, Fault> {
    Ok(unit.execute("DELETE FROM conscience_rule", [])?)
}
