//! `topics/` says what the code does: files up to date, schemas that hold for the examples, access rules that allow what
//! the embedded broker allows.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use orchd::broker::acl::Principal;
use orchd::gate::token::Role;
use orchd::wire::topic::{self, Target};
use orchd::wire::{Encoding, Names, Properties, Reply};
use orchd::{node, topics, wire};
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/topics"))
}

fn schema(file: &str) -> Value {
    serde_json::from_str(&topics::files()[&format!("schemas/{file}.json")]).unwrap()
}

#[test]
fn the_files_are_up_to_date() {
    for (path, text) in topics::files() {
        let found = fs::read_to_string(folder().join(&path)).unwrap_or_default();
        assert!(found == text, "topics/{path} is out of date: run `orchd topics generate`");
    }
    for entry in fs::read_dir(folder().join("schemas")).unwrap() {
        let name = format!("schemas/{}", entry.unwrap().file_name().to_str().unwrap());
        assert!(topics::files().contains_key(&name), "topics/{name} belongs to no command");
    }
}

#[test]
fn every_command_and_every_event_is_in_the_document() {
    let files = topics::files();
    let lines: Vec<_> = files["asyncapi.yaml"].lines().map(str::trim).collect();
    let has = |line: String| assert!(lines.contains(&line.as_str()), "no {line}");
    for command in node::declarations() {
        let name = command.name();
        has(format!("address: \"{{root}}/{{node}}/{name}\""));
        if command.reaches(Target::All) {
            has(format!("address: \"{{root}}/all/{name}\""));
        }
        if command.reaches(Target::Any) {
            has(format!("address: \"{{root}}/any/{name}\""));
        }
    }
    for event in node::event_declarations() {
        has(format!("address: \"{{root}}/{{node}}/events/{}\"", event.kind));
    }
    for line in lines {
        if let Some(file) =
            line.strip_prefix("\"$ref\": \"./").or_else(|| line.strip_prefix("- \"$ref\": \"./"))
        {
            assert!(files.contains_key(file.trim_end_matches('"')), "{line}");
        }
    }
}

#[test]
fn every_example_holds_for_its_schema() {
    for command in node::declarations() {
        let name = command.name();
        let example = topics::example_request(&name).unwrap_or_else(|| panic!("{name} has no example"));
        let schema = schema(&format!("{}.request", name.replace('/', ".")));
        check(&schema, &schema, &example).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut wrong = example;
        wrong["no_such_field"] = Value::Null;
        check(&schema, &schema, &wrong).unwrap_err();
    }
}

#[test]
fn the_schemas_of_envelope_and_reply_describe_what_the_code_reads_and_writes() {
    let envelope = schema("envelope");
    let example = &envelope["examples"][0];
    check(&envelope, &envelope, example).unwrap();
    let text = Bytes::from(example.to_string());
    let (address, request) = wire::decode(&Properties::default(), &text);
    assert_eq!(address.message_id.as_deref(), example["message_id"].as_str());
    assert_eq!(address.reply_to.as_deref(), example["metadata"]["reply_to"].as_str());
    assert_eq!(address.correlation_id.as_deref(), example["metadata"]["correlation_id"].as_str());
    assert_eq!(request.unwrap().expires_in.unwrap().as_millis(), 10_000);

    let reply = schema("reply");
    let example = &reply["examples"][0];
    check(&reply, &reply, example).unwrap();
    let decoded = Reply::decode(Encoding::Json, example.to_string().as_bytes()).unwrap();
    assert_eq!(&serde_json::to_value(&decoded).unwrap(), example);
}

/// The part of JSON Schema that our types use: enough to notice a wrong example.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{value}: {what} {schema}"));
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.strip_prefix('#').unwrap()).ok_or("a reference to nothing")?;
        check(root, target, value)?;
    }
    for kind in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[kind].as_array()
            && !choices.iter().any(|choice| check(root, choice, value).is_ok())
        {
            return wrong("fits no choice of");
        }
    }
    if schema.get("const").is_some_and(|expected| expected != value) {
        return wrong("is not the constant of");
    }
    let is_a = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        other => panic!("unknown type {other}"),
    };
    match &schema["type"] {
        Value::Null => {}
        Value::Array(names) if names.iter().any(is_a) => {}
        name @ Value::String(_) if is_a(name) => {}
        _ => return wrong("has another type than"),
    }
    if let Some(number) = value.as_f64() {
        let low = schema["minimum"].as_f64().is_some_and(|least| number < least);
        let high = schema["maximum"].as_f64().is_some_and(|most| number > most);
        if low || high {
            return wrong("is out of the range of");
        }
    }
    if let Some(members) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                return wrong(&format!("lacks {name} of"));
            }
        }
        for (name, member) in members {
            match schema["properties"].get(name) {
                Some(property) => check(root, property, member)?,
                None if schema["additionalProperties"] == false => {
                    return wrong(&format!("has {name} beyond"));
                }
                None => {}
            }
        }
    }
    value.as_array().into_iter().flatten().try_for_each(|item| match schema.get("items") {
        Some(items) => check(root, items, item),
        None => Ok(()),
    })
}

/// What an ACL file of Mosquitto says of a user: a `deny` goes before everything else.
fn mosquitto_allows(user: &str, access: &str, name: &str) -> bool {
    static RULES: LazyLock<String> =
        LazyLock::new(|| topics::files().remove("mosquitto.acl").expect("it is generated"));
    let mut of_user = false;
    let mut allowed = false;
    for line in RULES.lines() {
        if let Some(name) = line.strip_prefix("user ") {
            of_user = name == user;
        } else if let Some((kind, filter)) = line.strip_prefix("topic ").and_then(|rest| rest.split_once(' '))
            && of_user
            && topic::matches(filter, name)
        {
            if kind == "deny" {
                return false;
            }
            allowed |= kind == access;
        }
    }
    allowed
}

#[test]
fn the_rules_for_mosquitto_allow_what_the_embedded_broker_allows() {
    let commands = node::declarations();
    let mut names: Vec<String> = vec!["orch".into(), "other/x".into(), "$SYS/broker".into()];
    for level in ["node-7", "node-8", "all", "any", "inbox/app", "inbox/other", "inbox/memory"] {
        for rest in ["results/memory", "events/status", "1", "nothing-like-it/x"] {
            names.push(format!("orch/{level}/{rest}"));
        }
        names.extend(commands.iter().map(|command| format!("orch/{level}/{}", command.name())));
    }
    let node = Principal::new(Role::Node, "node-7").unwrap();
    let client = Principal::new(Role::Client, "app").unwrap();
    let ours = |name: &str| commands.iter().any(|command| name.ends_with(&command.name()));
    for name in &names {
        assert_eq!(mosquitto_allows("node-7", "write", name), node.may_publish("orch", name), "node: {name}");
        // The embedded broker lets a client name services that no node has.
        if ours(name) || !client.may_publish("orch", name) {
            let allowed = client.may_publish("orch", name);
            assert_eq!(mosquitto_allows("app", "write", name), allowed, "client: {name}");
            let heard = client.may_subscribe("orch", name);
            assert_eq!(mosquitto_allows("app", "read", name), heard, "client hears {name}");
        }
        // At the embedded broker a node may also name services of its own that it does not have.
        if mosquitto_allows("node-7", "read", name) || ours(name) {
            let heard = node.may_subscribe("orch", name);
            assert_eq!(mosquitto_allows("node-7", "read", name), heard, "node hears {name}");
        }
    }
    for filter in node::filters(&Names::new("orch", "node-7").unwrap(), "orchd", &commands) {
        let plain = filter.strip_prefix("$share/orchd/").unwrap_or(&filter).replace('#', "x");
        assert!(mosquitto_allows("node-7", "read", &plain), "{filter}");
    }
}
