//! Writes JSON values as YAML in block style: what the AsyncAPI document needs, and no more.

use std::fmt::Write;

use serde_json::Value;

/// Words that YAML 1.1 or 1.2 reads as something else than text.
const RESERVED: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];

/// `value` as a YAML document.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::from("# Made from the code: `orchd topics generate` writes it anew.\n");
    block(&mut out, value, 0);
    out
}

/// Writes `value` as lines that are indented by `depth` levels.
fn block(out: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    // Writing to a String cannot fail.
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, value) in members {
                let _ = write!(out, "{indent}{}:", text(key));
                nested(out, value, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "{indent}-");
                if is_block(item) {
                    // The first line stands beside the dash, the rest below it.
                    let mut lines = String::new();
                    block(&mut lines, item, depth + 1);
                    let _ = write!(out, " {}", lines.trim_start());
                } else {
                    nested(out, item, depth);
                }
            }
        }
        value => {
            let _ = writeln!(out, "{indent}{}", scalar(value));
        }
    }
}

fn nested(out: &mut String, value: &Value, depth: usize) {
    if is_block(value) {
        out.push('\n');
        block(out, value, depth + 1);
    } else {
        let _ = writeln!(out, " {}", scalar(value));
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        // Numbers, true, false, null, [] and {} are the same in both.
        other => other.to_string(),
    }
}

/// Plain where that is certain to be read as this text, else quoted as in JSON, which YAML reads too.
fn text(string: &str) -> String {
    let starts_plain = string.starts_with(|c: char| c.is_ascii_alphabetic());
    let plain = string.chars().all(|c| c.is_ascii_alphanumeric() || " _-./(),;".contains(c));
    let reserved = RESERVED.iter().any(|word| string.eq_ignore_ascii_case(word));
    if starts_plain && plain && !reserved && !string.ends_with(' ') {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn values_are_written_as_blocks_and_doubtful_text_is_quoted() {
        let value = json!({
            "a": { "list": [1, "two", { "k": true, "l": [] }, ["x"]], "empty": {} },
            "no": "yes",
            "text": "plain text, (really).",
            "topic": "{root}/x",
            "version": "3.0.0",
        });
        assert_eq!(
            super::document(&value).split_once('\n').unwrap().1,
            concat!(
                "a:\n",
                "  empty: {}\n",
                "  list:\n",
                "    - 1\n",
                "    - two\n",
                "    - k: true\n",
                "      l: []\n",
                "    - - x\n",
                "\"no\": \"yes\"\n",
                "text: plain text, (really).\n",
                "topic: \"{root}/x\"\n",
                "version: \"3.0.0\"\n",
            )
        );
    }
}
