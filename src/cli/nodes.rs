//! `orchd nodes`: who is there, as the broker retains it.

use serde_json::{Value, json};

use super::client::text::{cell, short, span, table, when_of};
use super::client::{self, Event, Failure, Question, Reach, Route};
use super::{Exit, Shared, print};
use crate::clock::{Clock, Timestamp};

/// List who is online, since when, with version and load
///
/// Over MQTT all nodes that the broker knows; through the control socket the node of this machine alone.
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Args {
    #[command(flatten)]
    reach: Reach,
}

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        match self.find(shared) {
            Ok(nodes) if self.reach.json => print(&format!("{}\n", json!({ "nodes": nodes }))),
            Ok(nodes) if nodes.is_empty() => match &self.reach.node {
                Some(node) => print(&format!("the broker knows of no node {}\n", short(node, 64))),
                None => print("the broker knows of no node\n"),
            },
            Ok(nodes) => print(&show(&nodes)),
            Err(failure) => failure.report(),
        }
    }

    fn find(&self, shared: &Shared) -> Result<Vec<Value>, Failure> {
        match self.reach.route(shared)? {
            Route::Broker(profile) => {
                let retained = client::block_on(client::statuses(&profile, self.reach.node.as_deref()))??;
                Ok(retained.iter().map(status).collect())
            }
            // It has no broker to ask: the node itself says how it is.
            route @ Route::Socket(_) => {
                let answer = self.reach.answer(&route, &Question::bare("node/status"))?;
                answer.fault().map_or_else(|| Ok(vec![answer.payload().clone()]), |fault| Err(fault.into()))
            }
        }
    }
}

/// A node's status, with the name from its topic, which says for sure whose it is.
fn status(event: &Event) -> Value {
    let node = json!(event.origin().0);
    match event.payload.clone() {
        Value::Object(mut members) => {
            members.insert("node".to_owned(), node);
            Value::Object(members)
        }
        _ => json!({ "node": node }),
    }
}

fn show(nodes: &[Value]) -> String {
    let now = Clock::system().now();
    let mut rows = vec![["NODE", "STATE", "SINCE", "VERSION", "LOAD", "UPTIME"].map(str::to_owned).to_vec()];
    rows.extend(nodes.iter().map(|node| {
        // What a node that is gone last said of its load is no news.
        let online = node["state"] == "online";
        // Anyone may put a status there: one must not push the others off the screen.
        let narrow = |member: &str| short(&cell(&node[member]), 16);
        vec![
            // A name is what the others are told apart by.
            short(&cell(&node["node"]), 64),
            narrow("state"),
            since(node, now),
            narrow("version"),
            if online { narrow("load1") } else { String::new() },
            node["uptime_s"].as_i64().filter(|_| online).map_or_else(String::new, span),
        ]
    }));
    table(&rows)
}

/// Since when it is so. Of a node that was lost it may be known only that it was after its connection had been made.
fn since(node: &Value, now: Timestamp) -> String {
    match (when_of(&node["since"], now), when_of(&node["connected_since"], now)) {
        (since, made) if since.is_empty() && !made.is_empty() => format!("after {made}"),
        (since, _) => since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_make_the_table_wide() {
        let shown = show(&[json!({
            "node": "n1", "state": "online", "load1": 1e308, "version": "9".repeat(400), "uptime_s": i64::MAX,
        })]);
        assert!(
            shown.contains(" 1.0e308 ") && shown.lines().all(|line| line.chars().count() < 100),
            "{shown}"
        );
    }

    #[test]
    fn a_status_that_lacks_members_is_shown_with_what_it_has() {
        let shown =
            show(&[json!({ "node": "n1", "state": "online", "load1": 0.5 }), json!({ "node": "n2" })]);
        assert_eq!(
            shown,
            "NODE  STATE   SINCE  VERSION  LOAD  UPTIME\nn1    online                  0.50\nn2\n"
        );
    }
}
