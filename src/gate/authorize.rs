//! Policies at the gate: what else has to be fulfilled before a command runs. They can only refuse.
//!
//! A command that has passed rate, signature and permission is put to the policies as a document ([`Question`]). Each
//! answer has an id of its own, which stands in the reply and in the audit trail. What cannot be answered is refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::Serialize;

use super::{Admission, SECURITY_LOG};
use crate::clock::Timestamp;
use crate::policy::{Finding, PolicyError, PolicySet};
use crate::wire::{Code, Fault};

/// The rule that is asked for: a set of reasons to refuse, or a boolean.
pub const RULE: &str = "orchd.gate.deny";

/// What the policies said.
#[derive(Debug)]
pub struct Ruling {
    /// Identifies this answer.
    pub id: Arc<str>,
    /// Whether the command may run.
    pub outcome: Result<(), Fault>,
}

/// The document that policies see as `input`. docs/security.md explains it; it changes only by additions.
#[derive(Serialize)]
struct Question<'a> {
    node: &'a str,
    principal: &'a str,
    permissions: &'a [String],
    signed: bool,
    topic: &'a str,
    command: String,
    service: &'a str,
    verb: &'a str,
    kind: &'a str,
    sensitive: bool,
    time: Moment,
}

/// When the command was received, UTC.
#[derive(Serialize)]
struct Moment {
    unix_ms: i64,
    hour: u8,
    minute: u8,
    weekday: String,
}

/// The policies of a node.
pub struct Policies {
    node: String,
    local: PolicySet,
    last_failure: AtomicI64,
}

impl Policies {
    /// The bundle in `folder`; its tests are run. Blocks.
    ///
    /// # Errors
    /// When it cannot be used; see [`PolicyError`].
    pub fn load(node: &str, folder: &Path) -> Result<Self, PolicyError> {
        let local = PolicySet::load(folder, RULE)?;
        Ok(Self { node: node.to_owned(), local, last_failure: AtomicI64::new(0) })
    }

    /// What they say of a command that is admitted but for them.
    pub fn rule(&self, admission: &Admission<'_>) -> Ruling {
        let outcome = match self.local.evaluate(&self.question(admission)) {
            Ok(finding) => refusal(&finding),
            Err(error) => Err(self.failed(&error, admission.now)),
        };
        Ruling { id: uuid::Uuid::now_v7().to_string().into(), outcome }
    }

    fn question<'a>(&'a self, admission: &'a Admission<'_>) -> Question<'a> {
        let Admission { asker, declaration, topic, now } = admission;
        Question {
            node: &self.node,
            principal: &asker.identity.principal,
            permissions: asker.identity.permissions.filters(),
            signed: asker.nonce.is_some(),
            topic,
            command: declaration.name(),
            service: declaration.service,
            verb: declaration.verb,
            kind: declaration.kind.as_str(),
            sensitive: declaration.sensitive,
            time: Moment::of(*now),
        }
    }

    /// Logged at most once a second: what fails fails for every command.
    fn failed(&self, error: &PolicyError, now: Timestamp) -> Fault {
        let second = now.millis().div_euclid(1_000);
        if self.last_failure.swap(second, Ordering::Relaxed) != second {
            tracing::error!(target: SECURITY_LOG, %error, "the policy gave no answer; commands are refused");
        }
        Fault::new(Code::Unavailable, "the policy gave no answer, so the command was refused")
            .retry_after(1_000)
    }
}

/// What follows from what a policy found.
fn refusal(finding: &Finding) -> Result<(), Fault> {
    match (finding.holds, finding.reasons.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => Err(Fault::new(Code::Forbidden, "a policy of the node refuses this command")),
        (true, false) => {
            let reasons = finding.reasons.join("; ");
            Err(Fault::new(Code::Forbidden, format!("a policy of the node refuses this command: {reasons}")))
        }
    }
}

impl Moment {
    fn of(now: Timestamp) -> Self {
        // A time that no calendar has is the epoch, a Thursday at midnight: policies about times see a time.
        let at = time::OffsetDateTime::from_unix_timestamp(now.millis().div_euclid(1_000))
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        Self {
            unix_ms: now.millis(),
            hour: at.hour(),
            minute: at.minute(),
            weekday: at.weekday().to_string().to_ascii_lowercase(),
        }
    }
}
