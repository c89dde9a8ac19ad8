//! masterpolicyd: one daemon, one port, one Flash socket policy for the whole host.
//!
//! The binary is three lines around [`main`]; everything else is here, so that tests, fuzz
//! targets and benchmarks reach it.
#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod document;
pub mod exit;
pub mod policy;
pub mod position;
pub mod probe;
mod spelling;

use cli::{Cli, Command};
use exit::Exit;

/// Does what the command line asks for.
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    match &cli.command {
        Command::Probe(args) => commands::probe::run(args),
        _ => Exit::Unknown,
    }
}
