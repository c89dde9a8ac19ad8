//! `show` on folders of good and bad configurations.

mod scratch;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use masterpolicyd::config::{self, Trust};
use masterpolicyd::document;
use masterpolicyd::policy::MASTER_PORT;
use scratch::{Scratch, configurations, text};

#[test]
fn rules_are_shown_with_the_file_and_line_they_came_from() {
    for folder in configurations("good") {
        let expected = fs::read_to_string(folder.join("rules")).unwrap();
        let scratch = Scratch::copy_of(&folder);
        let output = scratch.run(&["show", "rules"]);
        assert_eq!(text(&output.stdout), expected, "{}", folder.display());
        assert_eq!(output.status.code(), Some(0));

        let json = scratch.run(&["show", "rules", "--json"]);
        let rules: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let lines = rules.as_array().unwrap().iter().map(|rule| {
            let [domain, ports, path] =
                ["domain", "to-ports", "path"].map(|key| rule[key].as_str().unwrap());
            let secure = if rule["secure"].as_bool().unwrap() { "yes" } else { "no" };
            vec![domain.to_owned(), ports.into(), secure.into(), format!("{path}:{}", rule["line"])]
        });
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let table: Vec<_> = expected.lines().skip(1).map(cells).collect();
        assert_eq!(lines.collect::<Vec<_>>(), table, "{}", folder.display());
    }
}

#[test]
fn the_policy_shown_is_the_document_without_its_nul() {
    for folder in configurations("good") {
        let scratch = Scratch::copy_of(&folder);
        let shown = scratch.run(&["show", "policy"]).stdout;
        let configuration =
            config::load(&scratch.join("masterpolicyd.toml"), &Trust::of_this_process()).unwrap();
        assert_eq!(
            [&shown[..], b"\0"].concat(),
            configuration.documents.for_port(MASTER_PORT).bytes()
        );
        let parsed = document::parse(&shown);
        assert!(!parsed.has_error(), "{}: {:?}", folder.display(), parsed.flaws);
        assert_eq!(parsed.meta_policy, Some(configuration.settings.meta_policy));
        assert_eq!(parsed.rules.len(), configuration.rules.len());
    }
}

#[test]
fn the_configuration_shown_loads_again_to_the_same() {
    for folder in configurations("good") {
        let scratch = Scratch::copy_of(&folder);
        let path = scratch.join("masterpolicyd.toml");
        let first = config::load(&path, &Trust::of_this_process()).unwrap();
        let shown = scratch.run(&["show", "config"]).stdout;
        fs::write(&path, &shown).unwrap();
        let second = config::load(&path, &Trust::of_this_process()).unwrap();
        assert_eq!(second.policy(), first.policy(), "{}", folder.display());
        assert_eq!(second.documents, first.documents);
        assert_eq!(second.files, [path]);
        let mut settings = first.settings;
        settings.policy_dirs.clear();
        assert_eq!(second.settings, settings);
        assert_eq!(scratch.run(&["show", "config"]).status.code(), Some(0));
    }
}

#[test]
fn the_configuration_shown_names_the_directories_that_its_rules_came_from() {
    let scratch = Scratch::new();
    scratch.directory("a\u{202e}b");
    let main_file = "policy-dirs = [\"a\u{202e}b\", '/run/\"gone\\']\n\
                     vendor-dirs = ['/run/\"gone\\']\n";
    scratch.file("masterpolicyd.toml", main_file);
    let shown = text(&scratch.run(&["show", "config"]).stdout);
    let gone = r#""/run/\"gone\\""#;
    let comment = format!(
        "\n# policy-dirs = [\"a\\U0000202eb\", {gone}]\n# vendor-dirs = [{gone}]\npolicy-dirs = []"
    );
    assert!(shown.contains(&comment), "{shown}");
}

#[test]
fn a_broken_configuration_shows_nothing_but_its_problems() {
    for folder in configurations("bad") {
        let scratch = Scratch::copy_of(&folder);
        let checked = text(&scratch.run(&["check"]).stdout);
        for what in ["policy", "rules", "config"] {
            let output = scratch.run(&["show", what]);
            assert_eq!(output.status.code(), Some(1), "{}", folder.display());
            assert_eq!(output.stdout, b"");
            let told = text(&output.stderr);
            assert!(checked.starts_with(&told) && !told.is_empty(), "{}: {told}", folder.display());
        }
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let scratch = Scratch::new();
    let rules = (1..=4000).fold("policy-dirs = []\n".to_owned(), |rules, port| {
        rules + &format!("[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = {port}\n")
    });
    scratch.file("masterpolicyd.toml", rules);
    let mut child = Command::new(env!("CARGO_BIN_EXE_masterpolicyd"))
        .args(["-c", "masterpolicyd.toml", "show", "config"])
        .current_dir(scratch.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn the_document_is_valid_against_the_published_dtd() {
    let dtd = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cross-domain-policy.dtd");
    let validator = || {
        let mut command = Command::new("xmllint");
        command.args(["--nonet", "--noout", "--dtdvalid", dtd, "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let validate = |document: &[u8]| {
        let mut child = validator().spawn().unwrap();
        child.stdin.take().unwrap().write_all(document).unwrap();
        child.wait_with_output().unwrap()
    };
    if validator().spawn().is_err() {
        eprintln!("skipped the_document_is_valid_against_the_published_dtd: xmllint is missing");
        return;
    }
    for folder in configurations("good") {
        let document = Scratch::copy_of(&folder).run(&["show", "policy"]).stdout;
        let output = validate(&document);
        assert!(output.status.success(), "{}: {}", folder.display(), text(&output.stderr));
    }
    let invalid = b"<cross-domain-policy><allow-access-from/></cross-domain-policy>";
    assert!(!validate(invalid).status.success(), "the DTD accepts anything");
}
