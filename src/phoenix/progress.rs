//! How far the library is, told in steps of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustic_core::{Progress, ProgressBars, ProgressType, RusticProgress};

/// Bytes between two words on how far it is.
pub(super) const STEP_BYTES: u64 = 1 << 20;

/// Told how far a task is, from any thread.
pub(super) type Report = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// The library's progress: only that which counts bytes is told.
pub(super) struct Bars(pub(super) Report);

impl std::fmt::Debug for Bars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bars")
    }
}

impl ProgressBars for Bars {
    fn progress(&self, kind: ProgressType, _: &str) -> Progress {
        match kind {
            ProgressType::Bytes => Progress::new(Bar {
                report: self.0.clone(),
                length: 0.into(),
                done: 0.into(),
                told: 0.into(),
            }),
            ProgressType::Spinner | ProgressType::Counter => Progress::hidden(),
        }
    }
}

struct Bar {
    report: Report,
    length: AtomicU64,
    done: AtomicU64,
    told: AtomicU64,
}

impl std::fmt::Debug for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bar")
    }
}

impl RusticProgress for Bar {
    fn is_hidden(&self) -> bool {
        false
    }

    fn set_length(&self, length: u64) {
        self.length.store(length, Ordering::Relaxed);
    }

    fn set_title(&self, _: &str) {}

    fn inc(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        let told = self.told.load(Ordering::Relaxed);
        if done.saturating_sub(told) >= STEP_BYTES {
            self.told.store(done, Ordering::Relaxed);
            (self.report)(done, self.length.load(Ordering::Relaxed));
        }
    }

    fn finish(&self) {}
}
