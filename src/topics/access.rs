//! Access rules for other brokers, which allow what [`crate::broker::acl`] allows at the embedded one.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::engine::command::Declaration;

/// The services whose commands `commands` are.
fn services(commands: &[Declaration]) -> BTreeSet<&'static str> {
    commands.iter().map(|command| command.service).collect()
}

/// An ACL file for Mosquitto: `acl_file` in its configuration.
pub(super) fn mosquitto(commands: &[Declaration]) -> String {
    let services = services(commands);
    let mut out = String::from(
        "\
# Access rules for Mosquitto 2 (`acl_file`), with the root `orch`.
# Made from the code: `orchd topics generate` writes it anew. Copy it, and adapt the names.
#
# One block for each node and each client; the user name is the node's or the client's name. Mosquitto's `pattern` lines
# cannot tell a node from a client, so they are not used. No client may have the name of a service: its inbox would read
# as a command topic.
#
# The broker has to know who is connected: `allow_anonymous false`, and a password file or client certificates.

# A node. It hears commands and publishes answers and events; it cannot command.
user node-7
",
    );
    for service in &services {
        let _ = writeln!(out, "topic read orch/node-7/{service}/#");
    }
    out.push_str(
        "\
topic read orch/all/#
topic read orch/any/#
topic write orch/node-7/results/#
topic write orch/node-7/events/#
topic write orch/inbox/#

# A client. It commands every node, and hears its own inbox, the answers that were sent nowhere else, and events.
user app
",
    );
    for service in &services {
        let _ = writeln!(out, "topic write orch/+/{service}/#");
        // `+` would let it into an inbox that has the name of a service.
        let _ = writeln!(out, "topic deny orch/inbox/{service}/#");
    }
    out.push_str(
        "\
topic read orch/inbox/app/#
topic read orch/+/results/#
topic read orch/+/events/#
",
    );
    out
}

/// Rules for EMQX: its file authorizer.
pub(super) fn emqx(commands: &[Declaration]) -> String {
    let services = services(commands);
    let list = |prefix: &str| {
        let topics: Vec<_> = services.iter().map(|service| format!("\"{prefix}/{service}/#\"")).collect();
        topics.join(", ")
    };
    format!(
        "\
%% Access rules for EMQX 5 (file authorizer, acl.conf), with the root `orch`. UNTESTED: a starting point.
%% Made from the code: `orchd topics generate` writes it anew. Copy it, and adapt the names.
%%
%% User names of nodes begin with `node-`, those of clients do not; the user name of a node is its name. EMQX checks the
%% filter without `$share/<group>/`. Everything else is refused: set `authorization.no_match = deny` as well.

%% Nodes hear commands and publish answers and events; they cannot command.
{{allow, {{username, {{re, \"^node-\"}}}}, subscribe, [{own}, \"orch/all/#\", \"orch/any/#\"]}}.
{{allow, {{username, {{re, \"^node-\"}}}}, publish, [\"orch/${{username}}/results/#\", \"orch/${{username}}/events/#\", \"orch/inbox/#\"]}}.
{{deny, {{username, {{re, \"^node-\"}}}}, all, [\"#\"]}}.

%% Clients command every node, and hear their own inbox, answers that were sent nowhere else, and events.
{{deny, all, publish, [\"orch/inbox/#\"]}}.
{{allow, all, publish, [{any}]}}.
{{allow, all, subscribe, [\"orch/inbox/${{username}}/#\", \"orch/+/results/#\", \"orch/+/events/#\"]}}.
{{deny, all}}.
",
        own = list("orch/${username}"),
        any = list("orch/+"),
    )
}
