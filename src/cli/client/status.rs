//! A node's retained status as it came from the broker, and when a node that is gone went.
//!
//! Who stops cleanly says when. The last will of one that was lost cannot: it is written when the connection is made. But
//! it has a Message Expiry Interval, which the broker counts down, and so tells how long ago it published it.

use serde_json::{Value, json};

use super::text;
use crate::clock::Timestamp;
use crate::mqtt::Message;
use crate::node::WILL_EXPIRY_S;

/// The status; `since` is filled in where it can be told. Null where the message is no JSON.
pub(super) fn of(message: &Message, now: Timestamp) -> Value {
    let mut status: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    if let Value::Object(members) = &mut status
        && is_offline(members.get("state"))
        && !members.contains_key("since")
        && let Some(lost) = published(message, now)
    {
        members.insert("since".to_owned(), json!(lost));
    }
    status
}

fn is_offline(state: Option<&Value>) -> bool {
    state.is_some_and(|state| state == "offline")
}

/// When the broker published a last will. What is kept and has its whole interval left is either younger than a second,
/// or comes from a broker that does not count.
fn published(message: &Message, now: Timestamp) -> Option<Timestamp> {
    if !message.retained {
        return Some(now);
    }
    let passed = WILL_EXPIRY_S.checked_sub(message.expires_in?)?;
    (passed > 0).then(|| now.plus_millis(-1_000 * i64::from(passed)))
}

/// Since when a node is offline, in words that follow `NODE is offline`; empty where it is not known. `None` when it is not
/// offline.
pub(super) fn absence(status: &Value, now: Timestamp) -> Option<String> {
    if !is_offline(status.get("state")) {
        return None;
    }
    let when = |member: &str| Some(text::when_of(&status[member], now)).filter(|when| !when.is_empty());
    Some(match (when("since"), when("connected_since")) {
        (Some(since), _) => format!(" since {since}"),
        (None, Some(made)) => format!(": its connection was lost, connected since {made}"),
        (None, None) => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-03-01T00:00:00.000Z";

    fn message(payload: &Value, retained: bool, expires_in: Option<u32>) -> Message {
        let payload = payload.to_string().into();
        Message { topic: String::new(), payload, correlation_data: None, retained, expires_in }
    }

    fn absent(payload: &Value, retained: bool, expires_in: Option<u32>) -> String {
        let now = Timestamp::parse(NOW).unwrap();
        absence(&of(&message(payload, retained, expires_in), now), now).unwrap()
    }

    #[test]
    fn a_node_that_was_lost_is_gone_since_its_will_was_published() {
        let will = json!({ "state": "offline", "connected_since": "2026-01-01T00:00:00.000Z" });
        let cases = [
            (true, Some(WILL_EXPIRY_S - 3_600), " since 2026-02-28T23:00:00Z (60 min ago)"),
            (false, Some(WILL_EXPIRY_S), " since 2026-03-01T00:00:00Z (0 s ago)"),
            // Brokers that do not count, or do not say.
            (
                true,
                Some(WILL_EXPIRY_S),
                ": its connection was lost, connected since 2026-01-01T00:00:00Z (59 d ago)",
            ),
            (true, None, ": its connection was lost, connected since 2026-01-01T00:00:00Z (59 d ago)"),
            (
                true,
                Some(u32::MAX),
                ": its connection was lost, connected since 2026-01-01T00:00:00Z (59 d ago)",
            ),
        ];
        for (retained, expires_in, expected) in cases {
            assert_eq!(absent(&will, retained, expires_in), expected, "{retained} {expires_in:?}");
        }
    }

    #[test]
    fn what_a_node_itself_said_stands() {
        let stopped = json!({ "state": "offline", "since": "2026-01-01T00:00:00.000Z" });
        assert_eq!(absent(&stopped, false, Some(5)), " since 2026-01-01T00:00:00Z (59 d ago)");
        assert_eq!(absent(&json!({ "state": "offline" }), true, None), "");
        let now = Timestamp::parse(NOW).unwrap();
        for other in [json!({ "state": "online" }), json!("offline"), json!(["offline"])] {
            assert_eq!(absence(&of(&message(&other, false, None), now), now), None, "{other}");
        }
    }
}
