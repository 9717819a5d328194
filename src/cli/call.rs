//! `orchd call`: any command, by its name.

use std::io::Read;

use serde_json::value::RawValue;

use super::client::{self, Failure, Question, Reach};
use super::{Exit, Shared};

/// Largest payload that is read from standard input.
const MAX_STDIN_BYTES: u64 = 16 << 20;

/// Send any command to a node and print its answer
#[derive(clap::Args, Debug)]
#[command(after_help = client::HELP)]
pub(super) struct Args {
    /// The command, such as memory/store
    #[arg(value_name = "SERVICE/VERB")]
    command: String,
    /// Its arguments as JSON; `-` reads them from standard input
    #[arg(value_name = "JSON | -")]
    payload: Option<String>,
    /// The command's id: sent again with the same id, it takes effect once
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

impl Args {
    pub(super) fn run(self, shared: &Shared) -> Exit {
        let question = match question(self.command, self.payload, self.message_id) {
            Ok(question) => question,
            Err(failure) => return failure.report(),
        };
        self.reach.ask(
            shared,
            &question,
            |answer| match answer.payload() {
                serde_json::Value::Null => String::new(),
                payload => format!("{payload:#}\n"),
            },
            |_| Exit::Ok,
        )
    }
}

fn question(
    command: String,
    payload: Option<String>,
    message_id: Option<String>,
) -> Result<Question, Failure> {
    let is_command = command.contains('/') && command.split('/').all(crate::wire::topic::is_name);
    if !is_command {
        return Err(Failure::Usage(format!(
            "`{command}` is no command; write service/verb, such as node/ping"
        )));
    }
    let text = match payload {
        Some(dash) if dash == "-" => Some(read_stdin()?),
        other => other,
    };
    let payload = text.map(RawValue::from_string).transpose();
    let payload = payload.map_err(|error| Failure::Usage(format!("the payload is not JSON: {error}")))?;
    let mut question = Question::bare(&command);
    question.payload = payload;
    Ok(question.repeatable(message_id))
}

pub(super) fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MAX_STDIN_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::Usage(format!("standard input cannot be read: {error}")))?;
    if text.len() as u64 > MAX_STDIN_BYTES {
        return Err(Failure::Usage(format!("standard input has more than {MAX_STDIN_BYTES} bytes")));
    }
    Ok(text)
}
