//! The binary; everything is in the library.

use clap::Parser;

fn main() -> std::process::ExitCode {
    masterpolicyd::run(&masterpolicyd::cli::Cli::parse()).into()
}
