//! `completions`: a script that completes the command line in a shell, for packages to install.

use std::fmt::Write as _;

use clap::Command;
use clap::builder::PossibleValue;
use clap_complete::Shell;

use super::output::Output;
use crate::cli::Cli;
use crate::exit::Exit;

/// Prints the script for `shell`.
#[must_use]
pub fn run(shell: Shell) -> Exit {
    let mut command = Cli::shown();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let mut output = Output::to_stdout();
    output.print(String::from_utf8_lossy(&script));
    if shell == Shell::Fish {
        output.print(fish_arguments(&command));
    }
    output.finish(Exit::Success)
}

/// What clap leaves out for fish: the words that a command takes besides its options.
fn fish_arguments(command: &Command) -> String {
    let name = command.get_name();
    let mut script = String::new();
    for sub in command.get_subcommands() {
        for argument in sub.get_positionals() {
            let values: Vec<_> = argument.get_possible_values();
            let values: Vec<_> = values.iter().map(PossibleValue::get_name).collect();
            if !values.is_empty() {
                // Writing to a string does not fail.
                _ = writeln!(
                    script,
                    "complete -c {name} -n \"__fish_seen_subcommand_from {}\" -f -a \"{}\"",
                    sub.get_name(),
                    values.join(" ")
                );
            }
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fish_completes_the_name_of_a_shell() {
        assert_eq!(
            fish_arguments(&Cli::shown()),
            "complete -c masterpolicyd -n \"__fish_seen_subcommand_from completions\" -f -a \"bash \
             elvish fish powershell zsh\"\n"
        );
    }
}
