//! What is wrong with a repository, in few words: the library says it in paragraphs, with its own insides, which nobody who
//! reads an answer or a log can use.

/// Longest finding, in characters.
const LONGEST: usize = 200;

/// Findings that a summary names.
const NAMED: usize = 5;

/// Where what the library says of a thing ends, and what it says of itself begins.
const OWN_WORDS: [&str; 3] = [": `rustic_core`", " (kind: related to", " To repair: 'rustic"];

/// The thing that is wrong, in one line.
pub(super) fn brief(said: &str) -> String {
    let line = said.lines().next().unwrap_or_default();
    let end = OWN_WORDS.iter().filter_map(|words| line.find(words)).min().unwrap_or(line.len());
    let line = line[..end].trim().trim_start_matches("Error: ").trim_end_matches(['.', ' ']);
    line.chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

/// All of them in one line: how many, and the first.
pub(super) fn summary(count: u64, findings: &[String]) -> String {
    let named = &findings[..findings.len().min(NAMED)];
    let more = count.saturating_sub(named.len() as u64);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let s = if count == 1 { "" } else { "s" };
    format!("the repository is damaged, {count} finding{s}: {}{more}", named.join("; "))
}

/// What is to be said of backups with these ids.
pub(super) fn unreadable(ids: &[&str]) -> String {
    let named = ids[..ids.len().min(NAMED)].join(", ");
    let more = ids.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(
        "damaged snapshots, which nobody can restore: {named}{more}; the others are good for what they are. Bring their files in `snapshots/` back from a copy, or remove them"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_without_the_words_of_the_library() {
        for (said, expected) in [
            (
                "error reading pack 1234 : `rustic_core` experienced an error related to `Cryptography`.\n\nMessage:\n\
                 MAC check failed.\n\nContext:\n- nonce: [1, 2]\n\nBacktrace:\ndisabled backtrace",
                "error reading pack 1234",
            ),
            (
                "pack 12 not referenced in index. Can be a parallel backup job. To repair: 'rustic repair index'.",
                "pack 12 not referenced in index. Can be a parallel backup job",
            ),
            ("Error: No index for 12 (kind: related to Internal): caused by: x", "No index for 12"),
            ("keys 12: the content is not what was written", "keys 12: the content is not what was written"),
        ] {
            assert_eq!(brief(said), expected);
        }
        assert_eq!(brief(&"x".repeat(10_000)).len(), LONGEST);
    }

    #[test]
    fn a_summary_names_the_first_and_counts_the_rest() {
        let findings: Vec<_> = (0..50).map(|number| format!("pack {number}")).collect();
        assert_eq!(
            summary(70, &findings),
            "the repository is damaged, 70 findings: pack 0; pack 1; pack 2; pack 3; pack 4; and 65 more"
        );
        assert_eq!(summary(1, &findings[..1]), "the repository is damaged, 1 finding: pack 0");
    }
}
