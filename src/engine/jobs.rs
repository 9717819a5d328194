//! Long work: accepted durably, run with a deadline, answered once.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Parts done.
    pub done: u64,
    /// Parts in all, as far as known; 0 when not.
    pub total: u64,
}

/// What a running job has of its runner: a place to say how far it is, and word that it should end.
#[derive(Clone, Debug)]
pub struct Progress {
    steps: watch::Sender<Step>,
    cancelled: CancellationToken,
}

impl Progress {
    /// A progress and the two ends that its runner keeps.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Step>, CancellationToken) {
        let (steps, receiver) = watch::channel(Step::default());
        let cancelled = CancellationToken::new();
        (Self { steps, cancelled: cancelled.clone() }, receiver, cancelled)
    }

    /// Says how far the job is. As often as it likes: reports that come too fast are merged.
    pub fn report(&self, done: u64, total: u64) {
        self.steps.send_replace(Step { done, total });
    }

    /// Whether the job should end early; it answers with what it has, or an error.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Resolves when the job should end early.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}
