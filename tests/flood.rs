//! Somebody wants the policy not to be served. Each test holds a flood against the daemon and
//! counts honest clients: all of them are answered.
//!
//! One test at a time, since some compare latencies. What a machine's descriptor limit does not
//! allow is scaled down, and said.

mod support;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::daemon::{RULES, Rule, dial, document, finish};
use support::flood::{answers_a_client_that_needs_20_ms, hold};
use support::load::{self, Load, REQUEST, Report, Shape, Sources};
use support::network::{in_a_roomy_network, in_own_network, listen};
use support::{Daemon, SOON, Setup, figure, raise_descriptor_limit, scaled};

/// Nobody else on the machine, as far as this file can see to it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed has nothing to say about the next one.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many connections as wanted, or as many as the descriptor limit has room for.
fn connections_allowed(test: &str, wanted: usize) -> usize {
    const OTHERS: u64 = 500;
    let hard = raise_descriptor_limit();
    let room = usize::try_from(hard.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    if room < wanted {
        scaled(
            test,
            format_args!("{room} of {wanted} connections, by a limit of {hard} descriptors"),
        );
    }
    room.min(wanted)
}

/// It had been told to wait for the end of the time that every client has, 200 ms.
#[test]
fn whoever_waits_for_a_place_gets_that_of_a_connection_whose_time_is_over() {
    let _alone = alone();
    let limits = "[limits]\nconnections = 1\nrequest-timeout = \"100ms\"";
    let daemon = Setup::new().tables(limits).start();
    let waited = || {
        let began = Instant::now();
        let _held = hold(daemon.address(), 1, Sources::Any, &REQUEST[..1]);
        assert_eq!(daemon.ask(), document(RULES));
        began.elapsed()
    };
    let least = (0..10).map(|_| waited()).min().expect("ten of them");
    assert!(least < Duration::from_millis(180), "{least:?}");
}

/// 200 addresses that no honest client of this file uses.
const ATTACKERS: Sources = Sources::spread(Ipv4Addr::new(127, 0, 9, 1), 200);

fn honest(daemon: &Daemon, shape: Shape, requests: usize) -> Report {
    load::run(&Load {
        target: daemon.address(),
        requests,
        concurrency: 32,
        shape,
        sources: Sources::LOOPBACK,
        documents: &[&document(RULES)],
    })
}

/// The counter with this name, of those that SIGUSR1 logs.
fn counter(daemon: &Daemon, name: &str) -> u64 {
    let mark = daemon.log.mark();
    daemon.signal(Signal::SIGUSR1);
    let line = daemon.log.wait_for_after(mark, "served");
    let behind = line.split(&format!("{name} ")).nth(1).unwrap_or_else(|| panic!("{name}: {line}"));
    behind.split(|character: char| !character.is_ascii_digit()).next().map_or_else(
        || panic!("{name}: {line}"),
        |digits| digits.parse().unwrap_or_else(|_| panic!("{name}: {line}")),
    )
}

/// Holds a flood against a daemon with these limits; 20,000 of 20,000 must be answered.
fn withstands(test: &str, limits: &str, bytes: &[u8], honest_shape: Shape) {
    let _alone = alone();
    let flood = connections_allowed(test, 10_000);
    in_a_roomy_network(test, || {
        let daemon = Setup::new().tables(&format!("[limits]\n{limits}")).start();
        let mark = daemon.log.mark();
        let held = hold(daemon.address(), flood, ATTACKERS, bytes);
        let report = honest(&daemon, honest_shape, 20_000);
        report.assert_all_answered();
        let lines = daemon.log.lines_a_second(mark);
        assert!(lines <= 10, "{lines} log lines in a second");
        figure(test, "answered", report.answered, "requests");
        figure(test, "log-lines", lines, "lines");
        drop(held);
    });
}

#[test]
fn half_requests_from_200_addresses_cost_no_one_an_answer_little_latency_and_little_memory() {
    const ROUNDS: usize = 3;
    let test =
        "half_requests_from_200_addresses_cost_no_one_an_answer_little_latency_and_little_memory";
    let _alone = alone();
    let flood = connections_allowed(test, 10_000);
    in_a_roomy_network(test, || {
        let daemon = Setup::new()
            .tables(
                "[limits]\nconnections = 12000\nconnections-per-source = 100\n\
                 request-timeout = \"60s\"",
            )
            .start();
        // The tail of one run is a matter of a few exchanges: the middle one of three runs is
        // compared, so that a single hiccup of the machine decides nothing.
        let mut answered = 0;
        let mut run = |_| {
            let report = honest(&daemon, Shape::Whole, 20_000);
            report.assert_all_answered();
            answered += report.answered;
            report.latency.quantile(999)
        };
        let mut quiet: Vec<Duration> = (0..ROUNDS).map(&mut run).collect();
        let before = daemon.status().resident_kib();

        let mark = daemon.log.mark();
        let held = hold(daemon.address(), flood, ATTACKERS, &REQUEST[..10]);
        assert_eq!(daemon.ask(), document(RULES));
        // On a busy machine the queue was full for a while, and some try again after a second.
        let began = Instant::now();
        while counter(&daemon, "open") != flood as u64 {
            assert!(began.elapsed() < SOON, "{} of {flood} are open", counter(&daemon, "open"));
            thread::sleep(Duration::from_millis(500));
        }
        let mut flooded: Vec<Duration> = (0..ROUNDS).map(run).collect();
        assert_eq!(counter(&daemon, "open"), flood as u64, "it was held open throughout");
        let grown = daemon.status().resident_kib().saturating_sub(before);
        let lines = daemon.log.lines_a_second(mark);

        quiet.sort_unstable();
        flooded.sort_unstable();
        let (quiet, flooded) = (quiet[ROUNDS / 2], flooded[ROUNDS / 2]);
        let ratio = flooded.as_secs_f64() / quiet.as_secs_f64();
        figure(test, "connections", flood, "connections");
        figure(test, "answered", answered, "requests");
        figure(test, "p999-quiet", format_args!("{:.3}", quiet.as_secs_f64() * 1e3), "ms");
        figure(test, "p999-flooded", format_args!("{:.3}", flooded.as_secs_f64() * 1e3), "ms");
        figure(test, "p999-ratio", format_args!("{ratio:.2}"), "times");
        figure(test, "memory-growth", grown, "KiB");
        figure(test, "log-lines", lines, "lines");
        assert!(ratio <= 3.0, "p99.9 went from {quiet:?} to {flooded:?}");
        assert!(grown <= 6 * 1024, "resident memory grew by {grown} KiB");
        assert!(lines <= 10, "{lines} log lines in a second");
        drop(held);
    });
}

macro_rules! floods {
    ($($test:ident: $limits:literal, $bytes:expr, $honest:expr;)*) => {
        $(
            #[test]
            fn $test() {
                withstands(stringify!($test), $limits, $bytes, $honest);
            }
        )*
    };
}

floods! {
    half_requests_against_the_default_limits: "", &REQUEST[..10], Shape::Whole;
    half_requests_against_64_connections: "connections = 64\nrequest-timeout = \"60s\"", &REQUEST[..10], Shape::Whole;
    silence_against_roomy_limits: "connections = 12000\nconnections-per-source = 100\nrequest-timeout = \"60s\"", b"", Shape::Whole;
    silence_against_the_default_limits: "", b"", Shape::Whole;
    silence_against_64_connections: "connections = 64\nrequest-timeout = \"60s\"", b"", Shape::Whole;
}

/// Opens connections from `source` as fast as it can, and holds the last few hundred, until told
/// to stop. Returns how many it opened.
fn churn(target: SocketAddr, source: impl Fn(usize) -> IpAddr, stop: &AtomicBool) -> usize {
    const HELD: usize = 500;
    let mut held = VecDeque::with_capacity(HELD);
    let mut opened = 0;
    while !stop.load(Ordering::Relaxed) {
        if held.len() == HELD {
            held.pop_front();
        }
        if let Ok(socket) = load::connect(target, Some(source(opened))) {
            let mut stream = TcpStream::from(socket);
            let _ = stream.write(b"<policy");
            held.push_back(stream);
            opened += 1;
        }
    }
    opened
}

/// 10,000 honest requests beside such a source, so many at a time.
fn withstands_churn(
    test: &str,
    daemon: &Daemon,
    honest_sources: Sources,
    concurrency: usize,
    source: impl Fn(usize) -> IpAddr + Sync,
) {
    let stop = AtomicBool::new(false);
    let target = daemon.address();
    thread::scope(|scope| {
        let attacker = scope.spawn(|| churn(target, &source, &stop));
        let report = load::run(&Load {
            target,
            requests: 10_000,
            concurrency,
            shape: Shape::Whole,
            sources: honest_sources,
            documents: &[&document(RULES)],
        });
        stop.store(true, Ordering::Relaxed);
        let opened = attacker.join().expect("the attacker");
        report.assert_all_answered();
        assert!(opened > 1000, "only {opened} connections were opened beside 10,000 requests");
        figure(test, "opened", opened, "connections");
        figure(test, "answered", report.answered, "requests");
    });
    let lines = daemon.log.lines_a_second(0);
    assert!(lines <= 10, "{lines} log lines in a second");
}

#[test]
fn one_address_opening_as_fast_as_it_can_keeps_nobody_from_being_served() {
    let test = "one_address_opening_as_fast_as_it_can_keeps_nobody_from_being_served";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon = Setup::new().start();
        withstands_churn(test, &daemon, Sources::LOOPBACK, 32, |_| {
            Ipv4Addr::new(127, 0, 9, 9).into()
        });
    });
}

#[test]
fn a_client_that_needs_20_ms_is_answered_though_100_others_came_meanwhile_for_64_places() {
    let test =
        "a_client_that_needs_20_ms_is_answered_though_100_others_came_meanwhile_for_64_places";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon =
            Setup::new().tables("[limits]\nconnections = 64\nrequest-timeout = \"60s\"").start();
        let _held = answers_a_client_that_needs_20_ms(&daemon, 20, ATTACKERS);
    });
}

#[test]
fn addresses_opening_as_fast_as_they_can_against_64_connections_keep_nobody_from_being_served() {
    let test = "addresses_opening_as_fast_as_they_can_against_64_connections_keep_nobody_from_being_served";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon = Setup::new().tables("[limits]\nconnections = 64").start();
        let source = |number| ATTACKERS.address(number).expect("an address");
        // Each of them waits in the queue first.
        withstands_churn(test, &daemon, Sources::LOOPBACK, 500, source);
    });
}

const SIXTY_FOUR: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);

/// The nth address of one /64.
fn of_one_network(number: usize) -> IpAddr {
    Ipv6Addr::from_bits(SIXTY_FOUR.to_bits() + number as u128).into()
}

/// An address of the nth /64.
fn of_many_networks(number: usize) -> IpAddr {
    Ipv6Addr::from_bits(SIXTY_FOUR.to_bits() + ((number as u128) << 64)).into()
}

#[test]
fn one_ipv6_network_opening_as_fast_as_it_can_keeps_nobody_from_being_served() {
    let test = "one_ipv6_network_opening_as_fast_as_it_can_keeps_nobody_from_being_served";
    let _alone = alone();
    in_own_network(test, || {
        let daemon = Setup::inherited(vec![listen((Ipv6Addr::UNSPECIFIED, 0).into())])
            .start_reached_at(Ipv6Addr::LOCALHOST.into());
        let neighbours = Sources::Spread { first: of_many_networks(7), count: 64 };
        withstands_churn(test, &daemon, neighbours, 32, of_one_network);
    });
}

#[test]
fn ipv6_sources_count_per_64() {
    let _alone = alone();
    in_own_network("ipv6_sources_count_per_64", || {
        let daemon = Setup::inherited(vec![listen((Ipv6Addr::UNSPECIFIED, 0).into())])
            .tables("[limits]\nconnections-per-source = 10\nrequest-timeout = \"60s\"")
            .start_reached_at(Ipv6Addr::LOCALHOST.into());
        let opened = |address: fn(usize) -> IpAddr| {
            let held: Vec<TcpStream> = (0..100)
                .flat_map(|number| {
                    let one = Sources::Spread { first: address(number), count: 1 };
                    hold(daemon.address(), 1, one, b"<")
                })
                .collect();
            assert_eq!(daemon.ask(), document(RULES));
            (counter(&daemon, "open"), held)
        };
        let (one_network, held) = opened(of_one_network);
        assert_eq!(one_network, 10, "100 addresses of one /64 are one source");
        let (many_networks, _held) = opened(of_many_networks);
        // The network of the first round is the first of the second.
        assert_eq!(many_networks, 10 + 99, "100 networks are 100 sources");
        drop(held);
    });
}

#[test]
fn a_byte_a_second_ends_at_the_deadline() {
    let test = "a_byte_a_second_ends_at_the_deadline";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon = Setup::new()
            .tables("[limits]\nrequest-timeout = \"3s\"\nconnections-per-source = 1000")
            .start();
        let began = Instant::now();
        let mut tricklers = hold(daemon.address(), 500, ATTACKERS, &REQUEST[..1]);
        let report = honest(&daemon, Shape::Whole, 1000);
        report.assert_all_answered();
        for second in 1..=3 {
            thread::sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
            for stream in &mut tricklers {
                let place = usize::try_from(second).expect("a small number");
                let _ = stream.write(&REQUEST[place..=place]);
            }
        }
        for stream in &mut tricklers {
            stream.set_nonblocking(false).expect("a socket that blocks");
            stream.set_read_timeout(Some(SOON)).expect("a read timeout");
            // The byte that comes too late is answered with a reset.
            match stream.read(&mut [0; 64]) {
                Ok(0) => {}
                Ok(count) => panic!("answered with {count} bytes"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
            }
        }
        let elapsed = began.elapsed();
        assert!(elapsed < Duration::from_secs(5), "the last trickler was there for {elapsed:?}");
        assert_eq!(counter(&daemon, "open"), 0);
        assert_eq!(counter(&daemon, "timeout"), 500);
    });
}

/// Enough rules for a document that no small socket buffer takes at once.
fn many_rules() -> Vec<(String, &'static str)> {
    (0..3000)
        .map(|number| (format!("a-rather-long-name-{number:05}.example.com"), "1-65534"))
        .collect()
}

#[test]
fn clients_that_never_read_their_answer_cost_nothing_beyond_their_deadline() {
    let test = "clients_that_never_read_their_answer_cost_nothing_beyond_their_deadline";
    let _alone = alone();
    in_own_network(test, || {
        // Loopback's huge segments would have the kernel take in megabytes for each client.
        fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 16384").expect("small send buffers");
        let rules = many_rules();
        let rules: Vec<Rule> = rules.iter().map(|(domain, ports)| (&**domain, *ports)).collect();
        let daemon = Setup::new()
            .rules(&rules)
            .tables("[limits]\nrequest-timeout = \"2s\"\nconnections-per-source = 1000")
            .start();
        let expected = document(&rules);
        assert_eq!(daemon.ask().len(), expected.len());
        let before = daemon.status().resident_kib();
        let stalled: Vec<TcpStream> = (0..200)
            .map(|number| {
                let socket = load::connect(daemon.address(), ATTACKERS.address(number))
                    .expect("a descriptor and a port");
                socket.set_recv_buffer_size(4096).expect("a small window");
                let mut stream = TcpStream::from(socket);
                stream.write_all(REQUEST).expect("a request");
                // Half of them begin to read, and stop.
                if number % 2 == 0 {
                    stream.set_nonblocking(false).expect("a socket that blocks");
                    stream.read_exact(&mut [0; 100]).expect("the beginning of the answer");
                }
                stream
            })
            .collect();
        assert_eq!(daemon.ask(), expected, "an honest client beside them");
        assert_eq!(counter(&daemon, "open"), 200, "the answer does not fit into any buffer");
        // Their time has to pass: it is what this is about.
        thread::sleep(Duration::from_millis(2500));
        assert_eq!(counter(&daemon, "open"), 0);
        let grown = daemon.status().resident_kib().saturating_sub(before);
        assert!(grown <= 1024, "resident memory grew by {grown} KiB");
        figure(test, "memory-growth", grown, "KiB");
        drop(stalled);
    });
}

#[test]
fn megabytes_after_the_request_are_not_buffered() {
    let test = "megabytes_after_the_request_are_not_buffered";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon = Setup::new().start();
        assert_eq!(daemon.ask(), document(RULES));
        let before = daemon.status().resident_kib();
        let talkative = [REQUEST.as_slice(), [b'x'; 16 * 1024].as_slice()].concat();
        let mut sent = 0;
        for _ in 0..20 {
            let mut stream = dial(daemon.address());
            stream.write_all(&talkative).expect("a request and more");
            // Until the server has had enough: it may hang up, and must within its deadline.
            for _ in 0..1024 {
                match stream.write(&[b'x'; 16 * 1024]) {
                    Ok(count) => sent += count,
                    Err(_) => break,
                }
            }
        }
        // A well-meaning client that merely says too much has its answer.
        let mut stream = dial(daemon.address());
        stream.write_all(&talkative).expect("a request and more");
        stream.write_all(&vec![b'x'; 256 * 1024]).expect("a quarter of a megabyte more");
        assert_eq!(finish(&mut stream), document(RULES));
        let grown = daemon.status().resident_kib().saturating_sub(before);
        assert!(grown <= 256, "resident memory grew by {grown} KiB");
        assert!(sent > 1024 * 1024, "no more than {sent} bytes could be sent at all");
        figure(test, "memory-growth", grown, "KiB");
    });
}

#[test]
fn bytes_from_the_network_are_escaped_in_the_log() {
    let daemon = Setup::new().argument("-v").start();
    let mark = daemon.log.mark();
    for nonsense in
        [&b"\x1b[31mred\x07\n"[..], b"\nerror: all is lost\n", b"\xff\xfe\0\0", b"\r\n\r\n"]
    {
        let mut stream = dial(daemon.address());
        stream.write_all(nonsense).expect("sending");
        let _ = stream.read(&mut [0; 1]);
    }
    daemon.log.wait_for_after(mark, r"\x1b[31mred\x07\n");
    daemon.log.wait_for_after(mark, r"\nerror: all is lost\n");
    daemon.log.wait_for_after(mark, r"\xff\xfe\x00\x00");
    daemon.log.wait_for_after(mark, r"\r\n\r\n");
    for line in daemon.log.lines_after(mark) {
        assert!(!line.contains(char::is_control), "a control character in {line:?}");
        assert!(!line.starts_with("error"), "a line that a client made up: {line:?}");
    }
}

#[test]
fn malformed_requests_write_ten_lines_a_second_and_a_summary_however_many_come() {
    let test = "malformed_requests_write_ten_lines_a_second_and_a_summary_however_many_come";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon = Setup::new().argument("-v").start();
        let mark = daemon.log.mark();
        for number in 0..5000 {
            let source = ATTACKERS.address(number);
            let socket = load::connect(daemon.address(), source).expect("a connection");
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sending");
        }
        daemon.log.wait_for_after(mark, "more connections were closed");
        let lines = daemon.log.lines_a_second(mark);
        assert!(lines <= 10, "{lines} log lines in a second");
        assert_eq!(counter(&daemon, "malformed"), 5000);
        figure(test, "log-lines", lines, "lines");
    });
}

/// A minute long, as long as the daemon collects before it tells.
#[test]
#[ignore = "takes more than a minute; scripts/reliability runs it"]
fn a_flood_is_one_line_and_then_a_count() {
    let test = "a_flood_is_one_line_and_then_a_count";
    let _alone = alone();
    in_a_roomy_network(test, || {
        let daemon = Setup::new().tables("[limits]\nconnections = 64").start();
        let mark = daemon.log.mark();
        let held = hold(daemon.address(), 1000, ATTACKERS, b"<");
        assert_eq!(daemon.ask(), document(RULES));
        thread::sleep(Duration::from_secs(61));
        let evicted = counter(&daemon, "evicted");
        let summary = daemon.log.wait_for_after(mark, "more unfinished connections made room");
        let mut expected = String::new();
        write!(expected, "{} more", evicted - 1).expect("writing to a string");
        assert!(summary.contains(&expected), "{evicted} were evicted: {summary}");
        let lines = daemon.log.lines_after(mark).len();
        assert!(lines <= 4, "{:#?}", daemon.log.lines_after(mark));
        figure(test, "log-lines", lines, "lines");
        drop(held);
    });
}
