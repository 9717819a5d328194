//! The AsyncAPI 3 document: the node's view, so that it receives commands and sends replies and events.

use serde_json::{Map, Value, json};

use super::examples;
use super::schemas::{event_file_of, file_of};
use crate::engine::command::{Declaration, Kind};
use crate::node::EventDeclaration;
use crate::wire::topic::Target;

/// The document.
pub(super) fn document(commands: &[Declaration], events: &[EventDeclaration]) -> Value {
    let (mut channels, mut operations, mut messages) = (Map::new(), Map::new(), Map::new());
    let (mut replies, mut results) = (Map::new(), Map::new());
    for command in commands {
        let id = id_of(command);
        messages.insert(format!("{id}.request"), request(command));
        messages.insert(format!("{id}.reply"), reply(command));
        replies.insert(format!("{id}.reply"), reference(&format!("components/messages/{id}.reply")));
        results.insert(format!("{id}.reply"), reference(&format!("components/messages/{id}.reply")));
        let targets =
            [Target::Node, Target::All, Target::Any].into_iter().filter(|target| command.reaches(*target));
        for target in targets {
            let channel = format!("{id}{}", suffix(target));
            channels.insert(channel.clone(), command_channel(command, target));
            operations.insert(channel.clone(), command_operation(command, &channel));
        }
    }
    channels.insert(
        "reply".into(),
        json!({
            "address": null,
            "title": "Reply topic",
            "description": "The Response Topic of the command, or `metadata.reply_to` in its envelope. It has to be in \
                the asker's inbox, `{root}/inbox/{name}`, or to match one of the filters in `reply.topics`.",
            "messages": replies,
        }),
    );
    let results_address = "{root}/{node}/results/{service}";
    channels.insert(
        "results".into(),
        json!({
            "address": results_address,
            "title": "Replies to commands that named no reply topic",
            "parameters": parameters(results_address),
            "messages": results,
        }),
    );
    operations.insert(
        "results".into(),
        sending("results", "Replies to commands that named no reply topic", 1, false),
    );
    for event in events {
        let id = format!("events.{}", event.kind);
        messages.insert(id.clone(), event_message(event));
        channels.insert(id.clone(), event_channel(event, &id));
        let qos = u8::from(event.retained);
        operations.insert(id.clone(), sending(&id, event.summary, qos, event.retained));
    }
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:orchd:node",
        "info": {
            "title": "orchd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The MQTT interface of an orchd node, seen from the node: it receives commands, and sends \
                replies and events. Commands are published at QoS 1 without the retain flag.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages },
    })
}

fn id_of(command: &Declaration) -> String {
    command.name().replace('/', ".")
}

const fn suffix(target: Target) -> &'static str {
    match target {
        Target::Node => "",
        Target::All => ".all",
        Target::Any => ".any",
    }
}

fn reference(path: &str) -> Value {
    json!({ "$ref": format!("#/{path}") })
}

fn schema_file(file: &str) -> Value {
    json!({ "$ref": format!("./schemas/{file}") })
}

/// The parameters that occur in `address`.
fn parameters(address: &str) -> Value {
    let known = [
        ("root", json!({ "description": "`node.root` in the configuration.", "default": "orch" })),
        ("node", json!({ "description": "`node.name` in the configuration.", "examples": ["node-7"] })),
        ("service", json!({ "description": "The service of the command.", "examples": ["memory"] })),
    ];
    let used = known.into_iter().filter(|(name, _)| address.contains(&format!("{{{name}}}")));
    Value::Object(used.map(|(name, parameter)| (name.to_owned(), parameter)).collect())
}

fn command_channel(command: &Declaration, target: Target) -> Value {
    let name = command.name();
    let (address, whom) = match target {
        Target::Node => (format!("{{root}}/{{node}}/{name}"), "one node"),
        Target::All => (format!("{{root}}/all/{name}"), "every node; answers are spread over 5 s"),
        Target::Any => (format!("{{root}}/any/{name}"), "any one node of a group"),
    };
    let id = id_of(command);
    json!({
        "address": address,
        "title": format!("{name}, for {whom}"),
        "parameters": parameters(&address),
        "messages": { format!("{id}.request"): reference(&format!("components/messages/{id}.request")) },
    })
}

fn command_operation(command: &Declaration, channel: &str) -> Value {
    let id = id_of(command);
    let runs = match command.kind {
        Kind::Read => "Changes nothing.",
        Kind::Write => "One transaction; answered after its commit.",
        Kind::Job => "A job: accepted at once, answered when it has ended; progress is told on events/jobs.",
    };
    let full = if command.when_full { " Works while the disk is full." } else { "" };
    json!({
        "action": "receive",
        "channel": reference(&format!("channels/{channel}")),
        "summary": command.summary,
        "description": format!("{runs}{full}"),
        "messages": [reference(&format!("channels/{channel}/messages/{id}.request"))],
        "bindings": { "mqtt": { "qos": 1, "retain": false, "bindingVersion": "0.2.0" } },
        "reply": {
            "address": {
                "location": "$message.payload#/metadata/reply_to",
                "description": "Or the Response Topic, which wins. Without either: the channel `results`.",
            },
            "channel": reference("channels/reply"),
            "messages": [reference(&format!("channels/reply/messages/{id}.reply"))],
        },
    })
}

fn request(command: &Declaration) -> Value {
    let bare = schema_file(&file_of(command, "request"));
    let mut message = json!({
        "title": format!("{} request", command.name()),
        "summary": format!("{}. The arguments alone, or in an envelope.", command.summary),
        "contentType": "application/json",
        "payload": {
            "anyOf": [
                bare,
                { "allOf": [schema_file("envelope.json"), { "properties": { "payload": bare } }] },
            ],
        },
        "bindings": { "mqtt": { "contentType": "application/json", "bindingVersion": "0.2.0" } },
    });
    if let Some(example) = examples::request(&command.name()) {
        let enveloped = examples::envelope(&example);
        message["examples"] = json!([
            { "name": "bare", "payload": example },
            { "name": "enveloped", "payload": enveloped },
        ]);
    }
    message
}

fn reply(command: &Declaration) -> Value {
    json!({
        "title": format!("{} reply", command.name()),
        "contentType": "application/json",
        "payload": {
            "allOf": [
                schema_file("reply.json"),
                { "properties": { "payload": schema_file(&file_of(command, "response")) } },
            ],
        },
    })
}

fn sending(channel: &str, summary: &str, qos: u8, retain: bool) -> Value {
    json!({
        "action": "send",
        "channel": reference(&format!("channels/{channel}")),
        "summary": summary,
        "bindings": { "mqtt": { "qos": qos, "retain": retain, "bindingVersion": "0.2.0" } },
    })
}

fn event_channel(event: &EventDeclaration, id: &str) -> Value {
    let address = format!("{{root}}/{{node}}/events/{}", event.kind);
    json!({
        "address": address,
        "title": event.summary,
        "parameters": parameters(&address),
        "messages": { id: reference(&format!("components/messages/{id}")) },
    })
}

fn event_message(event: &EventDeclaration) -> Value {
    json!({
        "title": format!("events/{}", event.kind),
        "summary": event.summary,
        "contentType": "application/json",
        "payload": schema_file(&event_file_of(event)),
    })
}
