//! The commands that show, change and try rules.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::Rule;
use super::service::Conscience;
use super::trial::{self, Simulate, TestRules};
use super::{SERVICE, file, store};
use crate::engine::command::{Call, Entry};
use crate::ledger::Unit;
use crate::wire::Fault;

pub(super) fn commands() -> Vec<Entry<Conscience>> {
    vec![
        Entry::read(
            SERVICE,
            "rules/list",
            "Lists the rules",
            |conscience: Arc<Conscience>, _: Call, _: ListRules| async move {
                let set = conscience.current();
                let rules = set.rules().cloned().collect();
                Ok(RuleList { rules, rule_set_hash: Arc::clone(set.hash()) }.into())
            },
        ),
        Entry::read(
            SERVICE,
            "rules/export",
            "Writes the rules as a rule file",
            |conscience: Arc<Conscience>, _: Call, _: ExportRules| async move {
                let set = conscience.current();
                let toml = file::write(set.rules())?;
                Ok(Exported { toml, rules: set.rules().len(), rule_set_hash: Arc::clone(set.hash()) }.into())
            },
        ),
        Entry::read(
            SERVICE,
            "rules/test",
            "Tries rules against their own examples",
            |conscience: Arc<Conscience>, _: Call, request: TestRules| async move {
                let tested = tokio::task::spawn_blocking(move || conscience.test_rules(request)).await;
                Ok(tested.map_err(|_| Fault::internal())??.into())
            },
        ),
        Entry::read(
            SERVICE,
            "rules/simulate",
            "Says which recorded decisions other rules would have changed",
            |conscience: Arc<Conscience>, _: Call, request: Simulate| async move {
                Ok(conscience.simulate(request).await?.into())
            },
        ),
        Entry::write(
            SERVICE,
            "rules/set",
            "Adds a rule, or replaces the one of the same name",
            |conscience: &Arc<Conscience>, _, rule: Rule| {
                let (conscience, prepared) = (Arc::clone(conscience), [trial::prepare_one(rule)?]);
                Ok(move |unit: &mut Unit<'_>| {
                    let replaced = Conscience::put(unit, &prepared)? > 0;
                    let rule_set_hash = conscience.adopt(unit, &prepared)?;
                    Ok(RuleChanged { name: prepared[0].rule().name.clone(), replaced, rule_set_hash })
                })
            },
        )
        .sensitive(),
        Entry::write(
            SERVICE,
            "rules/import",
            "Takes over a whole list of rules, all or none",
            |conscience: &Arc<Conscience>, _, request: ImportRules| {
                let rules = match (request.rules, request.toml) {
                    (Some(rules), None) => rules,
                    (None, Some(toml)) => file::read(&toml)?,
                    _ => return Err(Fault::invalid("expected either rules or toml")),
                };
                let (conscience, prepared) = (Arc::clone(conscience), trial::prepare(rules)?);
                Ok(move |unit: &mut Unit<'_>| {
                    let removed = if request.replace { store::clear(unit)? } else { 0 };
                    let replaced = Conscience::put(unit, &prepared)?;
                    let rule_set_hash = conscience.adopt(unit, &prepared)?;
                    Ok(Imported { imported: prepared.len(), replaced, removed, rule_set_hash })
                })
            },
        )
        .sensitive(),
        Entry::write(
            SERVICE,
            "rules/remove",
            "Removes a rule",
            |conscience: &Arc<Conscience>, _, request: RemoveRule| {
                let conscience = Arc::clone(conscience);
                Ok(move |unit: &mut Unit<'_>| {
                    if !store::remove(unit, &request.name)? {
                        return Err(Fault::not_found("no rule of this name"));
                    }
                    let rule_set_hash = conscience.adopt(unit, &[])?;
                    Ok(RuleRemoved { name: request.name.clone(), rule_set_hash })
                })
            },
        )
        .sensitive(),
    ]
}

/// Asks for the rules.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListRules {}

/// The rules in force.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleList {
    /// Ordered by name.
    rules: Vec<Rule>,
    /// SHA-256 of the rules, in hex.
    rule_set_hash: Arc<str>,
}

/// Asks for the rules as a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExportRules {}

/// The rules as a file.
#[derive(Debug, Serialize, JsonSchema)]
struct Exported {
    /// A rule file: TOML.
    toml: String,
    /// How many rules it has.
    rules: usize,
    /// SHA-256 of the rules, in hex.
    rule_set_hash: Arc<str>,
}

/// Takes over rules: `rules` or `toml`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportRules {
    /// The rules.
    #[serde(default)]
    rules: Option<Vec<Rule>>,
    /// The rules as a rule file.
    #[serde(default)]
    toml: Option<String>,
    /// Whether all other rules go.
    #[serde(default)]
    replace: bool,
}

/// Rules are in force.
#[derive(Debug, Serialize, JsonSchema)]
struct Imported {
    /// How many came in.
    imported: usize,
    /// How many of those replaced one of the same name.
    replaced: usize,
    /// How many were taken out before.
    removed: usize,
    /// SHA-256 of the rules now in force, in hex.
    rule_set_hash: Arc<str>,
}

/// A rule is in force.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleChanged {
    /// The rule's name.
    name: String,
    /// Whether there was one of this name before.
    replaced: bool,
    /// SHA-256 of the rules now in force, in hex.
    rule_set_hash: Arc<str>,
}

/// Asks to remove a rule.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveRule {
    /// The rule's name.
    name: String,
}

/// A rule is no longer in force.
#[derive(Debug, Serialize, JsonSchema)]
struct RuleRemoved {
    /// The rule's name.
    name: String,
    /// SHA-256 of the rules now in force, in hex.
    rule_set_hash: Arc<str>,
}
