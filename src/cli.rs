//! The command line: what can be asked for, and nothing of how it is done.

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, CommandFactory, Parser, Subcommand, value_parser};

use crate::policy::{Host, MASTER_PORT, Origin, OriginError, Player};

/// Where the configuration is looked for when `-c` does not say.
pub const DEFAULT_CONFIG: &str = "/etc/masterpolicyd/masterpolicyd.toml";

/// Flash socket policy server.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The main configuration file
    #[arg(short, long, value_name = "FILE", global = true, default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Log more; give it twice to log the steps of each connection
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
        Self::command().mut_subcommands(|command| {
            let shown = shown_by(command.get_name());
            let command = with_own_options(command);
            let hidden = [
                hidden("config", 'c').value_parser(value_parser!(PathBuf)),
                hidden("verbose", 'v').action(ArgAction::Count),
            ];
            command.args(hidden.into_iter().filter(|it| !shown.contains(&it.get_id().as_str())))
        })
    }

    /// The command line without what is not shown, for completion scripts, which offer that too.
    #[must_use]
    pub fn shown() -> clap::Command {
        let line = Self::command().mut_args(|option| option.global(false));
        let global: Vec<_> = line.get_arguments().map(|it| it.clone().global(true)).collect();
        line.mut_subcommands(|command| {
            let shown = shown_by(command.get_name());
            let command = with_own_options(command);
            let is_own = |it: &Arg| command.get_arguments().any(|own| own.get_id() == it.get_id());
            let mut global = global.clone();
            global.retain(|it| shown.contains(&it.get_id().as_str()) && !is_own(it));
            command.args(global)
        })
    }
}

/// The global options that mean something to a command.
fn shown_by(command: &str) -> &'static [&'static str] {
    match command {
        "serve" => &["config", "verbose"],
        "probe" | "completions" => &[],
        _ => &["config"],
    }
}

/// The command with those global options that mean something else to it.
fn with_own_options(command: clap::Command) -> clap::Command {
    if command.get_name() == "status" { command.arg(config_of_one_daemon()) } else { command }
}

/// `-c` of `status`, which has no default: without it, all are meant.
fn config_of_one_daemon() -> Arg {
    Arg::new("config")
        .short('c')
        .long("config")
        .global(true)
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Only the daemon that serves this main file")
}

fn hidden(id: &'static str, short: char) -> Arg {
    Arg::new(id).short(short).long(id).global(true).hide(true)
}

/// What masterpolicyd can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the policy in the foreground until a signal stops it
    Serve,
    /// Check the whole configuration, or single files, and print every problem
    #[command(alias = "configtest", alias = "validate", short_flag_alias = 't')]
    Check(Check),
    /// Show the policy, the rules or the configuration in effect
    #[command(subcommand)]
    Show(Show),
    /// Compare the rules on disk with those that the daemon serves
    Diff {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether a player would allow a connection, and which rule decides
    Explain(Explain),
    /// Ask hosts for their policy as a player does, and say why a connection would be refused
    Probe(Probe),
    /// Compare the policy with what listens on this host
    Audit(Audit),
    /// Say which daemons run on this host, and how they are
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What `check` reads, and how much it says.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// Drop-ins or main files to check, each by itself
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Print only errors
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The connection that `explain` is about.
#[derive(Debug, Clone, Args)]
#[command(override_usage = "masterpolicyd explain [OPTIONS] ORIGIN PORT
       masterpolicyd explain [OPTIONS] --origin URL --port PORT")]
pub struct Explain {
    /// The URL that the content was loaded from; a name without a scheme is taken as http
    #[arg(value_name = "ORIGIN", id = "ORIGIN", value_parser = parse_origin,
          required_unless_present = "origin", conflicts_with_all = ["origin", "port"])]
    origin_word: Option<Origin>,

    /// The port of this host that the content connects to
    #[arg(value_name = "PORT", id = "PORT", value_parser = parse_port,
          required_unless_present = "port", conflicts_with_all = ["origin", "port"])]
    port_word: Option<u16>,

    /// Another way to give ORIGIN
    #[arg(long, value_name = "URL", value_parser = parse_origin)]
    origin: Option<Origin>,

    /// Another way to give PORT
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    port: Option<u16>,

    /// The port that the policy comes from
    #[arg(long, value_name = "PORT", value_parser = parse_port, default_value_t = MASTER_PORT)]
    pub policy_port: u16,

    /// Decide as this player does
    #[arg(long, value_name = "PLAYER", value_parser = player(),
          default_value = Player::Flash.as_str())]
    pub player: Player,

    /// Print JSON
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
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `show` can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Show {
    /// Print the document that clients get
    Policy {
        /// The port that clients ask; only the document of port 843 has site-control
        #[arg(long, value_name = "PORT", default_value_t = MASTER_PORT, value_parser = parse_port)]
        port: u16,
    },
    /// Print all rules, each with its file and line
    Rules {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Print the configuration in effect, as TOML
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
    /// A host and the port that the content connects to, or several HOST:PORT
    #[arg(value_name = "HOST:PORT")]
    pub targets: Vec<String>,

    /// The URL that the content was loaded from; without it, any content counts
    #[arg(long, value_name = "URL")]
    pub origin: Option<String>,

    /// Also ask this port, as content that loads a policy from it does; wait ten times as long
    #[arg(long, value_name = "PORT", value_parser = parse_port)]
    pub load_policy: Option<u16>,

    /// Ask this port instead of 843, to test a server on another port
    #[arg(long, value_name = "PORT", default_value_t = MASTER_PORT, value_parser = parse_port)]
    pub policy_port: u16,

    /// Send a header of the PROXY protocol first, as a balancer that checks the server does
    #[arg(long)]
    pub proxy_protocol: bool,

    /// How long to wait for the name, and for each port
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub timeout: String,

    /// Also ask the targets in this file, one a line; - is standard input
    #[arg(long = "targets", value_name = "FILE")]
    pub targets_file: Option<PathBuf>,

    /// Which addresses
    #[command(flatten)]
    pub family: FamilyOptions,

    /// Print only the verdicts
    #[arg(long, conflicts_with_all = ["json", "nagios"])]
    pub summary: bool,

    /// Print one JSON object, or an array for several targets
    #[arg(long, conflicts_with = "nagios")]
    pub json: bool,

    /// Print one line, and exit with 0, 1, 2 or 3, as a monitoring plugin does
    #[arg(long)]
    pub nagios: bool,
}

/// Which of a host's addresses are asked; all, when neither is set.
#[derive(Debug, Clone, Copy, Args)]
pub struct FamilyOptions {
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

/// Reads a player, and names all of them to shells and in the help.
fn player() -> impl TypedValueParser<Value = Player> {
    PossibleValuesParser::new(Player::EVERY.map(Player::as_str))
        .try_map(|name| name.parse::<Player>())
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err("a port is a number between 1 and 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;
    use clap::parser::ValueSource;

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
        assert_eq!(shown("status"), (true, false));
        assert_eq!(shown("probe"), (false, false));
        assert_eq!(shown("completions"), (false, false));
    }

    #[test]
    fn completion_scripts_offer_what_is_shown() {
        fn are_shown(command: &clap::Command) -> bool {
            !command.get_arguments().any(Arg::is_hide_set)
                && command.get_subcommands().all(are_shown)
        }
        fn options(command: &clap::Command, path: &str, all: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let shown = command.get_arguments().filter(|it| !it.is_hide_set());
            all.extend(shown.map(|it| format!("{path} {it} {:?}", it.get_help())));
            command.get_subcommands().for_each(|it| options(it, &path, all));
        }
        let [shown, whole] = [Cli::shown(), Cli::command_line()].map(|mut command| {
            command.build();
            let mut all = Vec::new();
            options(&command, "", &mut all);
            all.sort_unstable();
            all
        });
        assert_eq!(shown, whole);
        assert!(are_shown(&Cli::shown()));
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
    fn whether_a_main_file_was_named_is_known_wherever_it_stands() {
        let named = |line: &str| {
            let matches = Cli::command_line().get_matches_from(line.split(' '));
            let source = matches.value_source("config");
            let config = matches.get_one::<PathBuf>("config").unwrap().display().to_string();
            (config, source == Some(ValueSource::CommandLine))
        };
        assert_eq!(named("masterpolicyd -c a status"), ("a".to_owned(), true));
        assert_eq!(named("masterpolicyd status -c a"), ("a".to_owned(), true));
        assert_eq!(named("masterpolicyd status"), (DEFAULT_CONFIG.to_owned(), false));
    }

    /// `probe -c FILE` was taken as a text, looked for as a path, and ended the program.
    #[test]
    fn a_global_option_is_taken_behind_every_command() {
        for command in [
            "serve",
            "check",
            "show policy",
            "diff",
            "explain --origin a.test --port 5000",
            "probe a.test 5000",
            "audit",
            "status",
            "completions bash",
        ] {
            let line = format!("masterpolicyd {command} -c a.toml -vv");
            let matches = Cli::command_line().try_get_matches_from(line.split(' ')).unwrap();
            let cli = Cli::from_arg_matches(&matches).unwrap();
            assert_eq!((cli.config, cli.verbose), ("a.toml".into(), 2), "{line}");
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
