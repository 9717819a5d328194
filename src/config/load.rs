//! From what was written to a checked configuration: each key is read by its own rules, then keys are held against
//! each other, then the fields are filled. All mistakes are collected on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::keys::{Absent, Key, Role, keys};
use super::kind::{Context, Value};
use super::mistake::{Mistake, Origin};
use super::raw::{self, Entry, Raw, Written};
use super::{Config, Sources, checks};

/// One key, as it was settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value; `None` for a key that was not set and has no default.
    pub value: Option<Value>,
    /// The value as another machine can use it: credentials by name, and paths below `{state_dir}` as they are written.
    pub portable: Option<Value>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where each value came from: every key, in the order of their explanation.
#[derive(Clone, Debug)]
pub struct Provenance(Vec<(&'static Key, Setting)>);

impl Provenance {
    /// All keys with their settings.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        self.0.iter().map(|(key, setting)| (*key, setting))
    }

    /// The keys that had another value in `before`.
    #[must_use]
    pub fn changed(&self, before: &Self) -> Vec<&'static str> {
        let is_other = |(key, setting): &(&'static Key, &Setting)| {
            before.get(key.path).is_none_or(|before| before.value != setting.value)
        };
        self.iter().filter(is_other).map(|(key, _)| key.path).collect()
    }

    /// The setting of a key.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.iter().find(|(key, _)| key.path == path).map(|(_, setting)| setting)
    }
}

/// What became of each key: set, absent, or written wrong (then it is in neither map).
#[derive(Debug)]
pub(super) struct Settled {
    settings: BTreeMap<&'static str, Setting>,
    /// Where the section of a missing key begins.
    sections: BTreeMap<String, Origin>,
    /// The top of the file.
    top: Origin,
    pub(super) torn: bool,
    /// Keys that refer to others which are written wrong, or missing: what they stand for is not known.
    uncertain: BTreeSet<&'static str>,
}

impl Settled {
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.settings.get(key)?.value.as_ref()
    }

    /// Whether nobody wrote the key and it has no default.
    pub(super) fn is_absent(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|setting| setting.value.is_none())
    }

    /// Whether the key was written somewhere.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.settings.get(key).is_some_and(|setting| setting.origin != Origin::Default)
    }

    /// Where a mistake about the key is shown: its own place, else its section's, else the top of the file.
    pub(super) fn origin(&self, key: &str) -> Origin {
        let own = self.settings.get(key).map(|setting| &setting.origin).filter(|o| **o != Origin::Default);
        let section = key.split('.').next().unwrap_or_default();
        own.or_else(|| self.sections.get(section)).unwrap_or(&self.top).clone()
    }
}

/// See [`Config::load`].
pub(super) fn load(sources: &Sources) -> Result<(Config, Provenance), Vec<Mistake>> {
    let (settled, mut mistakes) = settle(sources);
    if mistakes.is_empty() {
        finish(settled)
    } else {
        in_order(&mut mistakes);
        Err(mistakes)
    }
}

/// See [`super::survey`].
pub(super) fn survey(sources: &Sources) -> (Provenance, Vec<Mistake>) {
    let (mut settled, mistakes) = settle(sources);
    let certain = keys().filter(|key| !settled.uncertain.contains(key.path)).collect::<Vec<_>>();
    let known = certain.into_iter().filter_map(|key| Some((key, settled.settings.remove(key.path)?)));
    (Provenance(known.collect()), mistakes)
}

/// Settles each key; what is wrong with them, in no order.
fn settle(sources: &Sources) -> (Settled, Vec<Mistake>) {
    let Raw { entries, mut mistakes, torn, sections } = raw::collect(sources);
    let top = match sources.path.as_os_str().is_empty() {
        true => Origin::NoFile,
        false => Origin::File { path: sources.path.clone(), line: 1 },
    };
    let mut settled = Settled { settings: BTreeMap::new(), sections, top, torn, uncertain: BTreeSet::new() };
    let mut reader = Reader::new(sources);
    for key in keys() {
        let setting = reader.settle(key, &entries, &mut mistakes);
        // What `{node}` and its like stand for is known once their keys are: `node` is the first section.
        if let Some((_, placeholder)) = PLACEHOLDERS.iter().find(|(path, _)| *path == key.path) {
            // Where the key is wrong, its example keeps what follows from being blamed for it.
            let text = match setting.as_ref().and_then(|s| s.value.as_ref()) {
                Some(Value::Text(text)) => text.clone(),
                _ => {
                    reader.unknown.push(placeholder);
                    key.sample_toml().trim_matches('"').to_owned()
                }
            };
            reader.context.placeholders.push((placeholder, text));
        }
        if reader.is_uncertain(key, &entries) {
            settled.uncertain.insert(key.path);
        }
        if let Some(setting) = setting {
            settled.settings.insert(key.path, setting);
        }
    }
    if !torn {
        mistakes.extend(keys().filter_map(|key| missing(key, &settled, sources.role)));
    }
    mistakes.extend(checks::check(&settled, sources.role));
    (settled, mistakes)
}

/// Puts mistakes into the order of their places.
pub(super) fn in_order(mistakes: &mut [Mistake]) {
    mistakes.sort_by_key(|mistake| place(&mistake.origin));
}

fn finish(mut settled: Settled) -> Result<(Config, Provenance), Vec<Mistake>> {
    // The broker alone needs no name and connects to nothing; these fields then say what it is itself.
    let own = match settled.value("listener.address") {
        Some(Value::Text(address)) => format!("mqtts://{address}"),
        _ => String::new(),
    };
    for (key, text) in [("node.name", "broker".to_owned()), ("broker.url", own)] {
        if settled.is_absent(key) {
            let value = Some(Value::Text(text));
            settled.settings.insert(key, Setting { portable: value.clone(), value, origin: Origin::Default });
        }
    }
    let config = Config::build(|key| settled.value(key)).map_err(|key| {
        let wrong = "its declaration and its field disagree";
        vec![Mistake::error(Origin::Default, key, wrong, "this is a defect of orchd: please report it")]
    })?;
    let provenance =
        keys().filter_map(|key| Some((key, settled.settings.remove(key.path)?))).collect::<Vec<_>>();
    Ok((config, Provenance(provenance)))
}

/// Keys that others may refer to, and how.
const PLACEHOLDERS: [(&str, &str); 3] =
    [("node.root", "{root}"), ("node.name", "{node}"), ("node.state_dir", "{state_dir}")];

struct Reader<'a> {
    sources: &'a Sources,
    context: Context,
    /// The folder of the configuration file.
    folder: PathBuf,
    /// Placeholders that stand for what is not known.
    unknown: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    fn new(sources: &'a Sources) -> Self {
        let credentials = sources.environment.get("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let folder = sources.path.parent().map(Path::to_owned).unwrap_or_default();
        Self { sources, context: Context { credentials, ..Context::default() }, folder, unknown: Vec::new() }
    }

    /// The last value written for `key`, or what stands for it; `None` when what was written is wrong.
    fn settle(
        &mut self,
        key: &'static Key,
        entries: &[Entry],
        mistakes: &mut Vec<Mistake>,
    ) -> Option<Setting> {
        let written: Vec<_> = entries.iter().filter(|entry| entry.key.path == key.path).collect();
        if written.is_empty() {
            return Some(self.absent(key));
        }
        // All are read, also those that a later one overrides: a mistake is one wherever it stands.
        written.into_iter().fold(None, |_, entry| {
            self.context.folder = match entry.origin {
                Origin::File { .. } => self.folder.clone(),
                _ => PathBuf::new(),
            };
            match key.kind.read(&entry.written, &self.context) {
                Ok(value) => {
                    // Whole paths: it is read in another folder.
                    let here = std::env::current_dir().unwrap_or_default();
                    let folder = here.join(&self.context.folder);
                    let portable =
                        Context { credentials: None, portable: true, folder, ..self.context.clone() };
                    let portable = key.kind.read(&entry.written, &portable).ok();
                    Some(Setting { value: Some(value), portable, origin: entry.origin.clone() })
                }
                Err(refusals) => {
                    mistakes.extend(refusals.into_iter().map(|refusal| {
                        Mistake::error(entry.origin.clone(), key.path, refusal.wrong, refusal.right)
                    }));
                    None
                }
            }
        })
    }

    /// Whether the value of `key` refers to another that is not known.
    fn is_uncertain(&self, key: &Key, entries: &[Entry]) -> bool {
        let default = match key.absent {
            Absent::Value(toml) | Absent::StateDirectory(toml) => raw::literal(toml),
            Absent::Required(_) | Absent::Unset | Absent::Hostname => None,
        };
        let written =
            entries.iter().rev().find(|entry| entry.key.path == key.path).map(|entry| &entry.written);
        let in_force = written.or(default.as_ref());
        in_force.is_some_and(|written| self.unknown.iter().any(|placeholder| written.mentions(placeholder)))
    }

    fn absent(&mut self, key: &Key) -> Setting {
        self.context.folder = PathBuf::new();
        let environment = &self.sources.environment;
        let (written, origin) = match key.absent {
            Absent::Required(_) | Absent::Unset => (None, Origin::Default),
            Absent::Hostname => (self.sources.hostname.clone().map(Written::Plain), Origin::Hostname),
            Absent::Value(toml) => (raw::literal(toml), Origin::Default),
            Absent::StateDirectory(toml) => match environment.get("STATE_DIRECTORY") {
                // systemd joins several by colons; the first is the unit's own.
                Some(folders) => (
                    folders.split(':').next().map(|folder| Written::Plain(folder.to_owned())),
                    Origin::Environment("STATE_DIRECTORY".to_owned()),
                ),
                None => (raw::literal(toml), Origin::Default),
            },
        };
        let value = written.and_then(|written| key.kind.read(&written, &self.context).ok());
        let origin = if value.is_some() { origin } else { Origin::Default };
        Setting { portable: value.clone(), value, origin }
    }
}

fn missing(key: &Key, settled: &Settled, role: Role) -> Option<Mistake> {
    let needed = match key.absent {
        Absent::Required(by) => by == role,
        Absent::Hostname => role == Role::Node,
        Absent::Unset | Absent::Value(_) | Absent::StateDirectory(_) => false,
    };
    (needed && settled.is_absent(key.path)).then(|| {
        let right = format!("write {} = {} below [{}]", key.name(), key.example, key.section());
        let wrong = match key.absent {
            Absent::Hostname => "is missing, and the host name is no valid name",
            _ => "is missing",
        };
        Mistake::error(settled.origin(key.path), key.path, wrong, right)
    })
}

/// See [`super::answer_to_toml`].
pub(super) fn answer_to_toml(path: &str, text: &str) -> Result<String, Mistake> {
    let key = super::key(path).ok_or_else(|| raw::unknown_key(Origin::Answer, path))?;
    let value = key.kind.read(&Written::Plain(text.to_owned()), &Context::default());
    value.map(|value| value.to_toml()).map_err(|mut refusals| {
        // There is one at least; an answer is asked for again until there is none.
        let refusal = refusals.swap_remove(0);
        Mistake::error(Origin::Answer, key.path, refusal.wrong, refusal.right)
    })
}

/// Order of mistakes: by line, then the environment, then flags.
fn place(origin: &Origin) -> (u8, usize) {
    match origin {
        Origin::File { line, .. } => (0, *line),
        Origin::NoFile | Origin::Default | Origin::Hostname => (1, 0),
        Origin::Environment(_) => (2, 0),
        Origin::Flag(_) | Origin::Answer => (3, 0),
    }
}
