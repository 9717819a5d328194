//! A bundle: a folder of Rego files, with their tests and data.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::signed::{self, Signer};
use super::trial::{self, Trial};
use super::{MAX_TEXT_BYTES, Module, PolicyError, PolicySet};
use crate::small_file;

/// The data of a bundle, a JSON object; policies see it under `data`.
pub(super) const DATA_FILE: &str = "data.json";

/// How the names of files end whose rules are for tests alone.
const TEST_ENDING: &str = "_test.rego";

/// Most files of a bundle.
const MAX_FILES: usize = 256;

/// Most names that are looked at in its folder and below.
const MAX_ENTRIES: usize = 4_096;

/// How deep folders may nest in it.
const MAX_DEPTH: u32 = 8;

/// Where a bundle is, and who must have signed it.
#[derive(Clone)]
pub struct BundleSource {
    /// The folder.
    pub folder: PathBuf,
    /// Whose signature it must have; it needs none when absent.
    pub signed_by: Option<Arc<dyn Signer>>,
}

impl fmt::Debug for BundleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("BundleSource");
        shown.field("folder", &self.folder).field("signed", &self.signed_by.is_some()).finish()
    }
}

/// Whether a file of this name belongs to a bundle.
pub(super) fn is_read(name: &str) -> bool {
    name == DATA_FILE || (name.ends_with(".rego") && !name.starts_with('.'))
}

/// Whether a file of this name in the folder of a bundle belongs to it, its signature included.
#[must_use]
pub fn belongs(name: &str) -> bool {
    is_read(name) || name == signed::SIGNATURES
}

/// What a folder holds.
pub(super) struct Bundle {
    /// Sorted by name.
    modules: Vec<Module>,
    data: Option<String>,
}

impl PolicySet {
    /// The `*.rego` files right in the folder of `source`, with `data.json` where there is one. Every `test_` rule has to pass; what stands in
    /// `*_test.rego` is there for that alone. Blocks for as long as the disk and the tests need.
    ///
    /// # Errors
    /// See [`PolicyError`]; the first that is found.
    pub fn load(source: &BundleSource, rule: &str) -> Result<Self, PolicyError> {
        let bundle = Bundle::read(source)?;
        // First without the tests: what only holds together with them must not run.
        let set = bundle.compile(rule)?;
        let failed: Vec<_> =
            bundle.trials(rule)?.into_iter().filter(|trial| !trial.passed()).map(|t| t.name).collect();
        if failed.is_empty() { Ok(set) } else { Err(PolicyError::Failed(failed)) }
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> PolicyError + use<> {
    let path = path.to_owned();
    move |source| PolicyError::Unreadable { path, source }
}

/// What `opa` would take from a file of this name, and a bundle here takes only where [`is_read`] says so.
fn is_policy_elsewhere(name: &str) -> bool {
    is_read(name) || ["data.yaml", "data.yml"].contains(&name)
}

/// What is in `folder`, with its names. What is hidden is nobody's policy, such as the folders that a mount of Kubernetes keeps
/// its files in; nor are names that are no text.
fn visible(folder: &Path, looked_at: &mut usize) -> Result<Vec<(PathBuf, String)>, PolicyError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let entry = entry.map_err(unreadable(folder))?;
        *looked_at += 1;
        if *looked_at > MAX_ENTRIES {
            return Err(PolicyError::TooLarge);
        }
        let name = entry.file_name().to_str().filter(|name| !name.starts_with('.')).map(str::to_owned);
        found.extend(name.map(|name| (entry.path(), name)));
    }
    Ok(found)
}

/// Checks that no policy stands below the folder of the bundle: it would be left out, and refuse nothing.
fn nothing_in(folder: &Path, depth: u32, looked_at: &mut usize) -> Result<(), PolicyError> {
    for (path, name) in visible(folder, looked_at)? {
        if path.is_dir() {
            let depth = depth.checked_sub(1).ok_or(PolicyError::TooLarge)?;
            nothing_in(&path, depth, looked_at)?;
        } else if is_policy_elsewhere(&name) {
            return Err(PolicyError::Misplaced(path));
        }
    }
    Ok(())
}

impl Bundle {
    pub(super) fn read(source: &BundleSource) -> Result<Self, PolicyError> {
        let folder = source.folder.as_path();
        let mut names = Vec::new();
        let mut looked_at = 0;
        for (path, name) in visible(folder, &mut looked_at)? {
            if path.is_dir() {
                nothing_in(&path, MAX_DEPTH, &mut looked_at)?;
            } else if is_read(&name) {
                names.push(name);
            } else if is_policy_elsewhere(&name) {
                return Err(PolicyError::Misplaced(path));
            }
        }
        names.sort();
        if names.len() > MAX_FILES {
            return Err(PolicyError::TooLarge);
        }
        let mut bundle = Self { modules: Vec::new(), data: None };
        let mut left = MAX_TEXT_BYTES as u64 + 1;
        for name in names {
            let path = folder.join(&name);
            let mut text = String::new();
            let file = small_file::open(&path).map_err(unreadable(&path))?;
            left -= file.take(left).read_to_string(&mut text).map_err(unreadable(&path))? as u64;
            if left == 0 {
                return Err(PolicyError::TooLarge);
            }
            if name == DATA_FILE {
                bundle.data = Some(text);
            } else {
                bundle.modules.push(Module { file: name, text });
            }
        }
        match &source.signed_by {
            Some(signer) => signed::check(folder, &bundle, &**signer).map(|()| bundle),
            None => Ok(bundle),
        }
    }

    /// The files with their texts.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let modules = self.modules.iter().map(|module| (module.file.as_str(), module.text.as_str()));
        modules.chain(self.data.as_deref().map(|data| (DATA_FILE, data)))
    }

    pub(super) fn compile(&self, rule: &str) -> Result<PolicySet, PolicyError> {
        let running = self.modules.iter().filter(|module| !module.file.ends_with(TEST_ENDING));
        let running: Vec<_> =
            running.map(|module| Module { file: module.file.clone(), text: module.text.clone() }).collect();
        PolicySet::build(&running, self.data.as_deref(), rule)
    }

    pub(super) fn trials(&self, rule: &str) -> Result<Vec<Trial>, PolicyError> {
        trial::run(super::engine(&self.modules, self.data.as_deref(), trial::LIMIT)?, rule)
    }
}
