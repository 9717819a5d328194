//! Programs that tests run besides `orchd`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool;

/// An interpreter that has paho; `None` when there is none.
pub fn python() -> Option<PathBuf> {
    let has_paho = |python: &Path| {
        let probe = Command::new(python).args(["-c", "import paho.mqtt.client"]).output();
        probe.is_ok_and(|output| output.status.success())
    };
    // Debian's own comes first: it is the one that python3-paho-mqtt is for.
    let mut candidates = vec![PathBuf::from("/usr/bin/python3")];
    candidates.extend(tool("python3"));
    let found = candidates.into_iter().find(|python| has_paho(python));
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "python3-paho-mqtt is required in CI");
        eprintln!("skipped: python3-paho-mqtt is not installed");
    }
    found
}

/// A program of `examples/`.
pub async fn rust_example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    if !program.is_file() {
        // Only a run of all tests builds the examples too.
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--locked", "--example", name]);
        let built = tokio::task::spawn_blocking(move || build.output()).await.unwrap().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    program
}
