//! `orchd watch`: events as they come.

use std::num::NonZeroU64;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::text::{cell, plain, short};
use super::client::{self, Event, Events, Failure, Reach, Route};
use super::{Exit, Shared, complain, print_more};
use crate::node::event_declarations;

/// Characters of a member that are shown; --json shows all.
const MEMBER_CHARS: usize = 200;

/// Between two attempts to go on after a connection has ended.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Show events as they come, until Ctrl-C
///
/// Over MQTT those of all nodes, or of one with --node; first how things are, as the broker retains it, and again
/// whenever a connection that was lost is back. With --json, one JSON document for each event, on a line of its own. --timeout ends it
/// with exit code 3.
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Args {
    /// Only these: status, capabilities, heartbeat, errors, jobs, memory, reviews
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
    /// End after this many events
    #[arg(long)]
    count: Option<NonZeroU64>,
    #[command(flatten)]
    reach: Reach,
}

impl Args {
    pub(super) fn run(&self, shared: &Shared) -> Exit {
        let watched = client::block_on(self.watch(shared));
        watched.and_then(|watched| watched).unwrap_or_else(|failure| failure.report())
    }

    async fn watch(&self, shared: &Shared) -> Result<Exit, Failure> {
        let known: Vec<_> = event_declarations().iter().map(|event| event.kind).collect();
        if let Some(bad) = self.kinds.iter().find(|kind| !known.contains(&kind.as_str())) {
            return Err(Failure::Usage(format!(
                "`{bad}` is no kind of event; there are {}",
                known.join(", ")
            )));
        }
        let route = self.reach.route(shared)?;
        let mut events = Events::listen(&route, self.reach.node.as_deref(), &self.kinds).await?;
        let limit = self.reach.given_limit();
        let out_of_time = async {
            match limit {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    Err(Failure::Quiet(limit))
                }
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            shown = self.show(&route, &mut events) => shown,
            ended = out_of_time => ended,
            // Without the signal the process would end all the same.
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        };
        events.close().await;
        ended
    }

    async fn show(&self, route: &Route, events: &mut Events) -> Result<Exit, Failure> {
        let mut left = self.count.map(NonZeroU64::get);
        while left != Some(0) {
            let event = match events.next().await {
                Ok(event) => event,
                Err(lost) if lost.may_pass() => {
                    *events = self.listen_again(route, &lost).await?;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            if let Err(end) = print_more(&self.line(&event)) {
                return Ok(end);
            }
            left = left.map(|left| left - 1);
        }
        Ok(Exit::Ok)
    }

    /// Listens again, however long that takes. Each reason why it cannot be done is told once in a row.
    async fn listen_again(&self, route: &Route, lost: &Failure) -> Result<Events, Failure> {
        let mut told = String::new();
        let mut tell = |failure: &Failure| {
            let reason = plain(&failure.to_string());
            if reason != told {
                complain(format_args!("{reason}; trying again"));
                told = reason;
            }
        };
        tell(lost);
        loop {
            match Events::listen(route, self.reach.node.as_deref(), &self.kinds).await {
                Err(failure) if failure.may_pass() => tell(&failure),
                listening => return listening,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn line(&self, event: &Event) -> String {
        if self.reach.json {
            return format!("{}\n", json!({ "topic": event.topic, "payload": event.payload }));
        }
        let (node, kind) = event.origin();
        let members: Vec<String> = match &event.payload {
            Value::Object(members) => members
                .iter()
                .filter(|(name, _)| *name != "node")
                .map(|(name, value)| format!("{}={}", plain(name), short(&cell(value), MEMBER_CHARS)))
                .collect(),
            other => vec![cell(other)],
        };
        format!("{} {} {}\n", plain(node), plain(kind), members.join(" "))
    }
}
