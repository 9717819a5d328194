//! Files that people write, such as keys, certificates and settings: read whole, if they are files and not large.
//!
//! What is named by mistake, such as a pipe, a device or a disk image, is refused at once: it is not waited for, and not taken
//! into memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::regular_file;

/// Largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;

/// Opens a file to read it. Blocks for as long as the disk needs, and for nobody else.
///
/// # Errors
/// What the system says; `InvalidInput` for what is no file, `FileTooLarge` beyond [`MAX_BYTES`].
pub fn open(path: &Path) -> io::Result<File> {
    let file = regular_file::open(path, 0)?;
    if file.metadata()?.len() > MAX_BYTES {
        return Err(too_large());
    }
    Ok(file)
}

/// The text of a file.
///
/// # Errors
/// As [`open`]; `InvalidData` where it is not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "this is not text in UTF-8"))
}

/// What is in a file.
///
/// # Errors
/// As [`open`].
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // It may grow meanwhile.
    let read = open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if read as u64 > MAX_BYTES { Err(too_large()) } else { Ok(content) }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "sesame\n").unwrap();
        assert_eq!(read(&path("text")).unwrap(), "sesame\n");
        let (mode, kind) = (rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), kind, mode, 0).unwrap();
        File::create(path("large")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        std::fs::write(path("binary"), [0xff]).unwrap();
        for (name, kind) in [
            ("pipe", io::ErrorKind::InvalidInput),
            ("large", io::ErrorKind::FileTooLarge),
            ("binary", io::ErrorKind::InvalidData),
            ("none", io::ErrorKind::NotFound),
        ] {
            assert_eq!(read(&path(name)).unwrap_err().kind(), kind, "{name}");
        }
        for other in [Path::new("/dev/zero"), folder.path()] {
            assert_eq!(read(other).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", other.display());
        }
    }
}
