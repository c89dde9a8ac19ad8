//! Every way to start ends without a privilege: a child that is this test binary itself drops
//! them all, and prints what the kernel then says of it.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests")]

use std::collections::HashMap;
use std::fs::{self, File};
use std::process::{Command, Output};

use masterpolicyd::privileges;
use nix::sys::prctl;
use nix::unistd::Uid;

const CHILD: &str = "PRIVILEGES_TEST_CHILD";
const NOBODY: &str = "65534";

/// Not a test in itself: what the children of the tests below run.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    println!(); // The harness has begun a line.
    let resolved = privileges::resolve(Some("nobody"), None).unwrap();
    if let Some(ignored) = resolved.ignored {
        println!("ignored\t{ignored}");
    }
    match privileges::drop_for_good(&resolved.identity) {
        Ok(kept) => {
            for kept in kept {
                println!("kept\t{kept}");
            }
            println!("dumpable\t{}", prctl::get_dumpable().unwrap());
            // Capabilities are the thread's own, and tests run in a thread.
            for line in fs::read_to_string("/proc/thread-self/status").unwrap().lines() {
                if let Some((name, value)) = line.split_once(':') {
                    println!("{name}\t{}", value.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
        }
        Err(error) => println!("error\t{error}"),
    }
}

/// What a child printed, by name.
struct Report(HashMap<String, String>);

impl Report {
    fn read(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "the child failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    #[track_caller]
    fn assert_powerless(&self, user: &str) {
        assert_eq!(self.get("error"), None);
        let four_times = [user; 4].join(" ");
        assert_eq!(self.get("Uid"), Some(four_times.as_str()), "real, effective, saved, fs");
        assert_eq!(self.get("Gid"), Some(four_times.as_str()), "real, effective, saved, fs");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(self.get(set), Some("0000000000000000"), "{set}");
        }
        assert_eq!(self.get("NoNewPrivs"), Some("1"));
        assert_eq!(self.get("dumpable"), Some("false"));
    }
}

/// Starts a child by way of `launcher`.
fn child_started_by(launcher: &[&str]) -> Report {
    // The binary goes by descriptor, as another user may not reach its directory.
    let binary = "/proc/self/fd/0";
    let mut words = launcher.iter().copied().chain([binary]);
    let output = Command::new(words.next().unwrap())
        .args(words)
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .current_dir("/")
        .stdin(File::open(std::env::current_exe().unwrap()).unwrap())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {launcher:?}: {error}"));
    Report::read(&output)
}

/// Whether this test can run; says by name if it cannot.
fn can_run(test: &str) -> bool {
    let missing = if !Uid::effective().is_root() {
        "not root"
    } else if Command::new("setpriv").arg("--version").output().is_err() {
        "setpriv of util-linux is missing"
    } else {
        return true;
    };
    eprintln!("skipped {test}: {missing}");
    false
}

#[test]
fn root_becomes_the_service_user_with_nothing_left() {
    if !can_run("root_becomes_the_service_user_with_nothing_left") {
        return;
    }
    let report = child_started_by(&["setpriv", "--groups", "0,4,27"]);
    report.assert_powerless(NOBODY);
    assert_eq!(report.get("Groups"), Some(""));
    assert_eq!(report.get("CapBnd"), Some("0000000000000000"));
    assert_eq!(report.get("kept"), None);
}

#[test]
fn root_with_the_capabilities_of_a_container_drops_them_and_says_what_it_cannot() {
    if !can_run("root_with_the_capabilities_of_a_container_drops_them_and_says_what_it_cannot") {
        return;
    }
    let bounding = "-all,+setuid,+setgid,+net_bind_service";
    let report = child_started_by(&["setpriv", "--bounding-set", bounding]);
    report.assert_powerless(NOBODY);
    assert_eq!(report.get("Groups"), Some(""));
    assert_eq!(report.get("CapBnd"), Some("00000000000004c0"), "out of reach without CAP_SETPCAP");
    assert!(report.get("kept").is_some_and(|kept| kept.contains("without CAP_SETPCAP")));
}

#[test]
fn root_that_cannot_become_anyone_else_is_told_what_it_lacks() {
    if !can_run("root_that_cannot_become_anyone_else_is_told_what_it_lacks") {
        return;
    }
    for (bounding, expected) in [
        ("-setuid", "cannot become user 65534: Operation not permitted (os error 1): grant"),
        ("-setgid", "cannot become group 65534: Operation not permitted (os error 1): grant"),
    ] {
        let report = child_started_by(&["setpriv", "--clear-groups", "--bounding-set", bounding]);
        let error = report.get("error").expect("the drop must fail");
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn roots_groups_never_outlive_root() {
    if !can_run("roots_groups_never_outlive_root") {
        return;
    }
    let report = child_started_by(&["setpriv", "--groups", "0,4", "--bounding-set", "-setgid"]);
    let error = report.get("error").expect("the drop must fail");
    assert!(error.starts_with("cannot drop the supplementary groups: "), "{error}");
}

#[test]
fn an_unprivileged_user_with_the_capability_to_bind_loses_it() {
    if !can_run("an_unprivileged_user_with_the_capability_to_bind_loses_it") {
        return;
    }
    let report = child_started_by(&[
        "setpriv",
        "--reuid",
        NOBODY,
        "--regid",
        NOBODY,
        "--clear-groups",
        "--inh-caps",
        "+net_bind_service",
        "--ambient-caps",
        "+net_bind_service",
    ]);
    report.assert_powerless(NOBODY);
    assert_eq!(report.get("Groups"), Some(""));
    assert_eq!(report.get("kept"), None);
}

#[test]
fn groups_that_an_unprivileged_user_cannot_leave_are_reported() {
    if !can_run("groups_that_an_unprivileged_user_cannot_leave_are_reported") {
        return;
    }
    let report =
        child_started_by(&["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--groups", "4,65534"]);
    report.assert_powerless(NOBODY);
    assert!(
        report
            .get("kept")
            .is_some_and(|kept| kept.starts_with("cannot drop the supplementary groups 4: ")),
        "group 65534 is the process's own anyway: {:?}",
        report.get("kept")
    );
}

/// Shows that the proof in the drop can fail.
#[test]
fn a_process_that_could_become_root_again_does_not_go_on() {
    if !can_run("a_process_that_could_become_root_again_does_not_go_on") {
        return;
    }
    for (capability, expected) in
        [("+setuid", "user 0 could be regained"), ("+setgid", "group 0 could be regained")]
    {
        let report = child_started_by(&[
            "setpriv",
            "--reuid",
            NOBODY,
            "--regid",
            NOBODY,
            "--clear-groups",
            "--inh-caps",
            capability,
            "--ambient-caps",
            capability,
        ]);
        let error = report.get("error").expect("the drop must fail");
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn another_unprivileged_user_stays_itself_and_says_so() {
    if !can_run("another_unprivileged_user_stays_itself_and_says_so") {
        return;
    }
    let report =
        child_started_by(&["setpriv", "--reuid", "4242", "--regid", "4242", "--clear-groups"]);
    report.assert_powerless("4242");
    assert_eq!(
        report.get("ignored"),
        Some(
            "user \"nobody\" is ignored: the daemon was not started as root and stays 4242 (uid 4242, gid 4242)"
        )
    );
}

#[test]
fn whoever_runs_the_tests_can_drop_what_they_have() {
    let report = child_started_by(&["env"]);
    let user =
        if Uid::effective().is_root() { NOBODY.to_owned() } else { Uid::effective().to_string() };
    assert_eq!(report.get("error"), None);
    assert_eq!(report.get("Uid"), Some([user.as_str(); 4].join(" ").as_str()));
    assert_eq!(report.get("CapPrm"), Some("0000000000000000"));
    assert_eq!(report.get("NoNewPrivs"), Some("1"));
}
