//! A configuration as it was written: from TOML, the environment and flags, each value with its place.
//!
//! Knows which keys exist, and nothing of what they accept. Goes on after a mistake, so that all are found at once.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sources;
use super::keys::{Key, key, keys, sections};
use super::mistake::{Mistake, Origin, nearest};

/// What begins the name of each environment variable of ours.
pub(super) const PREFIX: &str = "ORCHD_";

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Written>),
    /// From the environment or a flag, where texts have no quotes and lists are joined by commas.
    Plain(String),
    /// Something that no key accepts, by its name.
    Other(&'static str),
}

impl Written {
    /// Whether `text` occurs in it.
    pub(super) fn mentions(&self, text: &str) -> bool {
        match self {
            Self::Text(own) | Self::Plain(own) => own.contains(text),
            Self::List(items) => items.iter().any(|item| item.mentions(text)),
            Self::Bool(_) | Self::Integer(_) | Self::Float(_) | Self::Other(_) => false,
        }
    }

    /// What it is, without its value.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction",
            Self::Text(_) | Self::Plain(_) => "a text",
            Self::List(_) => "a list",
            Self::Other(what) => what,
        }
    }
}

/// A value for a known key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: &'static Key,
    pub(super) written: Written,
    pub(super) origin: Origin,
}

/// All that was written, weakest source first.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) entries: Vec<Entry>,
    pub(super) mistakes: Vec<Mistake>,
    /// Whether parts of the file could not be read, so that what seems missing may be there.
    pub(super) torn: bool,
    /// Where each section of the file begins.
    pub(super) sections: BTreeMap<String, Origin>,
}

/// Collects what the sources say.
pub(super) fn collect(sources: &Sources) -> Raw {
    let mut raw = Raw::default();
    raw.file(&sources.path, &sources.text);
    for (variable, value) in &sources.environment {
        raw.variable(variable, value);
    }
    for flag in &sources.flags {
        raw.flag(flag);
    }
    raw
}

impl Raw {
    fn file(&mut self, path: &Path, text: &str) {
        let at = |offset: usize| Origin::File { path: path.to_owned(), line: line_of(text, offset) };
        let (table, errors) = DeTable::parse_recoverable(text);
        self.torn = !errors.is_empty();
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.mistakes.push(syntax(&error, at(offset), key_at(text, offset)));
        }
        self.sections
            .extend(table.get_ref().keys().map(|name| (name.get_ref().to_string(), at(name.span().start))));
        let mut leaves = Vec::new();
        flatten("", table.get_ref(), &mut leaves);
        leaves.sort_by_key(|(_, offset, _)| *offset);
        let mut unknown_sections: Vec<String> = Vec::new();
        for (path, offset, written) in leaves {
            let section = path.split('.').next().unwrap_or_default().to_owned();
            let known = sections().any(|s| s.name == section);
            if !known && path.contains('.') {
                if !unknown_sections.contains(&section) {
                    self.mistakes.push(unknown_section(at(offset), &section));
                    unknown_sections.push(section);
                }
                continue;
            }
            self.add(&path, written, at(offset));
        }
    }

    fn variable(&mut self, variable: &str, value: &str) {
        let Some(name) = variable.strip_prefix(PREFIX) else { return };
        let origin = Origin::Environment(variable.to_owned());
        if name.contains("__") {
            self.add(&name.to_ascii_lowercase().replace("__", "."), Written::Plain(value.to_owned()), origin);
            return;
        }
        // Other variables may begin with our prefix too (service discovery sets such); only one that means a key
        // is a mistake.
        let flat = name.to_ascii_lowercase();
        if let Some(meant) = keys().find(|k| k.path.replace('.', "_") == flat) {
            let right = format!("write {} (two underscores after the section)", meant.variable());
            self.mistakes.push(Mistake::error(origin, "", "is not a variable of orchd", right));
        }
    }

    fn flag(&mut self, flag: &str) {
        match split(flag) {
            Ok((path, value)) => {
                self.add(path, Written::Plain(value.to_owned()), Origin::Flag(path.to_owned()))
            }
            Err(mistake) => self.mistakes.push(mistake),
        }
    }

    fn add(&mut self, path: &str, written: Written, origin: Origin) {
        match key(path) {
            Some(key) => self.entries.push(Entry { key, written, origin }),
            None => self.mistakes.push(unknown_key(origin, path)),
        }
    }
}

/// Key and value of a `--set` flag.
fn split(flag: &str) -> Result<(&str, &str), Mistake> {
    flag.split_once('=').map(|(path, value)| (path.trim(), value)).ok_or_else(|| {
        let right = "write --set key=value, such as --set broker.keep_alive_s=60";
        Mistake::error(Origin::Flag(flag.to_owned()), "", "has no value", right)
    })
}

/// Keys and values of `--set` flags.
///
/// # Errors
/// The first flag that has no value or names no key.
pub fn overrides(flags: &[String]) -> Result<Vec<(&'static Key, String)>, Mistake> {
    let read = |flag: &String| {
        let (path, value) = split(flag)?;
        let key = key(path).ok_or_else(|| unknown_key(Origin::Flag(path.to_owned()), path))?;
        Ok((key, value.to_owned()))
    };
    flags.iter().map(read).collect()
}

fn unknown_section(origin: Origin, section: &str) -> Mistake {
    let right = match nearest(section, sections().map(|s| s.name)) {
        Some(name) => format!("did you mean [{name}]?"),
        None => {
            let names: Vec<_> = sections().map(|s| s.name).collect();
            format!("the sections are {}", names.join(", "))
        }
    };
    Mistake::error(origin, section, "there is no such section", right)
}

pub(super) fn unknown_key(origin: Origin, path: &str) -> Mistake {
    if let Some(section) = sections().find(|s| s.name == path) {
        let right = format!("write [{}] on a line of its own and its keys below", section.name);
        return Mistake::error(origin, path, "is a section, not a key", right);
    }
    let secret = format!("{path}_file");
    let right = if key(&secret).is_some() {
        format!("secrets come from files only: put it in a file and name that in `{secret}`")
    } else if let Some(near) = nearest(path, keys().map(|k| k.path)) {
        format!("did you mean `{near}`?")
    } else {
        let (section, _) = path.split_once('.').unwrap_or((path, ""));
        match sections().find(|s| s.name == section) {
            Some(section) => {
                format!("the keys of [{section}] are {keys}", section = section.name, keys = section.list())
            }
            None => "see `orchd config show` for all keys".to_owned(),
        }
    };
    Mistake::error(origin, path, "there is no such key", right)
}

fn syntax(error: &toml::de::Error, origin: Origin, key: String) -> Mistake {
    // The message alone: the whole error shows the line, which may hold a secret.
    let message = error.message().trim();
    if message.contains("duplicate key") {
        return Mistake::error(origin, key, "is written twice", "keep one of the two");
    }
    let right = "write `key = value` below its [section]; texts stand in quotes, lists in [ ]";
    Mistake::error(origin, key, format!("is not TOML: {message}"), right)
}

/// The line of a byte, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count()
}

/// The key on the line of a byte, with its section; empty when the line begins with none. Never what follows the `=`.
fn key_at(text: &str, offset: usize) -> String {
    let line = line_of(text, offset);
    let mut section = "";
    for current in text.lines().take(line) {
        let current = current.trim();
        if let Some(name) = current.strip_prefix('[') {
            section = name.split(']').next().unwrap_or_default().trim();
        }
    }
    let here = text.lines().nth(line - 1).unwrap_or_default();
    let Some((name, _)) = here.split_once('=') else { return String::new() };
    let name = name.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match (section.is_empty(), !name.is_empty() && name.chars().all(plain)) {
        (_, false) => String::new(),
        (true, true) => name.to_owned(),
        (false, true) => format!("{section}.{name}"),
    }
}

/// The values of a table and the tables in it, with their dotted paths and the offsets of their keys.
fn flatten(prefix: &str, table: &DeTable<'_>, leaves: &mut Vec<(String, usize, Written)>) {
    for (name, value) in table {
        let path = match prefix {
            "" => name.get_ref().to_string(),
            _ => format!("{prefix}.{}", name.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) if key(&path).is_none() => flatten(&path, inner, leaves),
            _ => leaves.push((path, name.span().start, read(value))),
        }
    }
}

/// A value in TOML; `None` when it is not one.
pub(super) fn literal(toml: &str) -> Option<Written> {
    DeValue::parse(toml).ok().map(|value| read(&value))
}

fn read(value: &Spanned<DeValue<'_>>) -> Written {
    match value.get_ref() {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix())
            .map_or(Written::Other("a number that is too large"), Written::Integer),
        DeValue::Float(x) => x.as_str().parse().map_or(Written::Other("a number"), Written::Float),
        DeValue::Boolean(b) => Written::Bool(*b),
        DeValue::Datetime(_) => Written::Other("a date"),
        DeValue::Array(items) => Written::List(items.iter().map(read).collect()),
        DeValue::Table(_) => Written::Other("a table"),
    }
}
