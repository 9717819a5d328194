//! One request of each command, as a newcomer would send it. A test holds them against the schemas.

use serde_json::{Value, json};

/// An id as the node gives them.
const ID: &str = "0198c2d4-7a51-7c3e-9f4b-2d5e8a1c6b70";

/// A request of the command called `name`; `None` when nobody has written one.
#[must_use]
pub fn request(name: &str) -> Option<Value> {
    Some(match name {
        "conscience/evaluate" => json!({ "action": "I will help someone in need" }),
        "conscience/decisions" => {
            json!({ "from": "2026-11-20T00:00:00Z", "outcome": "refused", "limit": 20 })
        }
        "conscience/reviews/list" => json!({ "state": "open" }),
        "conscience/reviews/resolve" => {
            json!({ "review_id": ID, "approve": false, "note": "not on a Sunday" })
        }
        "conscience/rules/import" => json!({
            "toml": "[[rule]]\nname = \"no-gossip\"\ndescription = \"Do not gossip about colleagues.\"\nweight = 3.0\n",
        }),
        "conscience/rules/simulate" => json!({ "remove": ["spending"], "limit": 1000 }),
        "conscience/rules/test" => json!({ "name": "no-harm" }),
        "conscience/rules/remove" => json!({ "name": "no-gossip" }),
        "conscience/rules/set" => json!({
            "name": "no-gossip",
            "description": "Do not talk about people behind their backs.",
            "weight": 3.0,
            "stance": "forbids",
            "patterns": ["gossip about <person>"],
        }),
        "memory/archive" => json!({ "before": "2026-01" }),
        "memory/export" => json!({ "file": "lab.jsonl.zst", "layers": ["long_term"] }),
        "memory/forget" | "memory/get" => json!({ "id": ID }),
        "memory/import" => json!({ "file": "lab.jsonl.zst" }),
        "memory/pin" => json!({ "id": ID, "pinned": true }),
        "memory/promote" => json!({ "ids": [ID] }),
        "memory/prune" => json!({ "dry_run": true }),
        "memory/prune/confirm" => json!({ "word": "5d1f0c8a2b9e4f76" }),
        "memory/update" => {
            json!({ "id": ID, "content": "The kettle in the lab was replaced.", "if_version": 1 })
        }
        "memory/query" => json!({ "text": "kettle", "layers": ["long_term"], "limit": 5 }),
        "memory/store" => json!({
            "content": "The kettle in the lab trips the fuse.",
            "layer": "long_term",
            "tags": ["lab", "safety"],
            "importance": 0.8,
        }),
        "node/jobs/cancel" | "node/jobs/get" => json!({ "job_id": ID }),
        "node/audit/tail" => json!({ "count": 50 }),
        "node/audit/verify" | "node/audit/checkpoint" | "node/policy/test" => json!({}),
        "node/keys/create" => json!({
            "name": "lab-app",
            "permissions": ["orch/+/memory/#", "orch/+/node/ping"],
            "rate_per_min": 120,
            "expires_in_s": 7_776_000,
        }),
        "node/keys/revoke" | "node/keys/show" => json!({ "key": "lab-app" }),
        "node/keys/rotate" => json!({ "key": "lab-app", "grace_s": 604_800 }),
        "node/keys/list" => json!({ "limit": 100 }),
        "node/jobs/list" => json!({ "limit": 20 }),
        "node/schedule/pause" => json!({ "name": "memory_prune", "reason": "the clock is being set" }),
        "node/schedule/resume" | "node/schedule/run" => json!({ "name": "memory_prune" }),
        "llm/complete" => {
            json!({ "system": "Answer in one sentence.", "prompt": "What is MQTT?", "max_tokens": 200 })
        }
        "phoenix/restore" | "phoenix/show" => json!({ "snapshot": "latest" }),
        "phoenix/verify" => json!({ "read_data": 10.0 }),
        "phoenix/prune" => json!({ "dry_run": true }),
        "phoenix/release" => json!({ "dry_run": true, "pending": false }),
        "phoenix/backup" => json!({ "anew": false }),
        "phoenix/unlock" => json!({ "all": false }),
        "soul/decay" => json!({ "prune": true, "dry_run": true }),
        "soul/delete" | "soul/get" => json!({ "name": "ada" }),
        "soul/history" => json!({ "name": "ada", "limit": 20 }),
        "soul/link" | "soul/unlink" => json!({ "name": "ada", "memory": ID }),
        "soul/list" => json!({ "by": "last_interaction", "limit": 20 }),
        "soul/merge" => json!({ "from": "Ada L.", "into": "ada" }),
        "soul/record" => json!({ "name": "ada", "emotion": "joy", "intensity": 0.6 }),
        "soul/upsert" => json!({ "name": "ada", "note": "Services the pumps." }),
        "conscience/rules/export"
        | "conscience/rules/list"
        | "llm/providers"
        | "memory/rebuild"
        | "memory/stats"
        | "node/health"
        | "node/ping"
        | "node/reload"
        | "phoenix/list"
        | "phoenix/password"
        | "node/schedule/list"
        | "node/status" => json!({}),
        _ => return None,
    })
}

/// An envelope with `payload`.
pub(super) fn envelope(payload: &Value) -> Value {
    json!({
        "message_id": "5b0f9f4e-0d0c-4f63-9c8e-5f6a5c1f2f10",
        "timestamp": "2026-01-31T12:00:00Z",
        "payload": payload,
        "metadata": {
            "correlation_id": "42",
            "reply_to": "orch/inbox/app/answers",
            "expires_in_ms": 10_000,
        },
    })
}

/// A reply to a ping.
pub(super) fn reply() -> Value {
    json!({
        "message_id": "c9c6f0de-6a3f-4a4e-8f0f-3b0a1c9d7e21",
        "in_reply_to": "5b0f9f4e-0d0c-4f63-9c8e-5f6a5c1f2f10",
        "correlation_id": "42",
        "node": "node-7",
        "command": "node/ping",
        "timestamp": "2026-01-31T12:00:00.012Z",
        "status": "ok",
        "payload": { "node": "node-7", "version": "0.1.0", "time": "2026-01-31T12:00:00.012Z" },
    })
}
