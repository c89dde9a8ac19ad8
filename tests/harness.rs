//! The counting client is no witness unless it notices: servers that fail their clients in each
//! of the known ways, and what the client says of them.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use support::load::{self, Load, REQUEST, Report, Shape, Sources};

const DOCUMENT: &[u8] = b"<cross-domain-policy/>\0";

/// What the client reports of a server that treats each connection so.
fn report_on(shape: Shape, treat: fn(TcpStream)) -> Report {
    const REQUESTS: usize = 20;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target: SocketAddr = listener.local_addr().expect("a bound address");
    thread::scope(|scope| {
        scope.spawn(move || {
            for stream in listener.incoming().take(REQUESTS) {
                treat(stream.expect("a connection"));
            }
        });
        load::run(&Load {
            target,
            requests: REQUESTS,
            concurrency: 4,
            shape,
            sources: Sources::LOOPBACK,
            documents: &[DOCUMENT],
        })
    })
}

/// Reads to the end of the request, however it comes.
fn read_request(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 22]).expect("a request");
}

/// Answers, and reads until the client has left.
fn treat_well(mut stream: TcpStream) {
    read_request(&mut stream);
    stream.write_all(DOCUMENT).expect("sending");
    stream.shutdown(Shutdown::Write).expect("shutting down");
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn a_server_that_does_all_right_is_found_so_in_every_shape() {
    for shape in Shape::ODD.into_iter().chain([Shape::Whole]) {
        let report = report_on(shape, treat_well);
        report.assert_all_answered();
        assert_eq!(report.by_document, [20], "{shape:?}");
    }
}

#[track_caller]
fn assert_none_answered(report: &Report, complaint: &str) {
    assert_none_answered_for(report, &[complaint]);
}

/// As [`assert_none_answered`], where the order of two events decides which complaint it is.
#[track_caller]
fn assert_none_answered_for(report: &Report, complaints: &[&str]) {
    assert_eq!(report.answered, 0, "{report:?}");
    assert!(!report.failures.is_empty(), "{report:?}");
    for failure in &report.failures {
        assert!(complaints.iter().any(|complaint| failure.contains(complaint)), "{report:?}");
    }
}

#[test]
fn a_reset_behind_the_whole_answer_is_noticed() {
    let report = report_on(Shape::Whole, |mut stream| {
        read_request(&mut stream);
        stream.write_all(DOCUMENT).expect("sending");
        // The NUL of the request is in the queue unread: the close becomes a reset.
    });
    assert_none_answered(&report, "reset");
}

#[test]
fn a_reset_that_follows_the_end_of_the_stream_is_noticed() {
    let report = report_on(Shape::NulAfterAnswer, |mut stream| {
        read_request(&mut stream);
        stream.write_all(DOCUMENT).expect("sending");
        // Closed without waiting for a NUL that was still to come.
    });
    // A NUL that meets a closed end is a broken pipe; one that the close finds unread is a reset.
    assert_none_answered_for(&report, &["Broken pipe", "reset"]);
    assert_eq!(report.failures.len(), 8);
}

#[test]
fn an_abort_is_noticed() {
    let report = report_on(Shape::Whole, |mut stream| {
        stream.read_exact(&mut [0; REQUEST.len()]).expect("a request");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    });
    assert_none_answered(&report, "reset");
}

#[test]
fn an_answer_that_lacks_a_byte_is_noticed() {
    let report = report_on(Shape::Whole, |mut stream| {
        stream.read_exact(&mut [0; REQUEST.len()]).expect("a request");
        stream.write_all(&DOCUMENT[..DOCUMENT.len() - 1]).expect("sending");
    });
    assert_none_answered(&report, "not the document");
}

#[test]
fn an_answer_with_a_byte_too_many_is_noticed() {
    let report = report_on(Shape::Whole, |mut stream| {
        stream.read_exact(&mut [0; REQUEST.len()]).expect("a request");
        stream.write_all(DOCUMENT).expect("sending");
        stream.write_all(b"\0").expect("sending");
    });
    assert_none_answered(&report, "not the document");
}

#[test]
fn no_server_at_all_is_noticed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = listener.local_addr().expect("a bound address");
    drop(listener);
    let report = load::run(&Load {
        target,
        requests: 10,
        concurrency: 2,
        shape: Shape::Whole,
        sources: Sources::Any,
        documents: &[DOCUMENT],
    });
    assert_none_answered(&report, "refused");
}
