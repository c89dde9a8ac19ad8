//! masterpolicyd: one daemon, one port, one Flash socket policy for the whole host.
//!
//! The binary is three lines around [`run`]; everything else is here, so that tests, fuzz
//! targets and benchmarks reach it.
#![forbid(unsafe_code)]

// The lists of system calls are for these.
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"),
    target_pointer_width = "64"
)))]
compile_error!("masterpolicyd runs on Linux with a 64-bit x86, ARM or RISC-V processor");

pub mod account;
pub mod audit;
pub mod background;
mod bounded;
pub mod cli;
pub mod commands;
pub mod config;
mod counted;
pub mod document;
mod duration;
pub mod exit;
pub mod inventory;
pub mod listen;
pub mod logging;
pub mod network;
pub mod notify;
pub mod policy;
pub mod position;
pub mod printable;
pub mod privileges;
pub mod probe;
pub mod process;
pub mod running;
pub mod sandbox;
pub mod server;
mod spelling;
pub mod timestamp;
pub mod watch;

use std::ffi::OsString;

use clap::FromArgMatches;
use clap::parser::ValueSource;

use cli::{Cli, Command};
use exit::Exit;

/// Does what a command line asks for; `arguments` begin with the name of the program.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    if let Err(unfit) = process::take_stack() {
        return commands::unfit(&unfit);
    }
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = Cli::command_line().try_get_matches_from(&arguments);
    let parsed = matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return commands::usage::run(error, &arguments),
    };
    match &cli.command {
        Command::Serve => commands::serve::run(&cli),
        Command::Check(asked) => commands::check::run(&cli.config, asked),
        Command::Show(show) => commands::show::run(&cli.config, *show),
        Command::Diff { json } => commands::diff::run(&cli.config, *json),
        Command::Explain(asked) => commands::explain::run(&cli.config, asked),
        Command::Probe(asked) => commands::probe::run(asked),
        Command::Audit(asked) => commands::audit::run(&cli.config, *asked),
        Command::Status { json } => {
            let is_named = matches.value_source("config") == Some(ValueSource::CommandLine);
            commands::status::run(is_named.then_some(&cli.config), *json)
        }
        Command::Completions { shell } => commands::completions::run(*shell),
    }
}
