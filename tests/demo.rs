//! `orchd demo` as a newcomer meets it: a tour that ends well, commands that can be pasted, a clean end.

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

fn orchd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.env_remove("ORCHD_PROFILE").env_remove("ORCHD_CONFIG");
    command
}

#[test]
fn the_tour_ends_well_and_leaves_a_profile() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let out = orchd()
            .args(["demo", "--once", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
        for shown in
            ["conscience/evaluate", "memory/store", "memory/query", "events/heartbeat", "Every step worked."]
        {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
    }
    assert!(dir.path().join("client.toml").exists());
}

#[test]
fn a_port_that_is_taken_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = orchd()
        .args(["demo", "--once", "--listen", &taken.local_addr().unwrap().to_string(), "--dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let error = String::from_utf8(out.stderr).unwrap();
    assert!(error.contains("--listen"), "{error}");
}

/// A demo that stays up; killed when the test ends early.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_commands_it_prints_work_when_pasted_and_ctrl_c_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let child = orchd()
        .args(["demo", "--listen", "127.0.0.1:0", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut demo = Demo(child);
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    // The last command that is printed asks for the health.
    let printed: Vec<String> = lines.by_ref().take_while(|line| !line.contains("/health/ready")).collect();
    let profile =
        printed.iter().find_map(|line| line.trim().strip_prefix("export ")).expect("the profile is named");
    let program = env!("CARGO_BIN_EXE_orchd");
    let mut pasted = 0;
    for line in printed.iter().map(|line| line.trim()) {
        let tool = line.split(' ').next().unwrap_or_default();
        let ours = tool == program && !line.ends_with("watch");
        let theirs = ["mosquitto_pub", "mosquitto_rr"].contains(&tool) && support::tool(tool).is_some();
        if !(ours || theirs) {
            continue;
        }
        let out = Command::new("bash").arg("-c").arg(format!("export {profile}\n{line}")).output().unwrap();
        let code = out.status.code();
        // The action that it evaluates is one that is not approved.
        let expected = if ours && line.contains("evaluate") { Some(10) } else { Some(0) };
        assert_eq!(code, expected, "{line}\n{}", String::from_utf8_lossy(&out.stderr));
        pasted += 1;
    }
    assert!(pasted >= 5, "{printed:#?}");
    let pid = Pid::from_child(&demo.0);
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
}
