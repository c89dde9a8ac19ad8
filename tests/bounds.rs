//! How large a configuration may be, and that the largest is read in a time that nobody minds.

mod scratch;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use masterpolicyd::config::bounds::{ENTRIES, FILES, LOOKUPS, RULES, SIZE, TOLD};
use masterpolicyd::config::{self, MAX_FILE_SIZE};
use masterpolicyd::document::MAX_SIZE;
use masterpolicyd::watch::WatchedPlace;
use scratch::{Scratch, text};

const MAIN: &str = "policy-dirs = [\"policy.d\"]\nuser = \"daemon\"\n";

/// A main file and an empty directory of drop-ins.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.file("masterpolicyd.toml", MAIN);
    scratch.directory("policy.d");
    scratch
}

/// A line as long as those that are shown.
fn line_of(part: &str) -> String {
    format!("{}\n", part.repeat(1000 / part.len()))
}

/// What `check` has to say, and the exit code.
fn check(scratch: &Scratch) -> (String, Option<i32>) {
    let output = scratch.run(&["check"]);
    (text(&output.stdout), output.status.code())
}

/// The lines that are not excerpts.
fn lines(said: &str) -> Vec<&str> {
    said.lines().filter(|line| !line.starts_with(' ')).collect()
}

fn toml_rule(domain: &str, ports: &str) -> String {
    format!("[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = \"{ports}\"\n")
}

fn xml(content: &str) -> String {
    format!("<cross-domain-policy>{content}</cross-domain-policy>")
}

fn xml_rule(domain: &str, ports: &str) -> String {
    format!("<allow-access-from domain=\"{domain}\" to-ports=\"{ports}\"/>")
}

#[test]
fn the_rule_that_is_one_too_many_is_named_with_its_place() {
    let scratch = scratch();
    let rules = |first: usize, count: usize| {
        (first..first + count).fold(String::new(), |mut text, number| {
            writeln!(text, "{}", xml_rule("*", &(number + 2000).to_string())).unwrap();
            text
        })
    };
    scratch.file("policy.d/a.xml", xml(&rules(0, RULES - 1)));
    scratch.file("policy.d/b.xml", xml(&rules(RULES, 1)));
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(0), "{said}");
    scratch.file("policy.d/b.xml", xml(&rules(RULES, 3)));
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    let said = lines(&said);
    assert!(
        said[0].starts_with("policy.d/b.xml:2:1: a configuration can have at most 4096"),
        "{said:?}"
    );
    assert_eq!(said.len(), 2, "nothing is said of what is not read: {said:?}");
}

#[test]
fn a_configuration_that_is_too_large_in_all_is_refused_at_the_file_that_makes_it_so() {
    let scratch = scratch();
    let comment = "#".repeat(1024 * 1024);
    for number in 0..SIZE / 1024 / 1024 + 2 {
        scratch.file(&format!("policy.d/{number}.toml"), &comment);
    }
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("policy.d/3.toml:1:1: with this file the configuration is larger"),
        "{said}"
    );
    assert_eq!(lines(&said).len(), 2, "nothing is said of what is not read: {said}");
}

#[test]
fn a_directory_of_too_many_files_is_refused() {
    let scratch = scratch();
    for number in 0..FILES - 1 {
        scratch.file(&format!("policy.d/{number}.toml"), "# nothing\n");
    }
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(0), "{said}");
    scratch.file("policy.d/x.toml", "# nothing\n");
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("policy.d:1:1: with this directory there are more than 4096"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_masked_counts_as_well() {
    let scratch = scratch();
    scratch.directory("more.d");
    let dirs = "policy-dirs = [\"policy.d\", \"more.d\"]\nuser = \"daemon\"\n";
    scratch.file("masterpolicyd.toml", dirs);
    for number in 0..FILES / 2 {
        scratch.file(&format!("policy.d/{number}.toml"), "# nothing\n");
    }
    for number in 0..FILES / 2 - 1 {
        scratch.file(&format!("more.d/{number}.toml"), "# nothing\n");
    }
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(0), "{said}");
    scratch.file(&format!("more.d/{}.toml", FILES / 2 - 1), "# nothing\n");
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    let last = lines(&said).into_iter().find(|line| !line.contains("not read, masked by"));
    let refusal = "more.d:1:1: with this directory there are more than 4096";
    assert!(last.is_some_and(|line| line.starts_with(refusal)), "{last:?}");
}

/// Twenty links more than are followed, and how many those are.
fn far_links(scratch: &Scratch) -> usize {
    scratch.file("end.toml", "# nothing\n");
    scratch.directory("ways");
    scratch.directory("ways/a");
    symlink("../end.toml", scratch.join("ways/1")).expect("a link");
    symlink(format!("{}1", "a/../".repeat(800)), scratch.join("ways/2")).expect("a link");
    // Of each of these the last is looked up with what is still left of all.
    let most = LOOKUPS / (1600 + 7) + 1;
    for number in 0..most + 20 {
        symlink("../ways/2", scratch.join(format!("policy.d/{number:03}.toml"))).expect("a link");
    }
    most
}

#[test]
fn links_that_lead_far_are_not_all_watched() {
    let scratch = scratch();
    let most = far_links(&scratch);
    let (main, directory) = (scratch.join("masterpolicyd.toml"), scratch.join("policy.d"));
    let places = config::watched(&main, std::slice::from_ref(&directory), &|| {});
    let is_link = |place: &&WatchedPlace| match place {
        WatchedPlace::File(path) => path.parent() == Some(&directory),
        _ => false,
    };
    let links = places.iter().filter(is_link).count();
    assert!((most - 1..=most).contains(&links), "{links} of {most}");
}

/// 4000 links of 3160 names each made a check of a minute and a half.
#[test]
fn links_that_lead_far_are_not_all_followed() {
    let scratch = scratch();
    let most = far_links(&scratch);
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    let said = lines(&said);
    let refusal = format!(
        "policy.d/{most}.toml:1:1: the ways to the files before this one have more than {LOOKUPS} names"
    );
    assert!(said[0].starts_with(&refusal), "{said:?}");
    assert_eq!(said.len(), 2, "no more is said: {said:?}");
}

/// The size of what is left out was given back, so that packages could make a reading of minutes.
#[test]
fn broken_files_of_packages_are_not_all_read() {
    let scratch = Scratch::new();
    for directory in ["own", "usr"] {
        scratch.directory(directory);
    }
    let main = "user = \"daemon\"\npolicy-dirs = [\"own\", \"usr\"]\nvendor-dirs = [\"usr\"]\n";
    scratch.file("masterpolicyd.toml", main);
    scratch.file("own/own.toml", toml_rule("own.test", "5000"));
    scratch.file("usr/0.toml", toml_rule("usr.test", "5000"));
    let broken = scratch.file("broken", format!("{}nonsense\n", " ".repeat(1_000_000)));
    for number in 1..12 {
        fs::hard_link(&broken, scratch.join(format!("usr/{number:02}.toml"))).unwrap();
    }
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("usr/05.toml:1:1000009:"), "{said}");
    let refusal = format!(
        "usr/06.toml:1:1: the broken files of packages before this one are larger than {SIZE} bytes"
    );
    assert!(said.contains(&refusal), "{said}");
    assert_eq!(said.matches("so it and the files after it are not read").count(), 6, "{said}");
    assert!(said.contains("without 11 drop-ins: 2 rules;"), "{said}");
}

#[test]
fn a_main_file_of_too_many_rules_is_refused() {
    let scratch = Scratch::new();
    let rules = |count: usize| {
        let rule = |number: usize| toml_rule("*", &(2000 + number).to_string());
        let rules: String = (0..count).map(rule).collect();
        scratch.file("masterpolicyd.toml", format!("policy-dirs = []\nuser = \"daemon\"\n{rules}"));
        check(&scratch)
    };
    let (said, code) = rules(RULES);
    assert_eq!(code, Some(0), "{said}");
    let (said, code) = rules(RULES + 1);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a configuration can have at most 4096 rules"), "{said}");
}

#[test]
fn a_document_that_is_too_long_is_refused_with_what_to_write_instead() {
    let scratch = Scratch::new();
    let ports: Vec<_> = (1..60_000).step_by(2).map(|port| port.to_string()).collect();
    let rule = |domain| toml_rule(domain, &ports.join(","));
    scratch.file(
        "masterpolicyd.toml",
        format!("policy-dirs = []\nuser = \"daemon\"\n{}", rule("a.test")),
    );
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(0), "{said}");
    let two = format!("policy-dirs = []\nuser = \"daemon\"\n{}{}", rule("a.test"), rule("b.test"));
    scratch.file("masterpolicyd.toml", two);
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    let message = "masterpolicyd.toml:1:1: the document is longer than 262144 bytes";
    assert!(said.contains(message), "{said}");
}

#[test]
fn more_addresses_and_directories_than_anyone_has_are_refused() {
    let scratch = Scratch::new();
    let list = |count: usize, item: fn(usize) -> String| {
        (0..count).map(item).collect::<Vec<_>>().join(", ")
    };
    let address = |number: usize| format!("\"127.0.0.1:{}\"", 1025 + number);
    let directory = |number: usize| format!("\"/nowhere/{number}\"");
    let main = |count| {
        format!(
            "listen = [{}]\npolicy-dirs = [{}]\nuser = \"daemon\"\n",
            list(count, address),
            list(count, directory)
        )
    };
    scratch.file("masterpolicyd.toml", main(ENTRIES));
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(0), "{said}");
    scratch.file("masterpolicyd.toml", main(20_000));
    let (said, code) = check(&scratch);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(
            "masterpolicyd.toml:1:10: this array has 20000 elements, and can have at most 256"
        ),
        "{said}"
    );
    assert!(
        said.contains(
            "masterpolicyd.toml:2:15: this array has 20000 elements, and can have at most 256"
        ),
        "{said}"
    );
}

#[test]
fn a_file_that_is_wrong_throughout_is_told_of_its_first_hundred_errors() {
    for (name, content) in [
        (
            "unknown.toml",
            (0..60_000).fold(String::new(), |text, number| text + &format!("k{number} = 1\n")),
        ),
        ("syntax.toml", "a b\n".repeat(60_000)),
        ("one-line.toml", "x = ".repeat(60_000)),
        ("headers.toml", "[[[\n".repeat(60_000)),
        ("duplicates.toml", format!("[a]\n[a]\n{}", "k = 1\n".repeat(60_000))),
        ("strings.toml", format!("a = [{}", "\"x\n".repeat(60_000))),
        ("entries.toml", format!("a = {{ {}", "k = 1 ".repeat(60_000))),
        ("rules.toml", "[[allow-access-from]]\n".repeat(40_000)),
        ("elements.xml", xml(&"<allow/>".repeat(60_000))),
        ("remarks.xml", xml(&"<allow-access-from domain=\"*\"/>".repeat(30_000))),
        ("stray.xml", xml(&"x<!---->".repeat(60_000))),
        (
            "blanks.toml",
            format!("{}allow-access-from = [{}]", " ".repeat(512 * 1024), "{},".repeat(20_000)),
        ),
        ("blanks.xml", format!("{}{}", " ".repeat(512 * 1024), xml(&"x<!---->".repeat(20_000)))),
        (
            "returns.xml",
            xml(&format!("{}{}\n", "x<!---->".repeat(20_000), "\r".repeat(512 * 1024))),
        ),
        ("lines.toml", format!("allow-access-from = [{}]", line_of("{},").repeat(200))),
        ("lines.xml", xml(&line_of("x<!---->").repeat(400))),
    ] {
        let scratch = scratch();
        scratch.file(&format!("policy.d/{name}"), &content);
        let started = Instant::now();
        let (said, _) = check(&scratch);
        let (said, took) = (lines(&said), started.elapsed());
        assert!((1..=TOLD + 4).contains(&said.len()), "{name}: {} lines", said.len());
        // A tenth of it, unless the time grows faster than the file.
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
}

/// A domain of a million letters made a line of a megabyte.
#[test]
fn a_file_does_not_decide_how_long_a_line_becomes() {
    let long = "x".repeat(1_000_000);
    for (name, content) in [
        ("domain.toml", toml_rule(&long, "5000")),
        ("ports.toml", toml_rule("a.test", &long)),
        ("key.toml", format!("{long} = 1\n")),
        ("value.toml", format!("a = {long}\n")),
        ("domain.xml", xml(&xml_rule(&long, "5000"))),
        ("element.xml", xml(&format!("<{long}/>"))),
    ] {
        let scratch = scratch();
        scratch.file(&format!("policy.d/{name}"), content);
        let (said, code) = check(&scratch);
        assert_eq!(code, Some(1), "{name}");
        let longest = said.lines().map(str::len).max();
        assert!(longest < Some(1000), "{name}: {longest:?}");
        assert!(said.contains("xxx...xxx"), "{name}: {said:.1000}");
    }
    let scratch = scratch();
    scratch.file("masterpolicyd.toml", format!("user = \"{long}\"\n"));
    let (said, _) = check(&scratch);
    assert!(said.lines().all(|line| line.len() < 1000), "{said:.1000}");
}

#[test]
fn how_many_more_errors_there_are_is_told_as_it_is() {
    let keys = (0..1000).fold(String::new(), |text, number| text + &format!("k{number} = 1\n"));
    for content in [keys, "a b\n".repeat(1000)] {
        let scratch = scratch();
        scratch.file("policy.d/wrong.toml", &content);
        let (said, _) = check(&scratch);
        assert!(said.contains(": from here on 900 more errors are not shown\n"), "{said}");
    }
}

#[test]
fn the_manual_states_every_bound() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/man/masterpolicyd.toml.5");
    let manual = std::fs::read_to_string(manual).unwrap();
    let (_, bounds) = manual.split_once(".Sh BOUNDS\n").unwrap();
    let (bounds, _) = bounds.split_once(".Sh ").unwrap();
    let bounds = bounds.replace('\n', " ");
    for stated in [
        format!("{} MiB for a file", MAX_FILE_SIZE / 1024 / 1024),
        format!("{FILES} files"),
        format!("{} MiB for all files together", SIZE / 1024 / 1024),
        format!("{LOOKUPS} names"),
        format!("{RULES} rules"),
        format!("{MAX_SIZE} bytes for the document"),
        format!("{ENTRIES} addresses"),
        format!("more than {TOLD} errors or more than {TOLD} warnings"),
    ] {
        assert!(bounds.contains(&stated), "{stated}");
    }
}

/// The largest configurations that are accepted, each the worst for one part of the work.
fn largest() -> Vec<(&'static str, Scratch)> {
    let with = |files: &[(&str, String)]| {
        let scratch = scratch();
        for (name, content) in files {
            scratch.file(&format!("policy.d/{name}"), content);
        }
        scratch
    };
    // Each list but the last differs at its end only, so that comparing two takes longest.
    let lists = |number: usize| {
        let list = (0..12).map(|port| (2001 + 2 * port).to_string()).collect::<Vec<_>>().join(",");
        xml_rule("a.test", &format!("{list},{}", 3000 + number))
    };
    let names = |number: usize| xml_rule(&format!("{number}.{}test", "a.".repeat(50)), "5000-5999");
    let single = |number: usize| xml_rule("a.test", &(2000 + number).to_string());
    let rules = |count: usize, rule: &dyn Fn(usize) -> String| {
        xml(&(0..count).map(rule).collect::<Vec<_>>().join("\n"))
    };
    let filled = |content: String| format!("{content}{}", " ".repeat(1000 * 1000 - content.len()));
    let ampersands = |size: usize| {
        let head = "<!DOCTYPE a [<!ENTITY e 'x'>]><cross-domain-policy><!--";
        format!("{head}{}--></cross-domain-policy>", "&".repeat(size))
    };
    vec![
        ("rules of one domain", with(&[("a.xml", rules(RULES, &single))])),
        ("lists that are nearly the same", with(&[("a.xml", rules(2000, &lists))])),
        ("names of many labels", with(&[("a.xml", rules(1400, &names))])),
        ("rules that say the same", with(&[("a.xml", rules(RULES, &|_| single(0)))])),
        (
            "megabytes of references",
            with(&["a.xml", "b.xml", "c.xml"].map(|name| (name, ampersands(1_000_000)))),
        ),
        (
            "megabytes of TOML",
            with(&["a.toml", "b.toml", "c.toml"].map(|name| {
                let rule = toml_rule("a.test", "5000");
                (name, filled(rule.repeat(RULES / 3)))
            })),
        ),
        (
            "files",
            with(
                &(0..FILES - 2)
                    .map(|number| {
                        (format!("{number}.toml"), toml_rule("*", &(number + 2000).to_string()))
                    })
                    .collect::<Vec<_>>()
                    .iter()
                    .map(|(name, content)| (name.as_str(), content.clone()))
                    .collect::<Vec<_>>(),
            ),
        ),
    ]
}

/// In a release build each takes less than two seconds; a debug build takes several times that.
#[test]
fn the_largest_configurations_are_read_in_a_time_that_nobody_minds() {
    let allowed = Duration::from_secs(if cfg!(debug_assertions) { 40 } else { 2 });
    for (what, scratch) in largest() {
        for command in [
            &["check"][..],
            &["show", "config"],
            &["explain", "--origin", "b.test", "--port", "1999"],
        ] {
            let started = Instant::now();
            let output = scratch.run(command);
            let taken = started.elapsed();
            println!("{what}: {} in {taken:?}", command.join(" "));
            let sound = [0, i32::from(command[0] == "explain")];
            let code = output.status.code().unwrap();
            assert!(sound.contains(&code), "{what}: {}", text(&output.stderr));
            assert!(taken < allowed, "{what}: {command:?} took {taken:?}");
        }
    }
}
