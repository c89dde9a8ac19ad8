//! masterpolicyd: one daemon, one port, one Flash socket policy for the whole host.
//!
//! The binary is three lines around [`main`]; everything else is here, so that tests, fuzz
//! targets and benchmarks reach it.
#![forbid(unsafe_code)]

pub mod audit;
pub mod cli;
pub mod commands;
pub mod config;
pub mod connection;
pub mod document;
pub mod exit;
pub mod inventory;
pub mod limits;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod policy;
pub mod position;
pub mod privileges;
pub mod sandbox;
pub mod scrape;
pub mod server;
mod spelling;

use cli::{Cli, Command};
use exit::Exit;

/// Does what the command line asks for.
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    match cli.command {
        Command::Check { json } => commands::check::run(&cli.config, json),
        Command::Show(show) => commands::show::run(&cli.config, show),
        Command::Serve => commands::serve::run(cli),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}
