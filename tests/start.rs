//! What the daemon was started with: descriptors, limits, signals, an environment. It serves, or
//! it ends with a line that says why; never by a signal, but those that ask it to.

mod support;

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use support::daemon::{RULES, Stderr, document};
use support::process::{Status, strace};
use support::{Daemon, SOON, Scratch, Setup, figure, is_root, skip, unshare_of_mounts};

/// A shell that runs `script` and then becomes the daemon by `exec "$@"`; `$0` is `argument`.
fn shell(script: &str, argument: &Path) -> [OsString; 4] {
    ["sh".into(), "-c".into(), script.into(), argument.into()]
}

/// What a descriptor of a process is, where that can be seen.
fn descriptor(pid: Pid, number: u32) -> Option<String> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
    Some(target.to_string_lossy().into_owned())
}

#[test]
fn what_was_inherited_and_is_not_meant_is_closed() {
    let directory = Scratch::new();
    let secret = directory.file("secret", "what only root reads");
    let script = "exec \"$@\" 9<\"$0\"";
    let daemon = Setup::new().argument("-v").through(shell(script, &secret)).start();
    let line = daemon.log.wait_for("closed inherited descriptors");
    let numbers = line.rsplit_once(": ").expect("descriptors").1;
    // The shell may leave some of its own behind.
    assert!(numbers.split(", ").any(|number| number == "9"), "{line}");
    if is_root() {
        let open = (0..64).filter_map(|number| descriptor(daemon.pid, number));
        assert_eq!(open.filter(|what| what.contains("secret")).count(), 0);
    }
    assert_eq!(daemon.ask(), document(RULES), "the socket that was meant is still there");
}

/// Room was made for as many, half a gigabyte, and SIGTERM was not heeded for 8 seconds.
#[test]
fn more_sockets_than_anybody_hands_over_are_refused() {
    for count in ["2147483647", "1025", "99999999999999"] {
        let free = "127.0.0.1:1".parse().expect("an address");
        let script = format!("LISTEN_FDS={count} LISTEN_PID=$$ exec \"$@\"");
        let setup = Setup::bound(&[free]).through(shell(&script, Path::new("sh")));
        let (code, log) = setup.start_in_vain();
        assert_eq!(code, Some(78), "{log}");
        assert!(log.contains(&format!("LISTEN_FDS={count}, but at most 1024 can be")), "{log}");
    }
}

#[test]
fn a_notify_socket_of_another_kind_is_a_warning() {
    let mut daemon = Setup::new().environment("NOTIFY_SOCKET", "vsock:2:1234").spawn();
    daemon.log.wait_for(": serving ");
    let line = daemon.log.wait_for("NOTIFY_SOCKET=vsock:2:1234");
    assert!(line.contains(" warn: "), "{line}");
    assert_eq!(daemon.ask(), document(RULES));
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// A daemon that takes seconds to start, since each file that it opens does a part of one; it has
/// begun, and is far from being ready.
fn starting(test: &str) -> Option<Daemon> {
    let slow = ["inject=openat:delay_enter=200000".to_owned()];
    let daemon = Setup::new().through(strace(test, Path::new("/dev/null"), slow)?).spawn();
    let deadline = Instant::now() + SOON;
    // The kernel tells nobody of a mask that has changed. The tracer, which becomes the daemon, may
    // hold signals back itself.
    let has_begun = |status: &Status| {
        status.field("Name") == "masterpolicyd" && status.holds_back(Signal::SIGHUP)
    };
    while !has_begun(&daemon.status()) {
        assert!(Instant::now() < deadline, "SIGHUP is not held back: {}", daemon.log.everything());
        thread::sleep(Duration::from_millis(5));
    }
    Some(daemon)
}

#[test]
fn what_asks_it_to_end_ends_a_start_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let test = "what_asks_it_to_end_ends_a_start_at_once";
        // As a shell without job control has it for what it runs in the background; the daemon
        // inherits that.
        if Status::of(nix::unistd::getpid()).ignores(signal) {
            skip(test, format_args!("{signal} is ignored by who started the tests"));
            continue;
        }
        let Some(mut daemon) = starting(test) else { return };
        daemon.signal(signal);
        let status = daemon.wait_for_exit(SOON);
        assert_eq!(status.signal(), Some(signal as i32), "{}", daemon.log.everything());
    }
}

#[test]
fn sighup_during_the_start_makes_a_reload_after_it() {
    let test = "sighup_during_the_start_makes_a_reload_after_it";
    let Some(mut daemon) = starting(test) else { return };
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_state("READY=1");
    daemon.wait_for_state("RELOADING=1");
    daemon.wait_for_state("READY=1");
    assert_eq!(daemon.ask(), document(RULES));
}

/// All signals but those that mean that the program has gone wrong, those that stop it or ask it to
/// end, and the two (32 and 33) that the C library keeps for itself.
#[test]
fn no_other_signal_ends_it() {
    const MEANT: [i32; 16] = [2, 3, 4, 5, 6, 7, 8, 9, 11, 15, 18, 19, 20, 31, 32, 33];
    let mut daemon = Setup::new().start();
    let others: Vec<i32> = (1..=64).filter(|number| !MEANT.contains(number)).collect();
    for number in &others {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{number} {}", daemon.pid)])
            .status()
            .expect("starting sh");
        assert!(status.success(), "sending signal {number}");
        assert_eq!(daemon.ask(), document(RULES), "after signal {number}");
    }
    assert_eq!(daemon.terminate().code(), Some(0));
    figure("no_other_signal_ends_it", "sent", others.len(), "signals");
}

/// The signal comes from the daemon's own write.
#[test]
fn a_standard_error_that_is_a_file_at_its_limit_does_not_end_it() {
    let directory = Scratch::new();
    let file = directory.path().join("log");
    let script = "ulimit -f 1; exec \"$@\" 2>\"$0\"";
    let setup = Setup::new().stderr(Stderr::Broken).through(shell(script, &file));
    let mut daemon = setup.start();
    for _ in 0..100 {
        daemon.signal(Signal::SIGUSR1);
        assert_eq!(daemon.ask(), document(RULES));
    }
    let length = fs::metadata(&file).expect("the log").len();
    assert!([512, 1024].contains(&length), "{length} bytes fill the file");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn too_few_descriptors_are_refused_with_the_number() {
    for limit in [6, 7, 31] {
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let setup = Setup::new().through(shell(&script, Path::new("sh")));
        let (code, log) = setup.start_in_vain();
        assert_eq!(code, Some(71), "{log}");
        let expected = format!("cannot serve with {limit} descriptors: allow 32 or more");
        assert!(log.contains(&expected), "{log}");
    }
    let daemon = Setup::new().descriptors(32).start();
    assert_eq!(daemon.ask(), document(RULES));
}

/// Starts it under a limit of a shell: it serves, or says why not. Returns whether it serves.
#[track_caller]
fn serves_or_says_why(setup: Setup, script: &str, refusal: &str) -> bool {
    let wrapper = shell(&format!("{script}; exec \"$@\""), Path::new("sh"));
    let mut daemon = setup.through(wrapper).spawn();
    let status = match daemon.ready_or_ended() {
        None => {
            assert_ne!(daemon.ask(), b"", "{script}");
            daemon.terminate()
        }
        Some(status) => status,
    };
    let log = daemon.log.everything();
    match status.code() {
        Some(0) => true,
        Some(71) => {
            assert!(log.contains(refusal), "{script}: {log}");
            false
        }
        // The linker has not got far enough to begin the program.
        Some(127) => false,
        _ => panic!("{script}: {}: {log}", ended(status)),
    }
}

/// With 3,000 rules to make room for, under limits (in KiB) that end with one that is enough. With
/// less than the first, a build for debugging ends in the loader, or in what Rust does before `main`.
#[track_caller]
fn serves_or_says_why_with_many_rules(option: &str) {
    let domains: Vec<String> = (0..3000).map(|number| format!("h{number}.example.com")).collect();
    let rules: Vec<_> = domains.iter().map(|domain| (domain.as_str(), "5000")).collect();
    let mut served = false;
    for limit in [16, 20, 24, 32, 33, 34, 48, 64, 96, 128, 256].map(|mebibytes| mebibytes * 1000) {
        let setup = Setup::new().rules(&rules);
        let script = format!("ulimit {option} {limit}");
        served = serves_or_says_why(setup, &script, "KiB of memory: allow");
    }
    assert!(served, "256 MiB are enough");
}

fn ended(status: ExitStatus) -> String {
    status.signal().map_or_else(|| status.to_string(), |number| format!("ended by signal {number}"))
}

#[test]
fn whatever_the_address_space_it_serves_or_says_why() {
    serves_or_says_why_with_many_rules("-v");
}

#[test]
fn whatever_the_size_of_its_data_it_serves_or_says_why() {
    serves_or_says_why_with_many_rules("-d");
}

#[test]
fn whatever_the_stack_it_serves_or_says_why() {
    let serves = |script: &str| serves_or_says_why(Setup::new(), script, "of memory: allow");
    let sizes = [128, 192, 256, 384, 512, 768, 1024, 8192];
    let enough = sizes.iter().filter(|size| serves(&format!("ulimit -s {size}")));
    assert!(enough.count() > 2, "it serves with a stack of 8 MiB");
    assert!(serves("ulimit -S -s 128"), "it takes what it may have");
}

#[test]
fn without_standard_streams_no_socket_takes_their_place() {
    let script = "exec \"$@\" <&- >&- 2>&-";
    let setup = Setup::new().stderr(Stderr::Broken).through(shell(script, Path::new("sh")));
    let mut daemon = setup.start();
    if is_root() {
        for number in 0..3 {
            assert_eq!(descriptor(daemon.pid, number).as_deref(), Some("/dev/null"));
        }
    }
    assert_eq!(daemon.ask(), document(RULES));
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn what_standard_input_and_output_were_is_let_go() {
    let test = "what_standard_input_and_output_were_is_let_go";
    if !is_root() {
        return skip(test, "only root sees the descriptors of a process that is not dumpable");
    }
    let directory = Scratch::new();
    let secret = directory.file("secret", "what only root reads");
    let script = "exec \"$@\" <\"$0\" >>\"$0\"";
    let daemon = Setup::new().through(shell(script, &secret)).start();
    for number in 0..2 {
        assert_eq!(descriptor(daemon.pid, number).as_deref(), Some("/dev/null"));
    }
    assert_eq!(daemon.ask(), document(RULES));
}

#[test]
fn without_dev_null_it_serves() {
    let test = "without_dev_null_it_serves";
    let Some(unshare) = unshare_of_mounts(test) else { return };
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let words =
        [unshare.into(), "--mount".into()].into_iter().chain(shell(script, Path::new("sh")));
    let daemon = Setup::new().through(words).start();
    assert_eq!(daemon.ask(), document(RULES));
}

#[test]
fn nothing_of_its_memory_goes_into_a_core_dump() {
    let script = "ulimit -c unlimited 2>/dev/null; exec \"$@\"";
    let daemon = Setup::new().through(shell(script, Path::new("sh"))).start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid)).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
}
