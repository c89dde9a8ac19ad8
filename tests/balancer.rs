//! Behind a balancer: the client that a header of the PROXY protocol names is the one that counts,
//! and only where the header comes from a balancer that the configuration names.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use support::balancer::{Balancer, line, local, unknown, v2};
use support::daemon::{
    RULES, dial, dial_from, document, document_of, finish, read_to_end, run_program,
};
use support::load::{self, Load, REQUEST, Shape, Sources};
use support::network::{in_own_network, listen};
use support::{Daemon, Scratch, Setup, figure};

const FROM_HERE: &str = "[proxy-protocol]\nfrom = [\"127.0.0.1\", \"::1\"]";

/// The port that a player knows, which is the balancer's.
const ASKED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 843);

fn client(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, last), port).into()
}

fn trusting(limits: &str) -> Setup {
    Setup::new()
        .tables(FROM_HERE)
        .tables(&format!("[limits]\n{limits}"))
        .keys("sandbox = \"require\"")
}

/// A connection that has sent this.
fn sent(daemon: &Daemon, bytes: &[u8]) -> TcpStream {
    let mut stream = dial(daemon.address());
    stream.write_all(bytes).expect("sending");
    stream
}

/// What the daemon has to say to these bytes.
fn answer(daemon: &Daemon, bytes: &[u8]) -> Vec<u8> {
    read_to_end(&mut sent(daemon, bytes))
}

/// How many exchanges have come to this end.
fn count(daemon: &Daemon, outcome: &str) -> u64 {
    let mark = daemon.log.mark();
    daemon.signal(Signal::SIGUSR1);
    let line = daemon.log.wait_for_after(mark, outcome);
    let behind = line.split_once(&format!("{outcome} ")).expect("the counter").1;
    behind
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|it| it.parse().ok())
        .expect("a number")
}

/// Waits until so many exchanges have come to this end.
fn wait_for_count(daemon: &Daemon, outcome: &str, expected: u64) {
    let deadline = Instant::now() + support::SOON;
    while count(daemon, outcome) != expected {
        assert!(Instant::now() < deadline, "{outcome} is {}", count(daemon, outcome));
    }
}

#[test]
fn the_port_that_the_header_names_chooses_the_document() {
    let daemon = trusting("").start();
    for port in [843, 844, 0] {
        let asked = SocketAddr::new(ASKED.ip(), port);
        for header in [v2(client(1, 5000), asked), line(client(1, 5000), asked)] {
            assert_eq!(
                answer(&daemon, &[&header, &REQUEST[..]].concat()),
                document_of(port, RULES)
            );
        }
    }
    for header in [local(), unknown()] {
        assert_eq!(answer(&daemon, &[&header, &REQUEST[..]].concat()), document(RULES));
    }
}

#[test]
fn the_header_may_come_in_pieces_and_the_request_later() {
    let daemon = trusting("").start();
    for header in [v2(client(1, 5000), ASKED), line(client(1, 5000), ASKED)] {
        let mut stream = dial(daemon.address());
        for byte in [&header, &REQUEST[..]].concat() {
            stream.write_all(&[byte]).expect("sending a byte");
        }
        assert_eq!(read_to_end(&mut stream), document_of(843, RULES));
        let mut stream = sent(&daemon, &header);
        // Another exchange is over, so the header has been read.
        assert_eq!(answer(&daemon, &[&header, &REQUEST[..]].concat()), document_of(843, RULES));
        stream.write_all(REQUEST).expect("sending the request");
        assert_eq!(read_to_end(&mut stream), document_of(843, RULES));
    }
}

#[test]
fn the_client_that_the_header_names_is_logged() {
    let daemon = trusting("").tables("[log]\nrequests = true").start();
    let v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7), 5000));
    for client in [client(1, 5000), v6] {
        answer(&daemon, &[&v2(client, ASKED), &REQUEST[..]].concat());
        daemon.log.wait_for(&format!("served {client} in"));
    }
    let mapped = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 9).to_ipv6_mapped(), 5000));
    answer(&daemon, &[&v2(mapped, ASKED), &REQUEST[..]].concat());
    daemon.log.wait_for("served [::ffff:198.51.100.9]:5000 in");
}

#[test]
fn from_others_a_header_is_no_request() {
    let daemon = trusting("").start();
    for header in [v2(client(1, 5000), ASKED), line(client(1, 5000), ASKED), local()] {
        let mut stream = dial_from([127, 0, 0, 2].into(), daemon.address());
        stream.write_all(&[&header, &REQUEST[..]].concat()).expect("sending");
        assert_eq!(finish(&mut stream), b"");
    }
    let mut stream = dial_from([127, 0, 0, 2].into(), daemon.address());
    stream.write_all(REQUEST).expect("sending");
    assert_eq!(read_to_end(&mut stream), document(RULES), "and a request is one");
    assert_eq!(count(&daemon, "malformed"), 3);
    let line = daemon.log.wait_for("it began with a header of the PROXY protocol");
    let remedy = "if 127.0.0.2 is your balancer, add it to proxy-protocol.from";
    assert!(line.ends_with(remedy), "{line}");
    let lines = daemon.log.lines_after(0);
    assert_eq!(lines.iter().filter(|line| line.contains("PROXY")).count(), 1, "{lines:#?}");
}

#[test]
fn a_balancer_that_sends_no_header_is_told_once_how_to_mend_it() {
    let daemon = trusting("").start();
    for _ in 0..3 {
        assert_eq!(answer(&daemon, REQUEST), b"");
    }
    let line = daemon.log.wait_for("is not a header of the PROXY protocol");
    for words in [
        "closed 127.0.0.1:",
        "\"<policy-file-request/>\\x00\"",
        "send-proxy-v2",
        "proxy-protocol.from",
    ] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert_eq!(count(&daemon, "malformed"), 3);
    let lines = daemon.log.lines_after(0);
    assert_eq!(
        lines.iter().filter(|line| line.contains("PROXY protocol")).count(),
        1,
        "{lines:#?}"
    );
}

#[test]
fn a_client_behind_a_balancer_has_no_header_of_its_own() {
    let daemon = trusting("").argument("-v").start();
    let forged =
        [v2(client(1, 5000), ASKED), v2(client(2, 6000), ASKED), REQUEST.to_vec()].concat();
    assert_eq!(answer(&daemon, &forged), b"");
    daemon.log.wait_for("closed 198.51.100.1:5000: \"\\r\\n\\r\\n");
    let lines = daemon.log.lines_after(0);
    assert!(!lines.iter().any(|line| line.contains("proxy-protocol.from")), "{lines:#?}");
}

#[test]
fn a_header_that_is_wrong_is_closed_on_at_once() {
    let daemon = trusting("request-timeout = \"60s\"").start();
    let mut too_long = local();
    too_long[14] = 0xff;
    for header in [
        &too_long[..15],
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31",
    ] {
        assert_eq!(answer(&daemon, header), b"", "{}", header.escape_ascii());
    }
    assert_eq!(count(&daemon, "malformed"), 4);
}

#[test]
fn a_health_check_asks_nothing() {
    let daemon = trusting("").start();
    // A connection alone is not accepted before it ends.
    for bytes in [&b""[..], &local(), &unknown(), &v2(client(1, 5000), ASKED)] {
        assert_eq!(finish(&mut sent(&daemon, bytes)), b"");
    }
    wait_for_count(&daemon, "unasked", 4);
    let header = v2(client(1, 5000), ASKED);
    for bytes in [&header[..7], &[&header, &REQUEST[..7]].concat()] {
        assert_eq!(finish(&mut sent(&daemon, bytes)), b"");
    }
    wait_for_count(&daemon, "aborted", 2);
    assert_eq!(count(&daemon, "unasked"), 4);
}

#[test]
fn header_and_request_have_one_deadline() {
    let daemon = trusting("request-timeout = \"2s\"").start();
    let header = v2(client(1, 5000), ASKED);
    let began = Instant::now();
    let mut stream = sent(&daemon, &header[..10]);
    thread::sleep(Duration::from_millis(1200));
    stream.write_all(&header[10..]).expect("the rest of the header");
    assert_eq!(read_to_end(&mut stream), b"");
    let took = began.elapsed();
    assert!((2.0..3.2).contains(&took.as_secs_f64()), "{took:?}");
    assert_eq!(count(&daemon, "timeout"), 1);
}

#[test]
fn a_source_is_the_client_and_not_the_balancer() {
    let daemon = trusting("connections-per-source = 1\nrequest-timeout = \"60s\"").start();
    let half =
        |last, port| sent(&daemon, &[&v2(client(last, port), ASKED), &REQUEST[..9]].concat());
    // Whom they are for is not known, so they count against nobody.
    let mut unnamed = [(); 3].map(|()| sent(&daemon, &v2(client(3, 5000), ASKED)[..9]));
    let mut one = half(1, 5000);
    let mut other = half(2, 5000);
    let mut second = half(1, 5001);
    assert_eq!(read_to_end(&mut one), b"", "it made room for the second of its source");
    daemon.log.wait_for("198.51.100.1 has limits.connections-per-source");
    for stream in [&mut other, &mut second] {
        stream.write_all(&REQUEST[9..]).expect("the rest");
        assert_eq!(read_to_end(stream), document_of(843, RULES));
    }
    // Named while they wait, each is counted then.
    for stream in &mut unnamed {
        stream.write_all(&v2(client(3, 5000), ASKED)[9..]).expect("the rest of the header");
        answer(&daemon, &[&local(), &REQUEST[..]].concat());
    }
    let [mut first, mut second, mut third] = unnamed;
    assert_eq!([read_to_end(&mut first), read_to_end(&mut second)], [b"", b""]);
    third.write_all(REQUEST).expect("the request");
    assert_eq!(read_to_end(&mut third), document_of(843, RULES));
    assert_eq!(count(&daemon, "source_limit"), 3);
}

#[test]
fn whoever_makes_room_is_answered_where_header_and_request_have_come() {
    let daemon = trusting("connections = 1\nrequest-timeout = \"60s\"").start();
    let header = v2(client(1, 5000), ASKED);
    let mut waiting = sent(&daemon, &header[..9]);
    answer(&daemon, &[&local(), &REQUEST[..]].concat());
    daemon.signal(Signal::SIGSTOP);
    waiting.write_all(&[&header[9..], &REQUEST[..]].concat()).expect("the rest");
    let mut next = sent(&daemon, &header);
    daemon.signal(Signal::SIGCONT);
    assert_eq!(read_to_end(&mut waiting), document_of(843, RULES));
    next.write_all(REQUEST).expect("the request");
    assert_eq!(read_to_end(&mut next), document_of(843, RULES));
}

#[test]
fn a_stop_waits_for_the_request_behind_a_header() {
    let mut daemon = trusting("").start();
    let mut streams = [9, 28].map(|length| sent(&daemon, &v2(client(1, 5000), ASKED)[..length]));
    answer(&daemon, &[&local(), &REQUEST[..]].concat());
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("SIGTERM: stopping");
    streams[0].write_all(&v2(client(1, 5000), ASKED)[9..]).expect("the rest of the header");
    for stream in &mut streams {
        stream.write_all(REQUEST).expect("the request");
        assert_eq!(read_to_end(stream), document_of(843, RULES));
    }
    assert_eq!(daemon.wait_for_exit(support::SOON).code(), Some(0));
}

#[test]
fn a_reload_changes_who_is_believed() {
    let mut daemon = trusting("").start();
    let asked = [&v2(client(1, 5000), ASKED), &REQUEST[..]].concat();
    let mut earlier = sent(&daemon, &asked[..9]);
    assert_eq!(answer(&daemon, &asked), document_of(843, RULES));
    daemon.replace_in_main_file("\"127.0.0.1\", ", "");
    daemon.reload();
    assert_eq!(answer(&daemon, REQUEST), document(RULES));
    earlier.write_all(&asked[9..]).expect("the rest");
    assert_eq!(read_to_end(&mut earlier), document_of(843, RULES), "it began with a header");
}

#[test]
fn an_ipv6_socket_and_its_own_addresses_are_meant_as_they_are_written() {
    let daemon =
        Setup::inherited(vec![listen((Ipv6Addr::LOCALHOST, 0).into())]).tables(FROM_HERE).start();
    let asked = SocketAddr::from((Ipv6Addr::LOCALHOST, 843));
    let client = SocketAddr::from((Ipv6Addr::LOCALHOST, 5000));
    assert_eq!(
        answer(&daemon, &[&line(client, asked), &REQUEST[..]].concat()),
        document_of(843, RULES)
    );
}

#[test]
fn the_commands_ask_a_daemon_that_wants_a_header() {
    let daemon = trusting("").start();
    let port = daemon.address().port().to_string();
    let file = daemon.main_file();
    let run = |arguments: &[&str]| {
        let mut words: Vec<&OsStr> = vec!["-c".as_ref(), file.as_os_str()];
        words.extend(arguments.iter().map(OsStr::new));
        run_program(&words)
    };
    let probe = ["probe", "127.0.0.1", "5000", "--policy-port", &port, "--summary"];
    let (code, stdout, _) = run(&[&probe[..], &["--proxy-protocol"]].concat());
    assert_eq!(code, Some(0), "{stdout}");
    let (code, stdout, _) = run(&probe);
    assert_eq!(code, Some(1), "without a header nothing is answered: {stdout}");
    assert_eq!(run(&["diff"]).0, Some(0));
    let (_, stdout, stderr) = run(&["audit"]);
    assert!(stdout.contains("gives out the configured policy"), "{stdout}{stderr}");
}

/// How many requests go through each balancer. `MASTERPOLICYD_BALANCED=100000` is the full
/// number.
fn balanced_requests() -> usize {
    let set = std::env::var("MASTERPOLICYD_BALANCED").ok();
    set.map_or(10_000, |text| text.parse().expect("a number of requests"))
}

/// What `HAProxy` does with a connection, in the words of `server`.
fn haproxy(server: SocketAddr, options: &str) -> String {
    format!(
        "global\n  maxconn 4000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
         listen policy\n  bind {BALANCED}\n  server daemon {server} {options}\n"
    )
}

/// Where the balancer is asked.
const BALANCED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 843);

/// Requests through a balancer, while the daemon is reloaded and restarted on a socket that is
/// kept: each is answered, whole and in order.
fn none_is_lost(test: &str, start_balancer: impl FnOnce(SocketAddr) -> Option<Balancer> + Send) {
    in_own_network(test, || {
        let socket = listen((Ipv4Addr::LOCALHOST, 0).into());
        let start = || {
            let socket = socket.try_clone().expect("a descriptor");
            Setup::inherited(vec![socket]).tables(FROM_HERE).keys("sandbox = \"require\"").start()
        };
        let mut daemon = start();
        let Some(_balancer) = start_balancer(daemon.address()) else { return };
        let requests = balanced_requests();
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                load::run(&Load {
                    target: BALANCED,
                    requests,
                    concurrency: 64,
                    shape: Shape::Whole,
                    sources: Sources::LOOPBACK,
                    documents: &[&document_of(843, RULES)],
                })
            });
            let (mut reloads, mut restarts) = (0, 0);
            while !load.is_finished() {
                daemon.reload();
                reloads += 1;
                assert_eq!(daemon.terminate().code(), Some(0));
                daemon = start();
                restarts += 1;
            }
            let report = load.join().expect("the load");
            report.assert_all_answered();
            figure(test, "answered", report.answered, "requests");
            figure(test, "reloads", reloads, "reloads");
            figure(test, "restarts", restarts, "restarts");
        });
    });
}

macro_rules! none_is_lost_behind_haproxy {
    ($($test:ident: $options:literal;)+) => {
        $(#[test]
        fn $test() {
            let test = stringify!($test);
            none_is_lost(test, |server| {
                Balancer::haproxy(test, Scratch::new(), &haproxy(server, $options), BALANCED)
            });
        })+
    };
}

none_is_lost_behind_haproxy! {
    behind_haproxy_with_version_1: "send-proxy check inter 50ms";
    behind_haproxy_with_version_2: "send-proxy-v2 check inter 50ms";
    behind_haproxy_with_a_checksum: "send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 50ms";
}

#[test]
fn behind_nginx() {
    none_is_lost("behind_nginx", |server| Balancer::nginx("behind_nginx", BALANCED, server));
}

/// The processor time of the thread that serves, which is the first.
fn serving_time(daemon: &Daemon) -> Duration {
    let pid = daemon.pid;
    let text =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).expect("a live process");
    let nanoseconds = text.split(' ').next().and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number of nanoseconds"))
}

#[test]
#[cfg_attr(debug_assertions, ignore = "measures the program as it is installed: --release")]
fn a_header_costs_at_most_15_percent_more() {
    let test = "a_header_costs_at_most_15_percent_more";
    // Whoever shares a core with the client is woken more cheaply: both do.
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("the processors");
    let is_allowed = |core: &usize| allowed.is_set(*core).unwrap_or(false);
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(is_allowed).expect("a processor")).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &one).expect("to stay on it");
    let with = trusting("").start();
    let without = Setup::new().keys("sandbox = \"require\"").start();
    let asked = [&v2(client(1, 5000), ASKED), &REQUEST[..]].concat();
    let costs = |daemon: &Daemon, bytes: &[u8]| {
        let before = serving_time(daemon);
        for _ in 0..2000 {
            answer(daemon, bytes);
        }
        serving_time(daemon).saturating_sub(before).as_secs_f64() / 2000.0 * 1e6
    };
    // The least of several rounds that take turns: what a busy machine adds is not the header's.
    let rounds: Vec<_> = (0..8).map(|_| (costs(&without, REQUEST), costs(&with, &asked))).collect();
    let least = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::INFINITY, f64::min);
    let without = least(&mut rounds.iter().map(|(without, _)| *without));
    let with = least(&mut rounds.iter().map(|(_, with)| *with));
    figure(test, "without", format_args!("{without:.1}"), "µs");
    figure(test, "with", format_args!("{with:.1}"), "µs");
    assert!(with <= 1.15 * without, "{with:.2} µs with a header, {without:.2} µs without");
}
