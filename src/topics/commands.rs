//! Every command and every event in two tables, for people.

use std::fmt::Write;

use crate::engine::command::Declaration;
use crate::node::EventDeclaration;
use crate::wire::topic::Target;

/// `topics/commands.md`.
pub(super) fn document(commands: &[Declaration], events: &[EventDeclaration]) -> String {
    let mut out = String::from(
        "\
# Commands and events

Made from the code: `orchd topics generate` writes it anew. The names link to the JSON Schema of the request; that of the answer is
beside it.

A *read* changes nothing that is kept. A *write* is one transaction, answered after its commit. A *job* is accepted in one
transaction and answered when it has ended; progress is told on `events/jobs`. Some commands are of another kind where their
request asks for more: their description says so.

*also on*: may be sent to `{root}/all/…` or `{root}/any/…` as well. *signed*: needs a signature with an API key. *full disk*:
works on while the disk is full.

| command | kind | also on | signed | full disk | what it does |
|---|---|---|---|---|---|
",
    );
    let mut commands: Vec<_> = commands.iter().collect();
    commands.sort_by_key(|command| command.name());
    for command in commands {
        let name = command.name();
        let targets = [(Target::All, "all"), (Target::Any, "any")];
        let also: Vec<_> =
            targets.iter().filter(|(target, _)| command.reaches(*target)).map(|(_, name)| *name).collect();
        let yes = |holds: bool| if holds { "yes" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| [`{name}`](schemas/{}.request.json) | {} | {} | {} | {} | {} |",
            name.replace('/', "."),
            command.kind.as_str(),
            also.join(", "),
            match (command.sensitive, command.private) {
                (signed, false) => yes(signed),
                (true, true) => "yes, private",
                (false, true) => "private",
            },
            yes(command.when_full),
            command.summary,
        );
    }
    out.push_str("\n| event | kept by the broker | what it tells |\n|---|---|---|\n");
    for event in events {
        let _ = writeln!(
            out,
            "| [`{{root}}/{{node}}/events/{kind}`](schemas/events.{kind}.json) | {} | {} |",
            if event.retained { "yes, QoS 1" } else { "no, QoS 0" },
            event.summary,
            kind = event.kind,
        );
    }
    out
}
