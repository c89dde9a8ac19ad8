//! The program: everything is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    masterpolicyd::run(&masterpolicyd::cli::Cli::parse()).into()
}
