//! masterpolicyd: one daemon, one port, one Flash socket policy for the whole host.
//!
//! The binary is three lines around [`run`]; everything else is here, so that tests, fuzz
//! targets and benchmarks reach it.
#![forbid(unsafe_code)]

pub mod audit;
pub mod cli;
pub mod commands;
pub mod config;
pub mod connection;
pub mod document;
mod duration;
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
pub mod probe;
pub mod sandbox;
pub mod scrape;
pub mod server;
mod spelling;

use cli::{Cli, Command};
use exit::Exit;

/// Does what the command line asks for.
#[must_use]
pub fn run(cli: &Cli) -> Exit {
    match &cli.command {
        Command::Serve => commands::serve::run(cli),
        Command::Check { json } => commands::check::run(&cli.config, *json),
        Command::Show(show) => commands::show::run(&cli.config, *show),
        Command::Explain(asked) => commands::explain::run(&cli.config, asked),
        Command::Probe(asked) => commands::probe::run(asked),
        Command::Audit(asked) => commands::audit::run(&cli.config, *asked),
        Command::Completions { shell } => commands::completions::run(*shell),
    }
}
