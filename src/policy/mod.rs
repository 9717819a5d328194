//! Policies in Rego, evaluated in the process ([`regorus`](https://docs.rs/regorus), Rego v1) or by an OPA server ([`Opa`]).
//!
//! A [`PolicySet`] answers one question about an input document: does the rule that it was made for hold, and for which
//! reasons? What a policy can cost is bounded: the size of its text and of the input, the time of an evaluation, and
//! what would take memory out of proportion to the two is not accepted at all ([`PolicyError::Unbounded`]). It reaches
//! no network, no clock, no random numbers and no files. An error is never an answer: whoever asks has to fail closed.
//!
//! Nothing here knows who asks, or what for.

mod calls;
mod load;
mod reads;
mod remembered;
mod remote;
mod screen;
mod shape;
mod signed;
mod trial;

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use serde::Serialize;

use self::reads::Reads;
use self::shape::Shapes;
pub use load::{BundleSource, belongs};
pub use remembered::Remembered;
pub use remote::{Opa, OpaOptions};
pub use signed::Signer;
pub use trial::{Trial, TrialOutcome, trials};

/// Most bytes of all texts and the data of a set.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Most bytes of an input document, as JSON. Functions such as `replace` can multiply two parts of it with each other.
pub const MAX_INPUT_BYTES: usize = 16 << 10;

/// Longest time that an evaluation may take, by the clock of the machine: long enough that only a policy without
/// measure gets there, however busy the machine is.
pub const EVALUATION_LIMIT: Duration = Duration::from_millis(100);

/// Steps of the interpreter from one look at the clock to the next.
const STEPS_BETWEEN_LOOKS: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// Most reasons that are given, and most characters of each.
const MAX_REASONS: usize = 8;
const MAX_REASON_CHARS: usize = 256;

/// Why a policy could not be taken, or gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file or the folder could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A policy, or data, that stands where nothing is read.
    #[error("{}: policies are read from *.rego and data.json right in their folder; put it there, or take it away", .0.display())]
    Misplaced(PathBuf),
    /// More text than is taken.
    #[error("the policies and their data have more than {MAX_TEXT_BYTES} bytes")]
    TooLarge,
    /// No Rego, or data that is no JSON object.
    #[error("{file}: {reason}")]
    Wrong {
        /// Where.
        file: String,
        /// What the compiler said.
        reason: String,
    },
    /// What would be asked for is not there: the policy would never say anything.
    #[error("no policy has the rule {0}")]
    NoRule(String),
    /// A function whose cost nothing bounds.
    #[error("{file}: {reason}")]
    Unbounded {
        /// Where.
        file: String,
        /// What is not accepted, and what instead.
        reason: &'static str,
    },
    /// A test of the policies did not pass.
    #[error("the tests of the policies failed: {}", .0.join(", "))]
    Failed(Vec<String>),
    /// The bundle is not signed by whom it should be, or not as it is.
    #[error("the signature of the policies: {0}")]
    Signature(String),
    /// The input has more than [`MAX_INPUT_BYTES`], or no form in JSON.
    #[error("the input document is too large")]
    Input,
    /// An OPA server gave no answer.
    #[error("the policy server: {0}")]
    Server(String),
    /// It took too long, called a function wrongly, or gave a value of another type than expected.
    #[error("the policy could not be evaluated: {0}")]
    Evaluation(String),
}

/// What a policy says of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// Whether the rule holds.
    pub holds: bool,
    /// Why, where the rule is a set of texts or a text; at most eight, of 256 characters each, in alphabetical order.
    pub reasons: Vec<String>,
}

/// An input document within its bounds.
#[derive(Clone, Debug)]
pub struct Input(Value);

impl Input {
    /// `document` as JSON.
    ///
    /// # Errors
    /// [`PolicyError::Input`].
    pub fn new(document: &impl Serialize) -> Result<Self, PolicyError> {
        let json = serde_json::to_string(document).map_err(|_| PolicyError::Input)?;
        if json.len() > MAX_INPUT_BYTES {
            return Err(PolicyError::Input);
        }
        Value::from_json_str(&json).map(Self).map_err(|_| PolicyError::Input)
    }
}

/// Policies that were compiled, and the rule that they are asked for. Cheap to share, and evaluated by many at a time.
#[derive(Clone)]
pub struct PolicySet {
    engine: Engine,
    rule: String,
    reads: Reads,
}

impl PolicySet {
    /// One policy, from its text. `rule` is the path of the rule to ask for, package first, such as `orchd.gate.deny`.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn compile(text: &str, rule: &str) -> Result<Self, PolicyError> {
        let module = Module { file: "policy.rego".to_owned(), text: text.to_owned() };
        Self::build(&[module], None, rule)
    }

    /// Whether the rule holds for `input`. Takes microseconds as a rule, [`EVALUATION_LIMIT`] at most.
    ///
    /// # Errors
    /// [`PolicyError::Input`] or [`PolicyError::Evaluation`].
    pub fn evaluate(&self, input: &impl Serialize) -> Result<Finding, PolicyError> {
        self.ask(&Input::new(input)?, EVALUATION_LIMIT)
    }

    /// The same within another limit, of an input that several sets are asked about.
    ///
    /// # Errors
    /// [`PolicyError::Evaluation`].
    pub fn ask(&self, input: &Input, limit: Duration) -> Result<Finding, PolicyError> {
        let mut engine = self.engine.clone();
        engine.set_execution_timer_config(timer(limit));
        engine.set_input(input.0.clone());
        let rule = format!("data.{}", self.rule);
        finding(guarded(|| engine.eval_rule(rule))?)
    }

    fn build(modules: &[Module], data: Option<&str>, rule: &str) -> Result<Self, PolicyError> {
        let mut engine = engine(modules, data, EVALUATION_LIMIT)?;
        calls::check(&mut engine)?;
        trial::rule_names(&mut engine, &format!("data.{rule}"))?;
        Ok(Self { engine, rule: rule.to_owned(), reads: Reads::of(modules) })
    }
}

impl std::fmt::Debug for PolicySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicySet").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// A file of Rego.
struct Module {
    file: String,
    text: String,
}

/// An engine that knows these modules.
fn engine(modules: &[Module], data: Option<&str>, limit: Duration) -> Result<Engine, PolicyError> {
    let bytes: usize = modules.iter().map(|module| module.text.len()).sum();
    if bytes + data.map_or(0, str::len) > MAX_TEXT_BYTES {
        return Err(PolicyError::TooLarge);
    }
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    engine.set_execution_timer_config(timer(limit));
    let mut shapes = Shapes::default();
    for module in modules {
        let unbounded = |reason| PolicyError::Unbounded { file: module.file.clone(), reason };
        screen::check(module)?;
        shapes.read(&module.text).map_err(unbounded)?;
        caught(|| engine.add_policy(module.file.clone(), module.text.clone()))
            .map_err(|reason| PolicyError::Wrong { file: module.file.clone(), reason })?;
    }
    let all = || modules.iter().map(|module| module.file.as_str()).collect::<Vec<_>>().join(", ");
    shapes.finish().map_err(|reason| PolicyError::Unbounded { file: all(), reason })?;
    if let Some(data) = data {
        caught(|| engine.add_data_json(data))
            .map_err(|reason| PolicyError::Wrong { file: load::DATA_FILE.to_owned(), reason })?;
    }
    Ok(engine)
}

const fn timer(limit: Duration) -> ExecutionTimerConfig {
    ExecutionTimerConfig { limit, check_interval: STEPS_BETWEEN_LOOKS }
}

/// What the interpreter answers; a panic in it is an error like others.
fn caught<T, E: std::fmt::Display>(run: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(answered) => answered.map_err(|error| error.to_string().trim().to_owned()),
        Err(_panic) => Err("the interpreter panicked".to_owned()),
    }
}

fn guarded<T, E: std::fmt::Display>(run: impl FnOnce() -> Result<T, E>) -> Result<T, PolicyError> {
    caught(run).map_err(PolicyError::Evaluation)
}

/// The value of a rule that refuses or applies: nothing, `true` or `false`, a text, or a set (or array) of texts.
fn finding(value: Value) -> Result<Finding, PolicyError> {
    let texts: Option<Vec<String>> = match &value {
        Value::Undefined | Value::Bool(false) => return Ok(Finding::default()),
        Value::Bool(true) => Some(Vec::new()),
        Value::String(text) => Some(vec![text.to_string()]),
        Value::Set(set) if set.is_empty() => return Ok(Finding::default()),
        Value::Set(set) => set.iter().map(text).collect(),
        Value::Array(array) if array.is_empty() => return Ok(Finding::default()),
        Value::Array(array) => array.iter().map(text).collect(),
        _ => None,
    };
    let Some(mut reasons) = texts else {
        return Err(PolicyError::Evaluation(
            "the rule must be a boolean, a text or a set of texts".to_owned(),
        ));
    };
    reasons.sort();
    reasons.truncate(MAX_REASONS);
    for reason in &mut reasons {
        *reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect();
    }
    Ok(Finding { holds: true, reasons })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
