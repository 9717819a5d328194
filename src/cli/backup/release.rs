//! `orchd backup release`: states that are not in use, those from before and a restored one that waits.

use std::path::PathBuf;

use serde_json::Value;

use super::show::id_of;
use super::tell;
use crate::cli::client::Reach;
use crate::cli::client::text::{bytes, cell};
use crate::cli::{Exit, Shared};
use crate::phoenix::give_up;

pub(super) fn release_here(
    shared: &Shared,
    state_dir: Option<PathBuf>,
    dry_run: bool,
    reach: &Reach,
) -> Exit {
    let state = match state_dir {
        Some(state) => state,
        None => match shared.load_instead_of("the state folder with --state-dir") {
            Ok((config, _)) => config.node.state_dir,
            Err(exit) => return exit,
        },
    };
    tell(give_up(&state, dry_run), reach.json, show_released)
}

/// A line on the restored state that waits for the next start; nothing where none does.
pub(super) fn show_pending(pending: &Value) -> String {
    if !pending.is_object() {
        return String::new();
    }
    format!(
        "backup {} is restored as generation {} and taken into use by the next start; `orchd backup release --pending` gives it up\n",
        id_of(&pending["snapshot"]),
        cell(&pending["generation"]),
    )
}

pub(super) fn show_released(released: &Value) -> String {
    let word = if released["dry_run"] == true { "would be removed" } else { "was removed" };
    let mut out = String::new();
    for old in released["released"].as_array().into_iter().flatten() {
        out.push_str(&format!("generation {} {word}: {}\n", cell(&old["number"]), bytes(&old["bytes"])));
    }
    if out.is_empty() {
        out.push_str("there is no old generation\n");
    }
    out + &show_pending(&released["pending"])
}
