//! The unit is one that systemd accepts without a word, and that is shut off from what it does not need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

/// Runs a tool of systemd; `None` where it is not installed, which CI does not accept.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if std::env::var("CI").as_deref() == Ok("true") => panic!("{tool}: {error}"),
        Err(error) => {
            println!("skipped: {tool}: {error}");
            None
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn systemd_verifies_the_unit_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("orchd.service");
    // The program is not installed where tests run; the one that was just built stands for it.
    let text = fs::read_to_string(shipped("orchd.service")).unwrap();
    assert!(text.contains("/usr/bin/orchd"));
    fs::write(&unit, text.replace("/usr/bin/orchd", env!("CARGO_BIN_EXE_orchd"))).unwrap();
    let Some(output) = run("systemd-analyze", &["verify", "--man=no", unit.to_str().unwrap()]) else {
        return;
    };
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
}

#[test]
fn the_unit_is_exposed_to_no_more_than_a_network_program_must_be() {
    let unit = shipped("orchd.service");
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=15", unit.to_str().unwrap()];
    // The threshold is in tenths: above 1.5 the command fails.
    let Some(output) = run("systemd-analyze", &arguments) else { return };
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn user_and_folders_are_made_as_declared() {
    let root = tempfile::tempdir().unwrap();
    let at = format!("--root={}", root.path().display());
    fs::create_dir_all(root.path().join("etc")).unwrap();
    for (name, tool) in [("sysusers", "systemd-sysusers"), ("tmpfiles", "systemd-tmpfiles")] {
        let file = shipped(&format!("orchd.{name}.conf"));
        let placed = root.path().join(format!("usr/lib/{name}.d/orchd.conf"));
        fs::create_dir_all(placed.parent().unwrap()).unwrap();
        fs::copy(file, &placed).unwrap();
        // Making the folders needs root; whoever is not root sees at least that the lines can be read.
        let more: &[&str] = if name == "tmpfiles" { &["--create", "--dry-run"] } else { &["--dry-run"] };
        let more = if name == "tmpfiles" && !understands_dry_run(tool) { &["--cat-config"] } else { more };
        let arguments: Vec<_> = [at.as_str()].into_iter().chain(more.iter().copied()).collect();
        let Some(output) = run(tool, &arguments) else { return };
        let said = said(&output);
        assert!(output.status.success() && said.contains("orchd"), "{tool}: {said}");
    }
}

/// `systemd-tmpfiles --dry-run` came with systemd 256.
fn understands_dry_run(tool: &str) -> bool {
    run(tool, &["--help"]).is_some_and(|output| said(&output).contains("--dry-run"))
}
