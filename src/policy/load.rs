//! A bundle: a folder of Rego files, with their tests and data.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::signed::{self, Signer};
use super::trial::{self, Trial};
use super::{MAX_TEXT_BYTES, Module, PolicyError, PolicySet};

/// The data of a bundle, a JSON object; policies see it under `data`.
pub(super) const DATA_FILE: &str = "data.json";

/// How the names of files end whose rules are for tests alone.
const TEST_ENDING: &str = "_test.rego";

/// Most files of a bundle.
const MAX_FILES: usize = 256;

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

impl Bundle {
    pub(super) fn read(source: &BundleSource) -> Result<Self, PolicyError> {
        let folder = source.folder.as_path();
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| PolicyError::Unreadable { path, source }
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
            let name = entry.map_err(unreadable(folder))?.file_name();
            // Names that are no text are nobody's policies.
            names.extend(name.to_str().map(str::to_owned));
        }
        names.retain(|name| is_read(name));
        names.sort();
        if names.len() > MAX_FILES {
            return Err(PolicyError::TooLarge);
        }
        let mut bundle = Self { modules: Vec::new(), data: None };
        let mut left = MAX_TEXT_BYTES as u64 + 1;
        for name in names {
            let path = folder.join(&name);
            let mut text = String::new();
            let file = File::open(&path).map_err(unreadable(&path))?;
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
