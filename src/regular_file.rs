//! Opening what is a file, and nothing else that has a name.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file to read it, with `flags` of open(2) besides. Blocks for as long as the disk needs, and for nobody else.
///
/// # Errors
/// What the system says; `InvalidInput` for what is no file, and for a link where `flags` has `O_NOFOLLOW`.
pub fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    let irregular = || io::Error::new(io::ErrorKind::InvalidInput, "this is not a file");
    // A pipe would otherwise be waited for until someone writes into it.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path);
    let file = opened.map_err(|error| {
        // A link, and a socket.
        let known = matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO));
        if known { irregular() } else { error }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}
