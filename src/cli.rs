//! The command line: what can be asked for, and nothing of how it is done.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand};

use crate::policy::{Host, MASTER_PORT, Origin, OriginError, Player};

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

impl Cli {
    /// The whole command line. Where a global option means nothing, it is taken and not shown.
    #[must_use]
    pub fn command_line() -> clap::Command {
        let hide = |command: clap::Command, id: &'static str| match id {
            "config" => command.arg(hidden(id, 'c').action(ArgAction::Set)),
            _ => command.arg(hidden(id, 'v').action(ArgAction::Count)),
        };
        let without_config = ["probe", "completions"];
        Self::command().mut_subcommands(|command| match command.get_name() {
            "serve" => command,
            name if without_config.contains(&name) => hide(hide(command, "config"), "verbose"),
            _ => hide(command, "verbose"),
        })
    }
}

fn hidden(id: &'static str, short: char) -> Arg {
    Arg::new(id).short(short).long(id).global(true).hide(true)
}

/// What masterpolicyd can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bind, drop every privilege, and serve the policy in the foreground
    Serve,
    /// Read the whole configuration, or single files, and print every problem
    #[command(alias = "configtest", alias = "validate", short_flag_alias = 't')]
    Check(Check),
    /// Show what the configuration amounts to
    #[command(subcommand)]
    Show(Show),
    /// Compare the rules on disk with those that are served now
    Diff {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say what a player would decide about the configured policy, and which rule decided
    Explain(Explain),
    /// Ask hosts for their policy as a player does, and say why a connection would be refused
    Probe(Probe),
    /// Compare the policy with what listens on this host
    Audit(Audit),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What `check` reads, and how much it says.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Drop-ins or main files to read each alone, before they are installed
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Print errors only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The connection that `explain` is about.
#[derive(Debug, Clone, Args)]
#[command(override_usage = "masterpolicyd explain [OPTIONS] ORIGIN PORT
       masterpolicyd explain [OPTIONS] --origin URL --port PORT")]
pub struct Explain {
    /// Where the content was loaded from; a bare host name is taken as http
    #[arg(value_name = "ORIGIN", id = "ORIGIN", value_parser = parse_origin,
          required_unless_present = "origin", conflicts_with_all = ["origin", "port"])]
    origin_word: Option<Origin>,

    /// The port on this host that it connects to
    #[arg(value_name = "PORT", id = "PORT", value_parser = parse_port,
          required_unless_present = "port", conflicts_with_all = ["origin", "port"])]
    port_word: Option<u16>,

    /// The same as ORIGIN
    #[arg(long, value_name = "URL", value_parser = parse_origin)]
    origin: Option<Origin>,

    /// The same as PORT
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    port: Option<u16>,

    /// The port that the policy is served from
    #[arg(long, value_name = "PORT", value_parser = parse_port, default_value_t = MASTER_PORT)]
    pub policy_port: u16,

    /// The player that decides: flash, lightspark or unity
    #[arg(long, value_name = "PLAYER", default_value = Player::Flash.as_str())]
    pub player: Player,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Explain {
    /// Where the content was loaded from, and the port that it connects to, however they were
    /// named; clap sees to it that they are.
    #[must_use]
    pub fn connection(&self) -> Option<(&Origin, u16)> {
        let origin = self.origin_word.as_ref().or(self.origin.as_ref())?;
        Some((origin, self.port_word.or(self.port)?))
    }
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
    Policy {
        /// The port that is asked: site-control is part of what port 843 serves, and of nothing else
        #[arg(long, value_name = "PORT", default_value_t = MASTER_PORT, value_parser = parse_port)]
        port: u16,
    },
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
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
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
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    pub load_policy: Option<u16>,

    /// The port of the master policy, to test a server elsewhere
    #[arg(long, value_name = "PORT", default_value_t = MASTER_PORT, value_parser = parse_port)]
    pub policy_port: u16,

    /// Begin with a header of the PROXY protocol, as a balancer does that checks the server
    #[arg(long)]
    pub proxy_protocol: bool,

    /// How long to wait for the name and for each port; a player waits 3 seconds
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub timeout: String,

    /// Read more targets from a file, one a line; - is standard input
    #[arg(long = "targets", value_name = "FILE")]
    pub targets_file: Option<PathBuf>,

    /// Which addresses
    #[command(flatten)]
    pub family: Family,

    /// Print the verdicts without the steps
    #[arg(long, conflicts_with_all = ["json", "nagios"])]
    pub summary: bool,

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

/// Whether this is the file that is read when nobody names another.
#[must_use]
pub fn is_default_config(path: &Path) -> bool {
    path == Path::new(DEFAULT_CONFIG)
}

/// Reads an origin as a person writes it, and says what to write where it is none.
pub fn parse_origin(text: &str) -> Result<Origin, String> {
    let error: OriginError = match text.parse() {
        Ok(origin) => return Ok(origin),
        Err(error) => error,
    };
    let host = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = host.split(['/', ':', '?', '#']).next().unwrap_or_default().trim();
    Err(match host.strip_suffix('.') {
        _ if host.is_empty() => {
            "no site is named; write one, such as https://www.example.com/".to_owned()
        }
        _ if host.contains('*') => "an origin is one site and not a pattern; write one that the \
                                    pattern covers, such as www.example.com"
            .to_owned(),
        Some(name) if name.parse::<Host>().is_ok() => {
            format!("leave out the dot at the end of the name: {name}")
        }
        _ => error.to_string(),
    })
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err("a port is a number between 1 and 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command_line().debug_assert();
    }

    #[test]
    fn options_are_shown_where_they_mean_something() {
        let shown = |name: &str| {
            let mut command = Cli::command_line();
            command.build();
            let help = command.find_subcommand_mut(name).unwrap().render_help().to_string();
            (help.contains("--config"), help.contains("--verbose"))
        };
        assert_eq!(shown("serve"), (true, true));
        assert_eq!(shown("check"), (true, false));
        assert_eq!(shown("show"), (true, false));
        assert_eq!(shown("probe"), (false, false));
        assert_eq!(shown("completions"), (false, false));
    }

    #[test]
    fn a_text_that_is_no_origin_is_answered_with_what_to_write() {
        for (text, words) in [
            ("", "no site is named"),
            (" ", "no site is named"),
            ("https:///x.swf", "no site is named"),
            ("*", "not a pattern"),
            ("*.example.com", "not a pattern"),
            ("http://*.example.com/", "not a pattern"),
            ("www.example.com.", "leave out the dot at the end of the name: www.example.com"),
            ("http://www.example.com.:80/", "leave out the dot"),
            ("ftp://a.test", "an http or https URL"),
        ] {
            let error = parse_origin(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        for text in
            ["a.test", "https://a.test:8080/x.swf", "http://[2001:db8::1]/", "192.0.2.7", "::1"]
        {
            assert!(parse_origin(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn the_names_that_hands_know_are_names_of_check() {
        for name in ["check", "-t", "configtest", "validate"] {
            let cli = Cli::try_parse_from(["masterpolicyd", name, "-q", "a.toml"]).unwrap();
            assert!(matches!(cli.command, Command::Check(Check { quiet: true, .. })), "{name}");
        }
        assert!(!Cli::command().render_long_help().to_string().contains("configtest"));
    }
}
