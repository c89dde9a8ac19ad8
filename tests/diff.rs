//! `diff` from the outside: a daemon, and a configuration that has changed since it was loaded.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Instant;

use masterpolicyd::probe::MASTER_LIMIT;
use serde_json::{Value, json};

use support::daemon::{MAIN_FILE, PROGRAM};
use support::network::in_own_network;
use support::{Daemon, Setup};

/// What `diff` printed, and its exit code.
fn diff(daemon: &Daemon, more: &[&str]) -> (String, String, Option<i32>) {
    let output = Command::new(PROGRAM)
        .arg("-c")
        .arg(daemon.directory.path().join(MAIN_FILE))
        .arg("diff")
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

fn edit(daemon: &Daemon, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(daemon.directory.path().join(MAIN_FILE)).unwrap();
    daemon.directory.file(MAIN_FILE, edit(text));
}

#[test]
fn what_a_reload_would_change_is_told_rule_by_rule() {
    let daemon = Setup::new().rules(&[("a.test", "5000"), ("b.test", "80,5010-5019")]).start();
    let server = daemon.address();
    let (told, errors, code) = diff(&daemon, &[]);
    assert_eq!(told, format!("same: {server} serves the rules on disk\n"));
    assert_eq!((errors.as_str(), code), ("", Some(0)));

    edit(&daemon, |text| {
        let rule = "[[allow-access-from]]\ndomain = \"c.test\"\nto-ports = 6000\n";
        text.replace("\"a.test\"", "\"*.a.test\"") + rule
    });
    let (told, errors, code) = diff(&daemon, &[]);
    assert_eq!((errors.as_str(), code), ("", Some(1)));
    let main = daemon.directory.path().join(MAIN_FILE);
    let lines: Vec<_> = told.lines().collect();
    let [removed, first, second, last] = lines[..] else { panic!("{told}") };
    assert_eq!(removed, "- a.test to ports 5000");
    let place = format!("+ {}:", main.display());
    assert!(first.starts_with(&place) && first.ends_with(": *.a.test to ports 5000"), "{told}");
    assert!(second.starts_with(&place) && second.ends_with(": c.test to ports 6000"), "{told}");
    // No shipped unit reads such a file.
    let reload = "send SIGHUP to the daemon";
    assert_eq!(
        last,
        format!("differ: 2 rules to add, 1 rule to take away on {server}; to apply it: {reload}")
    );

    let (told, _, code) = diff(&daemon, &["--json"]);
    let answer: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(code, Some(1));
    assert_eq!((&answer["same"], &answer["server"]), (&json!(false), &json!(server.to_string())));
    let removed = json!([{"domain": "a.test", "to-ports": "5000", "secure": false}]);
    assert_eq!(answer["removed"], removed);
    assert_eq!(answer["added"][1]["domain"], "c.test");
    assert_eq!(answer["added"][1]["path"], main.to_str().unwrap());
}

/// A range is served as a list to players that know no ranges, and means the same.
#[test]
fn ranges_that_are_served_as_lists_are_no_difference() {
    let daemon = Setup::new().rules(&[("b.test", "80,5010-5019")]).start();
    edit(&daemon, |text| format!("expand-port-ranges = true\n{text}"));
    assert_eq!(diff(&daemon, &[]).2, Some(0));
}

#[test]
fn another_meta_policy_is_a_difference_of_843() {
    let test = "another_meta_policy_is_a_difference_of_843";
    in_own_network(test, || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 843));
        let daemon = Setup::bound(&[address]).rules(&[("a.test", "5000")]).start();
        assert_eq!(diff(&daemon, &[]).2, Some(0));
        edit(&daemon, |text| format!("meta-policy = \"all\"\n{text}"));
        let (told, _, code) = diff(&daemon, &[]);
        assert!(told.starts_with("- meta-policy master-only\n+ meta-policy all\n"), "{told}");
        assert_eq!(code, Some(1));
    });
}

#[test]
fn without_a_server_or_with_a_broken_file_it_cannot_tell() {
    let daemon = Setup::new().rules(&[("a.test", "5000")]).start();
    edit(&daemon, |text| text + "domain = 1\n");
    let (told, errors, code) = diff(&daemon, &[]);
    assert_eq!((told.as_str(), code), ("", Some(2)));
    assert!(!errors.is_empty());

    let daemon = Setup::new().rules(&[("a.test", "5000")]).start();
    edit(&daemon, |text| {
        let own = daemon.address().to_string();
        assert!(text.contains(&own), "{text}");
        // Nobody listens on port 1 of loopback.
        text.replace(&own, "127.0.0.1:1")
    });
    let (told, errors, code) = diff(&daemon, &[]);
    assert_eq!((told.as_str(), code), ("", Some(2)));
    let words = "cannot tell what 127.0.0.1:1 serves: nothing listens on this port; start the";
    assert!(errors.starts_with(words), "{errors}");
}

/// Each was waited for in turn: of a daemon that hangs, 256 addresses took a quarter of an hour.
#[test]
fn addresses_that_stay_silent_cost_their_time_together() {
    let silent: Vec<_> = (1..=8)
        .map(|last| TcpListener::bind((Ipv4Addr::new(127, 0, 5, last), 0)).unwrap())
        .collect();
    let addresses: Vec<_> = silent.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
    let daemon = Setup::new().rules(&[("a.test", "5000")]).start();
    let own = daemon.address().to_string();
    edit(&daemon, |text| text.replace(&own, &addresses.join("\", \"")));
    let began = Instant::now();
    let (_, errors, code) = diff(&daemon, &[]);
    assert_eq!(code, Some(2));
    assert!(began.elapsed() < 3 * MASTER_LIMIT, "{:?}", began.elapsed());
    let asked: Vec<_> = errors.lines().map(|line| line.split(' ').nth(3).unwrap()).collect();
    assert_eq!(asked, addresses, "{errors}");
    drop(silent);

    // And one that answers is not drowned out.
    let silent = TcpListener::bind((Ipv4Addr::new(127, 0, 5, 1), 0)).unwrap();
    edit(&daemon, |text| {
        let both = format!("{}\", \"{own}", silent.local_addr().unwrap());
        text.replace(&addresses.join("\", \""), &both)
    });
    assert_eq!(diff(&daemon, &[]).0, format!("same: {own} serves the rules on disk\n"));
}
