//! The system fails the daemon: descriptors run out, calls fail, stderr goes nowhere, the clock
//! jumps. It goes on, does not spin, and says so once.

mod support;

use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::daemon::{RULES, Stderr, ask, dial, document, read_to_end};
use support::flood::answers_a_client_that_needs_20_ms;
use support::load::{self, Load, REQUEST, Report, Shape, Sources};
use support::network::in_a_roomy_network;
use support::process::{cpu_share, limit_descriptors, open_descriptors, preloaded, strace};
use support::{Daemon, SOON, Setup, figure, raise_descriptor_limit, skip};

fn exchanges(daemon: &Daemon, requests: usize) -> Report {
    exchanges_at_once(daemon, requests, 16)
}

fn exchanges_at_once(daemon: &Daemon, requests: usize, concurrency: usize) -> Report {
    load::run(&Load {
        target: daemon.address(),
        requests,
        concurrency,
        shape: Shape::Whole,
        sources: Sources::LOOPBACK,
        documents: &[&document(RULES)],
    })
}

/// A daemon for which calls fail as `injections` say.
fn failing(test: &str, injections: &[&str]) -> Option<Daemon> {
    let expressions = injections.iter().map(|injection| format!("inject={injection}"));
    Some(Setup::new().through(strace(test, Path::new("/dev/null"), expressions)?).start())
}

/// Nobody sees a line at `info` among the others of a start.
#[test]
fn a_sandbox_without_landlock_is_a_warning() {
    let Some(daemon) = failing(
        "a_sandbox_without_landlock_is_a_warning",
        &["landlock_create_ruleset:error=EOPNOTSUPP"],
    ) else {
        return;
    };
    let line = daemon.log.wait_for("sandbox: no landlock");
    assert!(line.contains(" warn: "), "{line}");
}

/// `accept4` fails every other time: all are served in the end, and the log says so once.
fn accept_fails_now_and_then(test: &str, errno: &str) {
    let Some(daemon) = failing(test, &[&format!("accept4:error={errno}:when=1+2")]) else { return };
    let mark = daemon.log.mark();
    // Few, since the listener pauses for a tenth of a second each time.
    exchanges(&daemon, 60).assert_all_answered();
    let lines = daemon.log.lines_after(mark);
    assert!(lines.len() <= 2, "said once, perhaps with a count: {lines:#?}");
}

/// `accept4` fails for as long as somebody waits: the daemon says so once and does not spin.
fn accept_fails_for_good(test: &str, errno: &str) {
    let Some(daemon) = failing(test, &[&format!("accept4:error={errno}")]) else { return };
    let mut waiting = dial(daemon.address());
    waiting.write_all(REQUEST).expect("a request that nobody accepts");
    let complaint = daemon.log.wait_for("cannot accept");
    let mark = daemon.log.mark();
    let share = cpu_share(daemon.pid);
    assert!(share < 0.05, "{:.1} % of a processor while idle and failing", share * 100.0);
    assert_eq!(daemon.log.lines_after(mark), Vec::<String>::new(), "said once: {complaint}");
    figure(test, "cpu", format_args!("{:.1}", share * 100.0), "%");
}

/// `accept4` fails twenty times in a row and then works again.
fn accept_recovers(test: &str, errno: &str) {
    let Some(daemon) = failing(test, &[&format!("accept4:error={errno}:when=1..20")]) else {
        return;
    };
    exchanges(&daemon, 100).assert_all_answered();
}

macro_rules! accept_fails {
    ($($now_and_then:ident, $for_good:ident, $recovers:ident: $errno:literal;)*) => {
        $(
            #[test]
            fn $now_and_then() {
                accept_fails_now_and_then(stringify!($now_and_then), $errno);
            }

            #[test]
            fn $for_good() {
                accept_fails_for_good(stringify!($for_good), $errno);
            }

            #[test]
            fn $recovers() {
                accept_recovers(stringify!($recovers), $errno);
            }
        )*
    };
}

accept_fails! {
    emfile_now_and_then, emfile_for_good, emfile_that_passes: "EMFILE";
    enfile_now_and_then, enfile_for_good, enfile_that_passes: "ENFILE";
    enobufs_now_and_then, enobufs_for_good, enobufs_that_passes: "ENOBUFS";
    enomem_now_and_then, enomem_for_good, enomem_that_passes: "ENOMEM";
    econnaborted_now_and_then, econnaborted_for_good, econnaborted_that_passes: "ECONNABORTED";
    eperm_now_and_then, eperm_for_good, eperm_that_passes: "EPERM";
}

/// A call that is merely interrupted, or would have waited, costs no client anything.
///
/// One client at a time: then the call that is tried again is the one that succeeds, as it would
/// be once the kernel has reported the socket ready.
fn costs_nobody_anything(test: &str, injection: &str) {
    let Some(daemon) = failing(test, &[injection]) else { return };
    let mark = daemon.log.mark();
    exchanges_at_once(&daemon, 500, 1).assert_all_answered();
    assert_eq!(daemon.log.lines_after(mark), Vec::<String>::new());
}

#[test]
fn recv_that_is_interrupted() {
    costs_nobody_anything("recv_that_is_interrupted", "recvfrom:error=EINTR:when=1+2");
}

#[test]
fn send_that_would_have_to_wait() {
    costs_nobody_anything("send_that_would_have_to_wait", "sendto:error=EAGAIN:when=1+2");
}

#[test]
fn send_that_is_interrupted() {
    costs_nobody_anything("send_that_is_interrupted", "sendto:error=EINTR:when=1+2");
}

#[test]
fn epoll_wait_that_is_interrupted() {
    costs_nobody_anything("epoll_wait_that_is_interrupted", "/^epoll_p?wait$:error=EINTR:when=2+2");
}

/// A call fails for every third client: that client is lost, and no other.
fn costs_that_client_alone(test: &str, injection: &str) {
    let Some(daemon) = failing(test, &[injection]) else { return };
    let mark = daemon.log.mark();
    let mut answered = 0;
    for _ in 0..90 {
        let mut stream = dial(daemon.address());
        stream.write_all(REQUEST).expect("a request");
        let mut received = Vec::new();
        let ended = stream.read_to_end(&mut received);
        if received == document(RULES) {
            ended.expect("an answer ends in order");
            answered += 1;
        } else {
            assert_eq!(received, b"", "an answer is whole or is not sent at all");
        }
    }
    assert_eq!(answered, 60, "one in three fails");
    assert_eq!(daemon.log.lines_after(mark), Vec::<String>::new(), "clients leave all the time");
}

#[test]
fn recv_from_a_client_that_reset() {
    costs_that_client_alone("recv_from_a_client_that_reset", "recvfrom:error=ECONNRESET:when=1+3");
}

#[test]
fn send_to_a_client_that_is_gone() {
    costs_that_client_alone("send_to_a_client_that_is_gone", "sendto:error=EPIPE:when=1+3");
}

/// The injected calls claim to have sent one byte each and send none, so that what arrives is
/// exactly the document without as many bytes at its beginning.
#[test]
fn send_that_takes_one_byte_at_a_time() {
    const SHORT: usize = 20;
    let test = "send_that_takes_one_byte_at_a_time";
    let injection = format!("sendto:retval=1:when=1..{SHORT}");
    let Some(daemon) = failing(test, &[&injection]) else { return };
    assert_eq!(daemon.ask(), document(RULES)[SHORT..]);
    assert_eq!(daemon.ask(), document(RULES), "the next client has the whole document");
}

/// Every send for real, one byte long.
#[test]
fn answers_sent_byte_by_byte_arrive_whole() {
    let test = "answers_sent_byte_by_byte_arrive_whole";
    let Some((_directory, library)) = preloaded(test, ONE_BYTE_SENDS) else { return };
    let daemon = Setup::new().environment("LD_PRELOAD", library).start();
    exchanges(&daemon, 200).assert_all_answered();
}

/// A libc whose `send` takes one byte.
const ONE_BYTE_SENDS: &str = r"
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>
ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    return syscall(SYS_sendto, fd, bytes, length ? 1 : 0, flags, 0, 0);
}
";

/// A libc whose wall clock jumps a year forth, and back, each second. The monotonic clock is
/// left alone, as the kernel guarantees.
const JUMPING_CLOCK: &str = r"
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    struct timespec monotonic;
    long result = syscall(SYS_clock_gettime, clock, now);
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &monotonic);
    if (result == 0 && clock == CLOCK_REALTIME && monotonic.tv_sec % 2) now->tv_sec += 31536000;
    return (int) result;
}
";

#[test]
fn a_clock_that_jumps_a_year_changes_nothing() {
    let test = "a_clock_that_jumps_a_year_changes_nothing";
    let Some((_directory, library)) = preloaded(test, JUMPING_CLOCK) else { return };
    let daemon = Setup::new()
        .environment("LD_PRELOAD", library)
        .tables("[limits]\nrequest-timeout = \"3s\"")
        .start();
    let mut stalled = dial(daemon.address());
    stalled.write_all(&REQUEST[..10]).expect("half a request");
    let began = Instant::now();
    let end = thread::scope(|scope| {
        let stalled = scope.spawn(move || {
            let received = read_to_end(&mut stalled);
            assert_eq!(received, b"");
            began.elapsed()
        });
        // Over several jumps in both directions, everybody is answered.
        while began.elapsed() < Duration::from_millis(2500) {
            assert_eq!(daemon.ask(), document(RULES));
        }
        stalled.join().expect("the stalled client")
    });
    let allowed = Duration::from_millis(2900)..Duration::from_millis(4500);
    assert!(allowed.contains(&end), "a deadline of 3 s came after {end:?}");
}

#[test]
fn with_64_descriptors_and_1000_idle_clients_new_ones_are_served() {
    let test = "with_64_descriptors_and_1000_idle_clients_new_ones_are_served";
    raise_descriptor_limit();
    in_a_roomy_network(test, || {
        let daemon = Setup::new()
            .descriptors(64)
            .tables("[limits]\nrequest-timeout = \"60s\"\nconnections-per-source = 1000")
            .start();
        let sources = Sources::spread([127, 0, 3, 1].into(), 100);
        let idle: Vec<_> = (0..1000)
            .map(|number| {
                let socket = load::connect(daemon.address(), sources.address(number))
                    .expect("an idle client");
                let mut stream = std::net::TcpStream::from(socket);
                stream.set_nonblocking(false).expect("a socket that blocks");
                // Half of them say something, so that the kernel hands them over.
                if number % 2 == 0 {
                    stream.write_all(b"<").expect("a byte");
                }
                stream
            })
            .collect();
        let report = exchanges(&daemon, 1000);
        report.assert_all_answered();
        figure(test, "answered", report.answered, "requests");
        assert!(daemon.log.lines_a_second(0) <= 10, "{}", daemon.log.everything());
        let share = cpu_share(daemon.pid);
        assert!(share < 0.05, "{:.1} % of a processor with nobody but idlers", share * 100.0);
        figure(test, "cpu", format_args!("{:.1}", share * 100.0), "%");
        drop(idle);
    });
}

/// Found by tests/soak.rs: who came last took the place of a client that had just begun.
#[test]
fn a_client_that_needs_20_ms_is_answered_though_100_others_came_meanwhile_without_descriptors() {
    let test = "a_client_that_needs_20_ms_is_answered_though_100_others_came_meanwhile_without_descriptors";
    raise_descriptor_limit();
    in_a_roomy_network(test, || {
        let daemon = Setup::new()
            .tables("[limits]\nrequest-timeout = \"60s\"\nconnections-per-source = 1000")
            .start();
        let limit = open_descriptors(daemon.pid) + 10;
        if !limit_descriptors(daemon.pid, limit) {
            return skip(test, "prlimit of util-linux cannot limit the daemon here");
        }
        let others = Sources::spread([127, 0, 3, 1].into(), 100);
        let _held = answers_a_client_that_needs_20_ms(&daemon, 5, others);
        daemon.log.wait_for("cannot accept");
        exchanges(&daemon, 1000).assert_all_answered();
        let share = cpu_share(daemon.pid);
        assert!(share < 0.05, "{:.1} % of a processor with nobody but idlers", share * 100.0);
    });
}

/// Requests, reloads and counters with a stderr that takes nothing.
#[track_caller]
fn lives_without_stderr(mut daemon: Daemon) -> Daemon {
    for _ in 0..100 {
        daemon.break_main_file();
        daemon.reload();
        daemon.signal(Signal::SIGUSR1);
        assert_eq!(daemon.ask(), document(RULES));
    }
    exchanges(&daemon, 1000).assert_all_answered();
    daemon
}

#[test]
fn a_stderr_that_is_full_neither_blocks_nor_ends_the_server_and_lost_lines_are_counted() {
    // So many lines wait for somebody to read them.
    const WAITING: u64 = 1024;
    let mut daemon = lives_without_stderr(Setup::new().stderr(Stderr::Full).start());
    for _ in 0..WAITING {
        daemon.signal(Signal::SIGUSR1);
        assert_eq!(daemon.ask(), document(RULES), "the signal before it has been heeded");
    }
    daemon.read_stderr();
    let began = Instant::now();
    let mut dropped = 0;
    // A line that waited says what had been dropped then, and the newest may be dropped itself.
    while dropped < 200 {
        assert!(began.elapsed() < SOON, "two lines and more for each of 100 reloads: {dropped}");
        let mark = daemon.log.mark();
        daemon.signal(Signal::SIGUSR1);
        let line = daemon.log.wait_for_after(mark, "log lines dropped ");
        let count = line.rsplit_once("log lines dropped ").expect("a count").1;
        let digits = count.split(|character: char| !character.is_ascii_digit()).next();
        dropped = digits.and_then(|digits| digits.parse().ok()).expect("a count");
    }
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_stderr_without_a_reader_neither_blocks_nor_ends_the_server() {
    let mut daemon = lives_without_stderr(Setup::new().stderr(Stderr::Broken).start());
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_stderr_that_is_closed_neither_blocks_nor_ends_the_server() {
    let mut daemon = lives_without_stderr(Setup::new().stderr(Stderr::Closed).start());
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_service_manager_that_has_gone_does_not_matter() {
    let mut daemon = Setup::new().start();
    std::fs::remove_file(daemon.directory.path().join("notify")).expect("the notify socket");
    for _ in 0..100 {
        daemon.signal(Signal::SIGUSR1);
        assert_eq!(ask(daemon.address()), document(RULES));
    }
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_by_the_loop_itself() {
    let mut daemon = Setup::new().environment("WATCHDOG_USEC", "400000").start();
    for _ in 0..3 {
        daemon.wait_for_state("WATCHDOG=1");
    }
    daemon.signal(Signal::SIGSTOP);
    daemon.forget_states();
    // Twice the time after which systemd would restart it.
    thread::sleep(Duration::from_millis(800));
    assert_eq!(daemon.states(), Vec::<String>::new(), "a loop that hangs feeds no watchdog");
    daemon.signal(Signal::SIGCONT);
    daemon.wait_for_state("WATCHDOG=1");
    assert_eq!(daemon.ask(), document(RULES));
}
