//! What may block keeps no client waiting: a service manager that does not read, a log that nobody
//! reads, a file system that has lost its server, and reloads without a pause.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use masterpolicyd::config::bounds;
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Gid, Pid, Uid, User, getegid, geteuid, getpid};

use support::daemon::{RULES, Stderr, dial, document, read_to_end};
use support::load::{self, Load, Report, Shape, Sources};
use support::network::{address_of, in_a_roomy_network, listen};
use support::process::Status;
use support::slow_files::SlowFiles;
use support::{Daemon, SERVICE_USER, SOON, Setup, figure, is_root, set_mode, skip};

/// How many requests are made while something blocks. `MASTERPOLICYD_BLOCKED=100000` is the full
/// number.
fn requests() -> usize {
    let set = std::env::var("MASTERPOLICYD_BLOCKED").ok();
    set.map_or(20_000, |text| text.parse().expect("a number of requests"))
}

/// What is promised holds in a release build, on a machine that does nothing else. In a build for
/// debugging, beside other tests, it is enough that nobody waits for what blocks.
fn allowed(promised: Duration, in_any_case: Duration) -> Duration {
    if cfg!(debug_assertions) { promised.max(in_any_case) } else { promised }
}

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

/// Sends SIGHUP at this pace while `body` runs; how many reloads ended meanwhile.
fn with_hangups<T>(daemon: &Daemon, pause: Duration, body: impl FnOnce() -> T) -> (T, usize) {
    let mark = daemon.log.mark();
    let (pid, ended) = (daemon.pid, AtomicBool::new(false));
    thread::scope(|scope| {
        let signals = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                kill(pid, Signal::SIGHUP).expect("a daemon that runs");
                // This is the pace of the load, and no wait for anything.
                thread::sleep(pause);
            }
        });
        let outcome = body();
        let lines = daemon.log.lines_after(mark);
        ended.store(true, Ordering::Relaxed);
        signals.join().expect("the signals");
        (outcome, lines.iter().filter(|line| line.contains("reloaded: ")).count())
    })
}

/// A program that takes what processor time nobody else wants, which shows what any third busy
/// thread does to latencies.
struct IdleLoop(Child);

impl IdleLoop {
    fn start() -> Self {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]);
        Self(command.spawn().expect("starting chrt"))
    }
}

impl Drop for IdleLoop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[test]
fn a_service_manager_that_does_not_read_keeps_nobody_waiting() {
    let test = "a_service_manager_that_does_not_read_keeps_nobody_waiting";
    in_a_roomy_network(test, || {
        let daemon = Setup::new().start();
        let expected = document(RULES);
        let documents = [expected.as_slice()];
        let quiet = exchanges(daemon.address(), requests(), &documents);
        quiet.assert_all_answered();
        daemon.fill_notify_socket();
        let pace = Duration::from_millis(20);
        let (report, reloads) =
            with_hangups(&daemon, pace, || exchanges(daemon.address(), requests(), &documents));
        report.assert_all_answered();
        let (slowest, without) = (report.latency.longest(), quiet.latency.longest());
        figure(test, "answered", report.answered, "requests");
        figure(test, "reloads", reloads, "reloads");
        figure(test, "slowest", format_args!("{:.1}", milliseconds(slowest)), "ms");
        figure(test, "slowest-quiet", format_args!("{:.1}", milliseconds(without)), "ms");
        assert!(reloads > 0, "nothing was to be told");
        // Waiting for the service manager takes a second for each reload.
        let promised = (10 * without).max(Duration::from_millis(50));
        let allowed = allowed(promised, Duration::from_millis(900));
        assert!(slowest < allowed, "{slowest:?}; without reloads {without:?}");
    });
}

#[test]
fn the_watchdog_is_fed_while_a_reload_hangs() {
    let test = "the_watchdog_is_fed_while_a_reload_hangs";
    let mut daemon = Setup::new().environment("WATCHDOG_USEC", "400000").start();
    let Some(_slow) = SlowFiles::all(test, &daemon, "600s") else { return };
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("RELOADING=1");
    let (began, mut told) = (Instant::now(), Vec::new());
    while told.iter().filter(|state| *state == "WATCHDOG=1").count() < 3 {
        assert!(began.elapsed() < SOON, "the watchdog is not fed: {told:?}");
        told.extend(daemon.states());
    }
    assert!(!told.iter().any(|state| state == "READY=1"), "the reload hangs: {told:?}");
}

/// A terminal whose other end nobody reads, as after ^S or on a dead serial line.
/// Says `skipped` where there can be none, as in a chroot without `/dev/pts`.
fn stopped_terminal(test: &str) -> Option<(OwnedFd, OwnedFd)> {
    let terminal = match openpty(None, None) {
        Ok(terminal) => terminal,
        Err(error) => {
            skip(test, format_args!("no pseudo-terminal: {error}"));
            return None;
        }
    };
    let mut modes = tcgetattr(&terminal.slave).expect("the terminal's modes");
    cfmakeraw(&mut modes);
    tcsetattr(&terminal.slave, SetArg::TCSANOW, &modes).expect("a raw terminal");
    Some((terminal.master, terminal.slave))
}

/// How many lines of its log the daemon has dropped, as it tells a scraper.
fn lines_dropped(metrics: SocketAddr) -> usize {
    let mut stream = dial(metrics);
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sending the request");
    let text = String::from_utf8(read_to_end(&mut stream)).expect("text");
    text.lines()
        .find_map(|line| line.strip_prefix("masterpolicyd_log_lines_dropped_total "))
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no count of lines in\n{text}"))
}

/// Serves with a line for each request, which nobody reads, or not as fast as they come.
fn serves_unread(test: &str, stderr: Stderr) {
    let [policy, metrics] = [(); 2].map(|()| listen((Ipv4Addr::LOCALHOST, 0).into()));
    let (serving, scraped) = (address_of(&policy), address_of(&metrics));
    let mut daemon = Setup::inherited(vec![policy, metrics])
        .listening_on(&[serving])
        .stderr(stderr)
        .tables("[log]\nrequests = true\n[limits]\nrequest-timeout = \"1s\"")
        .tables(&format!("[metrics]\nlisten = \"{scraped}\""))
        .start();
    let expected = document(RULES);
    let report = exchanges(daemon.address(), requests(), &[&expected]);
    report.assert_all_answered();
    figure(test, "answered", report.answered, "requests");
    daemon.overfill_log(|| lines_dropped(scraped) > 0);
    let began = Instant::now();
    assert_eq!(daemon.terminate().code(), Some(0));
    let stopped = began.elapsed();
    figure(test, "stopped", format_args!("{:.1}", stopped.as_secs_f64()), "s");
    // The deadline of the requests is a second, and the log has one more.
    let allowed = allowed(Duration::from_secs(2), Duration::from_secs(5));
    assert!(stopped < allowed, "SIGTERM took {stopped:?}");
}

#[test]
fn a_terminal_that_nobody_reads_keeps_nobody_waiting() {
    let test = "a_terminal_that_nobody_reads_keeps_nobody_waiting";
    in_a_roomy_network(test, || {
        let Some((_master, slave)) = stopped_terminal(test) else { return };
        serves_unread(test, Stderr::Given(slave));
    });
}

/// Reads the other end of a terminal at 960 bytes a second, as a serial line of 9600 baud does,
/// until it ends or nobody writes any more.
fn read_slowly(mut line: File, is_over: &AtomicBool) {
    let mut bytes = [0; 96];
    while !is_over.load(Ordering::Relaxed) && line.read(&mut bytes).is_ok_and(|count| count > 0) {
        // This is the pace of the line, and no wait for anything.
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_slow_serial_line_keeps_nobody_waiting() {
    let test = "a_slow_serial_line_keeps_nobody_waiting";
    in_a_roomy_network(test, || {
        let Some((master, slave)) = stopped_terminal(test) else { return };
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| read_slowly(File::from(master), &is_over));
            serves_unread(test, Stderr::Given(slave));
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_full_pipe_keeps_nobody_waiting() {
    let test = "a_full_pipe_keeps_nobody_waiting";
    in_a_roomy_network(test, || serves_unread(test, Stderr::Full));
}

#[test]
fn a_file_that_takes_three_seconds_to_open_keeps_nobody_waiting() {
    let test = "a_file_that_takes_three_seconds_to_open_keeps_nobody_waiting";
    let mut daemon = Setup::new().start();
    let Some(slow) = SlowFiles::all(test, &daemon, "3s") else { return };
    daemon.write_rules(&[("slow.example", "6000")]);
    let (old, new) = (document(RULES), document(&[("slow.example", "6000")]));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("RELOADING=1");
    let report = exchanges(daemon.address(), 200, &[&old, &new]);
    report.assert_all_answered();
    assert_eq!(report.by_document, [200, 0], "the old policy serves while the new one is read");
    let longest = report.latency.longest();
    figure(test, "slowest", format_args!("{:.1}", milliseconds(longest)), "ms");
    let allowed = allowed(Duration::from_millis(50), Duration::from_secs(1));
    assert!(longest < allowed, "{longest:?}");
    // What is open stays slow; what comes is fast again.
    drop(slow);
    daemon.wait_for_state("READY=1");
    assert_eq!(daemon.ask(), new);
}

#[test]
fn a_reload_that_hangs_is_said_to_run_and_the_end_does_not_wait_for_it() {
    let test = "a_reload_that_hangs_is_said_to_run_and_the_end_does_not_wait_for_it";
    let mut daemon = Setup::new().start();
    let Some(slow) = SlowFiles::all(test, &daemon, "600s") else { return };
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
        thread::park_timeout(Duration::from_millis(10));
    }
    drop(slow);
    assert_eq!(daemon.wait_for_exit(SOON).code(), Some(0));
}

/// Reloads so many drop-ins, each of so many bytes, again and again without a pause.
fn reloads_keep_nobody_waiting(test: &str, drop_ins: usize, size: usize, requests: usize) {
    in_a_roomy_network(test, || {
        let setup = Setup::new();
        let policies = setup.directory.path().join("policy.d");
        fs::create_dir_all(&policies).expect("policy.d");
        let mut rules: Vec<(String, String)> =
            RULES.iter().map(|(domain, ports)| ((*domain).into(), (*ports).into())).collect();
        for number in 0..drop_ins {
            let (domain, ports) = (format!("g{number:04}.example"), "5000");
            let rule =
                format!("[[allow-access-from]]\ndomain = \"{domain}\"\nto-ports = \"{ports}\"\n");
            let comment = "#".repeat(size.saturating_sub(rule.len() + 1));
            let file = policies.join(format!("g{number:04}.toml"));
            fs::write(&file, format!("{rule}{comment}\n")).expect("a drop-in");
            set_mode(&file, 0o644);
            rules.push((domain, ports.into()));
        }
        let rules: Vec<_> = rules.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let expected = document(&rules);
        let daemon = setup.start();
        let ask = || {
            let report = exchanges(daemon.address(), requests, &[&expected]);
            report.assert_all_answered();
            report
        };
        let quiet = ask();
        let mark = daemon.log.mark();
        let has_reloaded =
            || daemon.log.lines_after(mark).iter().any(|line| line.contains("reloaded: "));
        let (rounds, reloads) = with_hangups(&daemon, Duration::from_millis(1), || {
            let began = Instant::now();
            let mut rounds = vec![ask()];
            while !has_reloaded() {
                assert!(began.elapsed() < SOON, "no reload ends while requests come");
                rounds.push(ask());
            }
            rounds
        });
        figure(test, "reloads", reloads, "reloads");
        let slowest = rounds.iter().map(|report| report.latency.longest()).max();
        assert!(slowest < Some(Duration::from_secs(1)), "{slowest:?}");
        let busy = {
            let _idle_loop = IdleLoop::start();
            ask()
        };
        let p999 = |report: &Report| report.latency.quantile(999);
        let reloading = rounds.iter().map(p999).max().unwrap_or_default();
        for (name, latency) in
            [("p999", reloading), ("p999-quiet", p999(&quiet)), ("p999-busy", p999(&busy))]
        {
            figure(test, name, format_args!("{:.2}", milliseconds(latency)), "ms");
        }
    });
}

#[test]
fn reloads_of_a_thousand_drop_ins_without_pause_keep_nobody_waiting() {
    let test = "reloads_of_a_thousand_drop_ins_without_pause_keep_nobody_waiting";
    reloads_keep_nobody_waiting(test, 1000, 0, 20_000);
}

/// With the main file, as many files, rules and bytes as are accepted, and nearly as long a document.
#[test]
fn reloads_of_the_largest_configuration_without_pause_keep_nobody_waiting() {
    let test = "reloads_of_the_largest_configuration_without_pause_keep_nobody_waiting";
    reloads_keep_nobody_waiting(test, bounds::FILES - 1, 1023, 2000);
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
