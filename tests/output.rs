//! What every command prints: it is written or the command fails, and nothing in it moves a
//! terminal's cursor.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::daemon::{MAIN_FILE, PROGRAM};
use support::{Scratch, find_program, skip};

/// Every command that prints, with the exit code of one whose answer could not be written.
const PRINTING: [(&[&str], i32); 18] = [
    (&["check"], 2),
    (&["check", "--json"], 2),
    (&["show", "policy"], 2),
    (&["show", "rules"], 2),
    (&["show", "rules", "--json"], 2),
    (&["show", "config"], 2),
    (&["explain", "--origin", "a.test", "--port", "5000"], 2),
    (&["explain", "--origin", "a.test", "--port", "5000", "--json"], 2),
    (&["check", MAIN_FILE], 2),
    (&["audit"], 2),
    (&["audit", "--json"], 2),
    (&["status"], 2),
    (&["status", "--json"], 2),
    (&["probe", "--policy-port", "1", "127.0.0.1", "1"], 2),
    (&["probe", "--policy-port", "1", "127.0.0.1:1", "--json"], 2),
    (&["probe", "--policy-port", "1", "127.0.0.1", "1", "--nagios"], 3),
    (&["completions", "bash"], 2),
    (&["show", "--help"], 2),
];

fn host() -> Scratch {
    let directory = Scratch::new();
    let user = if support::is_root() { "user = \"nobody\"\n" } else { "" };
    let rule = "[[allow-access-from]]\ndomain = \"*\"\nto-ports = 5000\n";
    directory.file(MAIN_FILE, format!("{user}policy-dirs = [\"policy.d\"]\n{rule}"));
    fs::create_dir(directory.path().join("policy.d")).unwrap();
    directory
}

fn command(directory: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["-c", MAIN_FILE]).args(arguments).current_dir(directory.path());
    command
}

#[test]
fn a_full_disk_is_a_failure_with_the_systems_reason() {
    let test = "a_full_disk_is_a_failure_with_the_systems_reason";
    if !Path::new("/dev/full").exists() {
        return skip(test, "there is no /dev/full");
    }
    let directory = host();
    let version: (&[&str], i32) = (&["--version"], 2);
    for (arguments, code) in PRINTING.into_iter().chain([version]) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(&directory, arguments).stdout(full).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        let reason = "cannot write to standard output: No space left on device (os error 28)\n";
        assert!(stderr.ends_with(reason), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure_of_any_command() {
    let directory = host();
    for (arguments, _) in PRINTING {
        let undisturbed = command(&directory, arguments).output().unwrap();
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let stdout = OwnedFd::from(writer);
        let output = command(&directory, arguments).stdout(stdout).output().unwrap();
        assert_eq!(output.status.code(), undisturbed.status.code(), "{arguments:?}");
        assert_eq!(output.stderr, undisturbed.stderr, "{arguments:?}");
    }
}

/// What a name or an argument may hold that a terminal obeys or that hides what stands there.
const HOSTILE: &str = "a\u{7f}b\u{9b}2Jc\u{202e}d\u{1b}]0;owned\u{7}e";

#[track_caller]
fn assert_harmless(output: &Output) {
    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8(stream.clone()).unwrap();
        let harmful = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
        assert!(!text.contains(harmful), "{text:?}");
    }
}

#[test]
fn no_name_of_a_file_reaches_a_terminal_or_json_as_it_is() {
    let directory = host();
    let rule = "[[allow-access-from]]\ndomain = \"b.test\"\nto-ports = 5000\n";
    directory.file(&format!("policy.d/{HOSTILE}.toml"), rule);
    directory.file(&format!("policy.d/{HOSTILE}.skipped"), rule);
    for (arguments, _) in PRINTING {
        assert_harmless(&command(&directory, arguments).output().unwrap());
    }
    let json = command(&directory, &["show", "rules", "--json"]).output().unwrap().stdout;
    let rules: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let paths: Vec<_> = rules.as_array().unwrap().iter().map(|rule| &rule["path"]).collect();
    assert_eq!(*paths[1], format!("policy.d/{HOSTILE}.toml"), "it means the same");
    // And where the file cannot be read, or there is none.
    directory.file(&format!("policy.d/{HOSTILE}.toml"), "x");
    for arguments in [
        &["check"][..],
        &["show", "config"],
        &["-c", HOSTILE, "check"],
        &["probe", "--targets", HOSTILE],
    ] {
        assert_harmless(&command(&directory, arguments).output().unwrap());
    }
}

#[test]
fn no_argument_reaches_a_terminal_as_it_is() {
    let directory = host();
    for arguments in [
        &["explain", "--origin", HOSTILE, "--port", "5000"][..],
        &["explain", "--origin", "a.test", "--port", HOSTILE],
        &["probe", HOSTILE, "5000"],
        &["probe", "127.0.0.1", HOSTILE],
        &["probe", "a\u{202e}b", "5000"],
        &["probe", "127.0.0.1", "5000", "--timeout", HOSTILE],
        &["probe", "127.0.0.1", "5000", "--origin", HOSTILE],
        &["probe", "127.0.0.1", "5000", "--origin", HOSTILE, "--nagios"],
        &["probe", "127.0.0.1", "5000", "--load-policy", HOSTILE, "--nagios"],
        &["completions", HOSTILE],
        &[HOSTILE],
    ] {
        let output = command(&directory, arguments).stdin(Stdio::null()).output().unwrap();
        assert_harmless(&output);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_verbose_version_says_what_it_was_built_from() {
    let directory = host();
    let version = |arguments: &[&str]| {
        let output = command(&directory, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let short = version(&["--version"]);
    assert_eq!(short, concat!("masterpolicyd ", env!("CARGO_PKG_VERSION"), "\n"));
    for arguments in [&["--version", "-v"][..], &["-v", "--version"], &["-vV"]] {
        let long = version(arguments);
        let rest = long.strip_prefix(&short).unwrap();
        let names: Vec<_> = rest.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(names, ["commit", "compiler", "target", "features"], "{long}");
        assert!(long.contains("compiler: rustc 1."), "{long}");
    }
}

/// What a shell completes with the script for it: `shell` gets the script, the words and the last
/// one of them as arguments.
fn completed(shell: &[&str], script: &Path, line: &str) -> Vec<String> {
    let last = line.rsplit(' ').next().unwrap();
    let output =
        Command::new(shell[0]).args(&shell[1..]).arg(script).args([line, last]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn shells_complete_commands_options_and_words() {
    let test = "shells_complete_commands_options_and_words";
    let bash = [
        "bash",
        "-c",
        "source \"$0\" && COMP_WORDS=($1) && [ -n \"$2\" ] || COMP_WORDS+=('')
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) &&
        _masterpolicyd masterpolicyd \"$2\" \"${COMP_WORDS[COMP_CWORD - 1]}\" &&
        printf '%s\\n' \"${COMPREPLY[@]}\"",
    ];
    let fish = ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]"];
    let directory = Scratch::new();
    for shell in [&bash[..], &fish[..]] {
        if find_program(shell[0]).is_none() {
            skip(test, format_args!("{} is not installed", shell[0]));
            continue;
        }
        let script = Command::new(PROGRAM).args(["completions", shell[0]]).output().unwrap().stdout;
        let script = directory.file(shell[0], script);
        for (line, expected) in [
            ("masterpolicyd completions ", &["bash", "elvish", "fish", "powershell", "zsh"][..]),
            ("masterpolicyd completions f", &["fish"]),
            ("masterpolicyd exp", &["explain"]),
            ("masterpolicyd explain --player ", &["flash", "lightspark", "unity"]),
            ("masterpolicyd explain --player l", &["lightspark"]),
            ("masterpolicyd show r", &["rules"]),
            ("masterpolicyd probe --nag", &["--nagios"]),
            ("masterpolicyd show rules --conf", &["--config"]),
            ("masterpolicyd serve --verb", &["--verbose"]),
        ] {
            let words = completed(shell, &script, line);
            let missing: Vec<_> =
                expected.iter().filter(|word| !words.iter().any(|it| it == *word)).collect();
            assert!(missing.is_empty(), "{} {line:?}: {words:?}", shell[0]);
        }
        let offered = completed(shell, &script, "masterpolicyd probe --");
        let means_nothing = |word: &String| matches!(word.as_str(), "--config" | "--verbose");
        assert!(!offered.iter().any(means_nothing), "{}: {offered:?}", shell[0]);
    }
}

/// zsh completes in a terminal only, so this asks what its script offers.
#[test]
fn the_script_for_zsh_offers_words_and_is_sound() {
    let script = Command::new(PROGRAM).args(["completions", "zsh"]).output().unwrap().stdout;
    let text = String::from_utf8(script.clone()).unwrap();
    for words in [":(bash elvish fish powershell zsh)", ":PLAYER:(flash lightspark unity)"] {
        assert!(text.contains(words), "{words}");
    }
    if find_program("zsh").is_none() {
        return skip("the_script_for_zsh_offers_words_and_is_sound", "zsh is not installed");
    }
    let directory = Scratch::new();
    let script = directory.file("_masterpolicyd", script);
    let output = Command::new("zsh").args(["-f", "-n"]).arg(script).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
