//! `check` on folders of good and bad configurations, against the text expected of each.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::fs;
use std::io::Write;

use scratch::{Scratch, configurations, set_mode, text};

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
        "masterpolicyd.toml:1:1: cannot read: No such file or directory (os error 2); create it, or name another file with -c\n\
         1 error, no warnings\n"
    );
    scratch.file("masterpolicyd.toml", "user = \"nobody\"\npolicy-dirs = [\"gone.toml\"]\n");
    scratch.file("gone.toml", "");
    let output = scratch.run(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output.stdout);
    let named =
        "gone.toml:1:1: this is a regular file, not a directory; name the directory that it";
    assert!(told.starts_with(named), "{told}");
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
            "masterpolicyd.toml:1:1: cannot serve as root; write user = \
             \"_masterpolicyd\"\n1 error, no warnings\n"
        );
    } else {
        assert_eq!(output.status.code(), Some(0));
    }
    assert_eq!(scratch.run(&["show", "policy"]).status.code(), Some(0), "only to serve");
}

#[test]
fn a_file_is_judged_alone_before_it_is_installed() {
    let scratch = Scratch::new();
    let rule = "[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = 5000\n";
    scratch.file("game.toml", rule);
    scratch.file("game.xml", "<cross-domain-policy><allow-access-from domain=\"a.test\" to-ports=\"80\"/></cross-domain-policy>");
    scratch.file("xml.toml", "<cross-domain-policy/>");
    scratch.file("toml.xml", rule);
    scratch.file("main.toml", format!("meta-policy = \"none\"\ngrantable-ports = \"80\"\n{rule}"));
    scratch.file("broken.toml", "[[allow-access-from]]\ndomain = \"http://a.test/\"\n");
    scratch.file("game.toml.new", rule);
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    scratch.file("marked.toml", utf16(&format!("\u{feff}{rule}")));
    scratch.file("unmarked.toml", utf16(rule));
    scratch.file("empty.toml", "");
    scratch.directory("policy.d");
    scratch.file("policy.d/settings.toml", format!("meta-policy = \"all\"\n{rule}"));
    for (files, code, words) in [
        (&["game.toml"][..], 0, "sound: 1 rule; no warnings\n"),
        (&["game.xml"], 0, "sound: 1 rule; no warnings\n"),
        (&["game.toml", "game.xml"], 0, "sound: 2 files, 2 rules; no warnings\n"),
        (&["main.toml"], 1, "main.toml:3:1: this rule grants 5000, but grantable-ports"),
        (&["broken.toml", "game.toml"], 1, "broken.toml:2:10: "),
        (&["game.toml.new"], 0, "under this name it is skipped\n"),
        (&["marked.toml"], 1, "marked.toml:1:1: the text is UTF-16; save it as UTF-8\n1 error,"),
        (
            &["unmarked.toml"],
            1,
            "unmarked.toml:1:1: the text is UTF-16; save it as UTF-8\n1 error,",
        ),
        (&["policy.d/settings.toml"], 1, "policy.d/settings.toml:1:1: "),
        (&["xml.toml"], 1, "xml.toml:1:1: this is XML; give the file a name that ends in .xml\n"),
        (&["toml.xml"], 1, "toml.xml:1:1: this is not XML; if it is TOML, give the file a name"),
        (&["empty.toml"], 0, "empty.toml:1:1: warning: this file is empty; as a drop-in it masks"),
        (&["gone.toml"], 2, "gone.toml:1:1: cannot read: "),
        (&["policy.d"], 1, "this is a directory, not a regular file; name the files in it\n"),
        (&["/dev/zero"], 1, "this is a device, not a regular file; name a regular file\n"),
    ] {
        let output = scratch.run(&[&["check"], files].concat());
        let told = text(&output.stdout);
        assert!(told.contains(words), "{files:?}: {told}");
        assert_eq!(output.status.code(), Some(code), "{files:?}: {told}");
    }
    // It said that the directory should be moved away.
    let main = text(&scratch.run(&["check", "-c", "/etc"]).stdout);
    let told =
        "/etc:1:1: this is a directory, not a regular file; name the main file in it with -c\n";
    assert!(main.starts_with(told), "{main}");
    // There is no configuration here at all.
    assert_eq!(scratch.run(&["check"]).status.code(), Some(2));
    for name in ["-t", "configtest", "validate"] {
        assert_eq!(scratch.run(&[name, "game.toml"]).status.code(), Some(0), "{name}");
    }
}

/// Port 843 sends an element more than other ports do.
#[test]
fn a_document_is_as_large_as_players_get_it_who_ask_the_balancer() {
    let scratch = Scratch::new();
    let ports: Vec<_> = (0..240).map(|number| (2001 + 2 * number).to_string()).collect();
    let main_file = format!(
        "user = \"nobody\"\npolicy-dirs = []\nlisten = [\"127.0.0.1:4843\"]\n\
         [[allow-access-from]]\ndomain = \"a.test\"\nto-ports = \"{}\"\n",
        ports.join(",")
    );
    let check = |more: &str| {
        scratch.file("masterpolicyd.toml", format!("{main_file}{more}"));
        text(&scratch.run(&["check"]).stdout)
    };
    let told = check("");
    assert!(!told.contains("the document has"), "{told}");
    let told = check("[proxy-protocol]\nfrom = [\"192.0.2.10\"]\n");
    assert!(told.contains("the document has"), "{told}");
}

#[test]
fn quiet_is_silent_about_what_is_sound() {
    let scratch = Scratch::new();
    scratch.file("open.toml", "[[allow-access-from]]\ndomain = \"*\"\nto-ports = \"*\"\n");
    scratch.file("broken.toml", "domain = 1\n[[allow-access-from]]\ndomain = \"*\"\n");
    let warned = scratch.run(&["check", "open.toml"]);
    assert!(text(&warned.stdout).contains("warning: "), "{warned:?}");
    let quiet = scratch.run(&["check", "-q", "open.toml"]);
    assert_eq!((text(&quiet.stdout), quiet.status.code()), (String::new(), Some(0)));
    let quiet = scratch.run(&["check", "-q", "broken.toml"]);
    assert!(text(&quiet.stdout).contains("broken.toml:"), "{quiet:?}");
    assert_eq!(quiet.status.code(), Some(1));
}

#[test]
fn json_lists_what_is_masked_and_what_is_skipped() {
    let scratch = Scratch::new();
    scratch
        .file("masterpolicyd.toml", "user = \"nobody\"\npolicy-dirs = [\"first\", \"second\"]\n");
    let rule = "[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = 5000\n";
    for directory in ["first", "second"] {
        scratch.directory(directory);
        scratch.file(&format!("{directory}/game.toml"), rule);
    }
    scratch.file("second/README", "");
    let json = scratch.run(&["check", "--json"]).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let masked = serde_json::json!([{"path": "second/game.toml", "by": "first/game.toml"}]);
    assert_eq!(json["masked"], masked);
    assert_eq!(json["skipped"], serde_json::json!(["second/README"]));
}

#[test]
fn a_terminal_is_shown_colours_and_a_file_none() {
    let test = "a_terminal_is_shown_colours_and_a_file_none";
    let scratch = Scratch::new();
    let broken =
        scratch.file("broken.toml", "[[allow-access-from]]\ndomain = \"http://a.test/\"\n");
    let plain = text(&scratch.run(&["check", "broken.toml"]).stdout);
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let program = env!("CARGO_BIN_EXE_masterpolicyd");
    let shown = std::process::Command::new("script")
        .args(["-qec", &format!("{program} check {}", broken.display()), "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output();
    let Ok(shown) = shown else {
        eprintln!("skipped {test}: script of util-linux is not installed");
        return;
    };
    let said = text(&shown.stderr);
    if said.starts_with("script: ") {
        eprintln!("skipped {test}: {}", said.trim_end());
        return;
    }
    let red = format!("\u{1b}[1m\u{1b}[31m{}:2:10\u{1b}[0m: ", broken.display());
    assert!(text(&shown.stdout).contains(&red), "{shown:?}");
}

/// A configuration that becomes nobody, with a drop-in; nothing if this test is not root's.
fn becoming_nobody(test: &str) -> Option<Scratch> {
    if !nix::unistd::geteuid().is_root() {
        let mut stderr = std::io::stderr();
        writeln!(stderr, "skipped {test}: not root, so nothing is read as another user").unwrap();
        return None;
    }
    let scratch = Scratch::new();
    scratch.file("masterpolicyd.toml", "user = \"nobody\"\npolicy-dirs = [\"policy.d\"]\n");
    scratch.directory("policy.d");
    scratch.file("policy.d/game.toml", "# a rule will come\n");
    Some(scratch)
}

#[test]
fn a_drop_in_that_the_service_user_cannot_read_fails_before_the_next_start_does() {
    let test = "a_drop_in_that_the_service_user_cannot_read_fails_before_the_next_start_does";
    let Some(scratch) = becoming_nobody(test) else { return };
    assert_eq!(scratch.run(&["check"]).status.code(), Some(0));
    for mode in [0o600, 0o640] {
        set_mode(&scratch.join("policy.d/game.toml"), mode);
        let output = scratch.run(&["check"]);
        assert_eq!(output.status.code(), Some(1), "mode {mode:o}");
        assert_eq!(
            text(&output.stdout),
            "policy.d/game.toml:1:1: the daemon runs as nobody (uid 65534), who cannot read this \
             file: the service would not start; chmod o+r policy.d/game.toml\n\
             1 error, no warnings\n"
        );
    }
}

#[test]
fn an_access_control_list_that_lets_the_service_user_read_is_heeded() {
    let test = "an_access_control_list_that_lets_the_service_user_read_is_heeded";
    let Some(scratch) = becoming_nobody(test) else { return };
    let path = scratch.join("policy.d/game.toml");
    set_mode(&path, 0o640);
    let set = std::process::Command::new("setfacl").args(["-m", "u:nobody:r"]).arg(&path).output();
    if !set.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped {test}: no setfacl, or a file system without access control lists");
        return;
    }
    let output = scratch.run(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn a_group_that_does_not_exist_fails_before_the_next_start_does() {
    let test = "a_group_that_does_not_exist_fails_before_the_next_start_does";
    let Some(scratch) = becoming_nobody(test) else { return };
    for (group, told) in [
        (
            "no-such",
            "there is no group \"no-such\"; create it with: groupadd --system no-such, or leave \
             group out to use the primary group of user",
        ),
        (
            "root",
            "the group \"root\" is root's, and the daemon does not keep that; leave group out to use the \
             primary group of user, or name another",
        ),
    ] {
        let main_file = format!("user = \"nobody\"\ngroup = \"{group}\"\npolicy-dirs = []\n");
        scratch.file("masterpolicyd.toml", main_file);
        let output = scratch.run(&["check"]);
        assert_eq!(output.status.code(), Some(1), "{group}");
        let line = format!("masterpolicyd.toml:2:9: {told}");
        assert_eq!(text(&output.stdout).lines().next(), Some(line.as_str()));
    }
}
