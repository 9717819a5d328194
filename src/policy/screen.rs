//! What is refused before it is compiled: calls whose memory nothing bounds, because a short text can ask for any amount
//! of it in one step, between two looks at the clock.

use std::sync::LazyLock;

use regex::Regex;

use super::{Module, PolicyError};

/// `numbers.range` and `numbers.range_step` make a list of any length at once.
static RANGE: LazyLock<Regex> = LazyLock::new(|| pattern(r#"\bnumbers\s*(\.\s*range|\[)"#));

/// Every use of `sprintf`, and those whose format stands in the policy.
static FORMAT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\bsprintf\b"));
static WRITTEN_FORMAT: LazyLock<Regex> = LazyLock::new(|| pattern(r#"\bsprintf\s*\(\s*["`]"#));

/// A width or precision of four digits or more.
static WIDTH: LazyLock<Regex> = LazyLock::new(|| pattern(r"%[-+# 0-9.]*[0-9]{4}"));

fn pattern(text: &str) -> Regex {
    // A test compiles each of them.
    Regex::new(text).expect("a pattern that stands here")
}

/// Looks through a module's text, comments and strings included.
pub(super) fn check(module: &Module) -> Result<(), PolicyError> {
    let wrong = |reason| Err(PolicyError::Unbounded { file: module.file.clone(), reason });
    if RANGE.is_match(&module.text) {
        return wrong("numbers.range may not be used: it takes any amount of memory");
    }
    if FORMAT.find_iter(&module.text).count() != WRITTEN_FORMAT.find_iter(&module.text).count() {
        return wrong("the format of sprintf must stand in the policy, right after the bracket");
    }
    if WIDTH.is_match(&module.text) {
        return wrong("a width in a format may have three digits at most");
    }
    Ok(())
}
