//! Rule files: TOML, a `[[rule]]` table for each rule. The default rules are one.

use serde::{Deserialize, Serialize};

use super::model::Rule;
use crate::wire::Fault;

/// The rules that a new ledger is given.
const DEFAULT: &str = include_str!("default.toml");

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    #[serde(default)]
    rule: Vec<Rule>,
}

/// Reads a rule file.
///
/// # Errors
/// `invalid`, with the line and what is wrong.
pub fn read(toml: &str) -> Result<Vec<Rule>, Fault> {
    let file: RuleFile = toml::from_str(toml).map_err(|error| {
        let line =
            error.span().map_or(0, |span| toml[..span.start.min(toml.len())].matches('\n').count() + 1);
        Fault::invalid(format!("rule file, line {line}: {}", error.message()))
    })?;
    Ok(file.rule)
}

/// Writes rules as a rule file.
///
/// # Errors
/// `internal` when a rule has no form in TOML.
pub fn write<'r>(rules: impl Iterator<Item = &'r Rule>) -> Result<String, Fault> {
    toml::to_string_pretty(&RuleFile { rule: rules.cloned().collect() }).map_err(|error| {
        tracing::error!(%error, "rules could not be written as TOML");
        Fault::internal()
    })
}

/// The default rules.
///
/// # Errors
/// Never: a test reads them.
pub fn defaults() -> Result<Vec<Rule>, Fault> {
    read(DEFAULT)
}
