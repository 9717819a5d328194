//! Files that the configuration names and that are no secrets, as parts of a backup: rules, policies, certificates, keys that
//! are public. Without them a restored node does not start.
//!
//! Each is kept by its whole path below [`FILES`], so that the folder can be laid over the root of a fresh machine. Of a folder
//! the files right in it that belong to policies are kept. What is named and cannot be read fails the backup: it would be one
//! that does not start.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::capture::put;
use super::manifest::FILES;
use super::vault::VaultError;
use crate::policy;
use crate::small_file;

/// Most files.
const MOST: usize = 1_000;

/// Copies `named` into `folder`. Returns the names of the parts.
pub(super) fn copy(named: &[PathBuf], folder: &Path) -> Result<Vec<String>, VaultError> {
    let mut parts = Vec::new();
    for path in named {
        if path.is_dir() {
            for file in of_policies(path).map_err(unread(path))? {
                copy_file(&file, folder, &mut parts)?;
            }
        } else {
            copy_file(path, folder, &mut parts)?;
        }
    }
    Ok(parts)
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::Unreadable { path, source }
}

/// The files of the policies in `folder`.
fn of_policies(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(policy::belongs) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn copy_file(path: &Path, folder: &Path, parts: &mut Vec<String>) -> Result<(), VaultError> {
    let content = small_file::read_bytes(path).map_err(unread(path))?;
    let mut whole = std::path::absolute(path).map_err(unread(path))?;
    if whole.components().any(|component| component == Component::ParentDir) {
        whole = fs::canonicalize(&whole).map_err(unread(path))?;
    }
    let Some(below) = whole.strip_prefix("/").ok().and_then(Path::to_str) else {
        return Err(VaultError::Forbidden(format!("{}: write its name as text", path.display())));
    };
    let name = format!("{FILES}/{below}");
    // One that two keys name is one part.
    if parts.contains(&name) {
        return Ok(());
    }
    if parts.len() == MOST {
        return Err(VaultError::Forbidden(format!("the configuration names more than {MOST} files")));
    }
    let target = folder.join(&name);
    fs::create_dir_all(target.parent().unwrap_or(folder)).map_err(VaultError::io("the working folder"))?;
    put(&target, &content)?;
    parts.push(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_kept_by_its_whole_path_and_what_cannot_be_read_is_said() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| from.path().join(name);
        fs::create_dir(at("policy")).unwrap();
        for name in
            ["ca.pem", "policy/gate.rego", "policy/data.json", "policy/.signatures.json", "policy/signer.key"]
        {
            fs::write(at(name), name).unwrap();
        }
        let parts = copy(&[at("ca.pem"), at("policy"), at("policy/../ca.pem")], to.path()).unwrap();
        let kept: Vec<_> = ["ca.pem", "policy/.signatures.json", "policy/data.json", "policy/gate.rego"]
            .iter()
            .map(|name| format!("{FILES}{}", at(name).display()))
            .collect();
        assert_eq!(parts, kept);
        for part in &parts {
            let content = fs::read_to_string(to.path().join(part)).unwrap();
            assert!(part.ends_with(&content), "{part}: {content}");
        }
        let missing = copy(&[at("none")], to.path()).unwrap_err().to_string();
        assert!(missing.contains("none, which the configuration names"), "{missing}");
    }
}
