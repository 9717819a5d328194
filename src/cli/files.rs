//! Files that a command makes: whole or not at all, and never in the place of another unless told to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file of this mode: beside its place, then moved there. With `replace` it may take the place of another.
///
/// # Errors
/// What the file system says; `AlreadyExists` without `replace`.
pub(super) fn write(out: &Path, text: &str, mode: u32, replace: bool) -> io::Result<()> {
    let folder = out.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = out.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    let beside = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if replace {
            fs::rename(&beside, out)?;
        } else {
            // A link, unlike a rename, never replaces what came into being meanwhile.
            fs::hard_link(&beside, out)?;
            fs::remove_file(&beside)?;
        }
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // What could not be finished is of no use; that it may not be there is no news.
        let _ = fs::remove_file(&beside);
    }
    written
}
