//! What a node tells without being asked, for `topics/`.

use schemars::{Schema, SchemaGenerator};

use super::presence::Capabilities;
use super::state::Status;
use crate::conscience::ReviewNews;
use crate::engine::ErrorEvent;
use crate::engine::jobs::News;
use crate::memory::news::MemoryNews;

/// An event: what is published on `{root}/{node}/events/{kind}`.
pub struct EventDeclaration {
    /// The last level of its topic.
    pub kind: &'static str,
    /// One sentence for people.
    pub summary: &'static str,
    /// Retained and at QoS 1; else news at QoS 0.
    pub retained: bool,
    /// The payload's schema.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

/// Every event of a node.
#[must_use]
pub fn event_declarations() -> Vec<EventDeclaration> {
    vec![
        EventDeclaration {
            kind: "capabilities",
            summary: "What the node can do",
            retained: true,
            schema: |generator| generator.subschema_for::<Capabilities>(),
        },
        EventDeclaration {
            kind: "errors",
            summary: "Troubles that an operator should know of",
            retained: false,
            schema: |generator| generator.subschema_for::<ErrorEvent<'static>>(),
        },
        EventDeclaration {
            kind: "heartbeat",
            summary: "How the node is, at a fixed interval",
            retained: false,
            schema: |generator| generator.subschema_for::<Status>(),
        },
        EventDeclaration {
            kind: "jobs",
            summary: "Jobs as they begin, proceed and end",
            retained: false,
            schema: |generator| generator.subschema_for::<News<'static>>(),
        },
        EventDeclaration {
            kind: "memory",
            summary: "Records that changed, gathered for half a second",
            retained: false,
            schema: |generator| generator.subschema_for::<MemoryNews>(),
        },
        EventDeclaration {
            kind: "reviews",
            summary: "Reviews as they are opened, resolved and expire",
            retained: false,
            schema: |generator| generator.subschema_for::<ReviewNews>(),
        },
        EventDeclaration {
            kind: "status",
            summary: "Whether the node is online, and how it is; also its last will",
            retained: true,
            schema: |generator| generator.subschema_for::<Status>(),
        },
    ]
}
