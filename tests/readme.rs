//! What the documents tell people to run and to read is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and every document, by path.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths =
        vec![root().join("README.md"), root().join("CHANGELOG.md"), root().join("certs-example/README.md")];
    for folder in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The commands in the `sh` blocks of `text`, with continued lines joined.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    for line in text.replace("\\\n", " ").lines().map(str::trim) {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            commands.extend(line.split("&&").map(|part| part.trim().to_owned()));
        }
    }
    commands
}

#[test]
fn every_orchd_command_in_the_documents_is_one_that_orchd_knows() {
    let mut asked = BTreeSet::new();
    for (path, text) in documents() {
        for command in commands(&text) {
            let words =
                command.strip_prefix("cargo run --release -- ").or_else(|| command.strip_prefix("orchd "));
            let Some(words) = words.map(|words| words.split_whitespace().collect::<Vec<_>>()) else {
                continue;
            };
            // These have subcommands of their own.
            let groups = [
                "audit",
                "certs",
                "backup",
                "config",
                "decisions",
                "keys",
                "ledger",
                "memory",
                "policy",
                "reviews",
                "rules",
                "schedule",
                "soul",
                "token",
                "topics",
            ];
            let depth =
                if groups.contains(&words[0]) && words.get(1).is_some_and(|word| !word.starts_with("--")) {
                    2
                } else {
                    1
                };
            let known: Vec<String> = words[..depth].iter().map(ToString::to_string).collect();
            let flags = words.iter().filter(|word| word.starts_with("--"));
            asked.insert((path.clone(), known, flags.map(ToString::to_string).collect::<Vec<_>>()));
        }
    }
    assert!(asked.len() > 15, "the documents hold fewer commands than they should: {asked:?}");
    for (path, words, flags) in asked {
        let output = Command::new(env!("CARGO_BIN_EXE_orchd")).args(&words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{}: orchd {}", path.display(), words.join(" "));
        let help = String::from_utf8(output.stdout).unwrap();
        for flag in flags {
            let there = help.split(|c: char| c.is_whitespace() || c == ',').any(|word| word == flag);
            assert!(there, "{}: orchd {} has no {flag}", path.display(), words.join(" "));
        }
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                let anchor = |line: &str| line.trim_matches(['#', ' ']).to_lowercase().replace(' ', "-");
                assert!(headings.map(anchor).any(|found| found == heading), "{}: {link}", path.display());
            }
        }
    }
}

#[test]
fn every_test_that_the_promises_name_exists() {
    let text = fs::read_to_string(root().join("docs/delivery.md")).unwrap();
    let mut file = None;
    for quoted in text.split('`').skip(1).step_by(2) {
        if quoted.ends_with(".rs") {
            let path = if quoted.starts_with("src/") || quoted.starts_with("tests/") {
                root().join(quoted)
            } else {
                root().join("tests").join(quoted)
            };
            file = path.exists().then_some(path);
            continue;
        }
        let is_test = quoted.contains('_') && quoted.len() > 24;
        if let (true, Some(path)) = (is_test, &file) {
            let source = fs::read_to_string(path).unwrap();
            assert!(source.contains(&format!("fn {quoted}(")), "{} has no test {quoted}", path.display());
        }
    }
}
