//! The command line: what can be asked for, and nothing of how it is done.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, value_parser};

use crate::policy::{MASTER_PORT, Origin};

/// Where the configuration is looked for when `-c` does not say.
pub const DEFAULT_CONFIG: &str = "/etc/masterpolicyd/masterpolicyd.toml";

/// Serves the host's Flash socket policy on port 843.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The main configuration file
    #[arg(short, long, value_name = "FILE", global = true, default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Log more; twice logs every connection's steps
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What masterpolicyd can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bind, drop every privilege, and serve the policy in the foreground
    Serve,
    /// Read the whole configuration and print every problem in it
    Check {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what the configuration amounts to
    #[command(subcommand)]
    Show(Show),
    /// Say what a player would decide about the configured policy, and which rule decided
    Explain(Explain),
    /// Set the policy against what listens on this host
    Audit(Audit),
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The connection that `explain` is about.
#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// Where the movie was loaded from; a bare host name is taken as http
    #[arg(long, value_name = "URL")]
    pub origin: Origin,

    /// The port on this host that it connects to
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    pub port: u16,

    /// The port that the policy is served from
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..),
          default_value_t = MASTER_PORT)]
    pub policy_port: u16,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// How `audit` answers.
#[derive(Debug, Clone, Copy, Args)]
pub struct Audit {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `show` can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Show {
    /// The exact document that is served
    Policy,
    /// Every rule with the file and line it came from
    Rules {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// The effective configuration, as TOML that loads again
    Config,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
