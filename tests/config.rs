//! The built program, as an operator uses it on a configuration: `config`, `init`, `completions`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program, with an environment that holds nothing of this machine.
fn orchd(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchd"));
    command.current_dir(folder).env_clear().env("NO_COLOR", "1");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    orchd(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("orchd.toml"), text).unwrap();
    folder
}

#[test]
fn check_lists_every_mistake_with_file_line_key_and_remedy_and_ends_in_2() {
    let folder = folder_with("[node]\nname = \"a b\"\n[broker]\nulr = \"mqtts://b\"\nkeep_alive_s = 1\n");
    let output =
        run(folder.path(), &["config", "check", "--config", "orchd.toml", "--set", "log.fromat=json"]);
    assert_eq!(code(&output), 2);
    let lines: Vec<_> = err(&output).lines().collect();
    for (at, start) in [
        "orchd.toml:2: node.name: `a b` cannot be used; use 1 to 64 letters",
        "orchd.toml:3: broker.url: is missing; write url = ",
        "orchd.toml:4: broker.ulr: there is no such key; did you mean `broker.url`?",
        "orchd.toml:5: broker.keep_alive_s: 1 is out of range; use 5 to 3600 s",
        "--set log.fromat: log.fromat: there is no such key; did you mean `log.format`?",
        "5 mistakes in the configuration",
    ]
    .iter()
    .enumerate()
    {
        assert!(lines[at].starts_with(start), "{lines:#?}");
    }
    assert_eq!(lines.len(), 6);
}

#[test]
fn check_looks_at_the_files_unless_told_not_to() {
    let folder = folder_with("[node]\nname = \"n\"\n[broker]\nurl = \"mqtts://b\"\nca_file = \"ca.pem\"\n");
    let check = ["config", "check", "--config", "orchd.toml"];
    let output = run(folder.path(), &check);
    assert_eq!(code(&output), 2);
    assert!(
        err(&output).starts_with("orchd.toml:5: broker.ca_file: `ca.pem` cannot be read"),
        "{}",
        err(&output)
    );
    assert_eq!(code(&run(folder.path(), &[&check[..], &["--no-files"]].concat())), 0);
    let own = rcgen::generate_simple_self_signed(vec!["b".to_owned()]).unwrap();
    fs::write(folder.path().join("ca.pem"), own.cert.pem()).unwrap();
    let output = run(folder.path(), &check);
    assert_eq!(code(&output), 0, "{}", err(&output));
}

#[test]
fn check_lists_what_is_wrong_in_every_element_and_every_file_whatever_else_is_wrong() {
    let folder = folder_with(
        "[node]\nname = \"n\"\n[broker]\nurl = \"mqtts://b\"\nca_file = \"ca.pem\"\nkeep_alive_s = 1\n[auth]\n\
         broker_permissions = [\"orch/#\", \"\", \"a//b\"]\n[reply]\ntopics = [\"a/#/b\", \"$SYS/#\", 4]\n",
    );
    let output = run(folder.path(), &["config", "check", "--config", "orchd.toml"]);
    assert_eq!(code(&output), 2);
    let lines: Vec<_> = err(&output).lines().collect();
    for (line, start) in lines.iter().zip([
        "orchd.toml:5: broker.ca_file: `ca.pem` cannot be read",
        "orchd.toml:6: broker.keep_alive_s: 1 is out of range",
        "orchd.toml:8: auth.broker_permissions: `` cannot be used",
        "orchd.toml:8: auth.broker_permissions: `a//b` cannot be used",
        "orchd.toml:10: reply.topics: `a/#/b` cannot be used",
        "orchd.toml:10: reply.topics: `$SYS/#` cannot be used",
        "orchd.toml:10: reply.topics: element 3 is a whole number",
        "7 mistakes in the configuration",
    ]) {
        assert!(line.starts_with(start), "{lines:#?}");
    }
    assert_eq!(lines.len(), 8, "{lines:#?}");
}

#[test]
fn a_mistake_in_what_paths_refer_to_hides_no_other_file() {
    for (wrong, own) in [
        ("name = \"a/b\"", "{node}"),
        ("name = \"n\"\nroot = 4", "{root}"),
        ("name = \"n\"\nstate_dir = 4", "{state_dir}"),
    ] {
        let folder = folder_with(&format!(
            "[node]\n{wrong}\n[broker]\nurl = \"mqtts://b\"\nca_file = \"missing.pem\"\n[conscience]\nrules_file = \"{own}.toml\"\n"
        ));
        let output = run(folder.path(), &["config", "check", "--config", "orchd.toml"]);
        let said = err(&output);
        // The file whose name cannot be known is not looked for.
        let both = said.contains(": node.") && said.contains("broker.ca_file: `missing.pem` cannot be read");
        assert!(both && said.ends_with("\n2 mistakes in the configuration\n"), "{said}");
    }
}

/// A configuration that is right but for the file that one key names, and the lines that this key needs.
fn naming(key: &str, value: &str) -> String {
    let (section, name) = key.split_once('.').unwrap();
    let mut sections = std::collections::BTreeMap::from([
        ("node", "name = \"n\"\nstate_dir = \"state\"\n".to_owned()),
        ("broker", "url = \"mqtts://127.0.0.1:1\"\n".to_owned()),
    ]);
    let besides = match key {
        "broker.client_cert_file" => "client_key_file = \"own.key\"\n",
        "broker.jwt_key_file" => "auth = \"jwt\"\n",
        "broker.password_file" => "auth = \"password\"\nusername = \"u\"\n",
        "phoenix.password_file" => "repository = \"repository\"\n",
        _ => "",
    };
    sections.entry(section).or_default().push_str(&format!("{besides}{name} = {value}\n"));
    sections.iter().map(|(section, lines)| format!("[{section}]\n{lines}")).collect()
}

#[test]
fn a_file_that_cannot_be_used_is_a_mistake_for_check_and_ends_a_start_in_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let own = rcgen::generate_simple_self_signed(vec!["n".to_owned()]).unwrap();
    file("own.key", &own.signing_key.serialize_pem());
    file("junk", "sesame\n");
    file("short", "12345");
    file("empty", "\n");
    fs::create_dir(folder.path().join("policies")).unwrap();
    for (key, value, wrong) in [
        ("broker.client_cert_file", "\"junk\"", "does not hold a PEM block CERTIFICATE"),
        ("broker.ca_file", "\"junk\"", "does not hold a PEM block CERTIFICATE of an authority"),
        ("auth.trusted_key_files", "[\"junk\"]", "expected a public key in a PEM block"),
        ("auth.jwks_file", "\"junk\"", "expected a JWKS"),
        ("conscience.rules_file", "\"junk\"", "`junk`: "),
        ("auth.hs256_secret_file", "\"short\"", "expected a secret of 32 bytes or more"),
        ("broker.jwt_key_file", "\"junk\"", "expected an Ed25519 private key"),
        ("policy.folder", "\"policies\"", "no policy has the rule"),
        ("broker.password_file", "\"empty\"", "`empty` is empty"),
        ("phoenix.password_file", "\"empty\"", "`empty` is empty"),
        ("memory.s3_ca_file", "\"junk\"", "does not hold a PEM block CERTIFICATE of an authority"),
        ("memory.s3_credentials_file", "\"empty\"", "`empty` is empty"),
        ("node.key_file", "\"junk\"", "junk"),
    ] {
        file("orchd.toml", &naming(key, value));
        for command in
            [&["config", "check", "--config", "orchd.toml"][..], &["run", "--config", "orchd.toml"]]
        {
            let output = run(folder.path(), command);
            let told = err(&output);
            assert_eq!(code(&output), 2, "{command:?} {key}: {told}");
            assert!(told.contains(key) && told.contains(wrong) && !told.contains("sesame"), "{key}: {told}");
            assert!(told.ends_with("1 mistake in the configuration\n"), "{key}: {told}");
        }
        assert!(!folder.path().join("state").exists(), "{key}: nothing was begun");
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (mode, kind) = (rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("pipe"), kind, mode, 0).unwrap();
    fs::write(folder.path().join("orchd.toml"), naming("broker.password_file", "\"pipe\"")).unwrap();
    for (config, told) in
        [("orchd.toml", "broker.password_file: `pipe`"), ("/dev/zero", "/dev/zero"), ("pipe", "pipe")]
    {
        let output = run(folder.path(), &["config", "check", "--config", config]);
        assert_eq!(code(&output), 2, "{}", err(&output));
        assert!(err(&output).contains(told) && err(&output).contains("not a file"), "{}", err(&output));
    }
}

#[test]
fn a_credential_is_missed_only_by_who_reads_it() {
    let folder = folder_with(
        "[node]\nname = \"n\"\nstate_dir = \"state\"\n[broker]\nurl = \"mqtts://b\"\nauth = \"password\"\nusername = \"u\"\n\
         password_file = \"credential:mqtt\"\n",
    );
    let with = |words: &[&str]| run(folder.path(), &[words, &["--config", "orchd.toml"]].concat());
    let checked = with(&["config", "check"]);
    assert_eq!(code(&checked), 0, "{}", err(&checked));
    assert!(err(&checked).starts_with("orchd.toml:8: warning: broker.password_file: "), "{}", err(&checked));
    let shown = with(&["config", "show"]);
    assert_eq!(code(&shown), 0, "{}", err(&shown));
    assert!(out(&shown).contains("password_file = \"credential:mqtt\""), "{}", out(&shown));
    // What needs no secret goes on to what it is about: here there is no node, and no state.
    for words in [&["ping"][..], &["keys", "list"], &["backup", "list"]] {
        assert_eq!(code(&with(words)), 4, "{words:?}: {}", err(&with(words)));
    }
    for words in [&["ledger", "verify"][..], &["ledger", "rollback"], &["audit", "verify"]] {
        let output = with(words);
        assert_eq!(code(&output), 1, "{words:?}: {}", err(&output));
        assert!(!err(&output).contains("CREDENTIALS_DIRECTORY"), "{}", err(&output));
    }
    let refused = with(&["run"]);
    assert_eq!(code(&refused), 2);
    assert!(err(&refused).contains("$CREDENTIALS_DIRECTORY is not set"), "{}", err(&refused));
    assert!(!folder.path().join("state").exists());
    // In the unit it has to be there.
    let mut command = orchd(folder.path());
    command.env("CREDENTIALS_DIRECTORY", folder.path()).args(["config", "check", "--config", "orchd.toml"]);
    let missing = command.output().unwrap();
    assert_eq!(code(&missing), 2);
    assert!(err(&missing).contains("/mqtt` cannot be read"), "{}", err(&missing));
    fs::write(folder.path().join("mqtt"), "hunter2").unwrap();
    fs::set_permissions(folder.path().join("mqtt"), fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(code(&command.output().unwrap()), 0);
}

#[test]
fn without_any_configuration_the_missing_flag_is_named() {
    if Path::new("/etc/orchd/orchd.toml").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let restore = "backup restore latest --stopped --repository x --password-file y";
    for (words, flag) in [
        ("policy test", "--folder"),
        ("backup list --stopped --repository x", "--password-file"),
        ("backup list --stopped --password-file y", "--repository"),
        ("backup show --stopped", "--repository and --password-file"),
        (restore, "--state-dir"),
        ("backup release --pending --stopped", "--state-dir"),
    ] {
        let output = run(folder.path(), &words.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&output), 2, "{words}");
        assert!(
            err(&output).contains(flag) && !err(&output).contains("broker.url"),
            "{words}: {}",
            err(&output)
        );
    }
}

#[test]
fn a_configuration_that_cannot_be_read_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["config", "check", "--config", "none.toml"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("none.toml") && err(&output).contains("orchd init"), "{}", err(&output));
}

#[test]
fn without_a_file_what_is_missing_can_come_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = orchd(folder.path());
    command.args(["config", "check", "--set", "node.name=n"]);
    let output = command.output().unwrap();
    // A machine that has a configuration of its own is checked on that one instead.
    let has_its_own = Path::new("/etc/orchd/orchd.toml").exists();
    assert!(
        has_its_own || err(&output).starts_with("(no configuration file): broker.url"),
        "{}",
        err(&output)
    );
    assert_eq!(code(&command.env("ORCHD_BROKER__URL", "mqtts://b").output().unwrap()), 0);
}

#[test]
fn show_prints_values_with_their_sources_and_never_a_secret() {
    let folder = folder_with(
        "[node]\nname = \"n1\"\n[broker]\nurl = \"mqtts://b\"\nauth = \"password\"\nusername = \"u\"\npassword_file = \"pw\"\n",
    );
    fs::write(folder.path().join("pw"), "hunter2").unwrap();
    let mut command = orchd(folder.path());
    command.env("ORCHD_CONFIG", "orchd.toml").env("ORCHD_LOG__FILTER", "debug");
    let output = command.args(["config", "show", "--set", "observe.heartbeat_s=5"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    for (line, source) in [
        ("name = \"n1\"", "orchd.toml:2"),
        ("password_file = \"pw\"", "orchd.toml:7; secret, content not shown"),
        ("filter = \"debug\"", "$ORCHD_LOG__FILTER"),
        ("heartbeat_s = 5", "--set observe.heartbeat_s"),
        ("readers = 2", "default"),
    ] {
        let found = out(&output).lines().any(|l| l.starts_with(line) && l.ends_with(&format!("# {source}")));
        assert!(found, "{line}: {}", out(&output));
    }
    assert!(!out(&output).contains("hunter2"));
    // What is shown is itself a configuration with the same values.
    fs::write(folder.path().join("shown.toml"), &output.stdout).unwrap();
    let again = run(folder.path(), &["config", "show", "--config", "shown.toml", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(out(&again)).unwrap();
    assert_eq!(shown["log"]["filter"]["value"], "debug");
    assert_eq!(shown["broker"]["password_file"]["secret"], true);
}

#[test]
fn schema_is_a_json_schema() {
    let output = run(Path::new("/"), &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(out(&output)).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["properties"]["broker"]["required"], serde_json::json!(["url"]));
}

#[test]
fn init_from_flags_writes_what_check_accepts_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(folder.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut init = vec!["init", "--yes", "--name", "n1", "--broker", "mqtts://b:1", "--auth", "jwt"];
    init.extend(["--jwt-key-file", "key.pem", "--out", "first.toml", "--set", "ledger.readers=3"]);
    assert_eq!(code(&run(folder.path(), &init)), 0);
    let written = folder.path().join("first.toml");
    assert_eq!(fs::metadata(&written).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    let output = run(folder.path(), &["config", "check", "--config", "first.toml"]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(fs::read_to_string(&written).unwrap().contains("\nreaders = 3\n"));
    let before = fs::read(&written).unwrap();
    let second = ["init", "--yes", "--name", "n2", "--broker", "mqtts://c", "--out", "first.toml"];
    let refused = run(folder.path(), &second);
    assert_eq!(code(&refused), 2);
    assert!(err(&refused).contains("--force"), "{}", err(&refused));
    assert_eq!(fs::read(&written).unwrap(), before);
    let replaced = run(folder.path(), &[&second[..], &["--force"]].concat());
    assert_eq!(code(&replaced), 0, "{}", err(&replaced));
    assert!(fs::read_to_string(&written).unwrap().contains("\nname = \"n2\"\n"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
}

#[test]
fn init_asks_for_what_no_flag_gave() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = orchd(folder.path())
        .args(["init", "--name", "n1"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\nmqtts://broker\n\n\n\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(err(&output).contains("This one is needed."));
    assert_eq!(code(&run(folder.path(), &["config", "check", "--config", "orchd.toml"])), 0);
}

#[test]
fn init_asks_again_for_what_is_wrong_where_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        orchd(folder.path()).arg("init").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let answers = b"bad name\nn1\nhttp://x\nmqtts://broker\n\nsmoke\nnone\n/tmp/state\n";
    child.stdin.take().unwrap().write_all(answers).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    let written = fs::read_to_string(folder.path().join("orchd.toml")).unwrap();
    assert!(
        written.contains("\nname = \"n1\"\n") && written.contains("\nurl = \"mqtts://broker\"\n"),
        "{written}"
    );
    for key in ["node.name", "broker.url", "broker.auth"] {
        assert!(err(&output).contains(key), "{key}: {}", err(&output));
    }
}

#[test]
fn init_writes_nothing_that_check_would_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["init", "--yes", "--name", "a/b", "--broker", "http://b"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("node.name") && err(&output).contains("broker.url"), "{}", err(&output));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn completions_are_scripts_that_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(Path::new("/"), &["completions", shell]);
        assert!(code(&output) == 0 && out(&output).contains("completions"), "{shell}");
    }
    assert_eq!(code(&run(Path::new("/"), &["completions", "cobol"])), 2);
}

#[test]
fn help_and_version_are_answers_and_unknown_arguments_are_not() {
    for (arguments, expected) in [(&["--help"][..], 0), (&["--version"], 0), (&["--colour"], 2), (&[], 2)] {
        assert_eq!(code(&run(Path::new("/"), arguments)), expected, "{arguments:?}");
    }
}
