//! `check` on folders of good and bad configurations, against the text expected of each.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::fs;

use scratch::{Scratch, configurations, text};

/// Every folder of a kind is tried before any failure is told of.
fn check_all(kind: &str, exit_code: i32) {
    let mut failures = Vec::new();
    for folder in configurations(kind) {
        let expected = fs::read_to_string(folder.join("expected")).unwrap();
        let output = Scratch::copy_of(&folder).run(&["check"]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        if stdout != expected || output.status.code() != Some(exit_code) || !stderr.is_empty() {
            failures.push(format!(
                "{}: {}\n--- expected\n{expected}--- found\n{stdout}{stderr}",
                folder.display(),
                output.status
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn bad_configurations_are_told_of_everything_that_is_wrong_with_them() {
    check_all("bad", 1);
}

#[test]
fn good_configurations_are_sound_whatever_they_are_warned_of() {
    check_all("good", 0);
}

#[test]
fn json_tells_the_same_problems() {
    for folder in configurations("bad").into_iter().chain(configurations("good")) {
        let scratch = Scratch::copy_of(&folder);
        let plain = scratch.run(&["check"]);
        let json = scratch.run(&["check", "--json"]);
        assert_eq!(json.status.code(), plain.status.code(), "{}", folder.display());
        let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let problems = report["problems"].as_array().unwrap();
        let mut lines = problems.iter().map(|problem| {
            let severity = match problem["severity"].as_str().unwrap() {
                "error" => "",
                "warning" => "warning: ",
                other => panic!("severity {other}"),
            };
            let [path, message] = ["path", "message"].map(|key| problem[key].as_str().unwrap());
            let [line, column] = ["line", "column"].map(|key| problem[key].as_u64().unwrap());
            let message = message.replace('\u{1b}', "\\u{1b}");
            format!("{path}:{line}:{column}: {severity}{message}")
        });
        let plain = text(&plain.stdout);
        let mut told = plain
            .lines()
            .filter(|line| !line.starts_with(' ') && !line.contains(": not read, masked by"));
        let summary = told.next_back();
        assert!(summary.is_some(), "{}", folder.display());
        assert!(lines.by_ref().eq(told), "{}: {report}", folder.display());
    }
}

#[test]
fn a_file_that_cannot_be_read_leaves_the_answer_open() {
    let scratch = Scratch::new();
    let output = scratch.run(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stdout),
        "masterpolicyd.toml:1:1: cannot read: No such file or directory (os error 2)\n\
         1 error, no warnings\n"
    );
    scratch.file("masterpolicyd.toml", "user = \"nobody\"\npolicy-dirs = [\"gone.toml\"]\n");
    scratch.file("gone.toml", "");
    let output = scratch.run(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).starts_with("gone.toml:1:1: cannot read this directory: Not a"));
}

#[test]
fn started_as_root_there_must_be_a_user_to_become() {
    let scratch = Scratch::new();
    scratch.file("masterpolicyd.toml", "policy-dirs = []\n");
    let output = scratch.run(&["check"]);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stdout),
            "masterpolicyd.toml:1:1: user is missing, and root does not serve; write user = \
             \"_masterpolicyd\"\n1 error, no warnings\n"
        );
    } else {
        assert_eq!(output.status.code(), Some(0));
    }
    assert_eq!(scratch.run(&["show", "policy"]).status.code(), Some(0), "only to serve");
}
