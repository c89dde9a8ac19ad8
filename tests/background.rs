//! What may block keeps no client waiting: a service manager that does not read, a log that nobody
//! reads, a file system that has lost its server, and reloads without a pause.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Gid, Pid, Uid, User, getegid, geteuid, getpid};

use support::daemon::{RULES, Stderr, document};
use support::load::{self, Load, Report, Shape, Sources};
use support::network::in_a_roomy_network;
use support::process::Status;
use support::{Daemon, SERVICE_USER, SOON, Setup, figure, find_program, is_root, set_mode, skip};

fn exchanges(target: SocketAddr, requests: usize, documents: &[&[u8]]) -> Report {
    let load = Load {
        target,
        requests,
        concurrency: 16,
        shape: Shape::Whole,
        sources: Sources::LOOPBACK,
        documents,
    };
    load::run(&load)
}

/// Sends SIGHUP at this pace while `body` runs; how many there were.
fn with_hangups<T>(daemon: &Daemon, pause: Duration, body: impl FnOnce() -> T) -> (T, usize) {
    let (pid, ended) = (daemon.pid, AtomicBool::new(false));
    thread::scope(|scope| {
        let signals = scope.spawn(|| {
            let mut count = 0;
            while !ended.load(Ordering::Relaxed) {
                kill(pid, Signal::SIGHUP).expect("a daemon that runs");
                count += 1;
                // This is the pace of the load, and no wait for anything.
                thread::sleep(pause);
            }
            count
        });
        let outcome = body();
        ended.store(true, Ordering::Relaxed);
        (outcome, signals.join().expect("the signals"))
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[test]
fn a_service_manager_that_does_not_read_keeps_nobody_waiting() {
    const REQUESTS: usize = 20_000;
    let test = "a_service_manager_that_does_not_read_keeps_nobody_waiting";
    in_a_roomy_network(test, || {
        let daemon = Setup::new().start();
        let expected = document(RULES);
        let documents = [expected.as_slice()];
        let quiet = exchanges(daemon.address(), REQUESTS, &documents);
        quiet.assert_all_answered();
        // Nobody reads the notify socket from here on.
        let pace = Duration::from_millis(20);
        let (report, hangups) =
            with_hangups(&daemon, pace, || exchanges(daemon.address(), REQUESTS, &documents));
        report.assert_all_answered();
        let (slowest, without) = (report.latency.longest(), quiet.latency.longest());
        figure(test, "answered", report.answered, "requests");
        figure(test, "reloads", hangups, "reloads");
        figure(test, "slowest", format_args!("{:.1}", milliseconds(slowest)), "ms");
        figure(test, "slowest-quiet", format_args!("{:.1}", milliseconds(without)), "ms");
        // A second, which each reload once took, would be far beyond both.
        let allowed = (10 * without).max(Duration::from_millis(300));
        assert!(slowest < allowed, "{slowest:?}; without reloads {without:?}");
    });
}

#[test]
fn the_watchdog_is_fed_while_a_reload_hangs() {
    let test = "the_watchdog_is_fed_while_a_reload_hangs";
    let mut daemon = Setup::new().environment("WATCHDOG_USEC", "400000").start();
    let Some(_slow) = SlowFiles::of(test, &daemon, "600s") else { return };
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("RELOADING=1");
    for _ in 0..3 {
        daemon.wait_for_state("WATCHDOG=1");
    }
}

/// A terminal whose other end nobody reads, as after ^S or on a dead serial line.
fn stopped_terminal() -> (OwnedFd, OwnedFd) {
    let terminal = openpty(None, None).expect("a pseudo-terminal");
    let mut modes = tcgetattr(&terminal.slave).expect("the terminal's modes");
    cfmakeraw(&mut modes);
    tcsetattr(&terminal.slave, SetArg::TCSANOW, &modes).expect("a raw terminal");
    (terminal.master, terminal.slave)
}

/// Serves with a line for each request, which nobody reads.
fn serves_unread(test: &str, setup: Setup) {
    const REQUESTS: usize = 20_000;
    let tables = "[log]\nrequests = true\n[limits]\nrequest-timeout = \"1s\"";
    let mut daemon = setup.tables(tables).start();
    let expected = document(RULES);
    let report = exchanges(daemon.address(), REQUESTS, &[&expected]);
    report.assert_all_answered();
    figure(test, "answered", report.answered, "requests");
    let began = Instant::now();
    assert_eq!(daemon.terminate().code(), Some(0));
    let stopped = began.elapsed();
    figure(test, "stopped", format_args!("{:.1}", stopped.as_secs_f64()), "s");
    assert!(stopped < Duration::from_secs(5), "SIGTERM took {stopped:?}");
}

#[test]
fn a_terminal_that_nobody_reads_keeps_nobody_waiting() {
    let test = "a_terminal_that_nobody_reads_keeps_nobody_waiting";
    in_a_roomy_network(test, || {
        let (_master, slave) = stopped_terminal();
        serves_unread(test, Setup::new().stderr(Stderr::Given(slave)));
    });
}

#[test]
fn a_full_pipe_keeps_nobody_waiting() {
    let test = "a_full_pipe_keeps_nobody_waiting";
    in_a_roomy_network(test, || serves_unread(test, Setup::new().stderr(Stderr::Full)));
}

/// A tracer that makes each opening of a file take longer; gone when dropped.
struct SlowFiles(Child);

impl SlowFiles {
    /// Makes each opening of a file in the daemon take so long from here on, as on a file system
    /// that has lost its server.
    fn of(test: &str, daemon: &Daemon, delay: &str) -> Option<Self> {
        let Some(strace) = find_program("strace") else {
            skip(test, "strace is not installed");
            return None;
        };
        let mut tracer = Command::new(strace)
            .args(["-f", "-o", "/dev/null", "-e", "trace=openat", "-e"])
            .arg(format!("inject=openat:delay_enter={delay}"))
            .args(["-p", &daemon.pid.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting strace");
        let mut line = String::new();
        let stderr = tracer.stderr.take().expect("its standard error");
        BufReader::new(stderr).read_line(&mut line).expect("a line of strace");
        if !line.contains("attached") {
            let _ = tracer.wait();
            skip(test, format_args!("strace may not trace the daemon: {}", line.trim()));
            return None;
        }
        Some(Self(tracer))
    }
}

impl Drop for SlowFiles {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_that_takes_three_seconds_to_open_keeps_nobody_waiting() {
    let test = "a_file_that_takes_three_seconds_to_open_keeps_nobody_waiting";
    let mut daemon = Setup::new().start();
    let Some(slow) = SlowFiles::of(test, &daemon, "3s") else { return };
    daemon.write_rules(&[("slow.example", "6000")]);
    let (old, new) = (document(RULES), document(&[("slow.example", "6000")]));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("RELOADING=1");
    let report = exchanges(daemon.address(), 200, &[&old, &new]);
    report.assert_all_answered();
    assert_eq!(report.by_document, [200, 0], "the old policy serves while the new one is read");
    let longest = report.latency.longest();
    figure(test, "slowest", format_args!("{:.1}", milliseconds(longest)), "ms");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // What is open stays slow; what comes is fast again.
    drop(slow);
    daemon.wait_for_state("READY=1");
    assert_eq!(daemon.ask(), new);
}

#[test]
fn a_reload_that_hangs_is_said_to_run_and_the_end_does_not_wait_for_it() {
    let test = "a_reload_that_hangs_is_said_to_run_and_the_end_does_not_wait_for_it";
    let mut daemon = Setup::new().start();
    let Some(slow) = SlowFiles::of(test, &daemon, "600s") else { return };
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("RELOADING=1");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("a reload has been running for");
    daemon.wait_for_status("reloading for");
    assert_eq!(daemon.ask(), document(RULES));
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopped: ");
    // The thread that hangs is the tracer's to bury. All that matters is that the first has ended.
    let began = Instant::now();
    while !Status::of(daemon.pid).field("State").starts_with('Z') {
        assert!(began.elapsed() < SOON, "the daemon waits for the reload");
        thread::yield_now();
    }
    drop(slow);
    assert_eq!(daemon.wait_for_exit(SOON).code(), Some(0));
}

#[test]
fn reloads_of_a_thousand_drop_ins_without_pause_keep_nobody_waiting() {
    const REQUESTS: usize = 20_000;
    let test = "reloads_of_a_thousand_drop_ins_without_pause_keep_nobody_waiting";
    in_a_roomy_network(test, || {
        let setup = Setup::new();
        let policies = setup.directory.path().join("policy.d");
        fs::create_dir_all(&policies).expect("policy.d");
        let mut rules: Vec<(String, String)> =
            RULES.iter().map(|(domain, ports)| ((*domain).into(), (*ports).into())).collect();
        for number in 0..1000 {
            let (domain, ports) = (format!("g{number:04}.example"), "5000");
            let drop_in =
                format!("[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = \"{ports}\"\n");
            let file = policies.join(format!("g{number:04}.toml"));
            fs::write(&file, drop_in).expect("a drop-in");
            set_mode(&file, 0o644);
            rules.push((domain, ports.into()));
        }
        let rules: Vec<_> = rules.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let expected = document(&rules);
        let daemon = setup.start();
        let quiet = exchanges(daemon.address(), REQUESTS, &[&expected]);
        quiet.assert_all_answered();
        let pace = Duration::from_millis(1);
        let (report, _) =
            with_hangups(&daemon, pace, || exchanges(daemon.address(), REQUESTS, &[&expected]));
        report.assert_all_answered();
        let (with, without) = (report.latency.quantile(999), quiet.latency.quantile(999));
        figure(test, "p999", format_args!("{:.2}", milliseconds(with)), "ms");
        figure(test, "p999-quiet", format_args!("{:.2}", milliseconds(without)), "ms");
        figure(
            test,
            "p999-ratio",
            format_args!("{:.2}", with.as_secs_f64() / without.as_secs_f64()),
            "times",
        );
    });
}

/// Ids, capabilities, `no_new_privs`, the mask of signals and the sandbox belong to a thread.
#[test]
fn every_thread_has_dropped_every_privilege() {
    const CAP_SETPCAP: u64 = 1 << 8;
    let own = Status::of(getpid());
    let (user, group) = if is_root() { service_ids() } else { (geteuid(), getegid()) };
    let (users, groups) = (vec![user.to_string(); 4], vec![group.to_string(); 4]);
    let other_groups = if is_root() { "" } else { own.field("Groups") };
    let can_empty_bounding_set = is_root() && own.capabilities("CapEff") & CAP_SETPCAP != 0;
    let bounding = if can_empty_bounding_set { 0 } else { own.capabilities("CapBnd") };
    let daemon = Setup::new().start();
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", daemon.pid))
        .expect("the threads")
        .map(|entry| entry.expect("a thread").file_name())
        .collect();
    assert_eq!(threads.len(), 3, "serving, reloading and writing the log: {threads:?}");
    for thread in threads {
        let number = thread.to_str().and_then(|text| text.parse().ok()).expect("a thread id");
        let status = Status::of(Pid::from_raw(number));
        let name = status.field("Name");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status.capabilities(set), 0, "{set} of {name}");
        }
        assert_eq!(status.capabilities("CapBnd"), bounding, "CapBnd of {name}");
        assert_eq!(status.words("Uid"), users, "real, effective, saved, files: of {name}");
        assert_eq!(status.words("Gid"), groups, "real, effective, saved, files: of {name}");
        assert_eq!(status.field("Groups"), other_groups, "of {name}");
        assert_eq!(status.field("NoNewPrivs"), "1", "of {name}");
        assert_eq!(status.field("Seccomp"), "2", "of {name}");
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            assert!(status.holds_back(signal), "{signal} interrupts {name}");
        }
    }
}

/// The user and the group of those who serve when root has started them.
fn service_ids() -> (Uid, Gid) {
    let user = User::from_name(SERVICE_USER).expect("the user database").expect("the service user");
    (user.uid, user.gid)
}

#[test]
fn sigterm_is_heeded_while_the_log_is_full() {
    let mut daemon = Setup::new().stderr(Stderr::Full).start();
    daemon.signal(Signal::SIGHUP);
    let began = Instant::now();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait_for_exit(SOON).code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}
