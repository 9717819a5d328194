//! `orchd demo` as a newcomer meets it: a tour that ends well, commands that can be pasted, a clean end.

mod support;

use std::io::{BufRead, BufReader, Read};
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
fn it_listens_on_whatever_address_of_this_machine_it_is_told() {
    for listen in ["127.0.0.2:0", "[::1]:0", "0.0.0.0:0"] {
        if std::net::TcpListener::bind(listen).is_err() {
            println!("skipped: this machine has no {listen}");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let out =
            orchd().args(["demo", "--once", "--listen", listen, "--dir"]).arg(dir.path()).output().unwrap();
        assert!(out.status.success(), "{listen}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn it_replaces_no_configuration_that_it_has_not_written() {
    for name in ["orchd.toml", "client.toml"] {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join(name);
        std::fs::write(&theirs, "x").unwrap();
        let out = orchd()
            .args(["demo", "--once", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .output()
            .unwrap();
        let error = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(1) && error.contains(name) && error.contains("--dir"), "{error}");
        assert_eq!(std::fs::read_to_string(&theirs).unwrap(), "x");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else was made");
    }
}

#[test]
fn a_tour_that_nobody_can_read_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = orchd()
        .args(["demo", "--once", "--listen", "127.0.0.1:0", "--dir"])
        .arg(dir.path())
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
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
        .args(["demo", "--listen", "127.0.0.2:0", "--dir"])
        // As a shell would not take it unasked.
        .arg(dir.path().join("it's a $demo"))
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

#[test]
fn ctrl_c_during_the_tour_ends_it() {
    for once in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = orchd();
        command
            .args(["demo", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .args(once.then_some("--once"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut demo = Demo(child);
        let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.next().expect("the introduction");
        kill_process(Pid::from_child(&demo.0), Signal::INT).unwrap();
        let rest: Vec<String> = lines.collect();
        let mut error = String::new();
        demo.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(!rest.iter().any(|line| line.contains("Every step worked.")), "{rest:#?}");
        assert_eq!(error.contains("interrupted"), once, "{error}");
        assert_eq!(demo.0.wait().unwrap().code(), Some(i32::from(once)));
    }
}
