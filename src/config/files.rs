//! Looks at the files that a configuration names. Apart from loading, so that a configuration can be read and checked
//! on a machine that does not have them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::keys::{Key, Role};
use super::kind::{Holds, Kind, Value, unresolved};
use super::load::{Provenance, Setting};
use super::mistake::Mistake;
use crate::phoenix::Location;
use crate::small_file;

/// What is wrong with the files and folders that the configuration names: missing, unreadable, not what they should
/// be (errors), or secrets that anyone on the machine may read (warnings). Reads no file's content, and waits for none.
///
/// For a node the `listener` section is left out, and for the broker the `broker` section: neither is used. So are credentials
/// where there are none; [`check_credentials`] tells of them.
#[must_use]
pub fn check_files(provenance: &Provenance, role: Role) -> Vec<Mistake> {
    let paths = paths(provenance, role).filter(|(key, _, path)| credential(key, path).is_none());
    let found = paths.filter_map(|(key, setting, path)| {
        let (Kind::Path(holds) | Kind::Paths(holds)) = key.kind else { return None };
        let (wrong, right, is_error) = look(key, holds, Path::new(path))?;
        let mistake = Mistake::error(setting.origin.clone(), key.path, wrong, right);
        Some(if is_error { mistake } else { mistake.as_warning() })
    });
    found.collect()
}

/// The keys that name systemd credentials where there are none, outside the unit that loads them: an error each. It matters
/// to whoever reads these secrets.
#[must_use]
pub fn check_credentials(provenance: &Provenance, role: Role) -> Vec<Mistake> {
    let missing = paths(provenance, role).filter_map(|(key, setting, path)| {
        let name = credential(key, path)?;
        let wrong = "there are no credentials: $CREDENTIALS_DIRECTORY is not set";
        let right = format!(
            "only the unit has them, with LoadCredential={name}:/path/of/the/secret; or write a path"
        );
        Some(Mistake::error(setting.origin.clone(), key.path, wrong, right))
    });
    missing.collect()
}

/// The files and folders that a node reads, and that are no secrets.
#[must_use]
pub fn public_files(provenance: &Provenance) -> Vec<PathBuf> {
    let public = |key: &Key| {
        matches!(
            key.kind,
            Kind::Path(Holds::Public | Holds::Bundle) | Kind::Paths(Holds::Public | Holds::Bundle)
        )
    };
    paths(provenance, Role::Node).filter(|(key, ..)| public(key)).map(|(.., path)| path.into()).collect()
}

/// The name of the credential that has not been found.
fn credential<'a>(key: &Key, path: &'a str) -> Option<&'a str> {
    if key.kind.is_secret() { unresolved(path) } else { None }
}

/// Each path that is used in `role`, with its key.
pub(crate) fn paths(
    provenance: &Provenance,
    role: Role,
) -> impl Iterator<Item = (&'static Key, &Setting, &str)> {
    let unused = match role {
        Role::Node => "listener",
        Role::Broker => "broker",
    };
    let used = provenance.iter().filter(move |(key, _)| {
        key.section() != unused && matches!(key.kind, Kind::Path(_) | Kind::Paths(_))
    });
    used.flat_map(|(key, setting)| {
        let paths = match &setting.value {
            Some(Value::Text(path)) => std::slice::from_ref(path),
            Some(Value::Texts(paths)) => paths,
            _ => &[],
        };
        paths.iter().map(move |path| (key, setting, path.as_str()))
    })
}

/// What is wrong, what would be right, and whether it is an error.
fn look(key: &Key, holds: Holds, path: &Path) -> Option<(String, String, bool)> {
    let shown = path.display();
    match holds {
        Holds::Socket => None,
        Holds::Repository if path.to_str().is_some_and(Location::is_bucket) => None,
        Holds::Folder | Holds::Repository => match fs::metadata(path) {
            Ok(found) if !found.is_dir() => {
                Some((format!("`{shown}` is not a folder"), "name a folder".to_owned(), true))
            }
            // One that is missing is made at start.
            _ => None,
        },
        Holds::Bundle if path.is_dir() => None,
        Holds::Bundle => {
            Some((format!("`{shown}` is no folder that can be read"), "name a folder".to_owned(), true))
        }
        // One that is missing is made at the first start.
        Holds::OwnSecret if !path.exists() => None,
        Holds::Public | Holds::Secret | Holds::OwnSecret => match small_file::open(path)
            .and_then(|file| file.metadata())
        {
            Ok(found) if holds != Holds::Public && found.mode() & 0o007 != 0 => Some((
                format!("everyone on this machine may read or change `{shown}`"),
                format!("chmod 0600 {shown}, or 0640 with a group of its own"),
                false,
            )),
            Ok(_) => None,
            Err(error) => {
                let right = match error.kind() {
                    ErrorKind::NotFound => format!("put it there, or name another in {}", key.path),
                    ErrorKind::PermissionDenied => {
                        "let the user that orchd runs as read it, or run this check as that user".to_owned()
                    }
                    _ => "name a file of at most 4 MiB".to_owned(),
                };
                Some((format!("`{shown}` cannot be read: {error}"), right, true))
            }
        },
    }
}
