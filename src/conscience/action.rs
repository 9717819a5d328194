//! What is judged: an action in words, or a call of a tool.
//!
//! Pure. Either becomes one text for the matcher. A call is written `tool · name=value · name=value · target=… ·
//! context=…`, its names and values in the order of the names; a phrase may go on across `·` and `=` ("delete · table=users"
//! is `delete table`), a negation may not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::model::MAX_ACTION;
use crate::wire::Fault;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Action {
    /// In words, in English.
    Text(String),
    /// By calling a tool.
    Call(ToolCall),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// The tool's name, such as `delete_file`.
    pub tool: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub args: Map<String, Value>,
    /// What it is done to: a file, a host, an MQTT topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What else is known: a text or an object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub context: Value,
}

/// An action as rules see it.
#[derive(Clone, Debug)]
pub struct Subject {
    text: String,
    /// Where each field of a call begins in the text; none for an action in words.
    fields: Vec<(usize, String)>,
    tool: Option<String>,
    target: Option<String>,
    entity: Option<String>,
}

impl Subject {
    /// Writes `action` as a text, with the circumstances that were told besides.
    ///
    /// # Errors
    /// `invalid` when it is blank, or longer than [`MAX_ACTION`] characters once written.
    pub fn new(action: &Action, context: Option<&str>, entity: Option<&str>) -> Result<Self, Fault> {
        let mut subject = Self {
            text: String::new(),
            fields: Vec::new(),
            tool: None,
            target: None,
            entity: entity.map(str::to_owned),
        };
        match action {
            Action::Text(text) => {
                subject.text.push_str(text);
                subject.room()?;
            }
            Action::Call(call) => subject.write_call(call)?,
        }
        if subject.text.trim().is_empty() {
            return Err(Fault::invalid("action: expected a text or a tool's name that is not blank"));
        }
        if let Some(context) = context {
            subject.write("context", &Value::String(context.to_owned()))?;
        }
        Ok(subject)
    }

    /// An action in words, as it is.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self { text: text.to_owned(), fields: Vec::new(), tool: None, target: None, entity: None }
    }

    /// The text that is matched.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tool that is called.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        self.tool.as_deref()
    }

    /// What it is done to.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.target.as_deref()
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

    fn write_call(&mut self, call: &ToolCall) -> Result<(), Fault> {
        self.fields.push((0, "tool".to_owned()));
        self.text = split_words(&call.tool);
        self.room()?;
        if self.text.trim().is_empty() {
            return Ok(());
        }
        for (name, value) in &call.args {
            self.write(&format!("args.{name}"), value)?;
        }
        if let Some(target) = &call.target {
            self.write("target", &Value::String(target.clone()))?;
        }
        self.write("context", &call.context)?;
        self.tool = Some(call.tool.clone());
        self.target.clone_from(&call.target);
        Ok(())
    }

    /// Adds a field; of a list and an object each part for itself.
    fn write(&mut self, path: &str, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Null => return Ok(()),
            Value::Array(list) => return list.iter().try_for_each(|value| self.write(path, value)),
            Value::Object(object) => {
                return object
                    .iter()
                    .try_for_each(|(name, value)| self.write(&format!("{path}.{name}"), value));
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        self.text.push_str(" · ");
        self.fields.push((self.text.len(), path.to_owned()));
        let name = path.rsplit('.').next().unwrap_or(path);
        self.text.push_str(name);
        self.text.push('=');
        match value {
            Value::String(text) => self.text.push_str(text),
            other => self.text.push_str(&other.to_string()),
        }
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
        Subject::new(&serde_json::from_value(action).unwrap(), None, None)
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
