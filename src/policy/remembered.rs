//! Findings that are remembered: a policy that is asked the same again is not evaluated again.
//!
//! A finding stands for all inputs that have the same in the parts that the policies can read ([`Reads`]), and for as long as
//! the set lives: other policies or other data are another set, with nothing to remember. What Rego can do here depends on
//! nothing but its input and data; errors are not remembered.

use ring::digest;
use serde::Serialize;

use super::reads::Reads;
use super::{EVALUATION_LIMIT, Finding, Input, MAX_INPUT_BYTES, PolicyError, PolicySet};
use crate::cache::Cache;

/// Findings that are remembered; beyond it those that are asked for the least are forgotten.
const REMEMBERED: usize = 4_096;

/// A set of policies, and what it found.
#[derive(Debug)]
pub struct Remembered {
    set: PolicySet,
    /// What the findings depend on; `None` where each input is another one.
    reads: Option<Reads>,
    findings: Cache<[u8; 32], Finding>,
}

impl Remembered {
    /// Remembers nothing yet. `fleeting` is a path of the input that is never the same twice: policies that can read it are evaluated each
    /// time.
    #[must_use]
    pub fn new(set: PolicySet, fleeting: &[&str]) -> Self {
        let reads = (!set.reads.touch(fleeting)).then(|| set.reads.clone());
        Self { set, reads, findings: Cache::new(REMEMBERED) }
    }

    /// Whether the rule holds for `input`, as [`PolicySet::evaluate`] says it.
    ///
    /// # Errors
    /// [`PolicyError::Input`] or [`PolicyError::Evaluation`].
    pub fn evaluate(&self, input: &impl Serialize) -> Result<Finding, PolicyError> {
        let Some(reads) = &self.reads else { return self.set.evaluate(input) };
        let input = serde_json::to_value(input).map_err(|_| PolicyError::Input)?;
        let key = key(reads, &input).ok_or(PolicyError::Input)?;
        if let Some(found) = self.findings.get(&key) {
            return Ok(found);
        }
        let found = self.set.ask(&Input::new(&input)?, EVALUATION_LIMIT)?;
        self.findings.insert(key, found.clone());
        Ok(found)
    }
}

/// What tells inputs apart that may have other findings; `None` for one that is too large to be evaluated.
fn key(reads: &Reads, input: &serde_json::Value) -> Option<[u8; 32]> {
    let mut text = serde_json::to_vec(input).ok().filter(|text| text.len() <= MAX_INPUT_BYTES)?;
    text.clear();
    for part in reads.select(input) {
        if let Some(part) = part {
            serde_json::to_writer(&mut text, part).ok()?;
        }
        // JSON has no bare line feed, so that no two lists of parts are written alike.
        text.push(b'\n');
    }
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, &text).as_ref());
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const RULE: &str = "orchd.gate.deny";

    fn set(body: &str) -> PolicySet {
        PolicySet::compile(&format!("package orchd.gate\nimport rego.v1\n{body}"), RULE).unwrap()
    }

    fn remembered(body: &str) -> Remembered {
        Remembered::new(set(body), &["now"])
    }

    impl Remembered {
        fn count(&self) -> usize {
            self.findings.len()
        }
    }

    #[test]
    fn one_evaluation_does_for_all_inputs_that_are_alike_in_what_is_read() {
        let policy = remembered("deny contains input.who if input.who in {\"eve\", \"mallory\"}");
        for n in 0..50 {
            let of = |who: &str| policy.evaluate(&json!({ "who": who, "n": n, "now": n })).unwrap();
            assert_eq!(of("eve").reasons, ["eve"]);
            assert_eq!(of("mallory").reasons, ["mallory"]);
            assert!(!of("ann").holds);
        }
        assert_eq!(policy.count(), 3);
    }

    #[test]
    fn a_policy_that_can_read_what_passes_is_evaluated_each_time() {
        for body in [
            "deny if input.now > 5",
            "deny if { some k, v in input; k == \"now\"; v > 5 }",
            "deny if input[\"now\"] > 5",
        ] {
            let policy = remembered(body);
            for now in [1, 9, 5, 6] {
                assert_eq!(policy.evaluate(&json!({ "now": now })).unwrap().holds, now > 5, "{body}");
            }
            assert_eq!(policy.count(), 0, "{body}");
        }
    }

    #[test]
    fn errors_and_inputs_that_are_too_large_are_not_remembered() {
        let policy = remembered("deny if abs(input.n) > 5");
        for _ in 0..2 {
            assert!(matches!(policy.evaluate(&json!({ "n": "x" })), Err(PolicyError::Evaluation(_))));
        }
        assert_eq!(policy.count(), 0);
        assert!(policy.evaluate(&json!({ "n": 6 })).unwrap().holds);
        let large = json!({ "n": 6, "more": "x".repeat(MAX_INPUT_BYTES) });
        assert!(matches!(policy.evaluate(&large), Err(PolicyError::Input)), "as without a memory");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let policy = remembered("deny if input.n == 3");
        for n in 0..REMEMBERED + 1_000 {
            assert_eq!(policy.evaluate(&json!({ "n": n })).unwrap().holds, n == 3);
        }
        assert!(policy.count() <= REMEMBERED);
    }

    /// Policies that read in every way there is.
    const BODIES: [&str; 12] = [
        "deny if input.a == 1",
        "deny contains input.a if is_string(input.a)",
        "deny if input.a.b",
        "deny if not input.a.b",
        "deny if input.a.b.c == input.b",
        "deny if { some x in input.a; x == 1 }",
        "deny if count(input.a) > 1",
        "deny if input.a[_].b == 1",
        "deny if input.a[input.b]",
        "deny if input == {\"a\": 1}",
        "import input.a as x\ndeny if x.b == 1",
        "default deny := true\ndeny := false if { input.a.b == null }",
    ];

    /// Compiled once, and not for each case.
    static SETS: LazyLock<Vec<PolicySet>> = LazyLock::new(|| BODIES.map(set).to_vec());

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (0..3).prop_map(Value::from),
            Just(json!(1.0)),
            "[abc]{0,1}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[abc]", value, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        // Each case is evaluated several hundred times.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_remembered_is_what_an_evaluation_says(inputs in prop::collection::vec(document(), 1..12)) {
            for (body, set) in BODIES.iter().zip(SETS.iter()) {
                let policy = Remembered::new(set.clone(), &["now"]);
                for input in inputs.iter().chain(&inputs) {
                    match (set.evaluate(input), policy.evaluate(input)) {
                        (Ok(evaluated), Ok(recalled)) => prop_assert_eq!(evaluated, recalled, "{} {}", body, input),
                        (Err(_), Err(_)) => {}
                        (evaluated, recalled) => {
                            prop_assert!(false, "{} {}: {:?}, {:?}", body, input, evaluated, recalled);
                        }
                    }
                }
            }
        }
    }
}
