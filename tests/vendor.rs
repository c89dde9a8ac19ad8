//! Drop-ins of packages: one that is broken is left out, and keeps nobody else's from counting.

#![expect(clippy::unwrap_used, reason = "in a test, what is not there is a failure")]

mod scratch;

use std::ffi::CString;
use std::fs;
use std::path::Path;

use masterpolicyd::config::{self, Configuration, Keeper, Problems, Settings, Trust};
use masterpolicyd::document::MAX_SIZE;
use masterpolicyd::policy::MASTER_PORT;
use nix::sys::stat::Mode;
use scratch::{Scratch, set_mode, text};

fn rule(domain: &str, ports: &str) -> String {
    format!("[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = \"{ports}\"\n")
}

/// A main file with a ceiling, a directory of the administrator's and one of packages, with a
/// sound drop-in each.
fn sound() -> Scratch {
    let scratch = Scratch::new();
    scratch.file(
        "masterpolicyd.toml",
        "policy-dirs = [\"etc\", \"usr\"]\nvendor-dirs = [\"usr\"]\ngrantable-ports = \"5000-5999\"\n",
    );
    for directory in ["etc", "usr"] {
        scratch.directory(directory);
        scratch.file(&format!("{directory}/{directory}.toml"), rule(directory, "5000"));
    }
    scratch
}

fn load(scratch: &Scratch) -> Result<Configuration, Problems> {
    config::load(&scratch.join("masterpolicyd.toml"), &Trust::of_this_process())
}

fn domains(configuration: &Configuration) -> Vec<String> {
    configuration.rules.iter().map(|placed| placed.rule.domain.to_string()).collect()
}

/// Makes a drop-in of this path that is broken in one way.
type Breakage = fn(&Path);

const BREAKAGES: [(&str, Breakage); 6] = [
    ("syntax", |path| fs::write(path, "[[allow-access-from]").unwrap()),
    ("meaning", |path| fs::write(path, rule("http://a.test/", "5000")).unwrap()),
    ("ceiling", |path| fs::write(path, rule("a.test", "80")).unwrap()),
    ("mode", |path| {
        fs::write(path, rule("a.test", "5000")).unwrap();
        set_mode(path, 0o666);
    }),
    ("kind", |path| {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        nix::unistd::mkfifo(path.as_c_str(), Mode::S_IRWXU).unwrap();
    }),
    ("size", |path| {
        fs::write(path, " ".repeat(usize::try_from(config::MAX_FILE_SIZE).unwrap() + 1)).unwrap();
    }),
];

#[test]
fn a_broken_drop_in_of_a_package_takes_no_grant_of_another_file_away_and_keeps_none() {
    for (how, break_it) in BREAKAGES {
        let scratch = sound();
        let path = scratch.join("usr/broken.toml");
        break_it(&path);
        let configuration = load(&scratch).unwrap_or_else(|problems| panic!("{how}: {problems}"));
        assert_eq!(domains(&configuration), ["etc", "usr"], "{how}");
        let [left_out] = &configuration.left_out[..] else { panic!("{how}") };
        assert_eq!(left_out.path, path, "{how}");
        assert!(left_out.problems.len() > 1, "{how}: {left_out:?}");
        // And a grant that its file no longer holds is gone.
        fs::remove_file(scratch.join("usr/usr.toml")).unwrap();
        assert_eq!(domains(&load(&scratch).unwrap()), ["etc"], "{how}");
    }
}

/// The first in the order of names took all the room that there is, and the error was that of the
/// administrator's file behind it, or of the document.
#[test]
fn a_package_that_wants_all_the_room_is_left_out_and_keeps_no_other_file_from_counting() {
    let megabyte = format!("#{}", " ".repeat(usize::try_from(config::MAX_FILE_SIZE).unwrap() - 1));
    let cases = [
        (
            "rules",
            vec![many(|number| format!("a{number}.test"), config::bounds::RULES)],
            "at most 4096 rules",
        ),
        ("size", vec![megabyte; 4], "larger than 4194304 bytes"),
        (
            "document",
            vec![many(|number| format!("{}{number}.test", "a".repeat(50)), 4000)],
            "longer than 262144 bytes",
        ),
    ];
    for (how, files, message) in cases {
        let scratch = sound();
        for (number, text) in files.iter().enumerate() {
            scratch.file(&format!("usr/a{number}.toml"), text);
        }
        let configuration = load(&scratch).unwrap_or_else(|problems| panic!("{how}: {problems}"));
        assert_eq!(domains(&configuration), ["etc", "usr"], "{how}");
        let last = format!("usr/a{}.toml", files.len() - 1);
        assert_eq!(left_out(&configuration, &scratch), [last], "{how}");
        let told = configuration.left_out[0].problems[0].to_string();
        assert!(told.contains(message), "{how}: {told}");
    }
}

/// Which of two equal rules counts is of no account, and an equal one takes no room.
#[test]
fn what_is_left_out_takes_no_rule_of_another_file_with_it() {
    let scratch = sound();
    let long = |number: usize| rule(&format!("{}{number}.test", "a".repeat(50)), "5000");
    let same = rule("same.test", "5000");
    let hog: String = std::iter::once(same.clone()).chain((0..4000).map(long)).collect();
    scratch.file("usr/a.toml", hog);
    scratch.file("usr/b.toml", same);
    let configuration = load(&scratch).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(domains(&configuration), ["same.test", "etc", "usr"]);
    assert_eq!(left_out(&configuration, &scratch), ["usr/a.toml"]);
}

fn many(domain: impl Fn(usize) -> String, count: usize) -> String {
    (0..count).map(|number| rule(&domain(number), "5000")).collect()
}

#[test]
fn packages_fill_the_document_to_its_last_byte() {
    let scratch = sound();
    fs::remove_file(scratch.join("usr/usr.toml")).unwrap();
    for name in ["a", "b"] {
        let long = "x".repeat(50);
        scratch.file(
            &format!("usr/{name}.toml"),
            many(|number| format!("{name}{number:04}{long}.test"), 800),
        );
    }
    // So many rules, of which the last is longer by so many bytes.
    let third = |count: usize, padding: usize| {
        let (left, right) = ("x".repeat(padding / 2), "x".repeat(padding - padding / 2));
        let short = many(|number| format!("c{number:04}.test"), count - 1);
        scratch.file(
            "usr/c.toml",
            short + &rule(&format!("c{:04}{left}.test{right}", count - 1), "5000"),
        );
        let configuration = load(&scratch).unwrap_or_else(|problems| panic!("{problems}"));
        let length = configuration.documents.for_port(MASTER_PORT).bytes().len();
        (length, left_out(&configuration, &scratch))
    };
    let ((one, _), (two, _)) = (third(1, 0), third(2, 0));
    let (room, each) = (MAX_SIZE - one, two - one);
    let (count, padding) = (1 + room / each, room % each);
    assert_eq!(third(count, padding), (MAX_SIZE, Vec::new()));
    // A later file has the room of what is left out.
    scratch.file("usr/d.toml", many(|number| format!("d{number}.test"), 3));
    assert_eq!(third(count, padding + 1).1, ["usr/c.toml"]);
}

#[test]
fn no_more_masked_rules_are_read_than_a_configuration_may_have() {
    let scratch = sound();
    let half = config::bounds::RULES / 2;
    for (name, count) in [("a", half), ("b", half - 1), ("c", 1), ("d", 1)] {
        scratch.file(&format!("etc/{name}.toml"), "");
        let rules = many(|number| format!("{name}{number}.test"), count);
        scratch.file(&format!("usr/{name}.toml"), rules);
    }
    let configuration = load(&scratch).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(configuration.masked_rules().len(), config::bounds::RULES);
}

#[test]
fn the_main_file_is_the_administrators_wherever_it_lies() {
    let scratch = Scratch::new();
    scratch.directory("usr");
    let dirs = format!("[\"{}\"]", scratch.join("usr").display());
    let long = "x".repeat(50);
    let rules = many(|number| format!("a{number:04}{long}.test"), 4000);
    let main = format!("policy-dirs = {dirs}\nvendor-dirs = {dirs}\n{rules}");
    scratch.file("usr/masterpolicyd.toml", main);
    scratch.file("usr/usr.toml", rule("usr", "5000"));
    let path = scratch.join("usr/masterpolicyd.toml");
    let problems = config::load(&path, &Trust::of_this_process()).unwrap_err();
    assert!(problems.to_string().contains("longer than 262144 bytes"), "{problems}");
}

#[test]
fn the_files_of_the_administrator_count_all_or_not_at_all() {
    for (how, break_it) in BREAKAGES {
        let scratch = sound();
        break_it(&scratch.join("etc/broken.toml"));
        break_it(&scratch.join("usr/other.toml"));
        let told = load(&scratch).expect_err(how).to_string();
        for path in ["etc/broken.toml:", "usr/other.toml:"] {
            assert!(told.contains(path), "{how}: {told}");
        }
    }
}

#[test]
fn a_directory_of_packages_that_others_can_write_is_left_out_as_a_whole() {
    let scratch = sound();
    set_mode(&scratch.join("usr"), 0o777);
    let configuration = load(&scratch).unwrap();
    assert_eq!(domains(&configuration), ["etc"]);
    assert_eq!(left_out(&configuration, &scratch), ["usr"]);
}

#[test]
fn a_directory_of_packages_that_makes_too_many_files_is_left_out_as_a_whole() {
    let scratch = sound();
    for number in 0..config::bounds::FILES {
        fs::write(scratch.join(format!("usr/{number}.toml")), "").unwrap();
    }
    let configuration = load(&scratch).unwrap();
    assert_eq!(domains(&configuration), ["etc"]);
    assert_eq!(left_out(&configuration, &scratch), ["usr"]);
}

/// The directories behind it were never listed, and its own names masked theirs.
#[test]
fn a_directory_of_packages_that_makes_too_many_files_takes_no_other_with_it() {
    let scratch = sound();
    let keys = "user = \"nobody\"\npolicy-dirs = [\"usr\", \"etc\"]\nvendor-dirs = [\"usr\"]\n";
    scratch.file("masterpolicyd.toml", keys);
    for number in 0..config::bounds::FILES {
        fs::write(scratch.join(format!("usr/{number}.toml")), "").unwrap();
    }
    fs::write(scratch.join("usr/etc.toml"), "").unwrap();
    fs::write(scratch.join("usr/note"), "").unwrap();
    let configuration = load(&scratch).unwrap();
    assert_eq!(domains(&configuration), ["etc"]);
    assert_eq!(left_out(&configuration, &scratch), ["usr"]);
    assert_eq!(configuration.masked, []);
    assert!(configuration.skipped.is_empty(), "{:?}", configuration.skipped);
}

/// A package that comes first has no more right to the room than one that comes last.
#[test]
fn packages_get_the_room_for_files_that_the_administrator_leaves() {
    let scratch = sound();
    let keys = "user = \"nobody\"\npolicy-dirs = [\"usr\", \"etc\"]\nvendor-dirs = [\"usr\"]\n";
    scratch.file("masterpolicyd.toml", keys);
    for number in 0..config::bounds::FILES / 2 {
        fs::write(scratch.join(format!("usr/{number}.toml")), "").unwrap();
        fs::write(scratch.join(format!("etc/{number}.toml")), "").unwrap();
    }
    let configuration = load(&scratch).unwrap();
    assert_eq!(domains(&configuration), ["etc"]);
    assert_eq!(left_out(&configuration, &scratch), ["usr"]);
}

/// The name of the file was part of the command as it was, and a directory that is looked through
/// after the package's masks nothing there.
#[test]
fn the_mask_that_is_proposed_masks_the_file_and_does_nothing_else() {
    let scratch = sound();
    let remedy = |dirs: &str| {
        let keys = format!("user = \"nobody\"\npolicy-dirs = {dirs}\nvendor-dirs = [\"usr\"]\n");
        scratch.file("masterpolicyd.toml", keys);
        let configuration = load(&scratch).unwrap();
        let [left_out] = &configuration.left_out[..] else { panic!("{configuration:?}") };
        left_out.problems.last().unwrap().message.clone()
    };
    scratch.directory("late");
    scratch.file("usr/a b;id $(id).toml", "x");
    let etc = scratch.join("etc").display().to_string();
    let told = remedy("[\"late\", \"etc\", \"usr\"]");
    let mask = told.split("or mask it: ln -s /dev/null ").nth(1).map(|it| it.replace(&etc, "etc"));
    let late = scratch.join("late/a b;id $(id).toml").display().to_string();
    assert_eq!(mask, Some(format!("'{late}'")));
    let told = remedy("[\"usr\", \"etc\"]");
    assert!(told.ends_with("report it to the package"), "{told}");
    let told = remedy("[\"etc\", \"usr\", \"late\"]");
    assert!(told.contains(&format!("'{etc}/a b;id $(id).toml'")), "{told}");
}

#[test]
fn each_directory_of_packages_behind_one_that_others_can_write_is_left_out() {
    let scratch = sound();
    scratch.directory("lib");
    for directory in ["lib/one", "lib/two"] {
        scratch.directory(directory);
        scratch.file(&format!("{directory}/game.toml"), rule("game.test", "5000"));
    }
    let dirs = "[\"etc\", \"lib/one\", \"lib/two\"]";
    let keys = format!("policy-dirs = {dirs}\nvendor-dirs = [\"lib/one\", \"lib/two\"]\n");
    scratch.file("masterpolicyd.toml", keys);
    set_mode(&scratch.join("lib"), 0o777);
    let configuration = load(&scratch).unwrap();
    assert_eq!(domains(&configuration), ["etc"]);
    assert_eq!(left_out(&configuration, &scratch), ["lib/one", "lib/two"]);

    // The administrator's own is not left out without a word.
    let keys = "policy-dirs = [\"lib/one\", \"lib/two\"]\nvendor-dirs = [\"lib/one\"]\n";
    scratch.file("masterpolicyd.toml", keys);
    let told = load(&scratch).unwrap_err().to_string();
    assert!(told.contains("/lib/two:1:1: this directory is not read, because other"), "{told}");
}

fn left_out(configuration: &Configuration, scratch: &Scratch) -> Vec<String> {
    let within = |path: &Path| path.strip_prefix(scratch.path()).unwrap().display().to_string();
    configuration.left_out.iter().map(|left_out| within(&left_out.path)).collect()
}

#[test]
fn what_is_left_out_is_an_error_of_check_with_a_remedy() {
    let scratch = sound();
    scratch.file("usr/broken.toml", rule("a.test", "80"));
    let output = scratch.run(&["check"]);
    let stdout = text(&output.stdout);
    if nix::unistd::geteuid().is_root() {
        assert!(stdout.contains("cannot serve as root"), "{stdout}");
        scratch.file(
            "masterpolicyd.toml",
            "user = \"nobody\"\npolicy-dirs = [\"etc\", \"usr\"]\nvendor-dirs = [\"usr\"]\n\
             grantable-ports = \"5000-5999\"\n",
        );
    }
    let output = scratch.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    let remedy = "usr/broken.toml:1:1: this file of a package is left out because of its errors, \
                  and all other files count; report it to the package, or mask it: ln -s /dev/null \
                  etc/broken.toml";
    assert!(stdout.lines().any(|line| line == remedy), "{stdout}");
    assert!(stdout.contains("grants 80, but grantable-ports allows only"), "{stdout}");
    assert!(stdout.ends_with("without 1 drop-in: 2 rules; 2 errors, no warnings\n"), "{stdout}");
    let left_out = || {
        let json = scratch.run(&["check", "--json"]).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["left-out"].clone()
    };
    assert_eq!(left_out(), serde_json::json!(["usr/broken.toml"]));
    // Where the daemon does not start at all, nothing is left out.
    scratch.file("etc/broken-too.toml", rule("a.test", "80"));
    assert_eq!(left_out(), serde_json::json!([]));
    fs::remove_file(scratch.join("etc/broken-too.toml")).unwrap();
    // What is proposed works.
    std::os::unix::fs::symlink("/dev/null", scratch.join("etc/broken.toml")).unwrap();
    assert_eq!(scratch.run(&["check"]).status.code(), Some(0));
}

#[test]
fn directories_beneath_usr_are_those_of_packages_unless_told_otherwise() {
    let scratch = sound();
    let settings = |lines: &str| {
        scratch.file("masterpolicyd.toml", lines);
        load(&scratch).unwrap().settings
    };
    let dirs = "policy-dirs = [\"/etc/no/such\", \"/usr/no/such\"]\n";
    let keepers = |settings: &Settings| {
        ["/etc/no/such", "/usr/no/such"].map(|dir| settings.keeper_of(Path::new(dir)))
    };
    assert_eq!(keepers(&settings(dirs)), [Keeper::Administrator, Keeper::Vendor]);
    let none = format!("{dirs}vendor-dirs = []\n");
    assert_eq!(keepers(&settings(&none)), [Keeper::Administrator; 2]);
    let other = format!("{dirs}vendor-dirs = [\"/etc/no/such\"]\n");
    assert_eq!(keepers(&settings(&other)), [Keeper::Vendor, Keeper::Administrator]);
    scratch.file("masterpolicyd.toml", format!("{dirs}vendor-dirs = [\"/opt/no/such\"]\n"));
    let told = load(&scratch).unwrap_err().to_string();
    assert!(
        told.ends_with(
            ":2:16: \"/opt/no/such\" is not in policy-dirs; add it there, or remove it here"
        ),
        "{told}"
    );
}
