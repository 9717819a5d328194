//! The rules in the ledger. SQL only: what a rule means is the model's, when a set takes effect is the service's.

use rusqlite::{Connection, Row};

use super::model::{Rule, Stance};
use crate::ledger::Unit;
use crate::wire::Fault;

/// In `meta`: set once the default rules were put in.
const SEEDED: &str = "conscience_seeded";

/// Puts `rules` in unless that was done before, whatever became of them.
pub(super) fn seed(unit: &Unit<'_>, rules: &[Rule]) -> Result<(), Fault> {
    if unit.execute("INSERT INTO meta (key, value) VALUES (?1, 1) ON CONFLICT DO NOTHING", [SEEDED])? == 0 {
        return Ok(());
    }
    rules.iter().try_for_each(|rule| set(unit, rule).map(drop))
}

/// All rules, ordered by name.
pub(super) fn all(connection: &Connection) -> Result<Vec<Rule>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT name, description, weight, stance, patterns FROM conscience_rule ORDER BY name",
    )?;
    statement.query_map([], columns)?.map(|row| read(row?)).collect()
}

/// Puts a rule in, or in the place of the one with its name; whether there was one.
pub(super) fn set(unit: &Unit<'_>, rule: &Rule) -> Result<bool, Fault> {
    let patterns = serde_json::to_string(&rule.patterns).map_err(|_| Fault::internal())?;
    let replaced = remove(unit, &rule.name)?;
    unit.prepare_cached(
        "INSERT INTO conscience_rule (name, description, weight, stance, patterns, changed_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((
        &rule.name,
        &rule.description,
        rule.weight,
        rule.stance.as_str(),
        patterns,
        unit.now().millis(),
    ))?;
    Ok(replaced)
}

/// Takes a rule out; whether there was one.
pub(super) fn remove(unit: &Unit<'_>, name: &str) -> Result<bool, Fault> {
    Ok(unit.prepare_cached("DELETE FROM conscience_rule WHERE name = ?1")?.execute([name])? > 0)
}

type Columns = (String, String, f64, String, String);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn read((name, description, weight, stance, patterns): Columns) -> Result<Rule, Fault> {
    let stance = Stance::parse(&stance);
    let patterns = serde_json::from_str(&patterns).ok();
    let (Some(stance), Some(patterns)) = (stance, patterns) else {
        tracing::error!(rule = name, "a rule in the ledger cannot be read");
        return Err(Fault::internal());
    };
    Ok(Rule { name, description, weight, stance, patterns })
}
