//! Promises of the configuration as a whole.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "[node]\nname = \"n1\"\n[broker]\nurl = \"mqtts://b\"\n";

fn minimal_with(rest: &str) -> String {
    // The keys of [node] and [broker] can be written anywhere with their dotted form at the top.
    format!("node.name = \"n1\"\nbroker.url = \"mqtts://b\"\n{rest}")
}

fn mistakes(text: &str) -> Vec<Mistake> {
    Config::from_toml(text).err().unwrap_or_default()
}

fn line(mistake: &Mistake) -> usize {
    match mistake.origin {
        Origin::File { line, .. } => line,
        ref other => panic!("no line: {other}"),
    }
}

#[test]
fn a_minimal_file_gives_the_documented_defaults() {
    let config = Config::from_toml(MINIMAL).unwrap();
    assert_eq!(config.node.root, "orch");
    assert_eq!(config.node.state_dir, Path::new("/var/lib/orchd"));
    assert_eq!(config.broker.url, BrokerUrl { tls: true, host: "b".into(), port: 8883 });
    assert_eq!(config.broker.client_id, "orchd-orch-n1");
    assert_eq!(config.broker.keep_alive, Duration::from_secs(30));
    assert_eq!(config.broker.reconnect_min, Duration::from_millis(500));
    assert_eq!(config.broker.login(), Login::None);
    assert_eq!(config.limits.inbox, Duration::from_secs(86_400));
    assert!(config.reply.topics.is_empty());
    assert_eq!((config.auth.mode, config.auth.broker_permissions.len()), (AuthMode::Broker, 3));
    assert_eq!(config.auth.broker_permissions[0], "orch/n1/#");
    assert_eq!(config.control.socket, Path::new("/var/lib/orchd/control.sock"));
    assert_eq!(config.observe.listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.conscience.refuse_below, -0.25);
    assert_eq!(config.log.format, LogFormat::Auto);
    assert_eq!(config.listener.trusted_key_files, Vec::<PathBuf>::new());
}

/// What each mistake is: the text, then line, key, and a part of what would be right.
#[test]
fn every_kind_of_mistake_has_its_line_its_key_and_what_would_be_right() {
    for (text, expected_line, expected_key, right) in [
        ("broker.keep_alive = 30", 3, "broker.keep_alive", "did you mean `broker.keep_alive_s`?"),
        ("[limits]\nreeds_in_flight = 3", 4, "limits.reeds_in_flight", "`limits.reads_in_flight`"),
        ("[brokr]\nauth = \"none\"", 4, "brokr", "did you mean [broker]?"),
        ("[colour]\na = 1", 4, "colour", "the sections are node, broker"),
        ("limits.xyzzy_plugh = 1", 3, "limits.xyzzy_plugh", "the keys of [limits] are max_packet_bytes"),
        ("username = \"me\"", 3, "username", "did you mean `broker.username`?"),
        ("log = \"info\"", 3, "log", "write [log] on a line of its own"),
        ("[[log]]\nfilter = \"info\"", 3, "log", "write [log] on a line of its own"),
        ("broker.password = \"hunter2\"", 3, "broker.password", "`broker.password_file`"),
        ("\n[broker.tls]\nca_file = \"x\"", 5, "broker.tls.ca_file", "`broker.ca_file`"),
        ("limits.readers = \"many\"", 3, "limits.readers", "`ledger.readers`"),
        ("ledger.readers = \"many\"", 3, "ledger.readers", "use 1 to 16"),
        ("ledger.readers = 17", 3, "ledger.readers", "use 1 to 16"),
        ("ledger.readers = 99999999999999999999999", 3, "ledger.readers", "use 1 to 16"),
        ("ledger.readers = 2.5", 3, "ledger.readers", "use 1 to 16"),
        ("broker.keep_alive_s = -1", 3, "broker.keep_alive_s", "use 5 to 3600 s"),
        ("conscience.approve_at = nan", 3, "conscience.approve_at", "use -1.0 to 1.0"),
        ("node.start_offline = \"yes\"", 3, "node.start_offline", "use `true` or `false`"),
        ("node.root = \"a/b\"", 3, "node.root", "use 1 to 64 letters"),
        ("log.format = \"jsn\"", 3, "log.format", "did you mean `json`?"),
        ("log.filter = \"a=b=c\"", 3, "log.filter", "write a level"),
        ("reply.topics = [\"a/#/b\"]", 3, "reply.topics", "`#` at the end"),
        ("auth.mode = \"open\"", 3, "auth.mode", "on this machine"),
        ("auth.mode = \"maybe\"", 3, "auth.mode", "required"),
        ("auth.broker_permissions = [\"a//b\"]", 3, "auth.broker_permissions", "levels are names"),
        ("auth.issuer = \"a b\"", 3, "auth.issuer", "without spaces"),
        ("reply.topics = \"a\"", 3, "reply.topics", "list of texts in [ ]"),
        ("reply.topics = [1]", 3, "reply.topics", "list of texts in [ ]"),
        ("observe.listen = \"0.0.0.0:9464\"", 3, "observe.listen", "`127.0.0.1:9464`"),
        ("listener.address = \"localhost\"", 3, "listener.address", "an IP address and a port"),
        ("broker.ca_file = \"\"", 3, "broker.ca_file", "write a path"),
        ("broker.ca_file = 2026-01-01", 3, "broker.ca_file", "write a path"),
        ("broker.client_cert_file = \"a\"", 3, "broker.client_cert_file", "set broker.client_key_file too"),
        ("listener.key_file = \"a\"", 3, "listener.key_file", "set listener.cert_file too"),
        ("broker.auth = \"jwt\"", 2, "broker.jwt_key_file", "set it, or choose another broker.auth"),
        ("broker.username = \"u\"", 3, "broker.username", "set broker.auth = \"password\""),
        ("broker.jwt_key_file = \"u\"", 3, "broker.jwt_key_file", "set broker.auth = \"jwt\""),
        (
            "conscience.refuse_below = 0.5",
            3,
            "conscience.refuse_below",
            "no larger than conscience.approve_at",
        ),
        ("limits.max_packet_bytes = 4096", 3, "limits.max_packet_bytes", "no larger than"),
        (
            "broker.reconnect_max_s = 1\nbroker.reconnect_min_ms = 1001",
            4,
            "broker.reconnect_min_ms",
            "no larger",
        ),
        ("broker.jwt_key_file = \"credential:a/b\"", 3, "broker.jwt_key_file", "`credential:NAME`"),
        ("broker.jwt_key_file = \"\"\"-----BEGIN\nKEY\"\"\"", 3, "broker.jwt_key_file", "write its path"),
        ("node.root = \"orch\"\nnode.root = \"b\"", 4, "node.root", "keep one of the two"),
        ("[log]\nfilter = \"info\"\nfilter = \"warn\"", 5, "log.filter", "keep one of the two"),
        ("[log]\nfilter = info", 4, "log.filter", "texts stand in quotes"),
        ("[log]\nfilter = \"info", 4, "log.filter", "texts stand in quotes"),
    ] {
        let found = mistakes(&minimal_with(text));
        let first = found.iter().find(|m| m.key == expected_key);
        let Some(mistake) = first else { panic!("{text}: {found:#?}") };
        assert_eq!(line(mistake), expected_line, "{text}: {mistake}");
        assert!(mistake.right.contains(right), "{text}: {mistake}");
        assert!(!mistake.to_string().contains("hunter2") && !mistake.to_string().contains("BEGIN"));
    }
}

#[test]
fn what_is_missing_is_reported_in_its_section() {
    let found = mistakes("# nothing\n\n[broker]\nauth = \"none\"\n");
    let shown: Vec<_> = found.iter().map(|m| (line(m), m.key.as_str(), m.right.as_str())).collect();
    assert_eq!(
        shown,
        [
            (1, "node.name", "write name = \"node-7\" below [node]"),
            (3, "broker.url", "write url = \"mqtts://broker.example.org:8883\" below [broker]"),
        ]
    );
}

#[test]
fn all_mistakes_are_found_at_once_in_the_order_of_their_lines() {
    let text = "\
[node]
name = \"all\"
colour = 1
[broker]
keep_alive_s = 1
auth = \"password\"
[log]
format = \"xml\"
";
    let mut sources = Sources::toml(text);
    sources.environment.insert("ORCHD_LOG__FILTR".into(), "info".into());
    sources.flags.push("ledger.readers".into());
    let found = Config::load(&sources).unwrap_err();
    let keys: Vec<_> = found.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "node.name",
            "node.colour",
            "broker.url",
            "broker.username",
            "broker.password_file",
            "broker.keep_alive_s",
            "log.format",
            "log.filtr",
            "",
        ],
        "{found:#?}"
    );
}

#[test]
fn a_syntax_error_hides_no_other_mistake_and_invents_none() {
    let found = mistakes("[node]\nname = \"n1\"\n[log]\nfilter = \"info\nformat = \"xml\"\n");
    assert!(found.iter().any(|m| m.key == "log.filter" && line(m) == 4), "{found:#?}");
    assert!(found.iter().all(|m| m.key != "broker.url"), "{found:#?}");
}

#[test]
fn later_sources_win_and_each_value_knows_its_own() {
    let mut sources = Sources::toml(format!("{MINIMAL}keep_alive_s = 40\n[log]\nfilter = \"warn\"\n"));
    sources.environment.insert("ORCHD_BROKER__KEEP_ALIVE_S".into(), "50".into());
    sources.environment.insert("ORCHD_REPLY__TOPICS".into(), "{root}/a, b/#".into());
    sources.environment.insert("ORCHD_PROFILE".into(), "not a key".into());
    sources.environment.insert("STATE_DIRECTORY".into(), "/state:/other".into());
    sources.flags.push("broker.keep_alive_s=60".into());
    sources.flags.push("node.name=n2".into());
    let (config, provenance) = Config::load(&sources).unwrap();
    assert_eq!(config.broker.keep_alive, Duration::from_secs(60));
    assert_eq!(config.reply.topics, ["orch/a", "b/#"]);
    assert_eq!(config.broker.client_id, "orchd-orch-n2");
    assert_eq!(config.control.socket, Path::new("/state/control.sock"));
    let origin = |key: &str| provenance.get(key).unwrap().origin.to_string();
    assert_eq!(origin("broker.keep_alive_s"), "--set broker.keep_alive_s");
    assert_eq!(origin("log.filter"), "orchd.toml:7");
    assert_eq!(origin("reply.topics"), "$ORCHD_REPLY__TOPICS");
    assert_eq!(origin("node.state_dir"), "$STATE_DIRECTORY");
    assert_eq!(origin("ledger.readers"), "default");
}

#[test]
fn every_key_can_be_set_by_its_environment_variable() {
    for key in keys() {
        let mut sources = Sources::toml(MINIMAL);
        let sample = key.sample_toml();
        let plain = sample.trim_matches(['[', ']']).replace('"', "");
        sources.environment.insert(key.variable(), plain);
        let found = Config::load(&sources).err().unwrap_or_default();
        // Some keys need others; none may be refused for its value.
        let refused = found.iter().any(|m| m.wrong.contains("cannot") || m.wrong.contains("no such"));
        assert!(!refused, "{}: {found:#?}", key.path);
    }
}

#[test]
fn one_underscore_too_few_is_noticed_and_foreign_variables_are_not() {
    let mut sources = Sources::toml(MINIMAL);
    sources.environment.insert("ORCHD_SERVICE_HOST".into(), "10.0.0.1".into());
    assert!(Config::load(&sources).is_ok());
    sources.environment.insert("ORCHD_BROKER_URL".into(), "mqtts://x".into());
    let found = Config::load(&sources).unwrap_err();
    assert!(found[0].right.contains("ORCHD_BROKER__URL"), "{found:?}");
}

#[test]
fn the_host_name_names_the_node_where_it_can() {
    let mut sources = Sources::toml("[broker]\nurl = \"mqtts://b\"\n");
    sources.hostname = Some("host-1.example.org".into());
    let (config, provenance) = Config::load(&sources).unwrap();
    assert_eq!(config.node.name, "host-1.example.org");
    assert_eq!(provenance.get("node.name").unwrap().origin, Origin::Hostname);
    sources.hostname = Some("no name".into());
    assert_eq!(Config::load(&sources).unwrap_err()[0].key, "node.name");
}

#[test]
fn paths_start_from_the_folder_of_the_file_and_credentials_from_theirs() {
    let text =
        format!("{MINIMAL}auth = \"jwt\"\njwt_key_file = \"credential:key\"\nca_file = \"{{node}}.pem\"\n");
    let mut sources = Sources { path: "/etc/orchd/orchd.toml".into(), ..Sources::toml(text) };
    sources.environment.insert("CREDENTIALS_DIRECTORY".into(), "/run/credentials/orchd".into());
    let (config, provenance) = Config::load(&sources).unwrap();
    assert_eq!(config.broker.ca_file.as_deref(), Some(Path::new("/etc/orchd/n1.pem")));
    assert_eq!(config.broker.login(), Login::Jwt(None, Path::new("/run/credentials/orchd/key")));
    assert!(show(&provenance).contains("secret, content not shown"));
    assert_eq!(show_json(&provenance)["broker"]["jwt_key_file"]["secret"], true);
    assert!(check_credentials(&provenance, Role::Node).is_empty());
}

#[test]
fn credentials_are_missed_only_by_who_reads_them() {
    let text = "[node]\nname = \"n1\"\n[broker]\nurl = \"mqtts://b\"\nauth = \"jwt\"\n\
                jwt_key_file = \"credential:key\"\n[listener]\nkey_file = \"credential:tls\"\ncert_file = \"c\"\n";
    let (config, provenance) = Config::load(&Sources::toml(text)).unwrap();
    assert_eq!(config.broker.login(), Login::Jwt(None, Path::new("credential:key")));
    let found = check_credentials(&provenance, Role::Node);
    let [mistake] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((mistake.key.as_str(), line(mistake)), ("broker.jwt_key_file", 6));
    assert!(mistake.right.contains("LoadCredential=key:"), "{mistake}");
    // What nobody can look at is no missing file.
    assert!(check_files(&provenance, Role::Node).iter().all(|m| m.key != "broker.jwt_key_file"));
}

#[test]
fn what_is_taken_elsewhere_names_secrets_as_written_and_no_default() {
    let text = "[node]\nname = \"n1\"\nstate_dir = \"/srv/old\"\n[broker]\nurl = \"mqtts://b\"\nauth = \"password\"\n\
                username = \"u\"\npassword_file = \"credential:mqtt\"\nca_file = \"ca.pem\"\n\
                [memory]\ntransfer_dir = \"{state_dir}/exchange\"\n";
    let mut sources = Sources { path: "/etc/orchd/orchd.toml".into(), ..Sources::toml(text) };
    sources.environment.insert("CREDENTIALS_DIRECTORY".into(), "/run/credentials/orchd".into());
    sources.flags.push("observe.heartbeat_s=5".to_owned());
    let (_, provenance) = Config::load(&sources).unwrap();
    let taken = portable(&provenance);
    assert!(!taken.contains("default") && !taken.contains("/run/credentials"), "{taken}");
    for key in ["password_file = \"credential:mqtt\"", "ca_file = \"/etc/orchd/ca.pem\"", "heartbeat_s = 5"] {
        assert!(taken.lines().any(|line| line.starts_with(key)), "{key}: {taken}");
    }
    // Relative paths are those of the folder that it is read from, which is another elsewhere.
    let mut relative = Sources { path: "etc/orchd.toml".into(), ..sources.clone() };
    relative.flags.push("conscience.rules_file=rules.toml".to_owned());
    let taken_here = portable(&Config::load(&relative).unwrap().1);
    let here = std::env::current_dir().unwrap();
    for (key, path) in [("ca_file", "etc/ca.pem"), ("rules_file", "rules.toml")] {
        let expected = format!("{key} = {:?}", here.join(path));
        assert!(taken_here.contains(&expected), "{expected}: {taken_here}");
    }
    // Elsewhere one key says where the state is.
    let moved = taken.replace("/srv/old", "/srv/new");
    let config = Config::from_toml(&moved).unwrap();
    for path in [&config.node.key_file, &config.memory.transfer_dir, &config.control.socket] {
        assert!(path.starts_with("/srv/new"), "{}", path.display());
    }
}

#[test]
fn a_broker_alone_needs_certificates_and_keys_to_trust_and_no_node() {
    let mut sources = Sources { role: Role::Broker, ..Sources::toml("[listener]\n") };
    let found = Config::load(&sources).unwrap_err();
    let keys: Vec<_> = found.iter().map(|m| m.key.as_str()).collect();
    assert_eq!(keys, ["listener.cert_file", "listener.key_file", "listener.trusted_key_files"]);
    sources.text = "[listener]\ncert_file = \"c\"\nkey_file = \"k\"\nnode_key_files = [\"n1.pem\"]\n".into();
    assert!(Config::load(&sources).is_ok());
    sources.text = "[listener]\ncert_file = \"c\"\nkey_file = \"k\"\ntrusted_key_files = [\"t\"]\n".into();
    let (config, _) = Config::load(&sources).unwrap();
    assert_eq!(config.broker.url.to_string(), "mqtts://127.0.0.1:8883");
}

#[test]
fn files_that_are_missing_or_open_to_all_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "secret").unwrap();
    let mode = |bits| fs::set_permissions(&key, fs::Permissions::from_mode(bits)).unwrap();
    let text = format!(
        "{MINIMAL}auth = \"jwt\"\njwt_key_file = \"key\"\nca_file = \"ca.pem\"\n[control]\nsocket = \"/no/such\"\n"
    );
    let sources = Sources { path: folder.path().join("orchd.toml"), ..Sources::toml(text) };
    let (_, provenance) = Config::load(&sources).unwrap();
    mode(0o644);
    let found = check_files(&provenance, Role::Node);
    let kinds: Vec<_> = found.iter().map(|m| (m.key.as_str(), m.severity)).collect();
    assert_eq!(
        kinds,
        [("broker.ca_file", Severity::Error), ("broker.jwt_key_file", Severity::Warning)],
        "{found:#?}"
    );
    assert!(found.iter().all(|m| line(m) > 0));
    mode(0o640);
    assert_eq!(check_files(&provenance, Role::Node).len(), 1);
}

#[test]
fn the_schema_names_every_key_with_its_limits() {
    let schema = schema();
    assert_eq!(schema["required"], serde_json::json!(["broker"]));
    for key in keys() {
        let entry = &schema["properties"][key.section()]["properties"][key.name()];
        assert!(entry["type"].is_string() && entry["description"].is_string(), "{}", key.path);
    }
    let readers = &schema["properties"]["ledger"]["properties"]["readers"];
    assert_eq!(
        (&readers["minimum"], &readers["maximum"], &readers["default"]),
        (&1.into(), &16.into(), &2.into())
    );
}

/// Holds a generated file against the code; `UPDATE_GENERATED=1` writes it anew.
fn holds(path: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, generated).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == generated, "{} is out of date: run with UPDATE_GENERATED=1", path.display());
}

#[test]
fn the_shipped_configuration_and_its_reference_are_up_to_date() {
    holds("config/orchd.toml", &annotated_toml(&BTreeMap::new()));
    holds("docs/configuration.md", &reference());
}

#[test]
fn the_shipped_configuration_yields_the_defaults() {
    let shipped = annotated_toml(&BTreeMap::new());
    let mut sources = Sources::toml(shipped.as_str());
    sources.hostname = Some("n1".into());
    let (config, _) = Config::load(&sources).unwrap();
    let mut expected = Config::from_toml(MINIMAL).unwrap();
    expected.broker.url = config.broker.url.clone();
    assert_eq!(config, expected);
    // And with every line that has a default taken as written.
    let taken: String = shipped
        .lines()
        .map(|line| match line.strip_prefix('#').filter(|rest| is_default(rest)) {
            Some(rest) => format!("{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect();
    assert_eq!(Config::load(&Sources { text: taken, ..sources }).unwrap().0, expected);
}

fn is_default(line: &str) -> bool {
    let Some((name, value)) = line.split_once(" = ") else { return false };
    keys().any(|key| key.name() == name && key.default_toml() == Some(value))
}

proptest! {
    #[test]
    fn no_text_whatever_makes_loading_panic(text in "([a-z\\[\\]={}.\"#'\\n 0-9-]|broker|node|url|limits|\\PC){0,200}") {
        let _ = Config::from_toml(&text);
    }

    #[test]
    fn each_mistake_in_a_file_has_a_line_within_it(extra in prop::collection::vec("[a-z]{1,8}(\\.[a-z_]{1,12})? = (1|true|\"x\"|\\[\\])", 0..6)) {
        let text = minimal_with(&extra.join("\n"));
        for mistake in mistakes(&text) {
            let at = line(&mistake);
            prop_assert!(at >= 1 && at <= text.lines().count().max(1), "{mistake}");
            prop_assert!(!mistake.right.is_empty());
        }
    }

    #[test]
    fn whole_numbers_are_accepted_exactly_within_their_range(n in prop_oneof![-10i64..4000, any::<i64>()]) {
        let found = mistakes(&minimal_with(&format!("broker.keep_alive_s = {n}")));
        prop_assert_eq!(found.is_empty(), (5..=3600).contains(&n));
    }
}
