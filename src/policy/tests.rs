use std::fs;

use serde_json::json;

use super::*;

const RULE: &str = "orchd.gate.deny";

fn compile(body: &str) -> Result<PolicySet, PolicyError> {
    PolicySet::compile(&format!("package orchd.gate\n{body}"), RULE)
}

fn found(holds: bool, reasons: &[&str]) -> Finding {
    Finding { holds, reasons: reasons.iter().map(ToString::to_string).collect() }
}

#[test]
fn a_rule_is_a_boolean_a_text_or_a_set_of_texts() {
    for (body, finding) in [
        ("deny if input.n > 1", found(true, &[])),
        ("deny if input.n > 2", found(false, &[])),
        ("default deny := false", found(false, &[])),
        ("deny := \"no\" if input.n == 2", found(true, &["no"])),
        ("deny contains \"b\" if input.n == 2\ndeny contains \"a\" if true", found(true, &["a", "b"])),
        ("deny contains \"b\" if input.n == 3", found(false, &[])),
        (
            "import rego.v1\ndeny contains m if { some c in input.list; m := sprintf(\"%v!\", [c]) }",
            found(true, &["x!", "y!"]),
        ),
        ("deny if regex.match(`^x+$`, input.list[0])", found(true, &[])),
    ] {
        let set = compile(body).unwrap_or_else(|error| panic!("{body}: {error}"));
        let input = json!({ "n": 2, "list": ["x", "y"] });
        assert_eq!(set.evaluate(&input).unwrap(), finding, "{body}");
        // Nothing of one evaluation is left for the next.
        assert!(set.evaluate(&json!({})).is_ok(), "{body}");
        assert_eq!(set.evaluate(&input).unwrap(), finding, "{body}");
    }
}

#[test]
fn what_gives_no_clear_answer_is_an_error_and_not_a_no() {
    for body in [
        "deny := 3",
        "deny := {\"a\": 1}",
        "deny contains 1",
        "deny if unknown_function(input)",
        "deny if abs(\"x\") > 1",
        "deny := true if input.a\ndeny := \"b\" if input.a",
    ] {
        let answer = compile(body).and_then(|set| set.evaluate(&json!({ "a": true })));
        assert!(answer.is_err(), "{body}: {answer:?}");
    }
}

#[test]
fn a_policy_reaches_nothing_outside() {
    for call in [
        "http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"})",
        "time.now_ns()",
        "opa.runtime()",
        "uuid.rfc4122(\"x\")",
        "net.lookup_ip_addr(\"localhost\")",
    ] {
        let answer = compile(&format!("deny if {call}")).and_then(|set| set.evaluate(&json!({})));
        assert!(answer.is_err(), "{call}: {answer:?}");
    }
}

#[test]
fn an_evaluation_ends() {
    // 10^12 steps.
    let digits = "a := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n";
    let loops = (0..12).map(|n| format!("some x{n} in a")).collect::<Vec<_>>().join("; ");
    let set = compile(&format!("import rego.v1\n{digits}deny if {{ {loops}; x0 + x11 < 0 }}")).unwrap();
    let error = set.evaluate(&json!({})).unwrap_err();
    assert!(matches!(error, PolicyError::Evaluation(_)), "{error}");
}

#[test]
fn what_would_take_any_amount_of_memory_is_not_accepted() {
    for body in [
        "deny if count(numbers.range(1, 1000000000)) > 0",
        "deny if count(numbers . range_step(1, 1000000000, 1)) > 0",
        "deny if count(numbers[\"range\"](1, 1000000000)) > 0",
        "deny := sprintf(input.format, [1])",
        "deny := sprintf( # a remark\n input.format, [1])",
        "deny := sprintf(\"%1000000000d\", [1])",
        "deny := sprintf(`%-01000000000d`, [1])",
        "deny := sprintf(\"%\\u0031000000000d\", [1])",
        "deny if bits.lsh(1, 4000000000) > 0",
        "deny if to_number(input.n) > 0",
        "deny if json.unmarshal(input.n) > 0",
        "deny if units.parse(input.n) > 0",
        "deny if input.n > 1e2000000000",
        "# a mark: \"\ndeny if input.n > 1e2000000000 # another: \"",
        "deny if rand.intn(\"x\", 2) == 1",
    ] {
        assert!(matches!(compile(body), Err(PolicyError::Unbounded { .. })), "{body}");
    }
    for body in [
        "deny := sprintf(\"%3d %v\", [1, input.numbers])",
        "deny if input.principal == \"key:1e2345678901\"",
        "deny if input.n > 1.5e10",
    ] {
        assert!(compile(body).is_ok(), "{body}");
    }
}

#[test]
fn texts_and_inputs_are_bounded() {
    let set = compile("deny if input.a == 1").unwrap();
    assert!(matches!(set.evaluate(&json!({ "a": "x".repeat(MAX_INPUT_BYTES) })), Err(PolicyError::Input)));
    let long = format!("deny if true\n{}", "# x\n".repeat(MAX_TEXT_BYTES / 4));
    assert!(matches!(compile(&long), Err(PolicyError::TooLarge)));
    let deep = format!("deny if {}1{} == 1", "(".repeat(100_000), ")".repeat(100_000));
    assert!(compile(&deep).is_err());
}

#[test]
fn a_text_that_is_no_policy_is_refused() {
    for text in
        ["", "x", "package", "package orchd.gate\ndeny if {", "package orchd.gate\ndeny if x == y", "\u{0}"]
    {
        assert!(PolicySet::compile(text, RULE).is_err(), "{text:?}");
    }
    // A misspelt name would never refuse anything.
    for text in ["package orchd.gate\ndenny if true", "package orchd.gates\ndeny if true"] {
        assert!(matches!(PolicySet::compile(text, RULE), Err(PolicyError::NoRule(_))), "{text:?}");
    }
}

#[test]
fn reasons_are_bounded_and_hold_no_control_characters() {
    let set = compile("import rego.v1\ndeny contains m if { some m in input.list }").unwrap();
    let list: Vec<_> = (0..20).map(|n| format!("{n:02}\n{}", "é".repeat(400))).collect();
    let finding = set.evaluate(&json!({ "list": list })).unwrap();
    assert_eq!(finding.reasons.len(), MAX_REASONS);
    assert!(
        finding
            .reasons
            .iter()
            .all(|reason| reason.chars().count() == MAX_REASON_CHARS && !reason.contains('\n'))
    );
}

fn unsigned(folder: &std::path::Path) -> BundleSource {
    BundleSource { folder: folder.to_owned(), signed_by: None }
}

fn bundle(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

const POLICY: (&str, &str) =
    ("a.rego", "package orchd.gate\nimport rego.v1\ndeny contains \"blocked\" if input.who in data.blocked");
const TEST: (&str, &str) = (
    "a_test.rego",
    "package orchd.gate_test\nimport data.orchd.gate\ntest_blocked if gate.deny == {\"blocked\"} with input as {\"who\": \"eve\"}\ntest_others if count(gate.deny) == 0 with input as {\"who\": \"ann\"}",
);
const DATA: (&str, &str) = ("data.json", r#"{"blocked": ["eve"]}"#);

#[test]
fn a_bundle_is_loaded_with_its_data_once_its_tests_pass() {
    let folder = bundle(&[POLICY, TEST, DATA, ("README.md", "x"), (".hidden.rego", "x")]);
    let set = PolicySet::load(&unsigned(folder.path()), RULE).unwrap();
    assert_eq!(set.evaluate(&json!({ "who": "eve" })).unwrap(), found(true, &["blocked"]));
    assert_eq!(set.evaluate(&json!({ "who": "ann" })).unwrap(), Finding::default());
    let all = trials(&unsigned(folder.path()), RULE).unwrap();
    let names: Vec<_> = all.iter().map(|trial| (trial.name.as_str(), trial.passed())).collect();
    assert_eq!(names, [("orchd.gate_test.test_blocked", true), ("orchd.gate_test.test_others", true)]);
}

#[test]
fn a_bundle_whose_tests_fail_is_not_loaded() {
    for data in [r#"{"blocked": ["ann"]}"#, r#"{"blocked": 3}"#, "{}"] {
        let folder = bundle(&[POLICY, TEST, ("data.json", data)]);
        let error = PolicySet::load(&unsigned(folder.path()), RULE).unwrap_err();
        assert!(
            matches!(&error, PolicyError::Failed(_)) && error.to_string().contains("test_"),
            "{data}: {error}"
        );
        assert!(trials(&unsigned(folder.path()), RULE).unwrap().iter().any(|trial| !trial.passed()));
    }
}

#[test]
fn a_bundle_that_cannot_be_read_is_not_loaded() {
    let wrong_data = bundle(&[POLICY, ("data.json", "[]")]);
    let no_text = bundle(&[POLICY]);
    fs::write(no_text.path().join("b.rego"), [0xff, 0xfe]).unwrap();
    // The rule stands in a test file only.
    let only_tests = bundle(&[("a_test.rego", POLICY.1)]);
    let empty = bundle(&[]);
    for folder in [&wrong_data, &no_text, &only_tests, &empty] {
        assert!(PolicySet::load(&unsigned(folder.path()), RULE).is_err());
    }
    assert!(PolicySet::load(&unsigned(&empty.path().join("missing")), RULE).is_err());
}

#[test]
fn a_policy_that_stands_where_nothing_is_read_is_refused_and_not_left_out() {
    let misplaced = |name: &str| {
        let folder = bundle(&[POLICY, DATA]);
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, POLICY.1).unwrap();
        (PolicySet::load(&unsigned(folder.path()), RULE), path)
    };
    for name in
        ["sub/more.rego", "a/b/c/data.json", "sub/more_test.rego", "data.yaml", "data.yml", "sub/data.yaml"]
    {
        let (loaded, path) = misplaced(name);
        assert!(matches!(loaded, Err(PolicyError::Misplaced(found)) if found == path), "{name}");
    }
    assert!(matches!(misplaced("1/2/3/4/5/6/7/8/9/10/11/x.rego").0, Err(PolicyError::TooLarge)));
    // What opa would not take for a policy either, and what is hidden.
    for name in ["sub/README.md", ".git/x.rego", "sub/.x.rego", "values.yaml"] {
        assert!(misplaced(name).0.is_ok(), "{name}");
    }
}

#[test]
fn a_pipe_in_a_bundle_is_not_waited_for() {
    let folder = bundle(&[POLICY, DATA]);
    let (mode, kind) = (rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("b.rego"), kind, mode, 0).unwrap();
    assert!(matches!(PolicySet::load(&unsigned(folder.path()), RULE), Err(PolicyError::Unreadable { .. })));
}

#[test]
fn what_stands_in_a_test_file_does_not_run() {
    let folder = bundle(&[
        ("a.rego", "package orchd.gate\ndeny if input.a == 1"),
        (
            "b_test.rego",
            "package orchd.gate\ndeny if input.a == 2\ntest_both if { deny with input as {\"a\": 2} }",
        ),
    ]);
    let set = PolicySet::load(&unsigned(folder.path()), RULE).unwrap();
    assert!(!set.evaluate(&json!({ "a": 2 })).unwrap().holds);
    assert!(set.evaluate(&json!({ "a": 1 })).unwrap().holds);
}

#[test]
fn many_evaluate_at_a_time() {
    let set = compile("deny if input.n % 2 == 1").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let set = &set;
            scope.spawn(move || {
                for n in 0..100 {
                    let n = n * 4 + thread;
                    assert_eq!(set.evaluate(&json!({ "n": n })).unwrap().holds, n % 2 == 1);
                }
            });
        }
    });
}

/// Believes every JWT that it was told, and takes what it was told for what it says.
struct Believes(serde_json::Value);

impl Signer for Believes {
    fn read(&self, jwt: &str) -> Option<serde_json::Value> {
        (jwt == "good").then(|| self.0.clone())
    }
}

fn sha256(text: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_signed_bundle_is_loaded_only_as_it_was_signed() {
    const GOOD: &str = r#"{"signatures": ["good"]}"#;
    let data = ("data.json", "{ \"name\": \"ü <b>\", \"blocked\": [ \"eve\", 1.5, null ] }");
    // OPA hashes the meaning of data, sorted and without blanks, and other files as they are.
    let of_data = sha256("{\"blocked\":[\"eve\",1.5,null],\"name\":\"ü <b>\"}");
    let listed = |policy: &str| {
        json!({ "files": [
            { "name": ".manifest", "hash": "00", "algorithm": "MD5" },
            { "name": "data.json", "hash": of_data, "algorithm": "SHA-256" },
            { "name": POLICY.0, "hash": sha256(policy) },
        ] })
    };
    let load = |files: &[(&str, &str)], signed: serde_json::Value| {
        let folder = bundle(files);
        let signed_by: Option<std::sync::Arc<dyn Signer>> = Some(std::sync::Arc::new(Believes(signed)));
        let source = BundleSource { folder: folder.path().to_owned(), signed_by };
        assert_eq!(PolicySet::load(&source, RULE).is_ok(), trials(&source, RULE).is_ok());
        PolicySet::load(&source, RULE).map(drop)
    };
    let signatures = (".signatures.json", GOOD);
    assert!(load(&[POLICY, data, signatures], listed(POLICY.1)).is_ok());
    let mut no_data = listed("package orchd.gate\ndeny if input.a");
    no_data["files"][1]["hash"] = json!(sha256("{}"));
    assert!(load(&[(POLICY.0, "package orchd.gate\ndeny if input.a"), signatures], no_data).is_ok());
    let other = format!("{}\n", POLICY.1);
    let mut sub = listed(POLICY.1);
    sub["files"][0]["name"] = json!("more/b.rego");
    let mut twice = listed(POLICY.1);
    twice["files"][0]["name"] = json!("data.json");
    for (files, signed, says) in [
        (vec![POLICY, data], listed(POLICY.1), "no .signatures.json"),
        (vec![POLICY, data, (".signatures.json", "[]")], listed(POLICY.1), "no object"),
        (
            vec![POLICY, data, (".signatures.json", r#"{"signatures": []}"#)],
            listed(POLICY.1),
            "one signature",
        ),
        (
            vec![POLICY, data, (".signatures.json", r#"{"signatures": ["bad"]}"#)],
            listed(POLICY.1),
            "not that of",
        ),
        (vec![POLICY, data, signatures], json!({}), "no list of `files`"),
        (vec![(POLICY.0, &other), data, signatures], listed(POLICY.1), "a.rego is not as it was signed"),
        (
            vec![POLICY, ("data.json", "{}"), signatures],
            listed(POLICY.1),
            "data.json is not as it was signed",
        ),
        (vec![POLICY, data, TEST, signatures], listed(POLICY.1), "a_test.rego is not signed"),
        (vec![data, signatures], listed(POLICY.1), "a.rego is signed, and not in the bundle"),
        (vec![POLICY, data, signatures], sub, "more/b.rego is signed"),
        (vec![POLICY, data, signatures], twice, "twice"),
    ] {
        let error = load(&files, signed).unwrap_err();
        assert!(matches!(&error, PolicyError::Signature(reason) if reason.contains(says)), "{says}: {error}");
    }
}
