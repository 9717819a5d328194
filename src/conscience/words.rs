//! The words of English that the matcher knows by their role in a sentence, as written (folded). Pure data.

/// Articles, possessives and the like: they do not count as a gap inside a phrase.
pub(super) fn is_determiner(word: &str) -> bool {
    matches!(
        word,
        "the"
            | "a"
            | "an"
            | "my"
            | "your"
            | "his"
            | "her"
            | "its"
            | "our"
            | "their"
            | "this"
            | "that"
            | "these"
            | "those"
            | "some"
            | "any"
            | "all"
            | "every"
            | "each"
            | "one"
            | "two"
            | "three"
            | "another"
            | "other"
            | "both"
            | "many"
            | "most"
            | "more"
            | "half"
            | "several"
            | "few"
    )
}

/// After these, "of" belongs to the phrase: "kill all of them", but not "shoot a photo of them".
pub(super) fn is_quantifier(word: &str) -> bool {
    matches!(
        word,
        "one"
            | "two"
            | "three"
            | "all"
            | "some"
            | "any"
            | "each"
            | "every"
            | "both"
            | "many"
            | "most"
            | "half"
            | "several"
            | "few"
            | "lot"
            | "lots"
            | "thousands"
            | "millions"
            | "hundreds"
            | "dozens"
            | "group"
            | "amount"
            | "amounts"
            | "sum"
            | "sums"
            | "bag"
            | "bags"
            | "pile"
            | "bunch"
            | "number"
            | "crowd"
            | "couple"
            | "pair"
    )
}

/// What ends a phrase when it is not itself one of its words: prepositions and what opens a subordinate clause.
pub(super) fn ends_phrase(word: &str) -> bool {
    matches!(
        word,
        "to" | "with"
            | "for"
            | "on"
            | "in"
            | "at"
            | "by"
            | "about"
            | "from"
            | "into"
            | "onto"
            | "over"
            | "under"
            | "of"
            | "as"
            | "than"
            | "like"
            | "via"
            | "through"
            | "during"
            | "after"
            | "before"
            | "against"
            | "without"
            | "between"
            | "among"
            | "near"
            | "that"
            | "which"
            | "who"
            | "whom"
            | "whose"
            | "because"
            | "if"
            | "when"
            | "while"
            | "until"
            | "unless"
            | "but"
            | "then"
            | "so"
            | "where"
            | "what"
            | "how"
            | "no"
            | "not"
            | "never"
    )
}

/// What a negation does not reach beyond.
pub(super) fn ends_negation(word: &str) -> bool {
    matches!(
        word,
        "but"
            | "then"
            | "until"
            | "till"
            | "because"
            | "so"
            | "if"
            | "by"
            | "through"
            | "via"
            | "while"
            | "after"
            | "before"
            | "when"
            | "using"
            | "though"
            | "although"
            | "yet"
            | "otherwise"
            | "else"
            | "order"
            | "unless"
            | "except"
            | "just"
            | "im"
            | "ill"
            | "ive"
            | "instead"
    )
}

/// Verbs for which a participle describes whom they are for: "treat injured people".
pub(super) fn helps(word: &str) -> bool {
    matches!(
        word,
        "help"
            | "treat"
            | "support"
            | "assist"
            | "comfort"
            | "rescue"
            | "save"
            | "protect"
            | "shelter"
            | "feed"
            | "heal"
            | "identify"
            | "find"
            | "visit"
            | "interview"
    )
}

/// Subjects that open a clause of their own.
pub(super) fn is_subject(word: &str) -> bool {
    matches!(word, "i" | "we" | "he" | "she" | "they")
}

/// Before a subject these keep its clause under the negation: "I do not think we should …".
pub(super) fn takes_clause(word: &str) -> bool {
    matches!(
        word,
        "think" | "believe" | "want" | "suggest" | "that" | "recommend" | "say" | "ensure" | "who" | "which"
    )
}

/// Before "to" these keep the negation going: "not want to", "not going to"; any other "to" states a purpose.
pub(super) fn takes_infinitive(word: &str) -> bool {
    matches!(
        word,
        "want"
            | "wants"
            | "wanting"
            | "going"
            | "try"
            | "trying"
            | "plan"
            | "planning"
            | "intend"
            | "intending"
            | "allowed"
            | "able"
            | "need"
            | "have"
            | "like"
            | "dare"
            | "refuse"
            | "refuses"
            | "refused"
            | "refusing"
            | "decline"
            | "declines"
            | "declined"
            | "seek"
            | "attempt"
            | "agree"
            | "wish"
            | "not"
            | "never"
            | "mean"
            | "meant"
            | "used"
            | "ok"
            | "okay"
            | "right"
            | "good"
            | "acceptable"
            | "allow"
            | "ask"
            | "order"
            | "encourage"
            | "wrong"
            | "bad"
            | "hesitate"
            | "wait"
            | "fail"
            | "failed"
            | "forget"
            | "neglect"
            | "afraid"
            | "resist"
            | "illegal"
            | "immoral"
            | "forbidden"
            | "crime"
            | "mind"
            | "ashamed"
            | "scared"
    )
}

/// Directly before a bare verb these carry a negation over to it.
pub(super) fn carries(word: &str) -> bool {
    matches!(
        word,
        "to" | "ever"
            | "again"
            | "even"
            | "should"
            | "may"
            | "must"
            | "can"
            | "will"
            | "shall"
            | "could"
            | "would"
            | "might"
            | "or"
            | "and"
            | "do"
            | "physically"
    ) || (word.len() > 4 && word.ends_with("ly"))
}

/// Verbs that pass a negation through to what another does: "do not let the robot …".
pub(super) fn lets(word: &str) -> bool {
    matches!(word, "let" | "allow" | "make" | "permit" | "help" | "have" | "see" | "watch")
}

/// Stems of words that deny, as steps of a phrase have them.
pub(super) fn denies_within(stem: &str) -> bool {
    is_negator(stem) || matches!(stem, "without" | "no" | "nobodi" | "noon")
}

/// Words in -ed that say by themselves what is wrong, also where they only describe: "pictures of naked children".
pub(super) fn accuses(word: &str) -> bool {
    matches!(
        word,
        "naked"
            | "pirated"
            | "unauthorised"
            | "unauthorized"
            | "unlicensed"
            | "forged"
            | "hacked"
            | "leaked"
            | "cracked"
            | "cloned"
            | "fabricated"
            | "biased"
    )
}

/// Words that deny.
pub(super) fn is_negator(word: &str) -> bool {
    matches!(word, "not" | "never" | "cannot") || is_contraction(word)
}

/// Contractions with "not", without their apostrophe.
pub(super) fn is_contraction(word: &str) -> bool {
    matches!(
        word,
        "dont"
            | "doesnt"
            | "didnt"
            | "wont"
            | "cant"
            | "couldnt"
            | "shouldnt"
            | "wouldnt"
            | "isnt"
            | "arent"
            | "wasnt"
            | "mustnt"
            | "neednt"
            | "shant"
    )
}

/// Subjects that deny: "nobody may …".
pub(super) fn is_nobody(word: &str) -> bool {
    matches!(word, "nobody" | "nothing" | "none")
}

/// Words that prevent what follows as a noun or in -ing, and how many words may stand between.
pub(super) fn prevents(word: &str) -> Option<usize> {
    Some(match word {
        "prevent" | "prevents" | "preventing" | "prevented" | "protect" | "protects" | "protecting" => 8,
        "stop" | "stops" | "stopping" | "keep" | "keeps" | "keeping" | "save" | "saving" | "rescue" => 5,
        "avoid" | "avoids" | "avoiding" | "ban" | "banning" | "forbid" | "prohibit" | "condemn" => 3,
        "detect" | "detecting" | "expose" | "debunk" | "report" | "reporting" | "flag" | "identify"
        | "block" | "combat" | "fight" | "remove" | "reject" | "uncover" | "investigate" | "recognise"
        | "recognize" => 2,
        "without" | "reduce" | "reducing" | "no" => 1,
        _ => return None,
    })
}

/// Words that undo a negation, and deny nothing by themselves: "do not hesitate to …", "it is not wrong to …".
pub(super) fn undoes(word: &str) -> bool {
    matches!(
        word,
        "hesitate"
            | "wait"
            | "fail"
            | "fails"
            | "failed"
            | "failing"
            | "forget"
            | "neglect"
            | "resist"
            | "wrong"
            | "bad"
            | "illegal"
            | "immoral"
            | "forbidden"
            | "problem"
            | "crime"
            | "sin"
            | "afraid"
            | "ashamed"
            | "scared"
            | "sorry"
            | "regret"
            | "mind"
            | "matter"
            | "care"
            | "oppose"
            | "object"
            | "hate"
            | "quit"
            | "cease"
            | "worry"
            | "doubt"
            | "choice"
            | "alternative"
            | "refrain"
            | "refraining"
            | "hold"
            | "shy"
            | "notice"
            | "noticing"
            | "forgive"
    )
}

/// What a witness does: "let nobody see you".
pub(super) fn perceives(word: &str) -> bool {
    matches!(word, "see" | "notice" | "know" | "catch" | "watch" | "hear" | "find" | "spot")
}

/// The infinitive or singular of an irregular form, and another word of the same class for one whose stem it shares with
/// something else ("officer" and "office"); other words as they are.
pub(super) fn regular(word: &str) -> &str {
    match word {
        "sold" => "sell",
        "told" => "tell",
        "stole" | "stolen" => "steal",
        "took" | "taken" => "take",
        "gave" | "given" => "give",
        "sent" => "send",
        "spent" => "spend",
        "broke" | "broken" => "break",
        "bought" => "buy",
        "made" => "make",
        "wrote" | "written" => "write",
        "drove" | "driven" => "drive",
        "hid" | "hidden" => "hide",
        "beaten" => "beat",
        "blew" | "blown" => "blow",
        "threw" | "thrown" => "throw",
        "slew" | "slain" => "slay",
        "shot" => "shoot",
        "fled" => "flee",
        "burnt" => "burn",
        "fed" => "feed",
        "fought" => "fight",
        "brought" => "bring",
        "struck" => "strike",
        "lying" | "lied" => "lie",
        "dying" => "die",
        "misled" => "mislead",
        "forgot" | "forgotten" => "forget",
        "overrode" | "overridden" => "override",
        "animal" | "animals" => "beast",
        "officer" | "officers" => "policeman",
        "customer" | "customers" => "client",
        "manager" | "managers" => "boss",
        "operator" | "operators" => "worker",
        "regulator" | "regulators" => "inspector",
        "reporter" | "reporters" => "journalist",
        "consumer" | "consumers" => "buyer",
        "organization" | "organizations" | "organisation" | "organisations" => "company",
        "important" | "importance" => "weighty",
        "effective" | "effectively" | "effectiveness" => "efficient",
        "different" | "differently" => "various",
        "critical" | "critically" => "crucial",
        "dangerous" | "dangerously" => "perilous",
        "abusive" | "abusively" => "cruel",
        "protected" => "immune",
        "definitely" => "surely",
        "laws" => "legislation",
        "punishment" | "punishments" => "penalty",
        "men" => "man",
        "women" => "woman",
        "children" => "child",
        "wives" => "wife",
        "knives" => "knife",
        "thieves" => "thief",
        // A possessive, without its apostrophe: "boss's".
        _ if word.ends_with("sss") => &word[..word.len() - 1],
        _ => word,
    }
}
