//! JSON Schemas (2020-12): a file for the envelope, the reply, and each request, response and event.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::examples;
use crate::clock::Timestamp;
use crate::engine::command::Declaration;
use crate::node::EventDeclaration;
use crate::wire::{Metadata, Reply};

/// A command in an envelope. An object with a member `payload` is one, everything else is the payload itself.
#[derive(JsonSchema)]
#[schemars(rename = "Envelope")]
#[expect(dead_code, reason = "describes what `wire` reads; never built")]
struct Envelope {
    /// Identifies the command, so that a repeat of it takes effect once: 1 to 256 bytes, best a UUID. The user property
    /// `message-id` wins over it.
    #[schemars(length(min = 1, max = 256))]
    message_id: Option<String>,
    /// When it was sent. Must be well formed, and is not used otherwise.
    timestamp: Option<Timestamp>,
    /// The command's arguments; `null` and `{}` are the same.
    payload: Value,
    /// What MQTT 5 has properties for. A property wins over the member.
    metadata: Option<Metadata>,
}

/// The file of a command's request or response, below `schemas/`.
pub(super) fn file_of(command: &Declaration, part: &str) -> String {
    format!("{}.{part}.json", command.name().replace('/', "."))
}

/// The file of an event, below `schemas/`.
pub(super) fn event_file_of(event: &EventDeclaration) -> String {
    format!("events.{}.json", event.kind)
}

/// Every schema file by its path.
pub(super) fn files(commands: &[Declaration], events: &[EventDeclaration]) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut add = |file: String, schema: &Value| {
        files.insert(format!("schemas/{file}"), format!("{schema:#}\n"));
    };
    let envelope = examples::envelope(&json!({}));
    add("envelope.json".into(), &received("Envelope", Envelope::json_schema, Some(envelope)));
    add("reply.json".into(), &sent("Reply", Reply::json_schema, Some(examples::reply())));
    for command in commands {
        let name = command.name();
        let example = examples::request(&name);
        let request = received(&format!("{name} request"), command.request, example);
        add(file_of(command, "request"), &request);
        add(file_of(command, "response"), &sent(&format!("{name} response"), command.response, None));
    }
    for event in events {
        add(event_file_of(event), &sent(&format!("events/{}", event.kind), event.schema, None));
    }
    files
}

type Describe = fn(&mut SchemaGenerator) -> Schema;

fn received(title: &str, describe: Describe, example: Option<Value>) -> Value {
    standalone(SchemaSettings::draft2020_12().for_deserialize(), title, describe, example)
}

fn sent(title: &str, describe: Describe, example: Option<Value>) -> Value {
    standalone(SchemaSettings::draft2020_12().for_serialize(), title, describe, example)
}

/// A schema that stands in a file of its own, with everything that it refers to.
fn standalone(settings: SchemaSettings, title: &str, describe: Describe, example: Option<Value>) -> Value {
    let mut generator = settings.into_generator();
    let schema = describe(&mut generator).to_value();
    let mut definitions = generator.take_definitions(true);
    // The type itself is lifted out of its definitions: no type of ours refers to itself.
    let named = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let mut root = named.and_then(|name| definitions.remove(name)).unwrap_or(schema);
    if let Some(root) = root.as_object_mut() {
        root.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".into(), title.into());
        if !definitions.is_empty() {
            root.insert("$defs".into(), definitions.into());
        }
        if let Some(example) = example {
            root.insert("examples".into(), json!([example]));
        }
    }
    root
}
