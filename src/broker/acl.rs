//! Who may publish and subscribe to what at the embedded broker. Pure: a principal and a topic in, yes or no out.
//!
//! | role | may publish to | may subscribe to |
//! |---|---|---|
//! | node `N` | `R/N/results/#`, `R/N/events/#`, `R/inbox/#` | `R/N/{service}/#`, `R/all/#`, `R/any/#`, also shared |
//! | client `S` | commands of any node, `R/all/…`, `R/any/…` | `R/inbox/S/#`, `R/+/results/#`, `R/+/events/#` |
//!
//! A subscription is allowed only if everything that its filter can match is allowed. What is not in the table is
//! refused, topics that begin with `$` among it.

use crate::gate::token::Role;
use crate::wire::topic::{is_filter, is_name, is_topic};

/// Levels after the node's that carry answers instead of commands.
const OUTPUTS: [&str; 2] = ["results", "events"];

/// Levels in the node's place that are not nodes.
const NOT_NODES: [&str; 3] = ["all", "any", "inbox"];

/// Who is logged in: a role and a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal<'a> {
    role: Role,
    name: &'a str,
}

impl<'a> Principal<'a> {
    /// `None` when `name` cannot be a principal's: not a single plain topic level, or one that would read as another
    /// kind of topic (a node `all`, a client whose inbox would look like results).
    #[must_use]
    pub fn new(role: Role, name: &'a str) -> Option<Self> {
        let taken = match role {
            Role::Node => NOT_NODES.contains(&name),
            Role::Client => OUTPUTS.contains(&name),
        };
        (is_name(name) && !taken).then_some(Self { role, name })
    }

    /// As the broker keeps it: `node:n1`. Two principals never share one, since no name holds a colon.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}", self.role.as_str(), self.name)
    }

    /// Reads what [`Principal::id`] wrote.
    #[must_use]
    pub fn from_id(id: &'a str) -> Option<Self> {
        let (role, name) = id.split_once(':')?;
        let role = [Role::Node, Role::Client].into_iter().find(|r| r.as_str() == role)?;
        Self::new(role, name)
    }

    /// Whether it may publish to `topic`, under `root`.
    #[must_use]
    pub fn may_publish(&self, root: &str, topic: &str) -> bool {
        if !is_topic(topic) {
            return false;
        }
        let mut levels = topic.split('/');
        if levels.next() != Some(root) {
            return false;
        }
        let (Some(target), Some(service)) = (levels.next(), levels.next()) else { return false };
        match self.role {
            Role::Node => target == "inbox" || target == self.name && OUTPUTS.contains(&service),
            Role::Client => {
                is_name(target) && target != "inbox" && is_name(service) && !OUTPUTS.contains(&service)
            }
        }
    }

    /// Whether it may subscribe to `filter`, shared or not, under `root`.
    #[must_use]
    pub fn may_subscribe(&self, root: &str, filter: &str) -> bool {
        let filter = match filter.strip_prefix("$share/") {
            Some(shared) => match shared.split_once('/') {
                Some((group, filter)) if is_name(group) => filter,
                _ => return false,
            },
            None => filter,
        };
        if !is_filter(filter) {
            return false;
        }
        let covered = |allowed: String| filter_covers(&allowed, filter);
        match self.role {
            Role::Node => {
                covered(format!("{root}/all/#"))
                    || covered(format!("{root}/any/#"))
                    || self.is_own_service(root, filter)
            }
            Role::Client => {
                covered(format!("{root}/inbox/{}/#", self.name))
                    || OUTPUTS.iter().any(|output| covered(format!("{root}/+/{output}/#")))
            }
        }
    }

    /// `R/N/{service}/…` with the service spelled out: a wildcard there would match the outputs as well.
    fn is_own_service(&self, root: &str, filter: &str) -> bool {
        let mut levels = filter.split('/');
        levels.next() == Some(root)
            && levels.next() == Some(self.name)
            && levels.next().is_some_and(|service| is_name(service) && !OUTPUTS.contains(&service))
    }
}

/// Whether `allowed` matches every topic that `requested` matches. Both must be valid filters, and not shared.
#[must_use]
pub fn filter_covers(allowed: &str, requested: &str) -> bool {
    if requested.starts_with('$') && allowed.starts_with(['+', '#']) {
        return false;
    }
    // Every topic has a first level, so that these two are the same.
    if allowed == "+/#" {
        return true;
    }
    let mut allowed = allowed.split('/');
    let mut requested = requested.split('/');
    loop {
        match (allowed.next(), requested.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(a), Some(r)) if a == r => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::topic::matches;

    fn node() -> Principal<'static> {
        Principal::new(Role::Node, "n1").unwrap()
    }

    fn client() -> Principal<'static> {
        Principal::new(Role::Client, "app").unwrap()
    }

    #[test]
    fn publishing_follows_the_table() {
        for (topic, by_node, by_client) in [
            ("r/n1/results/memory", true, false),
            ("r/n1/events/status", true, false),
            ("r/n1/events", true, false),
            ("r/n2/results/memory", false, false),
            ("r/n2/events/status", false, false),
            ("r/inbox/app/1", true, false),
            ("r/inbox/other/1", true, false),
            ("r/n1/memory/store", false, true),
            ("r/n2/conscience/rules/set", false, true),
            ("r/all/node/ping", false, true),
            ("r/any/llm/complete", false, true),
            ("r/all/events/status", false, false),
            ("r/n1/memory", false, true),
            ("r/n1", false, false),
            ("r", false, false),
            ("r//memory/store", false, false),
            ("r/n1//store", false, false),
            ("other/n1/memory/store", false, false),
            ("$SYS/n1/memory", false, false),
            ("r/n1/memory/+", false, false),
        ] {
            assert_eq!(node().may_publish("r", topic), by_node, "node on {topic}");
            assert_eq!(client().may_publish("r", topic), by_client, "client on {topic}");
        }
    }

    #[test]
    fn subscribing_follows_the_table() {
        for (filter, by_node, by_client) in [
            ("r/n1/memory/#", true, false),
            ("r/n1/memory/store", true, false),
            ("r/n1/conscience/+/set", true, false),
            ("r/n1/#", false, false),
            ("r/n1/+/store", false, false),
            ("r/n1/events/#", false, true),
            ("r/n2/memory/#", false, false),
            ("r/all/#", true, false),
            ("r/all/node/ping", true, false),
            ("r/any/#", true, false),
            ("$share/g/r/any/#", true, false),
            ("$share/g/r/n1/memory/#", true, false),
            ("$share/g/r/n2/memory/#", false, false),
            ("$share/+/r/any/#", false, false),
            ("$share/g", false, false),
            ("r/+/node/#", false, false),
            ("r/inbox/app/#", false, true),
            ("r/inbox/app", false, true),
            ("r/inbox/app/1/+", false, true),
            ("$share/g/r/inbox/app/#", false, true),
            ("r/inbox/other/#", false, false),
            ("r/inbox/+/1", false, false),
            ("r/inbox/#", false, false),
            ("r/+/results/#", false, true),
            ("r/n7/results/memory", false, true),
            ("r/+/events/status", false, true),
            ("r/+/+/status", false, false),
            ("r/#", false, false),
            ("+/n1/events/#", false, false),
            ("#", false, false),
            ("$SYS/#", false, false),
        ] {
            assert_eq!(node().may_subscribe("r", filter), by_node, "node to {filter}");
            assert_eq!(client().may_subscribe("r", filter), by_client, "client to {filter}");
        }
    }

    #[test]
    fn a_name_cannot_pose_as_another_kind_of_topic() {
        for (role, name) in [
            (Role::Node, "all"),
            (Role::Node, "any"),
            (Role::Node, "inbox"),
            (Role::Client, "results"),
            (Role::Client, "events"),
            (Role::Client, "+"),
            (Role::Client, "a/b"),
            (Role::Node, "a:b"),
            (Role::Node, ""),
        ] {
            assert_eq!(Principal::new(role, name), None, "{name}");
        }
        for principal in [node(), client()] {
            assert_eq!(Principal::from_id(&principal.id()), Some(principal));
        }
        for bad in ["n1", "admin:n1", "node:", "node:all", "node:n1:x"] {
            assert_eq!(Principal::from_id(bad), None, "{bad}");
        }
    }

    /// Every topic of up to five levels over the letters of the filters, one more that no filter names, and `$`.
    fn topics() -> Vec<String> {
        let mut all: Vec<String> = ["a", "b", "z", "$x"].map(str::to_owned).to_vec();
        let mut last = all.clone();
        for _ in 1..5 {
            last = last.iter().flat_map(|t| ["a", "b", "z"].map(|l| format!("{t}/{l}"))).collect();
            all.extend_from_slice(&last);
        }
        all
    }

    fn filter() -> impl Strategy<Value = String> {
        (prop::collection::vec(prop::sample::select(vec!["a", "b", "+"]), 0..4), any::<bool>(), any::<bool>())
            .prop_filter_map("a filter has a level", |(mut levels, hash, dollar)| {
                if hash {
                    levels.push("#");
                }
                if dollar && levels.first() == Some(&"a") {
                    levels[0] = "$x";
                }
                (!levels.is_empty()).then(|| levels.join("/"))
            })
    }

    proptest! {
        #[test]
        fn a_filter_covers_another_exactly_when_it_matches_all_its_topics(allowed in filter(), requested in filter()) {
            let all = topics().iter().all(|t| !matches(&requested, t) || matches(&allowed, t));
            prop_assert_eq!(filter_covers(&allowed, &requested), all, "{} over {}", allowed, requested);
        }
    }
}
