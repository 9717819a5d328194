//! Topic names and filters: how a node's topics are built, read and matched.
//!
//! Names of roots, nodes, services and verbs are single topic levels of `[A-Za-z0-9._-]`, so that a topic of ours
//! can be split without quoting and never holds a wildcard.

/// Longest topic that is accepted or produced, in bytes. MQTT allows 65,535; nothing of ours comes near.
pub const MAX_TOPIC_BYTES: usize = 1_024;

/// Most levels of a topic that is accepted or produced: fewer than common brokers take.
const MAX_TOPIC_LEVELS: usize = 100;

/// Longest name of a root or node, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// Whom a command topic addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// This node by its name.
    Node,
    /// Every node.
    All,
    /// Any one node of a group, by a shared subscription.
    Any,
}

/// A command topic, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandTopic<'a> {
    /// Whom it addresses.
    pub target: Target,
    /// The first level of the command, such as `memory`.
    pub service: &'a str,
    /// Service and verb, such as `conscience/rules/set`.
    pub command: &'a str,
}

/// Whether `name` may be a root or node name: one level of `[A-Za-z0-9._-]`, at most 64 bytes.
#[must_use]
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether a message may be published to `topic` without a broker minding: MQTT 5, sections 4.7 and 1.5.4. A broker may end the connection over control
/// characters and noncharacters, and over many levels (Mosquitto over 200, EMQX over 128).
#[must_use]
pub fn is_topic(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= MAX_TOPIC_BYTES
        && topic.split('/').count() <= MAX_TOPIC_LEVELS
        && !topic.contains(|c: char| matches!(c, '+' | '#') || c.is_control() || is_noncharacter(c))
}

/// Unicode, section 23.7.
const fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || c as u32 & 0xfffe == 0xfffe
}

/// Whether `filter` is a valid topic filter: `+` and `#` stand alone in their level, `#` comes last.
#[must_use]
pub fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_TOPIC_BYTES || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        if wild && level.len() != 1 || level == "#" && levels.peek().is_some() {
            return false;
        }
    }
    true
}

/// Whether `filter` may be a permission: each level is a name, `+`, or, at the end, `#`. Narrower than MQTT allows, because
/// a command topic has no other levels: what is neither (an empty level, `%2F`, `$SYS`, `a#`) is a mistake or a trick.
#[must_use]
pub fn is_permission(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    if filter.len() > MAX_TOPIC_BYTES {
        return false;
    }
    while let Some(level) = levels.next() {
        let good = level == "+" || level == "#" && levels.peek().is_none() || is_name(level);
        if !good {
            return false;
        }
    }
    true
}

/// Whether `filter` matches `topic`, as MQTT 5 section 4.7 says: `a/#` matches `a`, and a filter that begins with a
/// wildcard does not match a topic that begins with `$`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    let mut filter_levels = filter.split('/');
    loop {
        match (filter_levels.next(), topic_levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(f), Some(t)) if f == t => {}
            _ => return false,
        }
    }
}

/// The topics of one node: `{root}/{node}/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    root: String,
    node: String,
}

/// Node names that would be mistaken for another kind of topic.
const RESERVED: [&str; 3] = ["all", "any", "inbox"];

impl Names {
    /// Names for `node` under `root`; `None` when one is not a name, or the node's is reserved (`all`, `any`,
    /// `inbox`).
    #[must_use]
    pub fn new(root: &str, node: &str) -> Option<Self> {
        (is_name(root) && is_name(node) && !RESERVED.contains(&node))
            .then(|| Self { root: root.to_owned(), node: node.to_owned() })
    }

    /// The root level.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The topic of `command` (`memory/store`) for this node.
    #[must_use]
    pub fn command(&self, command: &str) -> String {
        format!("{}/{}/{command}", self.root, self.node)
    }

    /// The topic of `command` for `target`, as a publisher writes it.
    #[must_use]
    pub fn command_for(&self, target: Target, command: &str) -> String {
        match target {
            Target::Node => self.command(command),
            Target::All => format!("{}/all/{command}", self.root),
            Target::Any => format!("{}/any/{command}", self.root),
        }
    }

    /// Where answers go when the asker named no reply topic.
    #[must_use]
    pub fn results(&self, service: &str) -> String {
        format!("{}/{}/results/{service}", self.root, self.node)
    }

    /// The topic of an event: `status`, `capabilities`, `heartbeat`, `errors`, `jobs` or `memory`.
    #[must_use]
    pub fn event(&self, kind: &str) -> String {
        format!("{}/{}/events/{kind}", self.root, self.node)
    }

    /// The event topics of every node under the root.
    #[must_use]
    pub fn event_of_all_nodes(&self, kind: &str) -> String {
        format!("{}/+/events/{kind}", self.root)
    }

    /// The reply topics of `principal`: everything under this prefix.
    #[must_use]
    pub fn inbox(&self, principal: &str) -> String {
        format!("{}/inbox/{principal}", self.root)
    }

    /// Takes a command topic apart; `None` when it is not one for this node, for `all` or for `any`.
    #[must_use]
    pub fn parse<'a>(&self, topic: &'a str) -> Option<CommandTopic<'a>> {
        let rest = topic.strip_prefix(self.root.as_str())?.strip_prefix('/')?;
        let (target, command) = rest.split_once('/')?;
        let target = match target {
            "all" => Target::All,
            "any" => Target::Any,
            node if node == self.node => Target::Node,
            _ => return None,
        };
        let (service, verb) = command.split_once('/')?;
        (is_name(service) && !matches!(service, "results" | "events") && !verb.is_empty())
            .then_some(CommandTopic { target, service, command })
    }

    /// Whether a message on `topic` could be taken as a command by any node under this root, or is an event or
    /// result of one: nothing may be answered there.
    #[must_use]
    pub fn is_ours(&self, topic: &str) -> bool {
        let Some(rest) = topic.strip_prefix(self.root.as_str()) else { return false };
        match rest.strip_prefix('/') {
            Some(rest) => rest.split('/').next() != Some("inbox"),
            None => rest.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/a", true),
            ("#", "a//b", true),
            ("#", "$SYS/broker", false),
            ("+/broker", "$SYS/broker", false),
            ("$SYS/#", "$SYS/broker", true),
            ("a/b", "a/b/c", false),
            ("a/b/c", "a/b", false),
            ("a/+/c", "a//c", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn a_topic_has_nothing_over_which_a_broker_ends_the_connection() {
        for good in ["a", "a/ü b/", "/", &"a/".repeat(99)] {
            assert!(is_topic(good), "{good}");
        }
        let deep = "a/".repeat(100);
        for bad in
            ["", "a/+", "a/#", "a\0", "a\n", "a\u{7f}", "a\u{85}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}", &deep]
        {
            assert!(!is_topic(bad), "{bad:?}");
        }
    }

    #[test]
    fn filters_with_wildcards_inside_a_level_are_refused() {
        for bad in ["", "a#", "a/#/b", "+a", "a/b+", "#/", "a\0"] {
            assert!(!is_filter(bad), "{bad}");
        }
        for good in ["#", "+", "a/+/b/#", "/", "a//b"] {
            assert!(is_filter(good), "{good}");
        }
    }

    #[test]
    fn a_command_topic_is_never_a_result_or_an_event() {
        let names = Names::new("orch", "n1").unwrap();
        assert_eq!(
            names.parse("orch/n1/conscience/rules/set"),
            Some(CommandTopic {
                target: Target::Node,
                service: "conscience",
                command: "conscience/rules/set"
            })
        );
        assert_eq!(names.parse("orch/all/node/ping").map(|t| t.target), Some(Target::All));
        for not_ours in [
            "orch/n1/results/memory",
            "orch/n1/events/status",
            "orch/n2/memory/store",
            "orch/n1/memory",
            "orchn1/a/b",
        ] {
            assert_eq!(names.parse(not_ours), None, "{not_ours}");
        }
        for (topic, ours) in [
            ("orch/n2/memory/store", true),
            ("orch/n1/results/memory", true),
            ("orch", true),
            ("orch/inbox/a/1", false),
            ("orchid/n1/memory/store", false),
        ] {
            assert_eq!(names.is_ours(topic), ours, "{topic}");
        }
    }

    #[test]
    fn reserved_and_unprintable_names_are_refused() {
        for bad in ["", "all", "any", "inbox", "a/b", "a+", "é", "a b", &"x".repeat(65)] {
            assert!(Names::new("orch", bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_topic_matches_itself_and_its_own_wildcards(levels in prop::collection::vec("[a-z]{0,3}", 1..6), at in 0usize..6) {
            let topic = levels.join("/");
            prop_assert!(matches(&topic, &topic));
            let at = at % levels.len();
            let mut plus = levels.clone();
            plus[at] = "+".into();
            prop_assert!(matches(&plus.join("/"), &topic));
            let mut hash = levels[..at].to_vec();
            hash.push("#".into());
            prop_assert!(matches(&hash.join("/"), &topic));
        }

        #[test]
        fn built_command_topics_are_read_back(node in "[A-Za-z0-9._-]{1,20}", service in "[a-z]{1,8}", verb in "[a-z]{1,8}(/[a-z]{1,8})?") {
            prop_assume!(!RESERVED.contains(&node.as_str()) && service != "results" && service != "events");
            let names = Names::new("orch", &node).unwrap();
            let command = format!("{service}/{verb}");
            for target in [Target::Node, Target::All, Target::Any] {
                let topic = names.command_for(target, &command);
                let parsed = names.parse(&topic).unwrap();
                prop_assert_eq!(parsed, CommandTopic { target, service: &service, command: &command });
                prop_assert!(names.is_ours(&topic));
            }
        }
    }
}
