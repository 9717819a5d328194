//! Long work: asked for, followed with a progress bar on a terminal, answered at its end.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::super::client::{Answer, Question, Reach};
use super::super::{Exit, Shared};

/// Asks for a job and shows how far it is until its answer comes. There is no bar where standard error is no terminal.
pub(in crate::cli) fn job(
    reach: &Reach,
    shared: &Shared,
    command: &'static str,
    payload: &Value,
    show: impl FnOnce(&Answer) -> String,
) -> Exit {
    let question = match Question::new(command, payload) {
        Ok(question) => question,
        Err(failure) => return failure.report(),
    };
    // Drawn by the first step that tells the length.
    let bar = ProgressBar::new(0).with_message(command);
    // What the template cannot say is shown in the default style.
    if let Ok(style) =
        ProgressStyle::with_template("{msg} [{bar:32}] {percent:>3} %  {pos} of {len}  {elapsed}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    let step = (!bar.is_hidden()).then_some(|done, total| {
        // Else it is not known yet.
        if total > 0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    let show = |answer: &Answer| {
        bar.finish_and_clear();
        show(answer)
    };
    reach.follow(shared, &question, step, show)
}
