//! The rules that a new node begins with. Pure data; an operator may change or remove them.

use super::model::{Rule, Stance};

const NO_HARM: &[&str] = &[
    "harm|hurt|injure|kill|murder|slay|slaughter|massacre <person>|victim|survivor",
    "assassinate|torture|torment|maim|mutilate|cripple|behead <person>",
    "strangle|suffocate|stab|drown|rape|molest|kidnap|abduct|lynch <person>",
    "attack|assault|abuse|punch|slap|shoot|shot|bomb|starve|burn|poison <person>",
    "bully|threaten|stalk|harass|terrorise|terrorize|endanger|enslave <person>",
    "beat up <person>",
    "beat <person> up|badly|bloody|unconscious|senseless|until",
    "beat child|children|kid|wife|husband|woman|girl|boy|baby|dog|horse|prisoner",
    "run over <person>",
    "push|shove|throw <person> off|under|down|from cliff|roof|bridge|train|building|balcony|window|bus|stairs",
    "<person>|they|he|she should|must be|get killed|murdered|tortured|harmed|hurt|beaten|executed|shot|poisoned",
    "cause|inflict|do|bring harm|injury|pain|suffering|death|violence to|on|upon <person>",
    "cause|inflict harm|bloodshed|violence",
    "commit murder|genocide|suicide|arson|rape|terrorism|massacre|assault",
    "plant|detonate bomb|explosives",
    "make|build|assemble explosives|napalm|ricin|sarin",
    "blow up <person>|building|school|hospital|bridge|house|train|plane|airport|church|mosque|synagogue",
    "burn down house|home|school|hospital|church|building|village",
    "set fire to <person>|house|home|school|hospital|church|building",
    "poison water|food|drink|meal|lake|river|reservoir",
    "make|let|leave <person> suffer|die|starve|bleed",
    "harm|pollute environment|ecosystem|wildlife|nature",
];

const TRUTH: &[&str] = &[
    "lie|lying to <person>|authorities|police|court",
    "lie|lying about",
    "tell|spread|invent|publish lie|lies|falsehood|untruth|disinformation|misinformation",
    "deceive|defraud|swindle|gaslight",
    "mislead|misled|trick|scam|cheat|dupe|fool <person>|authorities|market",
    "falsify|fabricate evidence|record|document|report|data|result|identity|statement|certificate|log|measurement|invoice|quote|citation|testimony",
    "forge signature|document|certificate|passport|invoice|record|evidence|identity|letter|cheque|check",
    "fake evidence|document|passport|signature|certificate|proof|review|news|identity|testimony|invoice|receipt",
    "tamper with evidence|record|log|ballot|vote|result|measurement|data",
    "impersonate <person>|bank|authorities|authority|official|company",
    "pose as <person>|bank|official|company",
    "spread|publish|post|share propaganda|hoax|rumour|rumor",
    "send|write|craft|create phishing",
    "hide|conceal|withhold|suppress truth|evidence|defect|risk",
    "cover up truth|crime|accident|evidence|fraud|death|leak|mistake",
];

/// The rules that a ledger is given when it is first opened.
pub(super) fn rules() -> Vec<Rule> {
    let rule = |name: &str, description: &str, weight, patterns: &[&str]| Rule {
        name: name.to_owned(),
        description: description.to_owned(),
        weight,
        stance: Stance::Forbids,
        patterns: patterns.iter().map(ToString::to_string).collect(),
    };
    vec![
        rule("no-harm", "Do not harm people or animals, nor what they live from.", 10.0, NO_HARM),
        rule("truth", "Do not deceive: no lies, no forgery, no false identity.", 8.0, TRUTH),
    ]
}
