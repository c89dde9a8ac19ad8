//! `completions`: a script that completes the command line in a shell, for packages to install.

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::Output;
use crate::cli::Cli;
use crate::exit::Exit;

/// Prints the script for `shell`.
#[must_use]
pub fn run(shell: Shell) -> Exit {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let mut output = Output::to_stdout();
    output.print(String::from_utf8_lossy(&script));
    output.finish(Exit::Success)
}
