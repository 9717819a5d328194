//! What is judged: an action in words, or a call of a tool.
//!
//! Pure. Either becomes one text for the matcher. A call is written `tool · name=value · name=value · target=… ·
//! context=…`, its names and values in the order of the names; a phrase may go on across `·` and `=` ("delete · table=users"
//! is `delete table`), a negation may not.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::model::MAX_ACTION;
use crate::wire::{Fault, distinct, distinct_object};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Action {
    /// In words, in English.
    Text(String),
    /// By calling a tool.
    Call(ToolCall),
}

/// Not derived, so that an error says what is wrong with the call, and not that no variant fits.
impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Action;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an object with `tool`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Action, E> {
                Ok(Action::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Action, E> {
                Ok(Action::Text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, call: A) -> Result<Action, A::Error> {
                ToolCall::deserialize(MapAccessDeserializer::new(call)).map(Action::Call)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The tool's name, such as `delete_file`.
    pub tool: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Map::is_empty", deserialize_with = "distinct_object")]
    pub args: Map<String, Value>,
    /// What it is done to: a file, a host, an MQTT topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What else is known: a text or an object.
    #[serde(default, skip_serializing_if = "Value::is_null", deserialize_with = "distinct")]
    pub context: Value,
}

/// An action as rules see it, with what was told besides.
#[derive(Clone, Debug)]
pub struct Subject {
    action: Action,
    circumstances: Option<String>,
    entity: Option<String>,
    text: String,
    /// Where each field of a call begins in the text, and what was added behind an action in words.
    fields: Vec<(usize, String)>,
}

impl Subject {
    /// Writes `action` as a text, with the circumstances that were told besides.
    ///
    /// # Errors
    /// `invalid` when it is blank, or longer than [`MAX_ACTION`] characters once written.
    pub fn new(action: Action, circumstances: Option<String>, entity: Option<String>) -> Result<Self, Fault> {
        let mut written = Written::default();
        match &action {
            Action::Text(text) => {
                written.text.push_str(text);
                written.room()?;
                written.quoted("action", text)?;
            }
            Action::Call(call) => written.call(call)?,
        }
        if written.text.trim().is_empty() {
            return Err(Fault::invalid("action: expected a text or a tool's name that is not blank"));
        }
        if let Some(circumstances) = &circumstances {
            written.field("context", circumstances)?;
        }
        // To a shell a line that ends in a backslash goes on; as many bytes, so that positions stay.
        let text = written.text.replace("\\\n", "  ");
        Ok(Self { action, circumstances, entity, text, fields: written.fields })
    }

    /// An action in words, as it is.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self {
            action: Action::Text(text.to_owned()),
            circumstances: None,
            entity: None,
            text: text.to_owned(),
            fields: Vec::new(),
        }
    }

    /// What is to be done.
    #[must_use]
    pub const fn action(&self) -> &Action {
        &self.action
    }

    /// What was told besides.
    #[must_use]
    pub fn circumstances(&self) -> Option<&str> {
        self.circumstances.as_deref()
    }

    /// The text that is matched.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    const fn call(&self) -> Option<&ToolCall> {
        match &self.action {
            Action::Text(_) => None,
            Action::Call(call) => Some(call),
        }
    }

    /// The tool that is called.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        self.call().map(|call| call.tool.as_str())
    }

    /// What it is done to.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.call()?.target.as_deref()
    }

    /// What the Rego body of a rule is asked about.
    pub(super) fn document(&self) -> Document<'_> {
        let call = self.call();
        Document {
            text: &self.text,
            tool: self.tool(),
            args: call.map(|call| &call.args),
            target: self.target(),
            context: call.map(|call| &call.context).filter(|context| !context.is_null()),
            circumstances: self.circumstances(),
            entity: self.entity(),
        }
    }

    /// Whom it is about.
    #[must_use]
    pub fn entity(&self) -> Option<&str> {
        self.entity.as_deref()
    }

    /// The field of a call that the byte `at` is in.
    pub(super) fn field(&self, at: usize) -> Option<&str> {
        let next = self.fields.partition_point(|(start, _)| *start <= at);
        self.fields.get(next.checked_sub(1)?).map(|(_, name)| name.as_str())
    }
}

/// The document that the Rego body of a rule sees as `input`. What was not given is not there.
#[derive(Debug, Serialize)]
pub(super) struct Document<'s> {
    /// The whole action as one text, as patterns see it.
    text: &'s str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'s str>,
    /// Of a call always there.
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'s Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'s str>,
    /// The call's own context.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'s Value>,
    /// The context of the evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    circumstances: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<&'s str>,
}

/// What stands between two fields of a call.
pub(super) const BORDER: &str = " · ";

/// What the program that a tool runs is called by, and what it is run with, in the order in which it is written.
const PROGRAM: [&str; 10] =
    ["command", "cmd", "program", "executable", "binary", "bin", "exe", "file", "path", "name"];
const RUN_WITH: [&str; 9] =
    ["options", "opts", "flags", "args", "arguments", "argv", "params", "parameters", "paths"];

/// An action as it is being written.
#[derive(Default)]
struct Written {
    text: String,
    fields: Vec<(usize, String)>,
}

impl Written {
    fn call(&mut self, call: &ToolCall) -> Result<(), Fault> {
        self.fields.push((0, "tool".to_owned()));
        self.text = split_words(&call.tool);
        self.room()?;
        if self.text.trim().is_empty() {
            return Ok(());
        }
        self.object("args", &call.args)?;
        if let Some(target) = &call.target {
            self.field("target", target)?;
        }
        self.value("context", &call.context)
    }

    /// Adds the members of an object, a program and what it is run with as one: `{"command": "rm", "args": ["-rf", "/"]}`.
    fn object(&mut self, path: &str, object: &Map<String, Value>) -> Result<(), Fault> {
        let line = Line::of(object);
        if let Some(line) = &line {
            self.field(&format!("{path}.{}", line.program), &line.text)?;
        }
        object
            .iter()
            .filter(|(name, _)| !line.as_ref().is_some_and(|line| line.has(name)))
            .try_for_each(|(name, value)| self.value(&format!("{path}.{name}"), value))
    }

    /// Adds a field; of an object each part for itself, and of a list too, but for one of words alone: `["rm", "-rf", "/"]`
    /// is a command like `rm -rf /`.
    fn value(&mut self, path: &str, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Null => Ok(()),
            Value::Array(list) if list.is_empty() => Ok(()),
            Value::Array(list) => match words(list) {
                Some(words) => self.field(path, &words),
                None => list.iter().try_for_each(|value| self.value(path, value)),
            },
            Value::Object(object) => self.object(path, object),
            Value::String(text) => {
                self.field(path, text)?;
                self.quoted(path, text)
            }
            Value::Bool(_) | Value::Number(_) => scalar(value).map_or(Ok(()), |text| self.field(path, &text)),
        }
    }

    /// Adds the commands that `text` holds in pieces, where it is JSON. What it says otherwise stands there already.
    fn quoted(&mut self, path: &str, text: &str) -> Result<(), Fault> {
        if !text.trim_start().starts_with(['{', '[']) {
            return Ok(());
        }
        serde_json::from_str::<Value>(text).map_or(Ok(()), |value| self.commands(path, &value))
    }

    fn commands(&mut self, path: &str, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Object(object) => {
                if let Some(line) = Line::of(object) {
                    self.field(&format!("{path}.{}", line.program), &line.text)?;
                }
                object.iter().try_for_each(|(name, value)| self.commands(&format!("{path}.{name}"), value))
            }
            Value::Array(list) => match words(list) {
                Some(words) if list.len() > 1 => self.field(path, &words),
                _ => list.iter().try_for_each(|value| self.commands(path, value)),
            },
            // Each such text is shorter than the one that it stands in.
            Value::String(text) => self.quoted(path, text),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    fn field(&mut self, path: &str, text: &str) -> Result<(), Fault> {
        self.text.push_str(BORDER);
        self.fields.push((self.text.len(), path.to_owned()));
        self.text.push_str(path.rsplit('.').next().unwrap_or(path));
        self.text.push('=');
        self.text.push_str(text);
        self.room()
    }

    fn room(&self) -> Result<(), Fault> {
        // A character takes at most four bytes: what is shorter than the limit in bytes need not be counted.
        if self.text.len() > MAX_ACTION && self.text.chars().count() > MAX_ACTION {
            return Err(Fault::invalid(format!("action: expected at most {MAX_ACTION} characters")));
        }
        Ok(())
    }
}

/// A program with what it is run with, of an object that has both.
struct Line<'o> {
    /// What the program is called by there.
    program: &'static str,
    /// As a shell would have it.
    text: String,
    object: &'o Map<String, Value>,
}

impl<'o> Line<'o> {
    fn of(object: &'o Map<String, Value>) -> Option<Self> {
        let (program, mut text) = PROGRAM.iter().find_map(|name| {
            let text = object.get(*name)?.as_str()?;
            Some((*name, text.to_owned()))
        })?;
        let alone = text.len();
        for with in RUN_WITH.iter().filter_map(|name| run_with(object.get(*name)?)) {
            text.push(' ');
            text.push_str(&with);
        }
        (text.len() > alone).then_some(Self { program, text, object })
    }

    /// Whether the member `name` is part of it.
    fn has(&self, name: &str) -> bool {
        name == self.program || RUN_WITH.contains(&name) && self.object.get(name).and_then(run_with).is_some()
    }
}

/// What a program is run with, as one text: a list of words, or a text.
fn run_with(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Array(list) if !list.is_empty() => words(list).map(Cow::Owned),
        Value::String(text) => Some(Cow::Borrowed(text)),
        _ => None,
    }
}

/// The list as one text, if it has nothing but words, numbers and truths.
fn words(list: &[Value]) -> Option<String> {
    list.iter().map(scalar).collect::<Option<Vec<_>>>().map(|words| words.join(" "))
}

/// What is no list, no object and not null, as it is written.
fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Bool(_) | Value::Number(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `deleteFile` as `delete File`: its words are told by their capitals.
fn split_words(tool: &str) -> String {
    let mut text = String::with_capacity(tool.len() + 4);
    let mut was_small = false;
    for c in tool.chars() {
        if c.is_uppercase() && was_small {
            text.push(' ');
        }
        was_small = c.is_lowercase() || c.is_numeric();
        text.push(if matches!(c, '.' | '/' | ':') { ' ' } else { c });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subject(action: Value) -> Result<Subject, Fault> {
        Subject::new(serde_json::from_value(action).unwrap(), None, None)
    }

    #[test]
    fn a_call_is_written_with_its_fields_and_each_byte_has_one() {
        let call = json!({
            "tool": "fs.deleteFile", "args": { "path": "/etc/passwd", "options": { "force": true } }, "target": "host-1",
        });
        let subject = subject(call).unwrap();
        assert_eq!(subject.text(), "fs delete File · force=true · path=/etc/passwd · target=host-1");
        let at = subject.text().find("/etc").unwrap();
        assert_eq!((subject.field(0), subject.field(at)), (Some("tool"), Some("args.path")));
        assert_eq!(subject.tool(), Some("fs.deleteFile"));
    }

    #[test]
    fn an_argument_that_stands_twice_is_refused() {
        for call in [
            r#"{"tool":"rm","args":{"path":"/data/a","path":"/etc"}}"#,
            r#"{"tool":"rm","args":{"of":[{"path":"/data/a","path":"/etc"}]}}"#,
            r#"{"tool":"rm","context":{"user":"a","user":"b"}}"#,
        ] {
            let error = serde_json::from_str::<Action>(call).unwrap_err();
            assert!(error.to_string().contains("duplicate field"), "{error}");
        }
        assert!(serde_json::from_str::<Action>(r#"{"tool":"rm","args":[]}"#).is_err());
    }

    #[test]
    fn a_command_is_one_text_in_whatever_pieces_it_comes() {
        for (call, text) in [
            (json!({ "tool": "sh", "args": { "argv": ["rm", "-rf", "/"] } }), "sh · argv=rm -rf /"),
            (
                json!({ "tool": "sh", "args": { "args": ["-n", 5], "command": "head", "cwd": "/" } }),
                "sh · command=head -n 5 · cwd=/",
            ),
            (
                json!({ "tool": "sh", "args": { "steps": [{ "command": "rm", "args": ["-rf", "/"] }, { "run": "ls" }] } }),
                "sh · command=rm -rf / · run=ls",
            ),
            (
                json!({ "tool": "sh", "args": { "command": { "name": "rm", "args": ["-rf", "/"] } } }),
                "sh · name=rm -rf /",
            ),
            (
                json!({ "tool": "sh", "args": { "bin": "rm", "flags": ["-rf"], "params": ["/", 1], "program": 5 } }),
                "sh · bin=rm -rf / 1 · program=5",
            ),
            (json!({ "tool": "sh", "args": { "program": "rm", "argv": "-rf /" } }), "sh · program=rm -rf /"),
            (
                json!({ "tool": "sh", "args": { "x": r#"{"cmd": ["rm", "-rf", "/"], "n": 1}"# } }),
                r#"sh · x={"cmd": ["rm", "-rf", "/"], "n": 1} · cmd=rm -rf /"#,
            ),
            (
                json!(r#"{"tool": "sh", "args": {"x": "{\"bin\": \"rm\", \"args\": \"-rf\"}"}}"#),
                r#"{"tool": "sh", "args": {"x": "{\"bin\": \"rm\", \"args\": \"-rf\"}"}} · bin=rm -rf"#,
            ),
            (
                json!({ "tool": "sh", "args": { "cmd": "rm \\\n-rf /", "args": [], "env": [{ "A": 1 }] } }),
                "sh · cmd=rm   -rf / · A=1",
            ),
        ] {
            assert_eq!(subject(call).unwrap().text(), text);
        }
    }

    #[test]
    fn what_is_blank_or_too_long_is_invalid() {
        let long = "x".repeat(MAX_ACTION + 1);
        for action in
            [json!(" \n"), json!({ "tool": " " }), json!(long), json!({ "tool": "t", "args": { "a": long } })]
        {
            assert!(subject(action).is_err());
        }
        assert!(subject(json!("ä".repeat(MAX_ACTION))).is_ok());
    }
}
