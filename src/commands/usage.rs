//! What is said to a command line that asks for help, or for nothing that can be done.

use std::ffi::OsString;
use std::io;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::output::Output;
use super::terminal::Terminal;
use crate::cli::Cli;
use crate::exit::Exit;
use crate::printable::{Escaped, is_printable};

/// Says what clap has to say about `arguments`: help and version on standard output with 0, wrong
/// usage on standard error with 2, and to monitoring in its own form with 3.
#[must_use]
pub fn run(mut error: clap::Error, arguments: &[OsString]) -> Exit {
    point_to_service_manager(&mut error);
    point_to_port(&mut error, arguments);
    name_what_is_shown(&mut error);
    let text = error.render();
    if error.kind() == ErrorKind::DisplayVersion && asks_for_more(arguments) {
        let mut output = Output::to_stdout();
        output.print(format_args!("{text}{BUILD}"));
        return output.finish(Exit::Success);
    }
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let mut output = Output::to_stdout();
        if Terminal::of_stdout().coloured {
            output.print(text.ansi());
        } else {
            output.print(text);
        }
        return output.finish(Exit::Success);
    }
    let plain = text.to_string();
    if is_for_monitoring(arguments) {
        let first = plain.lines().next().unwrap_or_default();
        return super::probe::report_usage_to_monitoring(first.trim_start_matches("error: "));
    }
    let is_harmless = plain.chars().all(|character| is_printable(character) || character == '\n');
    if is_harmless && Terminal::of_stderr().coloured {
        super::write(&mut io::stderr().lock(), text.ansi());
    } else {
        for line in plain.lines() {
            super::tell(Escaped(line));
        }
    }
    Exit::Unknown
}

/// Says where to find what other daemons have a command for.
fn point_to_service_manager(error: &mut clap::Error) {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let tip = match word.as_str() {
        "start" => "serve runs it in the foreground; a service: systemctl start masterpolicyd",
        "stop" => "SIGTERM stops the daemon; a service: systemctl stop masterpolicyd",
        "reload" => "SIGHUP reloads the daemon; a service: systemctl reload masterpolicyd",
        "restart" => "systemctl restart masterpolicyd restarts the service",
        "version" => "masterpolicyd --version prints the version",
        _ => return,
    };
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

/// Says that the port is a word of its own where one stands behind the name of the host.
fn point_to_port(error: &mut clap::Error, arguments: &[OsString]) {
    let is_missing = |value: &ContextValue| matches!(value, ContextValue::Strings(names) if names == &["<PORT>"]);
    if error.kind() != ErrorKind::MissingRequiredArgument
        || !error.get(ContextKind::InvalidArg).is_some_and(is_missing)
    {
        return;
    }
    let words = arguments.iter().filter_map(|argument| argument.to_str());
    let mut pairs = words.filter_map(|word| word.rsplit_once(':'));
    let Some((host, port)) =
        pairs.find(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok())
    else {
        return;
    };
    let tip = format!("PORT is a word of its own: {host} {port}");
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

/// Leaves out of the commands that one can be chosen from what the help does not show either.
fn name_what_is_shown(error: &mut clap::Error) {
    if error.kind() == ErrorKind::MissingSubcommand {
        let commands = Cli::command_line();
        let names = commands.get_subcommands().map(|command| command.get_name().to_owned());
        let names = ContextValue::Strings(names.collect());
        error.insert(ContextKind::ValidSubcommand, names);
    }
}

/// What a report of a fault should say of the program beside its version.
const BUILD: &str = concat!(
    "commit: ",
    env!("MASTERPOLICYD_COMMIT"),
    "\ncompiler: ",
    env!("MASTERPOLICYD_COMPILER"),
    "\ntarget: ",
    env!("MASTERPOLICYD_TARGET"),
    "\nfeatures: landlock, seccomp, sd_notify, socket activation, prometheus\n",
);

/// Whether `-v` stands beside `--version`.
fn asks_for_more(arguments: &[OsString]) -> bool {
    let is_verbose = |argument: &str| match argument.strip_prefix("--") {
        Some(long) => long == "verbose",
        None => argument.strip_prefix('-').is_some_and(|letters| letters.contains('v')),
    };
    let mut options = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    options.any(|argument| argument.to_str().is_some_and(is_verbose))
}

/// Whether the line was meant for `probe --nagios`, as far as can be told of one that makes no
/// sense.
fn is_for_monitoring(arguments: &[OsString]) -> bool {
    let options = || arguments.iter().skip(1).take_while(|argument| *argument != "--");
    options().any(|argument| argument == "probe") && options().any(|it| it == "--nagios")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_command_here_is_pointed_to_its_place() {
        for (word, tip) in [
            ("reload", "tip: SIGHUP reloads the daemon; a service: systemctl reload masterpolicyd"),
            ("start", "tip: serve runs it in the foreground; a service: systemctl start"),
            ("chek", "tip: a similar subcommand exists: 'check'"),
        ] {
            let line = ["masterpolicyd", word];
            let mut error = Cli::command_line().try_get_matches_from(line).unwrap_err();
            point_to_service_manager(&mut error);
            let told = error.to_string();
            assert!(told.contains(tip) && told.matches("tip:").count() == 1, "{told}");
        }
    }

    fn told(line: &str) -> String {
        let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
        let mut error = Cli::command_line().try_get_matches_from(&arguments).unwrap_err();
        point_to_port(&mut error, &arguments);
        name_what_is_shown(&mut error);
        error.to_string()
    }

    #[test]
    fn a_port_behind_the_name_of_the_host_is_pointed_to_its_place() {
        let told_of = |word: &str| told(&format!("masterpolicyd explain {word}"));
        let tip = "tip: PORT is a word of its own: www.example.com 5000";
        assert!(told_of("www.example.com:5000").contains(tip));
        for other in ["www.example.com", "https://www.example.com:8443", "::1", "a.test:x"] {
            assert!(!told_of(other).contains("tip:"), "{}", told_of(other));
        }
    }

    #[test]
    fn no_command_is_named_that_the_help_does_not_show() {
        let told = told("masterpolicyd -c a.toml");
        assert!(told.contains("serve, check, show"), "{told}");
        assert!(!told.contains("configtest"), "{told}");
    }

    #[test]
    fn monitoring_is_known_by_its_command_and_its_option() {
        let is_for_monitoring = |line: &str| {
            super::is_for_monitoring(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
        };
        assert!(is_for_monitoring("masterpolicyd probe --nagios --frist"));
        assert!(is_for_monitoring("masterpolicyd -v probe a.test x --nagios"));
        assert!(!is_for_monitoring("masterpolicyd probe -- --nagios"));
        assert!(!is_for_monitoring("masterpolicyd audit --nagios"));
    }
}
