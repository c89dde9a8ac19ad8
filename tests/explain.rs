//! `explain` from the outside: every verdict with the line it rests on, and remedies that work.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use masterpolicyd::policy::{Lack, Reason};
use serde_json::{Value, json};

use support::daemon::{MAIN_FILE, PROGRAM};
use support::{Scratch, script_of_terminals, set_mode};

/// A configuration with two policy directories, `first` and `second`.
struct Host {
    directory: Scratch,
    main: String,
}

/// What `explain` answered.
#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Host {
    fn new(main: &str) -> Self {
        let directory = Scratch::new();
        for name in ["first", "second"] {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            set_mode(&path, 0o755);
        }
        let path = directory.path().display();
        let main = format!("policy-dirs = [\"{path}/first\", \"{path}/second\"]\n{main}");
        directory.file(MAIN_FILE, &main);
        Self { directory, main }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("-c").arg(self.file(MAIN_FILE)).arg("explain");
        command.args(arguments.split_ascii_whitespace());
        command
    }

    fn explain(&self, arguments: &str) -> Answer {
        let output = self.command(arguments).output().unwrap();
        Answer {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The JSON answer; its exit code must tell the same.
    #[track_caller]
    fn explain_json(&self, arguments: &str) -> Value {
        let answer = self.explain(&format!("{arguments} --json"));
        let value: Value = serde_json::from_str(&answer.stdout)
            .unwrap_or_else(|error| panic!("{arguments}: {error}: {answer:?}"));
        let expected = match value["verdict"].as_str() {
            Some("allowed") => 0,
            Some("refused") => 1,
            other => panic!("{arguments}: the verdict {other:?}"),
        };
        assert_eq!(answer.code, Some(expected), "{arguments}");
        assert_eq!(answer.stderr, "", "{arguments}");
        value
    }

    /// Does what a remedy says, to the letter.
    fn follow(&mut self, remedy: &str) {
        let (steps, rule) = remedy.split_once("\n\n").unwrap_or((remedy, ""));
        for step in steps.lines() {
            if let Some((_, assignment)) = step.split_once(", set ") {
                let (key, _) = assignment.split_once(" = ").unwrap();
                let others =
                    self.main.lines().filter(|line| !line.starts_with(&format!("{key} =")));
                self.main = [assignment].into_iter().chain(others).collect::<Vec<_>>().join("\n");
            } else if let Some((_, path)) = step.split_once("remove ") {
                let (path, _) = path.split_once(',').unwrap();
                fs::remove_file(path).unwrap();
            }
        }
        self.main = format!("{}\n{rule}", self.main);
        self.directory.file(MAIN_FILE, &self.main);
    }
}

/// The rules of most tests, with the lines they stand in once the main file has its first.
const RULES: &str = r#"
[[allow-access-from]]
domain = "*.example.com"
to-ports = "5000,5010-5019"

[[allow-access-from]]
domain = "secure.test"
to-ports = "6000"
secure = true

[[allow-access-from]]
domain = "intra.test"
to-ports = [80, 8080]

[[allow-access-from]]
domain = "192.0.2.7"
to-ports = "7000"
"#;

const EXAMPLE: u64 = 3;
const SECURE: u64 = 7;
const INTRA: u64 = 12;
const ADDRESS: u64 = 16;

/// What is asked, the reason, the line of the rule that decided, and the near misses.
type Case<'a> = (&'a str, &'a str, Option<u64>, &'a [(u64, &'a str)]);

const CASES: &[Case] = &[
    ("--origin a.example.com --port 5000", "rule", Some(EXAMPLE), &[]),
    ("--origin https://Example.COM/x.swf --port 5019", "rule", Some(EXAMPLE), &[]),
    ("--origin example.com:8080 --port 5010", "rule", Some(EXAMPLE), &[]),
    ("--origin https://secure.test --port 6000", "rule", Some(SECURE), &[]),
    ("--origin http://192.0.2.7/ --port 7000", "rule", Some(ADDRESS), &[]),
    ("--origin intra.test --port 80", "rule", Some(INTRA), &[]),
    ("--origin intra.test --port 80 --policy-port 1023", "rule", Some(INTRA), &[]),
    ("--origin intra.test --port 8080 --policy-port 7843", "rule", Some(INTRA), &[]),
    ("--origin a.example.com --port 5001", "no-rule", None, &[(EXAMPLE, "port")]),
    ("--origin badexample.com --port 5000", "no-rule", None, &[(EXAMPLE, "domain")]),
    ("--origin secure.test --port 6000", "no-rule", None, &[(SECURE, "secure")]),
    ("--origin intra.test --port 80 --policy-port 1024", "low-port", None, &[(INTRA, "low-port")]),
    ("--origin intra.test --port 5000", "no-rule", None, &[(INTRA, "port"), (EXAMPLE, "domain")]),
    ("--origin nobody.test --port 9", "no-rule", None, &[]),
];

#[track_caller]
fn assert_answer(host: &Host, (asked, reason, rule, near): &Case) {
    let answer = host.explain_json(asked);
    assert_eq!(answer["verdict"], if rule.is_some() { "allowed" } else { "refused" }, "{asked}");
    assert_eq!(answer["reason"], *reason, "{asked}");
    assert_eq!(answer["rule"]["line"].as_u64(), *rule, "{asked}");
    let told: Vec<_> = answer["near"]
        .as_array()
        .unwrap()
        .iter()
        .map(|near| (near["rule"]["line"].as_u64().unwrap(), near["lacks"].as_str().unwrap()))
        .collect();
    assert_eq!(&told, near, "{asked}");
}

#[test]
fn every_verdict_names_its_reason_and_lines() {
    let host = Host::new(RULES);
    for case in CASES {
        assert_answer(&host, case);
    }
}

#[test]
fn meta_policy_none_refuses_and_tells_what_else_is_missing() {
    let host = Host::new(&format!("meta-policy = \"none\"{RULES}"));
    for case in [
        (
            "--origin a.example.com --port 5000",
            "meta-policy-none",
            None,
            &[(EXAMPLE, "meta-policy")][..],
        ),
        ("--origin a.example.com --port 1", "meta-policy-none", None, &[(EXAMPLE, "port")]),
        ("--origin a.test --port 1", "meta-policy-none", None, &[]),
    ] {
        assert_answer(&host, &case);
    }
}

#[test]
fn the_json_has_the_rule_as_it_stands_in_its_file() {
    let host = Host::new("");
    let path = host.directory.file(
        "second/game.xml",
        "<cross-domain-policy>\n<allow-access-from domain='*' to-ports='1-3,9' secure='true'/>\n\
         </cross-domain-policy>",
    );
    let rule = json!({
        "domain": "*", "to-ports": "1-3,9", "secure": true, "path": path, "line": 2,
    });
    assert_eq!(
        host.explain_json("--origin https://a.test --port 2"),
        json!({
            "player": "flash", "verdict": "allowed", "reason": "rule", "rule": rule, "near": [],
        })
    );
    assert_eq!(
        host.explain_json("--origin http://a.test --port 2"),
        json!({
            "player": "flash", "verdict": "refused",
            "reason": "no-rule",
            "rule": null,
            "near": [{"rule": rule, "lacks": "secure"}],
        })
    );
}

#[test]
fn a_masked_drop_in_that_would_have_granted_it_is_named_with_what_masks_it() {
    let host = Host::new("");
    let rule = "\n[[allow-access-from]]\ndomain = \"game.test\"\nto-ports = 5000\n";
    let xml = "<cross-domain-policy><allow-access-from domain='game.test' to-ports='5001'/>\
               </cross-domain-policy>";
    let masked = host.directory.file("second/game.toml", rule);
    let masking = host.directory.file("first/game.toml", "");
    host.directory.file("second/other.xml", xml);
    symlink("/dev/null", host.file("first/other.xml")).unwrap();

    let answer = host.explain_json("--origin game.test --port 5000");
    assert_eq!(
        answer["near"],
        json!([{
            "rule": {
                "domain": "game.test", "to-ports": "5000", "secure": false,
                "path": masked, "line": 2, "masked-by": masking,
            },
            "lacks": "masked",
        }])
    );
    let answer = host.explain_json("--origin game.test --port 5001");
    assert_eq!(answer["near"][0]["rule"]["masked-by"], json!(host.file("first/other.xml")));
    // One that would not have granted it is of no interest.
    assert_eq!(host.explain_json("--origin game.test --port 5002")["near"], json!([]));
    assert_eq!(host.explain_json("--origin other.test --port 5000")["near"], json!([]));

    let text = host.explain("--origin game.test --port 5000").stdout;
    let named = format!("{} masks its file", masking.display());
    assert!(text.contains(&named), "{text}");
}

#[test]
fn a_masked_file_that_is_broken_is_passed_over() {
    let host = Host::new(RULES);
    host.directory.file("second/game.toml", "[[");
    host.directory.file("first/game.toml", "");
    assert_answer(&host, &("--origin nobody.test --port 9", "no-rule", None, &[]));
}

#[test]
fn a_person_reads_a_sentence_then_the_rule() {
    let host = Host::new(RULES);
    let main = host.file(MAIN_FILE);
    let answer = host.explain("--origin a.example.com --port 5000");
    let expected = format!(
        "allowed: http://a.example.com may connect to port 5000\n  {}:3:1: *.example.com to ports \
         5000,5010-5019\n",
        main.display()
    );
    assert_eq!(answer.stdout, expected);
    assert_eq!(answer.stderr, "");
}

#[test]
fn a_person_reads_a_sentence_then_the_misses_then_the_remedy() {
    let host = Host::new(RULES);
    let main = host.file(MAIN_FILE);
    let answer = host.explain("--origin https://www.other.test/a.swf --port 5000");
    let expected = format!(
        r#"refused: https://www.other.test may not connect to port 5000: no rule grants it
  {main}:3:1: *.example.com to ports 5000,5010-5019: grants the port, but not to this origin
to allow it:
  add to {main}, or to a drop-in:

[[allow-access-from]]
domain = "www.other.test"
to-ports = "5000"
secure = true

# check it: masterpolicyd -c {main} check
# apply it: send SIGHUP to the daemon
"#,
        main = main.display()
    );
    assert_eq!(answer.stdout, expected);
    assert_eq!(answer.code, Some(1));
}

#[test]
fn an_origin_and_a_port_may_be_words() {
    let host = Host::new(RULES);
    let as_options = host.explain("--origin a.example.com --port 5000");
    for words in ["a.example.com 5000", "--policy-port 843 a.example.com 5000"] {
        let answer = host.explain(words);
        assert_eq!((answer.code, &answer.stdout), (Some(0), &as_options.stdout), "{answer:?}");
    }
    for wrong in
        ["a.example.com", "--origin a.example.com 5000", "a.test 5000 --port 80", "--port 80"]
    {
        assert_eq!(host.explain(wrong).code, Some(2), "{wrong}");
    }
}

#[test]
fn an_origin_or_a_port_that_is_none_is_answered_with_what_to_write() {
    let host = Host::new(RULES);
    for (origin, port, words) in [
        ("*", "5000", "an origin is one site and not a pattern"),
        ("", "5000", "no site is named; write one, such as https://www.example.com/"),
        ("www.example.com.", "5000", "leave out the dot at the end of the name: www.example.com"),
        ("a.test", "abc", "a port is a number between 1 and 65535"),
        ("a.test", "0", "a port is a number between 1 and 65535"),
        ("a.test", "65536", "a port is a number between 1 and 65535"),
    ] {
        let output = host.command("").args(["--origin", origin, "--port", port]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(words), "{origin} {port}: {told}");
        assert_eq!(output.status.code(), Some(2));
    }
}

/// `listen` has 843 by default, and the question was about a copy of the policy elsewhere.
#[test]
fn no_setting_is_advised_that_is_set() {
    let host = Host::new(RULES);
    let answer = host.explain("intra.test 80 --policy-port 1843");
    assert_eq!(answer.code, Some(1));
    assert!(!answer.stdout.contains("set listen"), "{}", answer.stdout);
    assert!(answer.stdout.contains("take the policy from port 843"), "{}", answer.stdout);
    assert!(!answer.stdout.contains("# then"), "nothing changes: {}", answer.stdout);
}

#[test]
fn meta_policy_all_leaves_the_last_word_to_the_port_itself() {
    let note = "\nthe meta-policy is all, so a policy on port 5001 itself may still allow it\n";
    for (meta_policy, is_noted) in [("all", true), ("master-only", false), ("none", false)] {
        let host = Host::new(&format!("meta-policy = \"{meta_policy}\"{RULES}"));
        let text = host.explain("--origin a.example.com --port 5001").stdout;
        assert_eq!(text.contains(note), is_noted, "{meta_policy}: {text}");
    }
}

#[test]
fn a_person_is_told_five_misses_and_how_many_more_there_are() {
    let rules = (1..=8)
        .map(|n| format!("[[allow-access-from]]\ndomain = \"{n}.test\"\nto-ports = 5000\n"))
        .collect::<Vec<_>>()
        .concat();
    let host = Host::new(&rules);
    let text = host.explain("--origin other.invalid --port 5000").stdout;
    assert_eq!(text.lines().filter(|line| line.contains("grants the port")).count(), 5);
    assert!(text.contains("\n  and 3 more\n"), "{text}");
    let near = host.explain_json("--origin other.invalid --port 5000")["near"].clone();
    assert_eq!(near.as_array().map(Vec::len), Some(8));
}

/// The whole list made a line of 170,000 characters, which scrolled the verdict away.
#[test]
fn a_person_is_told_the_beginning_of_a_long_list_of_ports() {
    let ports: Vec<_> = (1025..5025).step_by(2).map(|port| port.to_string()).collect();
    let ports = ports.join(",");
    let host =
        Host::new(&format!("[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = \"{ports}\"\n"));
    for port in [1025, 1026] {
        let answer = host.explain(&format!("--origin a.test --port {port}"));
        assert!(answer.stdout.contains(",1063,... (1980 more)"), "{answer:?}");
        assert!(answer.stdout.lines().all(|line| line.len() < 300), "{answer:?}");
    }
    let whole = host.explain_json("--origin a.test --port 1025");
    assert_eq!(whole["rule"]["to-ports"], ports.as_str(), "{whole}");
}

#[test]
fn following_the_remedy_makes_the_connection_allowed() {
    let limited = format!("grantable-ports = \"1-7000,8080\"{RULES}");
    let none = format!("meta-policy = \"none\"{RULES}");
    let high = format!("listen = [\"127.0.0.1:7843\"]{RULES}");
    // What is asked before, and after where the policy's own port has to change.
    for (main, before, after) in [
        (RULES, "--origin nobody.test --port 9", ""),
        (RULES, "--origin https://nobody.test --port 9", ""),
        (RULES, "--origin http://[2001:db8::1]/ --port 5000", ""),
        (RULES, "--origin a.example.com --port 5001", ""),
        (RULES, "--origin secure.test --port 6000", ""),
        (&limited, "--origin a.example.com --port 9000", ""),
        (&none, "--origin a.example.com --port 5000", ""),
        (&none, "--origin nobody.test --port 9", ""),
        (
            &high,
            "--origin intra.test --port 80 --policy-port 7843",
            "--origin intra.test --port 80",
        ),
        (
            &high,
            "--origin nobody.test --port 9 --policy-port 7843",
            "--origin nobody.test --port 9",
        ),
    ] {
        let mut host = Host::new(main);
        let refused = host.explain(before);
        assert_eq!(refused.code, Some(1), "{before}: {refused:?}");
        let (_, remedy) = refused.stdout.split_once("to allow it:\n").unwrap();
        host.follow(remedy);
        let answer = host.explain(if after.is_empty() { before } else { after });
        assert_eq!(answer.code, Some(0), "{before}: {remedy}{answer:?}");
        assert_eq!(
            host.main.contains("listen = [\"0.0.0.0:843\", \"[::]:843\"]"),
            !after.is_empty(),
            "{before}: the policy moves to 843 where it has to"
        );
    }
}

#[test]
fn following_the_remedy_unmasks_a_drop_in() {
    let mut host = Host::new("");
    host.directory.file(
        "second/game.toml",
        "[[allow-access-from]]\ndomain = \"game.test\"\nto-ports = 5000\n",
    );
    host.directory.file("first/game.toml", "");
    let refused = host.explain("--origin game.test --port 5000");
    let (_, remedy) = refused.stdout.split_once("to allow it:\n").unwrap();
    host.follow(remedy);
    let answer = host.explain_json("--origin game.test --port 5000");
    assert_eq!(answer["rule"]["path"], json!(host.file("second/game.toml")));
}

#[test]
fn a_configuration_with_errors_tells_nothing() {
    let host = Host::new("meta-policy = \"nine\"\n[[allow-access-from]]\ndomain = \"*\"\n");
    for arguments in ["--origin a.test --port 5000", "--origin a.test --port 5000 --json"] {
        let answer = host.explain(arguments);
        assert_eq!((answer.code, &*answer.stdout), (Some(2), ""), "{arguments}");
        let place = format!("{}:2:15: ", host.file(MAIN_FILE).display());
        assert!(answer.stderr.contains(&place), "{}", answer.stderr);
    }
    fs::remove_file(host.file(MAIN_FILE)).unwrap();
    let answer = host.explain("--origin a.test --port 5000");
    assert_eq!((answer.code, &*answer.stdout), (Some(2), ""));
    assert!(answer.stderr.contains("No such file or directory"), "{}", answer.stderr);
}

#[test]
fn wrong_usage_is_told_from_a_refusal() {
    let host = Host::new(RULES);
    for (arguments, told) in [
        ("", "--origin"),
        ("--origin a.test", "--port"),
        ("--port 5000", "--origin"),
        ("--origin a.test --port 0", "a port is a number"),
        ("--origin a.test --port 65536", "a port is a number"),
        ("--origin a.test --port http", "a port is a number"),
        ("--origin a.test --port 1 --policy-port 0", "a port is a number"),
        ("--origin ftp://a.test --port 1", "an origin is an http or https URL"),
        ("--origin *.a.test --port 1", "not a pattern"),
    ] {
        let answer = host.explain(arguments);
        assert_eq!((answer.code, &*answer.stdout), (Some(2), ""), "{arguments}: {answer:?}");
        assert!(answer.stderr.contains(told), "{arguments}: {}", answer.stderr);
    }
}

#[test]
fn a_reader_that_has_gone_changes_nothing_about_the_verdict() {
    let host = Host::new(RULES);
    for (arguments, code) in [
        ("--origin a.example.com --port 5000", 0),
        ("--origin a.example.com --port 5000 --json", 0),
        ("--origin nobody.test --port 5000", 1),
    ] {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let output =
            host.command(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments}");
    }
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let Some(script) = script_of_terminals("colour_is_for_terminals_that_want_it") else { return };
    let host = Host::new(RULES);
    let log = host.file("typescript");
    File::create(&log).unwrap();
    let on_terminal = |term: &str, no_color: &str| {
        let main = host.file(MAIN_FILE);
        let command =
            format!("{PROGRAM} -c {} explain --origin a.example.com --port 5000", main.display());
        let status = Command::new(&script)
            .args(["-qec", &command])
            .arg(&log)
            .env("TERM", term)
            .env("NO_COLOR", no_color)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "script: {status}");
        fs::read_to_string(&log).unwrap()
    };
    assert!(on_terminal("xterm", "").contains("\u{1b}[1m\u{1b}[32mallowed\u{1b}[0m:"));
    for (term, no_color) in [("xterm", "1"), ("dumb", "")] {
        let text = on_terminal(term, no_color);
        assert!(text.contains("allowed:"), "{text}");
        assert!(!text.contains("\u{1b}[3"), "{text:?}");
    }
}

#[test]
fn the_manual_lists_exactly_the_codes_that_are_printed() {
    let mut known = BTreeSet::from(["rule", "meta-policy", "masked"]);
    known.extend(Reason::EVERY.map(Reason::code));
    known.extend(Lack::EVERY.map(Lack::code));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/masterpolicyd-explain.1");
    let page = fs::read_to_string(page).unwrap();
    let listed: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix(".It Cm ")).collect();
    assert_eq!(listed, known);
}

#[test]
fn each_player_is_answered_for_as_it_decides() {
    let host = Host::new(
        "[[allow-access-from]]\ndomain = \"*.example.com\"\nto-ports = \"5000-5009\"\n\
         [[allow-access-from]]\ndomain = \"*\"\nto-ports = \"6000-6009\"\n",
    );
    let lacks = |player: &str, port: u16| {
        let arguments = format!("--origin www.example.com --port {port} --player {player} --json");
        let output = host.command(&arguments).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["player"], player);
        let is_allowed = answer["verdict"] == "allowed";
        assert_eq!(output.status.code(), Some(i32::from(!is_allowed)));
        (!is_allowed).then(|| answer["near"][0]["lacks"].as_str().unwrap().to_owned())
    };
    for (port, expected) in [
        (5000, [None, None, Some("any-domain")]),
        (5009, [None, Some("range"), Some("any-domain")]),
        (6005, [None, Some("range"), None]),
        (6009, [None, Some("range"), Some("range")]),
    ] {
        let found = ["flash", "lightspark", "unity"].map(|player| lacks(player, port));
        assert_eq!(found, expected.map(|lack| lack.map(str::to_owned)), "port {port}");
    }
    let main = format!("expand-port-ranges = true\n{}", host.main);
    host.directory.file(MAIN_FILE, main);
    assert_eq!(lacks("lightspark", 6009), None, "a list is read whole");
    assert_eq!(lacks("unity", 6009), None, "a list is read whole");
}
