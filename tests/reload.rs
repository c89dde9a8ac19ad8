//! SIGHUP under load: the policy changes between two exchanges and never within one, and a
//! broken file changes nothing.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::daemon::{MAIN_FILE, PROGRAM, RULES, Rule, dial, dial_from, document, read_to_end};
use support::load::{self, Load, REQUEST, Shape, Sources};
use support::network::{address_of, in_a_roomy_network, listen};
use support::slow_files::SlowFiles;
use support::{
    Daemon, SERVICE_USER, SOON, Scratch, Setup, figure, is_root, set_mode, skip, unshare_of_mounts,
};

const OTHER_RULES: &[Rule] = &[("game.example.org", "6000"), ("www.example.net", "443,7000-7007")];

#[test]
fn a_reload_serves_the_new_policy() {
    let mut daemon = Setup::new().start();
    assert_eq!(daemon.ask(), document(RULES));
    daemon.write_rules(OTHER_RULES);
    assert_eq!(daemon.ask(), document(RULES), "nothing changes before the signal");
    daemon.reload();
    assert_eq!(daemon.ask(), document(OTHER_RULES));
}

#[test]
fn a_reload_takes_in_a_new_drop_in() {
    let mut daemon = Setup::new().start();
    daemon.directory.file(
        "policy.d/game.xml",
        "<cross-domain-policy>\
         <allow-access-from domain=\"www.example.org\" to-ports=\"9339\"/>\
         </cross-domain-policy>",
    );
    daemon.reload();
    let answer = String::from_utf8(daemon.ask()).expect("a document");
    let rule = "<allow-access-from domain=\"www.example.org\" to-ports=\"9339\"/>";
    assert!(answer.contains(rule), "{answer}");
}

#[test]
fn a_connection_keeps_the_document_it_began_with() {
    let mut daemon = Setup::new().start();
    let mut stream = dial(daemon.address());
    stream.write_all(&REQUEST[..10]).expect("half a request");
    // The half is accepted for certain once a later exchange has been served.
    assert_eq!(daemon.ask(), document(RULES));
    daemon.write_rules(OTHER_RULES);
    daemon.reload();
    stream.write_all(&REQUEST[10..]).expect("the other half");
    assert_eq!(read_to_end(&mut stream), document(RULES));
    assert_eq!(daemon.ask(), document(OTHER_RULES));
}

#[test]
fn a_shorter_request_timeout_counts_at_once_beside_connections_with_the_longer_one() {
    let mut daemon = Setup::new().tables("[limits]\nrequest-timeout = \"60s\"").start();
    let mut earlier = dial(daemon.address());
    earlier.write_all(&REQUEST[..10]).expect("half a request");
    // The half is accepted for certain once a later exchange has been served.
    assert_eq!(daemon.ask(), document(RULES));
    daemon.replace_in_main_file("\"60s\"", "\"1s\"");
    daemon.reload();
    let mut later = dial(daemon.address());
    later.write_all(&REQUEST[..10]).expect("half a request");
    assert_eq!(read_to_end(&mut later), b"", "closed after a second");
    earlier.write_all(&REQUEST[10..]).expect("the other half");
    assert_eq!(read_to_end(&mut earlier), document(RULES), "it had a minute from the start");
}

#[test]
fn a_wider_source_prefix_counts_new_connections_and_leaves_open_ones_alone() {
    let limits = "[limits]\nconnections-per-source = 1\nrequest-timeout = \"60s\"";
    let mut daemon = Setup::new().tables(limits).start();
    let half_asked = |daemon: &Daemon, last| {
        let mut stream = dial_from([127, 0, 1, last].into(), daemon.address());
        stream.write_all(&REQUEST[..10]).expect("half a request");
        assert_eq!(daemon.ask(), document(RULES), "so the half has come");
        stream
    };
    let mut earlier = [1, 2].map(|last| half_asked(&daemon, last));
    daemon.replace_in_main_file("[limits]", "[limits]\nsource-prefix = { ipv4 = 24 }");
    daemon.reload();
    let mut later = half_asked(&daemon, 3);
    let _newest = half_asked(&daemon, 4);
    assert_eq!(read_to_end(&mut later), b"", "127.0.1.0/24 has one place");
    daemon.log.wait_for("127.0.1.0/24 has limits.connections-per-source");
    for stream in &mut earlier {
        stream.write_all(&REQUEST[10..]).expect("the other half");
        assert_eq!(read_to_end(stream), document(RULES), "each had the place of its address");
    }
}

#[test]
fn a_broken_file_keeps_the_old_policy_and_is_logged_with_its_place() {
    let mut daemon = Setup::new().start();
    let line = daemon.break_main_file();
    let mark = daemon.log.mark();
    daemon.reload();
    assert_eq!(daemon.ask(), document(RULES));
    let place = format!("{}:{line}:", daemon.main_file().display());
    let logged = daemon.log.wait_for_after(mark, &place);
    let behind = logged.split_once(&place).expect("the place").1;
    let (column, message) = behind.split_once(": ").expect("a column and a message");
    assert!(column.parse::<u32>().is_ok_and(|column| column >= 1), "column {column:?}: {logged}");
    assert!(!message.is_empty(), "{logged}");
    daemon.wait_for_status("reload failed");

    daemon.write_rules(OTHER_RULES);
    daemon.reload();
    assert_eq!(daemon.ask(), document(OTHER_RULES), "a repaired file is taken");
}

/// It was said once, and the next status was as if nothing had happened.
#[test]
fn a_failed_reload_is_in_the_status_with_its_first_error_until_one_succeeds() {
    for is_mended in [false, true] {
        let mut daemon = Setup::new().start();
        let line = daemon.break_main_file();
        daemon.reload();
        let status = daemon.wait_for_state("STATUS=");
        let error = format!("{}:{line}:", daemon.main_file().display());
        let failed = "STATUS=reload failed, old policy kept: ";
        assert!(status.starts_with(&format!("{failed}{error}")), "{status}");
        if is_mended {
            daemon.write_rules(OTHER_RULES);
            daemon.reload();
        }
        daemon.forget_states();
        daemon.signal(Signal::SIGTERM);
        let status = daemon.wait_for_state("STATUS=");
        assert_eq!(status.starts_with(failed), !is_mended, "{status}");
        assert_eq!(status.contains(&error), !is_mended, "{status}");
    }
}

#[test]
fn a_file_that_others_can_write_is_not_taken() {
    let mut daemon = Setup::new().start();
    daemon.write_rules(OTHER_RULES);
    set_mode(&daemon.main_file(), 0o666);
    let mark = daemon.log.mark();
    daemon.reload();
    assert_eq!(daemon.ask(), document(RULES));
    daemon.log.wait_for_after(mark, MAIN_FILE);
}

#[test]
fn a_missing_file_keeps_the_old_policy() {
    let mut daemon = Setup::new().start();
    std::fs::remove_file(daemon.main_file()).expect("removing the main file");
    let mark = daemon.log.mark();
    daemon.reload();
    assert_eq!(daemon.ask(), document(RULES));
    daemon.log.wait_for_after(mark, MAIN_FILE);
}

#[test]
fn what_a_reload_cannot_change_is_said_to_need_a_restart() {
    let mut daemon = Setup::new().start();
    daemon.replace_in_main_file(
        &format!("\"{}\"", daemon.address()),
        &format!("\"{}\", \"127.0.0.1:7843\"", daemon.address()),
    );
    let mark = daemon.log.mark();
    daemon.reload();
    let line = daemon.log.wait_for_after(mark, "listen");
    assert!(line.contains("restart"), "{line}");
    assert_eq!(daemon.ask(), document(RULES));
}

#[test]
fn signals_before_a_reload_has_ended_are_not_lost() {
    let test = "signals_before_a_reload_has_ended_are_not_lost";
    let mut daemon = Setup::new().start();
    let Some(mut slow) = SlowFiles::named(test, &daemon, "policy.d", "600s") else { return };
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("RELOADING=1");
    // The main file, which names this directory, is read, so only one more can find new rules.
    slow.wait_for_opening("policy.d");
    daemon.write_rules(OTHER_RULES);
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("one more follows it");
    drop(slow);
    // What the first one read may be served for less than it takes to ask.
    daemon.wait_for_state("READY=1");
    daemon.wait_for_state("READY=1");
    assert_eq!(daemon.ask(), document(OTHER_RULES));
}

#[test]
fn a_thousand_reloads_half_of_them_broken_lose_none_of_100_000_requests() {
    const RELOADS: usize = 1000;
    const REQUESTS: usize = 100_000;
    let test = "a_thousand_reloads_half_of_them_broken_lose_none_of_100_000_requests";
    in_a_roomy_network(test, || {
        let mut daemon = Setup::new().start();
        let documents = [document(RULES), document(OTHER_RULES)];
        let target = daemon.address();
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                load::run(&Load {
                    target,
                    requests: REQUESTS,
                    concurrency: 64,
                    shape: Shape::Whole,
                    sources: Sources::LOOPBACK,
                    documents: &[&documents[0], &documents[1]],
                })
            });
            let mut settled = 0;
            for number in 0..RELOADS {
                match number % 4 {
                    0 => daemon.write_rules(OTHER_RULES),
                    2 => daemon.write_rules(RULES),
                    _ => {
                        daemon.break_main_file();
                    }
                }
                daemon.reload();
                if number == RELOADS / 10 {
                    settled = daemon.status().resident_kib();
                }
            }
            let grown = daemon.status().resident_kib().saturating_sub(settled);
            let report = client.join().expect("the load");
            report.assert_all_answered();
            let [first, second] = report.by_document[..] else { panic!("two documents") };
            assert!(first > 0 && second > 0, "both policies were served: {first}, {second}");
            // A leak of one configuration or one document per reload would be a megabyte and more.
            assert!(grown <= 512, "resident memory grew by {grown} KiB over 900 reloads");
            figure(test, "reloads", RELOADS, "reloads");
            figure(test, "answered", report.answered, "requests");
            figure(test, "memory-growth", grown, "KiB");
        });
        let mark = daemon.log.mark();
        daemon.signal(Signal::SIGUSR1);
        let counters = daemon.log.wait_for_after(mark, "served");
        let expected = format!("reloads {}, failed reloads {}", RELOADS / 2, RELOADS / 2);
        assert!(counters.contains(&expected), "{counters}");
    });
}

/// What a socket unit, or the descriptor store, makes of a restart: the socket outlives the
/// daemon, and whoever queues up meanwhile is served by the next one.
#[test]
fn twenty_restarts_on_a_socket_that_is_kept_lose_nobody() {
    let test = "twenty_restarts_on_a_socket_that_is_kept_lose_nobody";
    restarts_lose_nobody(test, 20, Shape::Whole, b"");
}

/// Somebody else does not finish a request, so that the daemon ends when the time for it has passed.
#[test]
fn restarts_on_a_socket_that_is_kept_cut_nobody_off_in_the_middle() {
    let test = "restarts_on_a_socket_that_is_kept_cut_nobody_off_in_the_middle";
    restarts_lose_nobody(test, 5, Shape::ByteByByte, &REQUEST[..10]);
}

/// The soak found it: a daemon that stopped closed the oldest connection for each that came.
#[test]
fn a_client_has_200_ms_for_its_request_while_the_daemon_stops_and_others_come() {
    let test = "a_client_has_200_ms_for_its_request_while_the_daemon_stops_and_others_come";
    in_a_roomy_network(test, || {
        let socket = listen((Ipv4Addr::LOCALHOST, 0).into());
        let target = address_of(&socket);
        let mut daemon = Setup::inherited(vec![socket])
            .tables(
                "[limits]\nrequest-timeout = \"2s\"\nconnections = 4\nconnections-per-source = 4",
            )
            .start();
        let begin = |bytes: &[u8]| {
            let mut stream = dial(target);
            stream.write_all(bytes).expect("the beginning of a request");
            stream
        };
        // So that there is somebody whom the daemon waits for.
        let _other = begin(&REQUEST[..1]);
        daemon.signal(Signal::SIGTERM);
        daemon.log.wait_for("SIGTERM: stopping");
        let mut client = begin(&REQUEST[..10]);
        let _newcomers: Vec<_> = (0..16).map(|_| begin(&REQUEST[..5])).collect();
        thread::sleep(Duration::from_millis(50));
        client.write_all(&REQUEST[10..]).expect("the rest of the request");
        assert_eq!(read_to_end(&mut client), document(RULES));
        assert!(daemon.wait_for_exit(SOON).success());
    });
}

/// Somebody has sent `unfinished` at each end.
fn restarts_lose_nobody(test: &str, restarts: usize, shape: Shape, unfinished: &[u8]) {
    in_a_roomy_network(test, || {
        let socket = listen((Ipv4Addr::LOCALHOST, 0).into());
        let target = address_of(&socket);
        let start = || {
            Setup::inherited(vec![socket.try_clone().expect("a descriptor")])
                .tables("[limits]\nrequest-timeout = \"1s\"")
                .start()
        };
        let is_over = AtomicBool::new(false);
        let (progress, goes_on) = mpsc::channel();
        let mut daemon = start();
        thread::scope(|scope| {
            let is_over = &is_over;
            let client = scope.spawn(move || {
                let mut answered = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let report = load::run(&Load {
                        target,
                        requests: 500,
                        concurrency: 32,
                        shape,
                        sources: Sources::LOOPBACK,
                        documents: &[&document(RULES)],
                    });
                    report.assert_all_answered();
                    answered += report.answered;
                    let _ = progress.send(());
                }
                answered
            });
            for _ in 0..restarts {
                goes_on.recv_timeout(SOON).expect("another 500 answers");
                let mut other = dial(target);
                other.write_all(unfinished).expect("a part of a request");
                assert_eq!(daemon.terminate().code(), Some(0));
                daemon = start();
            }
            is_over.store(true, Ordering::Relaxed);
            let answered = client.join().expect("the load");
            figure(test, "answered", answered, "requests");
        });
    });
}

#[test]
fn a_user_database_that_the_service_user_cannot_read_is_no_fault_of_a_reload() {
    let test = "a_user_database_that_the_service_user_cannot_read_is_no_fault_of_a_reload";
    let Some(unshare) = unshare_of_mounts(test) else { return };
    let setup = Setup::new();
    let database = setup.directory.file("passwd", fs::read("/etc/passwd").expect("accounts"));
    set_mode(&database, 0o600);
    // Without a service that makes accounts up.
    let order = setup.directory.file("nsswitch.conf", "passwd: files\ngroup: files\n");
    let hide = format!(
        "mount --bind {} /etc/passwd && mount --bind {} /etc/nsswitch.conf && exec \"$@\"",
        database.display(),
        order.display()
    );
    let unshare = unshare.to_str().expect("a path in UTF-8");
    let mut daemon = setup.through([unshare, "--mount", "sh", "-c", &hide, "sh"]).start();
    daemon.write_rules(OTHER_RULES);
    daemon.reload();
    assert_eq!(daemon.ask(), document(OTHER_RULES));
}

#[test]
fn a_reload_in_the_sandbox_follows_links_of_every_kind() {
    let setup = Setup::new().keys("sandbox = \"best-effort\"");
    let directory = setup.directory.path().to_owned();
    for name in ["elsewhere", "elsewhere/deep", "links", "policy.d"] {
        fs::create_dir_all(directory.join(name)).expect("a directory");
        set_mode(&directory.join(name), 0o755);
    }
    let rule = |domain: &str| {
        format!(
            "<cross-domain-policy><allow-access-from domain=\"{domain}\" to-ports=\"1\"/></cross-domain-policy>"
        )
    };
    setup.directory.file("elsewhere/game.xml", rule("one.test"));
    symlink("../elsewhere/deep", directory.join("links/deep")).expect("a link");
    let target = directory.join("links/deep/../game.xml");
    symlink(target, directory.join("policy.d/game.xml")).expect("a link");
    symlink("/dev/null", directory.join("policy.d/masked.xml")).expect("a link");
    let mut daemon = setup.start();
    daemon.directory.file("elsewhere/game.xml", rule("two.test"));
    daemon.reload();
    let answer = String::from_utf8(daemon.ask()).expect("a document");
    assert!(answer.contains("two.test"), "{answer}");
}

#[test]
fn a_broken_file_of_a_package_does_not_keep_a_grant_that_another_has_taken_back() {
    let setup = Setup::new();
    let packages = setup.directory.path().join("policy.d");
    let setup = setup.keys(&format!("vendor-dirs = [\"{}\"]", packages.display()));
    fs::create_dir_all(&packages).expect("policy.d");
    set_mode(&packages, 0o755);
    let drop_in =
        |domain: &str| format!("[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = 6000\n");
    setup.directory.file("policy.d/broken.toml", "[[allow-access-from]");
    setup.directory.file("policy.d/game.toml", drop_in("game.test"));
    let mut daemon = setup.start();
    let answer = |daemon: &mut Daemon| String::from_utf8(daemon.ask()).expect("a document");
    assert!(answer(&mut daemon).contains("game.test"), "it starts without the broken file");
    daemon.log.wait_for("; 1 broken drop-in of a package is left out; ");

    fs::remove_file(packages.join("game.toml")).expect("the package is purged");
    daemon.reload();
    assert_eq!(daemon.ask(), document(RULES));

    daemon.directory.file("policy.d/broken.toml", drop_in("mended.test"));
    daemon.reload();
    assert!(answer(&mut daemon).contains("mended.test"));
}

#[test]
fn a_directory_that_was_made_after_the_start_is_said_to_need_a_restart() {
    let test = "a_directory_that_was_made_after_the_start_is_said_to_need_a_restart";
    let (directory, elsewhere) = (Scratch::new(), Scratch::new());
    let (policies, own) = (elsewhere.path().join("policy.d"), directory.path().join("policy.d"));
    fs::create_dir(&own).expect("a directory");
    set_mode(&own, 0o755);
    let user = if is_root() { format!("user = \"{SERVICE_USER}\"\n") } else { String::new() };
    let main_file = directory.file(
        MAIN_FILE,
        format!("listen = [\"{}\"]\npolicy-dirs = {:?}\n{user}", free_address(), [&policies, &own]),
    );
    let daemon = Alone::serve(&main_file);
    let line = daemon.wait_for(&policies.display().to_string());
    assert!(line.ends_with(" does not exist: if you create it, restart the daemon"), "{line}");
    let sandbox = daemon.wait_for("sandbox: ");
    if sandbox.contains("no landlock") {
        return skip(test, sandbox);
    }
    daemon.wait_for(": serving ");
    fs::create_dir(&policies).expect("a directory");
    set_mode(&policies, 0o755);
    daemon.hang_up();
    let line = daemon.wait_for("cannot read this directory");
    let remedy = format!(
        "Permission denied (os error 13); if masterpolicyd -c {} check can read it, the sandbox \
         does not reach what was not there at the start: restart the daemon",
        main_file.display()
    );
    assert!(line.ends_with(&remedy), "{line}");
    fs::remove_dir(&policies).expect("no directory");
    let new = elsewhere.file("game.toml", "# a rule will come\n");
    symlink(new, own.join("game.toml")).expect("a link");
    daemon.hang_up();
    let line = daemon.wait_for("game.toml:1:1: cannot read");
    assert!(line.ends_with(&remedy), "{line}");
}

#[test]
fn a_missing_directory_that_a_reload_can_read_once_it_is_there_needs_no_restart() {
    let test = "a_missing_directory_that_a_reload_can_read_once_it_is_there_needs_no_restart";
    let (directory, elsewhere) = (Scratch::new(), Scratch::new());
    let (beneath, link) = (directory.join("deep/policy.d"), directory.join("link"));
    symlink(elsewhere.join("policy.d"), &link).expect("a link");
    let user = if is_root() { format!("user = \"{SERVICE_USER}\"\n") } else { String::new() };
    let main_file = directory.file(
        MAIN_FILE,
        format!("listen = [\"{}\"]\npolicy-dirs = {:?}\n{user}", free_address(), [&beneath, &link]),
    );
    let daemon = Alone::serve(&main_file);
    let told = daemon.lines_until(": serving ");
    let (restarts, others): (Vec<_>, Vec<_>) =
        told.into_iter().partition(|line| line.contains("does not exist"));
    if others.iter().any(|line| line.contains("no landlock")) {
        assert_eq!(restarts, [""; 0], "nothing is out of reach");
        return skip(test, "no landlock");
    }
    // Where the link leads is out of reach, though the link itself is not.
    assert_eq!(restarts.len(), 1, "{restarts:?}");
    assert!(
        restarts[0]
            .contains(&format!("{} does not exist: if you create it, restart", link.display()))
    );

    directory.directory("deep");
    directory.directory("deep/policy.d");
    directory.file(
        "deep/policy.d/game.toml",
        "[[allow-access-from]]\ndomain = \"a.test\"\nto-ports = 1\n",
    );
    daemon.hang_up();
    daemon.wait_for("1 rule");
}

/// A daemon with a main file of the test's own and nothing else; it ends with the test.
struct Alone {
    child: Child,
    lines: Receiver<String>,
}

impl Alone {
    fn serve(main_file: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("-c")
            .arg(main_file)
            .arg("serve")
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::piped())
            .spawn()
            .expect("a daemon");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let (told, lines) = mpsc::channel();
        thread::spawn(move || {
            log.lines().map_while(Result::ok).try_for_each(|line| told.send(line))
        });
        Self { child, lines }
    }

    /// The next line of the log with this in it.
    #[track_caller]
    fn wait_for(&self, needle: &str) -> String {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(needle) => return line,
                Ok(_) => {}
                Err(error) => panic!("no line with {needle:?}: {error}"),
            }
        }
    }

    /// The lines of the log before the next one with this in it.
    #[track_caller]
    fn lines_until(&self, needle: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.wait_for("");
            if line.contains(needle) {
                return lines;
            }
            lines.push(line);
        }
    }

    fn hang_up(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        kill(pid, Signal::SIGHUP).expect("a signal");
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of 127.0.0.1 that nobody listens on.
fn free_address() -> String {
    address_of(&listen((Ipv4Addr::LOCALHOST, 0).into())).to_string()
}
