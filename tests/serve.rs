//! What every client may count on: the whole document and then the end of the stream, however
//! the request came.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use support::daemon::{RULES, ask, dial, document, read_to_end};
use support::load::{self, Load, REQUEST, Shape, Sources};
use support::network::{ResetCounter, Resets, in_a_roomy_network, listen};
use support::process::{cpu_share, strace};
use support::{SOON, Scratch, Setup, figure};

/// Loads a fresh daemon in one shape; every exchange must be answered, and the kernel must not
/// have sent a single reset.
fn load_in_shape(test: &str, shape: Shape, requests: usize) {
    in_a_roomy_network(test, || {
        let daemon = Setup::new().start();
        let counted = match shape {
            Shape::ShutFirst | Shape::HalfClosed => Resets::Aborts,
            _ => Resets::Every,
        };
        let resets = ResetCounter::on(test, daemon.address().port(), counted);
        let report = load::run(&Load {
            target: daemon.address(),
            requests,
            concurrency: 64,
            shape,
            sources: Sources::LOOPBACK,
            documents: &[&document(RULES)],
        });
        report.assert_all_answered();
        if let Some(resets) = resets.map(|resets| resets.count()) {
            assert_eq!(resets, 0, "resets sent in {requests} exchanges");
            figure(test, "resets", resets, "resets");
        }
        figure(test, "answered", report.answered, "requests");
        for (name, per_mille) in [("p50", 500), ("p99", 990), ("p999", 999)] {
            let milliseconds = report.latency.quantile(per_mille).as_secs_f64() * 1e3;
            figure(test, name, format_args!("{milliseconds:.3}"), "ms");
        }
    });
}

#[test]
fn each_of_100_000_requests_is_answered_whole_and_ends_in_order() {
    load_in_shape(
        "each_of_100_000_requests_is_answered_whole_and_ends_in_order",
        Shape::Whole,
        100_000,
    );
}

macro_rules! each_of_10_000_is_answered {
    ($($test:ident: $shape:ident,)*) => {
        $(
            #[test]
            fn $test() {
                load_in_shape(stringify!($test), Shape::$shape, 10_000);
            }
        )*

        #[test]
        fn every_odd_shape_has_its_load() {
            assert_eq!([$(Shape::$shape),*], Shape::ODD);
        }
    };
}

each_of_10_000_is_answered! {
    byte_by_byte: ByteByByte,
    without_nul: WithoutNul,
    with_the_nul_in_a_later_segment: NulLater,
    with_the_nul_after_the_answer: NulAfterAnswer,
    with_a_newline_for_the_nul: Newline,
    half_closed_for_the_nul: HalfClosed,
    with_200_bytes_behind_the_nul: TrailingBytes,
    with_the_writing_side_shut_first: ShutFirst,
    twice_in_one_segment: Twice,
}

/// What follows a whole request must not cost its answer: closing with bytes unread makes the
/// kernel reset, and a reset takes what it held back with it.
fn what_follows_a_whole_request_costs_no_answer(test: &str, shape: Shape, requests: usize) {
    in_a_roomy_network(test, || {
        let daemon = Setup::new().start();
        let report = load::run(&Load {
            target: daemon.address(),
            requests,
            concurrency: 64,
            shape,
            sources: Sources::LOOPBACK,
            documents: &[&document(RULES)],
        });
        report.assert_all_answered();
        figure(test, "answered", report.answered, "requests");
    });
}

#[test]
fn a_newline_behind_the_nul_costs_no_answer() {
    let test = "a_newline_behind_the_nul_costs_no_answer";
    what_follows_a_whole_request_costs_no_answer(test, Shape::NewlineBehind, 20_000);
}

#[test]
fn an_urgent_byte_behind_the_nul_costs_no_answer() {
    let test = "an_urgent_byte_behind_the_nul_costs_no_answer";
    what_follows_a_whole_request_costs_no_answer(test, Shape::UrgentBehind, 1000);
}

/// An answer cut over several sends is refused by players that stop at the first short read.
#[test]
fn an_answer_leaves_in_one_send() {
    const REQUESTS: usize = 50;
    let test = "an_answer_leaves_in_one_send";
    let directory = Scratch::new();
    let trace = directory.path().join("trace");
    let calls = ["trace=/^(send|write)".to_owned()];
    let Some(strace) = strace(test, &trace, calls) else { return };
    let mut daemon = Setup::new().through(strace).start();
    for _ in 0..REQUESTS {
        assert_eq!(daemon.ask(), document(RULES));
    }
    assert_eq!(daemon.terminate().code(), Some(0));
    // The tracer holds stderr too, and is gone once its trace is complete.
    daemon.log.wait_for_end();
    let trace = fs::read_to_string(&trace).expect("a trace");
    let whole = format!("= {}", document(RULES).len());
    let sends: Vec<&str> = trace.lines().filter(|line| line.starts_with("sendto(")).collect();
    assert_eq!(sends.len(), REQUESTS, "sends for {REQUESTS} answers");
    for send in sends {
        assert!(send.ends_with(&whole) && send.contains("MSG_MORE"), "{send}");
    }
}

#[test]
fn the_first_wrong_byte_closes_the_connection() {
    let daemon = Setup::new().tables("[limits]\nrequest-timeout = \"60s\"").start();
    for place in 0..22 {
        let mut stream = dial(daemon.address());
        let mut bytes = REQUEST[..place].to_vec();
        bytes.push(b'~');
        stream.write_all(&bytes).expect("sending");
        let mut received = Vec::new();
        match stream.read_to_end(&mut received) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("a wrong byte at {place}: {error}"),
        }
        assert_eq!(received, b"", "a wrong byte at {place} was answered");
    }
    assert_eq!(daemon.ask(), document(RULES), "an honest client after the others");
}

#[test]
fn what_can_still_become_a_request_is_waited_for() {
    let daemon = Setup::new().start();
    let mut halves: Vec<TcpStream> = (1..22).map(|_| dial(daemon.address())).collect();
    for (half, length) in halves.iter_mut().zip(1..) {
        half.write_all(&REQUEST[..length]).expect("the first part");
    }
    for (half, length) in halves.iter_mut().zip(1..) {
        half.write_all(&REQUEST[length..]).expect("the rest");
        assert_eq!(read_to_end(half), document(RULES), "cut after {length} bytes");
    }
}

/// How long a connection lasts that sends `bytes`, one each `pause`, and then nothing.
fn lifetime(address: SocketAddr, bytes: &[u8], pause: Duration) -> Duration {
    let mut stream = dial(address);
    let began = Instant::now();
    let mut buffer = [0; 64];
    for byte in bytes {
        if stream.write_all(&[*byte]).is_err() {
            return began.elapsed();
        }
        stream.set_read_timeout(Some(pause)).expect("a read timeout");
        match stream.read(&mut buffer) {
            Ok(0) => return began.elapsed(),
            Ok(count) => panic!("answered with {count} bytes"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return began.elapsed(),
            Err(error) => panic!("{error}"),
        }
    }
    stream.set_read_timeout(Some(SOON)).expect("a read timeout");
    match stream.read(&mut buffer) {
        Ok(0) => {}
        Ok(count) => panic!("answered with {count} bytes"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    began.elapsed()
}

#[test]
fn the_deadline_ends_an_unfinished_request_and_trickling_does_not_extend_it() {
    let daemon = Setup::new().tables("[limits]\nrequest-timeout = \"1s\"").start();
    // A connection that nothing ends fails in `lifetime`, once SOON is over.
    let stalled = lifetime(daemon.address(), &REQUEST[..10], NOTHING);
    assert!(stalled > ALMOST_A_SECOND, "stalled after 10 bytes: {stalled:?}");
    // The whole request takes ten seconds. If a byte extended the deadline, it would be answered.
    let trickled = lifetime(daemon.address(), REQUEST, Duration::from_millis(450));
    assert!(trickled > ALMOST_A_SECOND, "a byte every 450 ms: {trickled:?}");
}

/// The shortest timeout a socket takes.
const NOTHING: Duration = Duration::from_micros(1);

/// A second, less what two clocks may differ by.
const ALMOST_A_SECOND: Duration = Duration::from_millis(950);

#[test]
fn a_peer_that_sends_nothing_is_closed() {
    let daemon = Setup::new().tables("[limits]\nrequest-timeout = \"1s\"").start();
    let silent = lifetime(daemon.address(), b"", NOTHING);
    // One that is kept for ever fails in `lifetime`, once SOON is over.
    assert!(silent > ALMOST_A_SECOND, "a silent peer was closed after {silent:?}");
}

#[test]
fn a_client_that_leaves_in_the_middle_is_forgotten() {
    let daemon = Setup::new().tables("[limits]\nconnections-per-source = 1").start();
    for length in 1..22 {
        let mut stream = dial(daemon.address());
        stream.write_all(&REQUEST[..length]).expect("sending");
        stream.shutdown(Shutdown::Write).expect("leaving");
        assert_eq!(read_to_end(&mut stream), b"", "left after {length} bytes");
    }
    assert_eq!(daemon.ask(), document(RULES));
}

#[test]
fn ipv4_and_ipv6_are_served_side_by_side() {
    let addresses =
        [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    let daemon = Setup::inherited(addresses.map(listen).into()).start();
    assert_eq!(daemon.addresses.len(), 2);
    for address in &daemon.addresses {
        assert_eq!(ask(*address), document(RULES), "on {address}");
    }
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_accepts_nothing_new() {
    let mut daemon = Setup::new().start();
    let mut in_flight = dial(daemon.address());
    in_flight.write_all(&REQUEST[..10]).expect("half a request");
    // The half is accepted for certain once a later exchange has been served.
    assert_eq!(daemon.ask(), document(RULES));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_state("STOPPING=1");
    in_flight.write_all(&REQUEST[10..]).expect("the other half");
    assert_eq!(read_to_end(&mut in_flight), document(RULES));
    assert_eq!(daemon.wait_for_exit(SOON).code(), Some(0));
    let refused = TcpStream::connect_timeout(&daemon.address(), SOON);
    assert_eq!(refused.map_err(|error| error.kind()).err(), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn sigterm_waits_for_no_one_beyond_the_deadline() {
    let mut daemon = Setup::new().tables("[limits]\nrequest-timeout = \"1s\"").start();
    let mut stalled = dial(daemon.address());
    stalled.write_all(&REQUEST[..10]).expect("half a request");
    assert_eq!(daemon.ask(), document(RULES));
    // One that waits until its client leaves is still running after SOON.
    assert_eq!(daemon.terminate().code(), Some(0));
    drop(stalled);
}

#[test]
fn sigint_and_sigquit_end_the_daemon_in_order() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut daemon = Setup::new().start();
        daemon.signal(signal);
        assert_eq!(daemon.wait_for_exit(SOON).code(), Some(0), "{signal}");
    }
}

#[test]
fn sigusr1_logs_the_counters() {
    let daemon = Setup::new().start();
    for _ in 0..3 {
        daemon.ask();
    }
    let mark = daemon.log.mark();
    daemon.signal(Signal::SIGUSR1);
    let line = daemon.log.wait_for_after(mark, "served");
    assert!(line.contains("served 3,"), "three requests were served: {line}");
}

#[test]
fn the_service_manager_is_told_the_counters_while_it_runs() {
    let mut daemon = Setup::new().start();
    daemon.ask();
    daemon.wait_for_status("1 served");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_state("STOPPING=1");
    assert_eq!(daemon.wait_for_exit(SOON).code(), Some(0));
}

#[test]
fn a_server_with_nothing_to_do_sleeps() {
    let daemon = Setup::new().start();
    for _ in 0..100 {
        daemon.ask();
    }
    let share = cpu_share(daemon.pid);
    assert!(share < 0.02, "{:.1} % of a processor after the last client", share * 100.0);
}

#[test]
fn trace_has_each_step_of_a_connection_in_order() {
    let daemon = Setup::new().argument("-vv").start();
    let mut client = dial(daemon.address());
    let peer = client.local_addr().unwrap();
    client.write_all(REQUEST).unwrap();
    let answer = read_to_end(&mut client);
    daemon.log.wait_for(&format!("{peer}: closed"));
    let log = daemon.log.everything();
    let steps: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once(&format!(" trace: {peer}: ")))
        .map(|(_, step)| step.split(" after ").next().unwrap().to_owned())
        .collect();
    let sent = format!("sent {length} bytes of an answer of {length}", length = answer.len());
    let accepted = format!("accepted on {}", daemon.address());
    let read = format!("read {} bytes", REQUEST.len());
    assert_eq!(steps, [&*accepted, &*read, &*sent, "shut down for sending", "closed"]);
    assert!(log.contains(": served\n"), "{log}");
}

#[test]
fn a_word_in_rust_log_that_is_no_level_is_told_and_silences_nothing() {
    let daemon = Setup::new().environment("RUST_LOG", "inf").start();
    daemon.log.wait_for("warn: RUST_LOG is ignored: \"inf\" is not one of off, error, warn,");
    daemon.log.wait_for("info: serving");
}

#[test]
fn a_level_in_rust_log_counts() {
    let daemon = Setup::new().environment("RUST_LOG", "DEBUG").start();
    dial(daemon.address()).write_all(b"x").unwrap();
    daemon.log.wait_for("debug: ");
    assert!(!daemon.log.everything().contains("RUST_LOG"));
}
