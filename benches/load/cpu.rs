//! Processor time that a question and its answer cost, over every process that takes part.
//!
//! With many questions in flight the processors are the limit, so that the ratio of this time to the echo's says what the
//! ratio of the throughputs would be if the machine had nothing else to do; unlike throughput it does not suffer when it
//! has.

use super::Failure;

/// Processor time used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// By all processes, in seconds.
    pub all: f64,
    /// By those that answer, in seconds.
    pub answering: f64,
}

/// The processes that take part.
#[derive(Clone, Debug)]
pub struct Processes {
    /// The broker.
    pub broker: u32,
    /// The echo and the node.
    pub answering: [u32; 2],
}

impl Processes {
    /// What they have used so far.
    pub fn used(&self) -> Result<Used, Failure> {
        let mut used = Used::default();
        for process in self.answering {
            used.answering += seconds(process)?;
        }
        used.all = used.answering + seconds(self.broker)? + seconds(std::process::id())?;
        Ok(used)
    }
}

/// User and system time of a process, in seconds.
fn seconds(process: u32) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may contain blanks.
    let (_, fields) = text.rsplit_once(')').ok_or("/proc is not as expected")?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = fields.next().zip(fields.next()).ok_or("/proc is not as expected")?;
    Ok((user? + system?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}
