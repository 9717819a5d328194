//! `orchd completions`: scripts that complete the command line in a shell.

use clap_complete::Shell;

use super::Exit;

/// Print the completion script of a shell (works on nothing but the command line itself)
#[derive(clap::Args, Debug)]
#[command(after_help = "For bash: orchd completions bash > ~/.local/share/bash-completion/completions/orchd")]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

impl Args {
    pub(super) fn run(&self) -> Exit {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "orchd", &mut script);
        super::print(&String::from_utf8_lossy(&script))
    }
}
