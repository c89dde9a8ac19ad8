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
    /// Ask hosts for their policy as a player does, and say why a connection would be refused
    Probe(Probe),
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

/// What `probe` is told. Origin and time are read by the command, because monitoring wants to be
/// told what is wrong with them in a line of its own form.
#[derive(Debug, Clone, Args)]
#[command(override_usage = "masterpolicyd probe [OPTIONS] HOST PORT
       masterpolicyd probe [OPTIONS] HOST:PORT...
       masterpolicyd probe [OPTIONS] --targets FILE")]
pub struct Probe {
    /// A host and the port that the content connects to, or any number of HOST:PORT
    #[arg(value_name = "HOST:PORT")]
    pub targets: Vec<String>,

    /// Where the content comes from; without it, whether the port is granted to any content
    #[arg(long, value_name = "URL")]
    pub origin: Option<String>,

    /// Also ask this port, as content does that loads a policy from it; ten times as patient
    #[arg(long, value_name = "PORT", value_parser = value_parser!(u16).range(1..))]
    pub load_policy: Option<u16>,

    /// The port of the master policy, to test a server elsewhere
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = MASTER_PORT,
        value_parser = value_parser!(u16).range(1..)
    )]
    pub policy_port: u16,

    /// How long to wait for each port; a player waits 3 seconds
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub timeout: String,

    /// Read more targets from a file, one a line; - is standard input
    #[arg(long = "targets", value_name = "FILE")]
    pub targets_file: Option<PathBuf>,

    /// Which addresses
    #[command(flatten)]
    pub family: Family,

    /// Print one JSON object, or an array for several targets
    #[arg(long, conflicts_with = "nagios")]
    pub json: bool,

    /// Print the line of a monitoring plugin, and exit 0, 1, 2 or 3 as monitoring expects
    #[arg(long)]
    pub nagios: bool,
}

/// Which of a host's addresses are asked; all, when neither is set.
#[derive(Debug, Clone, Copy, Args)]
pub struct Family {
    /// Ask IPv4 addresses only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// Ask IPv6 addresses only
    #[arg(short = '6', long)]
    pub ipv6: bool,
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
