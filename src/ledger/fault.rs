//! From SQLite's errors to the wire's. The detail goes to the journal: it may name paths and SQL, never values.

use rusqlite::{Error, ErrorCode, ffi};

use crate::wire::{Code, Fault};

/// Whether SQLite says that there is no space left. Some paths (the shared-memory index, a short write) report an I/O
/// error instead of `SQLITE_FULL`.
pub(super) fn is_full(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(failure, _) => {
            failure.code == ErrorCode::DiskFull
                || matches!(
                    failure.extended_code,
                    ffi::SQLITE_IOERR_WRITE
                        | ffi::SQLITE_IOERR_SHMSIZE
                        | ffi::SQLITE_IOERR_SHMMAP
                        | ffi::SQLITE_IOERR_SHMOPEN
                )
        }
        _ => false,
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if is_full(&error) {
            return storage_full();
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => {
                Self::new(Code::Expired, "the read took longer than one second")
            }
            Some(ErrorCode::DatabaseBusy) => {
                tracing::warn!(%error, "another process holds the ledger's lock");
                Self::new(Code::Busy, "the ledger is held by another process").retry_after(1_000)
            }
            _ => {
                tracing::error!(%error, "the ledger refused an operation");
                Self::internal()
            }
        }
    }
}

/// What everyone is told while the disk is full.
pub(super) fn storage_full() -> Fault {
    Fault::new(Code::StorageFull, "the node's disk is full; nothing was done").retry_after(10_000)
}
