//! `completions`: a script that completes the command line in a shell, for packages to install.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Exit;

/// Prints the script for `shell`.
#[must_use]
pub fn run(shell: Shell) -> Exit {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    super::print(&mut io::stdout().lock(), format_args!("{}", String::from_utf8_lossy(&script)));
    Exit::Success
}
