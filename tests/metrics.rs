//! What the daemon tells a scraper: every metric after what it counts was provoked, the HTTP
//! around it, and scrapers that misbehave. The rules and the dashboard in packaging/ are held
//! against the metrics that there are, by promtool and a real Prometheus where they are installed.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use masterpolicyd::server::exchange::Outcome;
use masterpolicyd::server::metrics::{self, Counters, Gauges, METRICS, Metric};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::User;
use socket2::{Domain, SockRef, Socket, Type};

use support::daemon::{RULES, Rule, Stderr, ask, dial, document, document_of, read_to_end};
use support::load::{self, REQUEST};
use support::network::{address_of, in_own_network, listen};
use support::process::strace;
use support::{Daemon, SERVICE_USER, SOON, Scratch, Setup, find_program, is_root, skip};

const OTHER_RULES: &[Rule] = &[("game.example.org", "6000"), ("www.example.net", "443,7000-7007")];

/// How long a condition is left alone before it is looked at again, where nothing announces it.
const GLANCE: Duration = Duration::from_millis(20);

/// A daemon with a socket for each of its purposes, both handed over.
struct Measured {
    daemon: Daemon,
    metrics: SocketAddr,
}

impl Deref for Measured {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Measured {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

impl Measured {
    fn start(limits: &str) -> Self {
        Self::start_as(limits, |setup| setup)
    }

    fn start_as(limits: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let [policy, metrics] = [(); 2].map(|()| listen((Ipv4Addr::LOCALHOST, 0).into()));
        let (serving, scraped) = (address_of(&policy), address_of(&metrics));
        let setup = Setup::inherited(vec![policy, metrics])
            .listening_on(&[serving])
            .tables(&format!("[limits]\n{limits}\n[metrics]\nlisten = \"{scraped}\""));
        Self { daemon: change(setup).start(), metrics: scraped }
    }

    #[track_caller]
    fn scrape(&self) -> Samples {
        scrape(self.metrics)
    }

    /// Waits for a scrape that tells this. What one connection does can reach the daemon after
    /// what another does later, so a client that left may not have been seen leaving yet.
    #[track_caller]
    fn wait_for(&self, is_told: impl Fn(&Samples) -> bool) {
        let began = Instant::now();
        loop {
            let samples = self.scrape();
            if is_told(&samples) {
                return;
            }
            assert!(began.elapsed() < SOON, "not after {SOON:?}:\n{}", samples.text);
            thread::sleep(GLANCE);
        }
    }

    /// Waits until so many connections are unfinished, the scrape among them.
    #[track_caller]
    fn wait_for_connections(&self, count: f64) {
        self.wait_for(|samples| (samples.value("connections") - count).abs() < 1e-9);
    }
}

/// A scrape by the book.
#[track_caller]
fn scrape(address: SocketAddr) -> Samples {
    let response = get(address, "/metrics");
    assert_eq!(response.status, 200, "{response:?}");
    Samples::parse(&response.body)
}

#[track_caller]
fn get(address: SocketAddr, target: &str) -> Response {
    request(address, &format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

#[track_caller]
fn request(address: SocketAddr, text: &str) -> Response {
    let mut stream = dial(address);
    stream.write_all(text.as_bytes()).expect("sending the request");
    Response::parse(&read_to_end(&mut stream))
}

/// An HTTP response that ended in order.
#[derive(Debug)]
struct Response {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Response {
    #[track_caller]
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().expect("a status line").split(' ').nth(1).expect("a status");
        Self {
            status: status.parse().expect("a number"),
            fields: lines
                .map(|line| line.split_once(": ").expect("a field"))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }
}

/// The samples of one scrape by series: the name and the labels as they are written.
#[derive(Debug, Clone, PartialEq)]
struct Samples {
    text: String,
    values: BTreeMap<String, f64>,
}

impl Samples {
    #[track_caller]
    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let values = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("a number: {line}")))
        });
        Self { text: text.to_owned(), values: values.collect() }
    }

    /// The value of a series, named without the program's name.
    #[track_caller]
    fn value(&self, series: &str) -> f64 {
        let value = self.values.get(&format!("masterpolicyd_{series}"));
        *value.unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    #[track_caller]
    fn assert(&self, series: &str, expected: f64) {
        let value = self.value(series);
        assert!((value - expected).abs() < 1e-9, "{series} is {value} and not {expected}");
    }

    /// The requests by result, without those that are 0.
    fn requests(&self) -> BTreeMap<&str, f64> {
        self.values
            .iter()
            .filter(|(_, value)| **value > 0.0)
            .filter_map(|(series, value)| {
                let labels = series.strip_prefix("masterpolicyd_requests_total{result=\"")?;
                Some((labels.strip_suffix("\"}")?, *value))
            })
            .collect()
    }

    /// The buckets of the histogram, by their upper ends.
    fn buckets(&self) -> Vec<(f64, f64)> {
        let mut buckets: Vec<(f64, f64)> = self
            .values
            .iter()
            .filter_map(|(series, value)| {
                let end = series
                    .strip_prefix("masterpolicyd_request_duration_seconds_bucket{le=\"")?
                    .strip_suffix("\"}")?;
                // What f64 calls it is "inf", and it takes "+Inf" as well.
                Some((end.parse().expect("an upper end"), *value))
            })
            .collect();
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        buckets
    }

    /// Fails unless the histogram is one, and one of exactly the requests that are counted.
    #[track_caller]
    fn assert_histogram_agrees(&self) {
        let buckets = self.buckets();
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{buckets:?}");
        let (last_end, last) = *buckets.last().expect("a bucket");
        assert!(last_end.is_infinite(), "{buckets:?}");
        let counted: f64 = self.requests().values().sum();
        self.assert("request_duration_seconds_count", counted);
        assert!((last - counted).abs() < 1e-9, "{last} in all buckets, {counted} requests");
        // Each duration is above the end of the bucket below its own.
        let (mut shortest_sum, mut below) = (0.0, (0.0, 0.0));
        for (end, count) in buckets {
            shortest_sum += (count - below.1) * below.0;
            below = (end, count);
        }
        let sum = self.value("request_duration_seconds_sum");
        assert!(
            sum >= shortest_sum,
            "{sum} s in all, where the buckets hold at least {shortest_sum} s"
        );
    }
}

/// A connection from an address of its own that has said `bytes`.
fn say(target: SocketAddr, source: [u8; 4], bytes: &[u8]) -> TcpStream {
    let socket = load::connect(target, Some(Ipv4Addr::from(source).into())).expect("a connection");
    socket.set_nonblocking(false).expect("a socket that blocks");
    socket.set_read_timeout(Some(SOON)).expect("a read timeout");
    let mut stream = TcpStream::from(socket);
    stream.write_all(bytes).expect("sending");
    stream
}

/// Waits until the server has closed a connection that it had nothing to say to.
#[track_caller]
fn wait_for_close(stream: &mut TcpStream) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Ok(_) => panic!("an answer"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Fails unless these, and no others, are the requests since the start.
#[track_caller]
fn assert_requests(daemon: &Measured, expected: &[(&str, f64)]) {
    let samples = daemon.scrape();
    assert_eq!(samples.requests(), expected.iter().copied().collect(), "{}", samples.text);
    samples.assert_histogram_agrees();
}

#[test]
fn requests_served_are_counted() {
    let daemon = Measured::start("");
    assert_requests(&daemon, &[]);
    for served in 1..=3 {
        assert_eq!(daemon.ask(), document(RULES));
        assert_requests(&daemon, &[("served", f64::from(served))]);
    }
}

#[test]
fn what_is_no_request_is_counted_as_malformed() {
    let daemon = Measured::start("");
    for bytes in
        [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"\x16\x03\x01", b"<policy-file-reqwest/>\0"]
    {
        let mut stream = dial(daemon.address());
        stream.write_all(bytes).expect("sending");
        wait_for_close(&mut stream);
    }
    assert_requests(&daemon, &[("malformed", 3.0)]);
}

#[test]
fn requests_past_the_deadline_are_counted_and_their_time_is_told() {
    let daemon = Measured::start("request-timeout = \"2s\"");
    let mut streams = [(); 2].map(|()| {
        let mut stream = dial(daemon.address());
        stream.write_all(&REQUEST[..10]).expect("half a request");
        stream
    });
    for stream in &mut streams {
        wait_for_close(stream);
    }
    assert_requests(&daemon, &[("timeout", 2.0)]);
    let samples = daemon.scrape();
    let sum = samples.value("request_duration_seconds_sum");
    assert!(sum >= 2.0 * 2.0, "two requests of two seconds each took {sum} s");
    samples.assert("request_duration_seconds_bucket{le=\"1.0\"}", 0.0);
}

#[test]
fn a_client_that_leaves_before_its_answer_is_counted_as_aborted() {
    let daemon = Measured::start("");
    for linger in [None, Some(Duration::ZERO)] {
        let mut stream = dial(daemon.address());
        stream.write_all(&REQUEST[..10]).expect("half a request");
        // With a linger of nothing, closing is a reset.
        SockRef::from(&stream).set_linger(linger).expect("SO_LINGER");
    }
    daemon.wait_for(|samples| samples.requests().values().sum::<f64>() >= 2.0);
    assert_requests(&daemon, &[("aborted", 2.0)]);
}

#[test]
fn a_client_that_leaves_without_a_byte_has_not_asked() {
    let daemon = Measured::start("");
    // One that leaves with a reset never leaves the kernel's queue, because of TCP_DEFER_ACCEPT.
    drop(dial(daemon.address()));
    daemon.wait_for(|samples| samples.requests().values().sum::<f64>() >= 1.0);
    assert_requests(&daemon, &[("unasked", 1.0)]);
}

#[test]
fn requests_that_make_room_are_counted_as_evicted() {
    let daemon = Measured::start("connections = 3\nrequest-timeout = \"60s\"");
    let mut streams =
        [1, 2, 3, 4, 5].map(|number| say(daemon.address(), [127, 0, 3, number], &REQUEST[..10]));
    for evicted in &mut streams[..2] {
        wait_for_close(evicted);
    }
    for kept in &mut streams[2..] {
        kept.write_all(&REQUEST[10..]).expect("the other half");
        assert_eq!(read_to_end(kept), document(RULES));
    }
    assert_requests(&daemon, &[("evicted", 2.0), ("served", 3.0)]);
}

#[test]
fn requests_over_the_limit_of_their_source_are_counted_as_such() {
    let daemon = Measured::start("connections-per-source = 2\nrequest-timeout = \"60s\"");
    let mut greedy = [(); 5].map(|()| say(daemon.address(), [127, 0, 3, 1], &REQUEST[..10]));
    let mut modest = say(daemon.address(), [127, 0, 3, 2], &REQUEST[..10]);
    for stream in &mut greedy[..3] {
        wait_for_close(stream);
    }
    for stream in greedy[3..].iter_mut().chain([&mut modest]) {
        stream.write_all(&REQUEST[10..]).expect("the other half");
        assert_eq!(read_to_end(stream), document(RULES));
    }
    assert_requests(&daemon, &[("served", 3.0), ("source_limit", 3.0)]);
}

#[test]
fn unfinished_connections_are_a_gauge() {
    let daemon = Measured::start("request-timeout = \"60s\"");
    daemon.scrape().assert("connections", 1.0);
    let held = [(); 7].map(|()| say(daemon.address(), [127, 0, 3, 1], &REQUEST[..10]));
    daemon.wait_for_connections(1.0 + 7.0);
    drop(held);
    daemon.wait_for_connections(1.0);
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970").as_secs_f64()
}

#[test]
fn the_policy_and_its_reloads_are_told() {
    const ROUNDING: f64 = 0.001;
    #[track_caller]
    fn assert_policy(samples: &Samples, rules: &[Rule]) {
        samples.assert("policy_rules", f64::from(u8::try_from(rules.len()).expect("a few")));
        samples.assert(
            "policy_bytes",
            f64::from(u32::try_from(document(rules).len()).expect("a short document")),
        );
    }
    #[track_caller]
    fn assert_reloads(samples: &Samples, ok: f64, failed: f64, last_successful: bool) {
        samples.assert("reloads_total{result=\"ok\"}", ok);
        samples.assert("reloads_total{result=\"failed\"}", failed);
        samples.assert("config_last_reload_successful", f64::from(u8::from(last_successful)));
    }

    let before = now();
    let mut daemon = Measured::start("");
    let samples = daemon.scrape();
    assert_policy(&samples, RULES);
    assert_reloads(&samples, 0.0, 0.0, true);
    let started = samples.value("config_loaded_timestamp_seconds");
    assert!((before - ROUNDING..=now() + ROUNDING).contains(&started), "{started}");

    daemon.break_main_file();
    daemon.reload();
    let samples = daemon.scrape();
    assert_policy(&samples, RULES);
    assert_reloads(&samples, 0.0, 1.0, false);
    samples.assert("config_loaded_timestamp_seconds", started);

    let before = now();
    daemon.write_rules(OTHER_RULES);
    daemon.reload();
    let samples = daemon.scrape();
    assert_policy(&samples, OTHER_RULES);
    assert_reloads(&samples, 1.0, 1.0, true);
    let reloaded = samples.value("config_loaded_timestamp_seconds");
    assert!((before - ROUNDING..=now() + ROUNDING).contains(&reloaded), "{reloaded}");
}

#[test]
fn connections_that_cannot_be_accepted_are_counted() {
    let test = "connections_that_cannot_be_accepted_are_counted";
    let Some(prlimit) = find_program("prlimit") else {
        return skip(test, "prlimit of util-linux is not installed");
    };
    let daemon = Measured::start("");
    daemon.scrape().assert("accept_errors_total", 0.0);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the descriptor limit");
    // Its own user may limit it; root without CAP_SYS_RESOURCE may not.
    let user = is_root().then(|| {
        User::from_name(SERVICE_USER).expect("the user database").expect("the service user")
    });
    let limit_descriptors = |limit: u64| {
        let mut command = Command::new(&prlimit);
        command.arg(format!("--pid={}", daemon.pid)).arg(format!("--nofile={limit}:{hard}"));
        if let Some(user) = &user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        assert!(command.status().expect("starting prlimit").success());
    };
    // stdin, stdout and stderr are open, so nothing is free below this.
    limit_descriptors(3);
    let mut waiting = dial(daemon.address());
    waiting.write_all(REQUEST).expect("a request that nobody accepts");
    daemon.log.wait_for("cannot accept");
    limit_descriptors(hard);
    assert_eq!(read_to_end(&mut waiting), document(RULES));
    let errors = daemon.scrape().value("accept_errors_total");
    assert!(errors >= 1.0, "{errors} accept errors");
    assert_requests(&daemon, &[("served", 1.0)]);
}

#[test]
fn log_lines_that_nobody_took_are_counted() {
    let talkative = Measured::start("");
    talkative.scrape().assert("log_lines_dropped_total", 0.0);
    let daemon = Measured::start_as("", |setup| setup.stderr(Stderr::Full));
    daemon.overfill_log(|| daemon.scrape().value("log_lines_dropped_total") > 0.0);
}

#[test]
fn the_version_is_told() {
    let version = env!("CARGO_PKG_VERSION");
    Measured::start("").scrape().assert(&format!("build_info{{version=\"{version}\"}}"), 1.0);
}

#[test]
fn every_metric_is_told_with_its_type_and_help() {
    let samples = Measured::start("").scrape();
    for Metric { name, kind, help, .. } in &METRICS {
        assert!(samples.text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")));
        assert!(samples.values.keys().any(|series| series.starts_with(name)), "no {name}");
    }
    for outcome in Outcome::EVERY {
        samples.assert(&format!("requests_total{{result=\"{}\"}}", outcome.as_str()), 0.0);
    }
}

#[test]
fn only_get_metrics_is_answered_with_metrics() {
    let daemon = Measured::start("");
    let response = get(daemon.metrics, "/metrics");
    assert_eq!(response.status, 200);
    let field = |response: &Response, name: &str| response.fields.get(name).cloned();
    assert_eq!(
        field(&response, "content-type").as_deref(),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(field(&response, "connection").as_deref(), Some("close"));
    assert_eq!(field(&response, "content-length"), Some(response.body.len().to_string()));

    assert_eq!(get(daemon.metrics, "/metrics?collect=all").status, 200);
    assert_eq!(request(daemon.metrics, "GET /metrics HTTP/1.0\r\n\r\n").status, 200);
    for target in ["/", "/metrics/", "/metric", "/metrics.txt", "*"] {
        assert_eq!(get(daemon.metrics, target).status, 404, "{target}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = request(daemon.metrics, &format!("{method} /metrics HTTP/1.1\r\n\r\n"));
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(field(&response, "allow").as_deref(), Some("GET, HEAD"), "{method}");
    }
    let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(16 * 1024));
    assert_eq!(request(daemon.metrics, &endless).status, 431);
    for text in ["<policy-file-request/>\0", "\u{16}\u{3}\u{1}\0", "GET\r\n\r\n", "GET /\r\n\r\n"] {
        assert_eq!(request(daemon.metrics, text).status, 400, "{text:?}");
    }
    assert_requests(&daemon, &[]);
}

#[test]
fn head_and_a_whole_uri_are_understood() {
    let daemon = Measured::start("");
    let head = request(daemon.metrics, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_ne!(head.fields.get("content-length").map(String::as_str), Some("0"));
    let uri = format!("http://{}/metrics", daemon.metrics);
    assert_eq!(get(daemon.metrics, &uri).status, 200);
}

/// A page in a browser reads what a loopback address serves if it may come by a name, which its
/// author lets lead there.
#[test]
fn metrics_on_a_loopback_address_are_not_served_to_a_foreign_name() {
    let daemon = Measured::start("");
    let by = |host: &str| {
        request(daemon.metrics, &format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n")).status
    };
    for host in ["localhost", "localhost:9843", "127.0.0.1:9843", "[::1]:9843"] {
        assert_eq!(by(host), 200, "{host}");
    }
    for host in ["rebound.example", "localhost.rebound.example:9843"] {
        assert_eq!(by(host), 421, "{host}");
    }
}

#[test]
fn metrics_on_a_network_address_are_served_by_name() {
    in_own_network("metrics_on_a_network_address_are_served_by_name", || {
        let added = Command::new("ip").args(["addr", "add", "192.0.2.1/32", "dev", "lo"]).status();
        assert!(added.expect("ip").success());
        let metrics = SocketAddr::from(([192, 0, 2, 1], 9843));
        let _daemon = Setup::bound(&[loopback(843)])
            .tables(&format!("[metrics]\nlisten = \"{metrics}\""))
            .start();
        let by_name = "GET /metrics HTTP/1.1\r\nHost: server1.example:9843\r\n\r\n";
        assert_eq!(request(metrics, by_name).status, 200);
    });
}

#[test]
fn a_request_with_a_body_is_answered_without_a_reset() {
    let daemon = Measured::start("");
    let body = "x".repeat(100_000);
    let text = format!("POST /metrics HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(request(daemon.metrics, &text).status, 405);
}

#[test]
fn http_comes_in_single_bytes() {
    let daemon = Measured::start("");
    let mut stream = dial(daemon.metrics);
    for byte in b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n" {
        stream.write_all(&[*byte]).expect("sending a byte");
        // The byte was there before this request, so it is read before this answer is sent.
        assert_eq!(daemon.ask(), document(RULES));
    }
    assert_eq!(Response::parse(&read_to_end(&mut stream)).status, 200);
}

#[test]
fn scrapes_are_no_requests() {
    let daemon = Measured::start("connections = 3\nrequest-timeout = \"1s\"");
    for _ in 0..10 {
        daemon.scrape();
    }
    get(daemon.metrics, "/");
    drop(dial(daemon.metrics));
    // They have room of their own, and stay until their deadline.
    let mut stalled =
        [1, 2, 3, 4, 5].map(|number| say(daemon.metrics, [127, 0, 3, number], b"GET"));
    for stream in &mut stalled {
        wait_for_close(stream);
    }
    assert_requests(&daemon, &[]);
}

#[test]
fn half_a_scrape_ends_at_the_deadline_however_it_trickles() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let daemon = Measured::start("request-timeout = \"2s\"");
    let began = Instant::now();
    let mut silent = say(daemon.metrics, [127, 0, 3, 1], b"GET /metrics HT");
    let mut trickling = say(daemon.metrics, [127, 0, 3, 2], b"GET /metrics HTTP/1.1\r\nX: ");
    trickling.set_read_timeout(Some(Duration::from_millis(100))).expect("a read timeout");
    loop {
        assert!(began.elapsed() < SOON, "still there after {SOON:?}");
        assert_eq!(daemon.ask(), document(RULES));
        match trickling.read(&mut [0; 1]) {
            Ok(0) => break,
            Ok(_) => panic!("an answer"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Whether it is still taken is for the next read to tell.
                let _ = trickling.write(b"x");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                break;
            }
        }
    }
    let elapsed = began.elapsed();
    assert!(elapsed >= DEADLINE, "closed after {elapsed:?}");
    wait_for_close(&mut silent);
}

#[test]
fn a_scraper_that_never_reads_its_answer_is_gone_at_the_deadline() {
    let daemon = Measured::start("request-timeout = \"4s\"");
    daemon.scrape().assert("connections", 1.0);
    let stalled: Vec<TcpStream> = (1..=14)
        .map(|number| {
            let mut stream = say(daemon.metrics, [127, 0, 3, number], b"GET /metrics HTTP/1.1");
            SockRef::from(&stream).set_recv_buffer_size(1).expect("the smallest window there is");
            stream.write_all(b"\r\n\r\n").expect("the rest of the request");
            stream
        })
        .collect();
    daemon.wait_for_connections(1.0 + 14.0);
    assert_eq!(daemon.ask(), document(RULES));
    daemon.wait_for_connections(1.0);
    drop(stalled);
    assert_requests(&daemon, &[("served", 1.0)]);
}

#[test]
fn no_number_of_scrapers_takes_the_place_of_a_client() {
    let daemon = Measured::start("connections = 4\nrequest-timeout = \"60s\"");
    let mut client = say(daemon.address(), [127, 0, 3, 1], &REQUEST[..10]);
    assert_eq!(daemon.ask(), document(RULES), "the half is there");
    let stalled = [2_u8; 40].map(|number| say(daemon.metrics, [127, 0, 3, number], b"GET"));
    daemon.wait_for_connections(1.0 + 16.0);
    client.write_all(&REQUEST[10..]).expect("the rest of the request");
    assert_eq!(read_to_end(&mut client), document(RULES));
    drop(stalled);
    assert_requests(&daemon, &[("served", 2.0)]);
}

#[test]
fn the_oldest_of_sixteen_scrapes_makes_room() {
    let daemon = Measured::start("connections-per-source = 2\nrequest-timeout = \"60s\"");
    let mut stalled = [(); 17].map(|()| say(daemon.metrics, [127, 0, 3, 1], b"GET"));
    wait_for_close(&mut stalled[0]);
    // The second stays, and still has its answer.
    stalled[1].write_all(b" /metrics HTTP/1.1\r\n\r\n").expect("the rest of the request");
    assert_eq!(Response::parse(&read_to_end(&mut stalled[1])).status, 200);
    assert_requests(&daemon, &[]);
}

#[test]
fn the_daemon_binds_the_metrics_itself() {
    in_own_network("the_daemon_binds_the_metrics_itself", || {
        let (policy, metrics) = (loopback(843), loopback(9843));
        let daemon =
            Setup::bound(&[policy]).tables(&format!("[metrics]\nlisten = \"{metrics}\"")).start();
        assert_eq!(daemon.ask(), document_of(843, RULES));
        scrape(metrics).assert("requests_total{result=\"served\"}", 1.0);
        assert_eq!(get(metrics, "/").status, 404);
        assert_eq!(get_policy_over_http(policy), b"");
    });
}

/// The policy on port 843 and metrics on this port, which the daemon binds itself.
fn bound_with_metrics(metrics: SocketAddr) -> Setup {
    Setup::bound(&[loopback(843)]).tables(&format!("[metrics]\nlisten = \"{metrics}\""))
}

/// Any user can take a port from 1024 up while the daemon does not run.
#[test]
fn a_metrics_port_that_is_taken_keeps_no_player_from_the_policy() {
    in_own_network("a_metrics_port_that_is_taken_keeps_no_player_from_the_policy", || {
        let metrics = loopback(9843);
        let other = listen(metrics);
        let mut daemon = bound_with_metrics(metrics).start();
        assert_eq!(daemon.ask(), document_of(843, RULES));
        let line = daemon.log.wait_for(" warn: no metrics");
        let own = format!("[{}]", std::process::id());
        for word in [&*metrics.to_string(), &own, "restart", "below 1024"] {
            assert!(line.contains(word), "{word}: {line}");
        }
        let status = daemon.log.wait_for(": serving ");
        assert!(status.contains(", no metrics on 127.0.0.1:9843 (taken); "), "{status}");
        daemon.reload();
        let log = daemon.log.everything();
        assert_eq!(
            (log.matches(" no metrics: ").count(), log.contains("trying again")),
            (1, false)
        );
        assert_eq!(daemon.terminate().code(), Some(0));

        drop(other);
        let daemon = bound_with_metrics(metrics).start();
        scrape(metrics).assert("policy_rules", 1.0);
        assert!(!daemon.log.everything().contains("no metrics"));
    });
}

/// Its name was looked for in every descriptor of every process before anybody was served: 20 s where
/// a user had 4 million.
#[test]
fn no_number_of_descriptors_keeps_the_start_looking_for_who_has_a_port() {
    let test = "no_number_of_descriptors_keeps_the_start_looking_for_who_has_a_port";
    in_own_network(test, || {
        let metrics = loopback(9843);
        let other = listen(metrics);
        let descriptors: Vec<_> = (0..500).map(|_| other.try_clone().expect("another")).collect();
        let slow = ["inject=readlinkat:delay_enter=100000".to_owned()];
        let Some(tracer) = strace(test, Path::new("/dev/null"), slow) else { return };
        let daemon = bound_with_metrics(metrics).through(tracer).start();
        daemon.log.wait_for(" warn: no metrics");
        drop(descriptors);
    });
}

/// With `SO_REUSEPORT` any number of sockets can have it. The remedy was cut off.
#[test]
fn any_number_of_sockets_at_a_port_are_told_of_in_a_few_words() {
    let test = "any_number_of_sockets_at_a_port_are_told_of_in_a_few_words";
    in_own_network(test, || {
        let metrics = loopback(9843);
        let sockets: Vec<_> = (0..500)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_reuse_port(true).expect("SO_REUSEPORT");
                socket.bind(&metrics.into()).expect("binding");
                socket.listen(1).expect("listening");
                socket
            })
            .collect();
        let daemon = bound_with_metrics(metrics).start();
        let line = daemon.log.wait_for(" warn: no metrics");
        let own = format!("[{}]", std::process::id());
        assert_eq!(line.matches(&own).count(), 1, "{line}");
        drop(sockets);
    });
}

#[test]
fn a_taken_port_of_the_policy_is_an_error_even_where_that_of_the_metrics_is_taken_too() {
    let test = "a_taken_port_of_the_policy_is_an_error_even_where_that_of_the_metrics_is_taken_too";
    in_own_network(test, || {
        let metrics = loopback(9843);
        let others = [loopback(843), metrics].map(listen);
        let setup = bound_with_metrics(metrics).environment("NOTIFY_SOCKET", "");
        let (code, log) = setup.start_in_vain();
        assert_eq!(code, Some(71), "{log}");
        assert!(log.contains("cannot bind 127.0.0.1:843: Address already in use"), "{log}");
        drop(others);
    });
}

/// That is a mistake of the administrator's and no other user's doing.
#[test]
fn a_metrics_port_that_may_not_be_bound_is_an_error() {
    let test = "a_metrics_port_that_may_not_be_bound_is_an_error";
    let Some(setpriv) = find_program("setpriv") else { return skip(test, "there is no setpriv") };
    in_own_network(test, || {
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024");
        let setup = Setup::bound(&[loopback(7843)])
            .tables("[metrics]\nlisten = \"127.0.0.1:943\"")
            .user(None)
            .unprivileged(&setpriv, &[]);
        let (code, log) = setup.start_in_vain();
        assert_eq!(code, Some(77), "{log}");
        assert!(log.contains("cannot bind 127.0.0.1:943: Permission denied"), "{log}");
    });
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// What the policy port says to HTTP.
fn get_policy_over_http(address: SocketAddr) -> Vec<u8> {
    let mut stream = dial(address);
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("sending the request");
    read_to_end(&mut stream)
}

#[test]
fn nothing_is_told_unless_it_is_asked_for() {
    in_own_network("nothing_is_told_unless_it_is_asked_for", || {
        let daemon = Setup::bound(&[loopback(843)]).start();
        assert_eq!(daemon.ask(), document_of(843, RULES));
        let error = TcpStream::connect(loopback(9843)).expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

fn read_packaged(name: &str) -> String {
    let path = packaged(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const RULES_FILE: &str = "prometheus/masterpolicyd.rules.yml";
const RULE_TESTS: &str = "prometheus/tests.yml";
const DASHBOARD: &str = "grafana/masterpolicyd.json";

/// Runs promtool with something on its stdin, if it is installed.
fn promtool(test: &str, arguments: &[&str], input: &str) -> Option<Output> {
    let Some(program) = find_program("promtool") else {
        skip(test, "promtool of Prometheus is not installed");
        return None;
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting promtool");
    let mut stdin = child.stdin.take().expect("a stdin");
    stdin.write_all(input.as_bytes()).expect("writing to promtool");
    drop(stdin);
    Some(child.wait_with_output().expect("what promtool says"))
}

fn everything_said(output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    format!("{}\n{stdout}{stderr}", output.status)
}

#[test]
fn promtool_accepts_the_text() {
    let test = "promtool_accepts_the_text";
    let daemon = Measured::start("");
    daemon.ask();
    let told = daemon.scrape().text;
    let Some(output) = promtool(test, &["check", "metrics"], &told) else { return };
    assert!(output.status.success(), "{}\n{told}", everything_said(&output));
    // What it would have otherwise it says there.
    assert!(output.stderr.is_empty(), "{}\n{told}", everything_said(&output));
}

#[test]
fn promtool_accepts_the_rules() {
    let path = packaged(RULES_FILE);
    let arguments = ["check", "rules", path.to_str().expect("a path in UTF-8")];
    let Some(output) = promtool("promtool_accepts_the_rules", &arguments, "") else { return };
    assert!(output.status.success(), "{}", everything_said(&output));
}

#[test]
fn every_alert_fires_when_it_should_and_only_then() {
    let path = packaged(RULE_TESTS);
    let arguments = ["test", "rules", path.to_str().expect("a path in UTF-8")];
    let test = "every_alert_fires_when_it_should_and_only_then";
    let Some(output) = promtool(test, &arguments, "") else { return };
    assert!(output.status.success(), "{}", everything_said(&output));
}

/// The values of every YAML line `KEY: VALUE` with this key.
fn yaml_values<'a>(text: &'a str, key: &'a str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| {
            let (found, value) = line.trim_start_matches([' ', '-']).split_once(": ")?;
            (found == key).then_some(value.trim())
        })
        .collect()
}

#[test]
fn every_alert_has_a_summary_a_command_and_a_test() {
    let rules = read_packaged(RULES_FILE);
    let tests = read_packaged(RULE_TESTS);
    let alerts = yaml_values(&rules, "alert");
    assert!(!alerts.is_empty());
    for key in ["summary", "description", "command", "severity"] {
        assert_eq!(yaml_values(&rules, key).len(), alerts.len(), "one {key} for each alert");
    }
    let tested: BTreeSet<&str> = yaml_values(&tests, "alertname").into_iter().collect();
    assert_eq!(tested, alerts.into_iter().collect());
}

/// A metric as an expression selects it: its name, and what each of its labels has to be. A
/// choice, as `=~"a|b"` has it, is one value for each.
#[derive(Debug, PartialEq)]
struct Selector {
    name: String,
    labels: Vec<(String, Vec<String>)>,
}

/// The selectors of this program's metrics in an expression.
fn selectors(expression: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find("masterpolicyd_") {
        rest = &rest[start..];
        let end = rest
            .find(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
            .unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let labels = behind
            .strip_prefix('{')
            .and_then(|labels| labels.split_once('}'))
            .map_or("", |(labels, _)| labels);
        found.push(Selector {
            name: name.to_owned(),
            labels: labels.split(',').filter_map(matcher).collect(),
        });
        rest = behind;
    }
    found
}

fn matcher(text: &str) -> Option<(String, Vec<String>)> {
    let (label, value) = text.trim().split_once('=')?;
    let values = value.trim_start_matches('~').trim_matches('"').split('|');
    Some((label.trim_end_matches('!').trim().to_owned(), values.map(str::to_owned).collect()))
}

/// Labels that Prometheus or the dashboard gives.
const FOREIGN_LABELS: [&str; 2] = ["job", "instance"];

/// Fails unless everything that a selector names is there.
#[track_caller]
fn assert_selects(selector: &Selector, samples: &Samples) {
    let series: Vec<&String> = samples
        .values
        .keys()
        .filter(|series| series.split('{').next() == Some(&selector.name))
        .collect();
    assert!(!series.is_empty(), "there is no {}", selector.name);
    for (label, values) in &selector.labels {
        for value in values.iter().filter(|_| !FOREIGN_LABELS.contains(&label.as_str())) {
            let wanted = format!("{label}=\"{value}\"");
            assert!(series.iter().any(|it| it.contains(&wanted)), "no {wanted} in {series:?}");
        }
    }
}

/// What a daemon tells that was just started.
fn fresh_samples() -> Samples {
    let gauges = Gauges {
        connections: 0,
        policy_rules: 0,
        drop_ins_left_out: 0,
        policy_bytes: 0,
        config_loaded: UNIX_EPOCH,
        log_lines_dropped: 0,
    };
    Samples::parse(&metrics::text(&Counters::default(), &gauges))
}

#[test]
fn selectors_are_found_in_expressions() {
    let expression = "rate(masterpolicyd_a{result=~\"x|y\", job=\"j\"}[5m]) > masterpolicyd_b";
    let label = |name: &str, values: &[&str]| {
        (name.to_owned(), values.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(
        selectors(expression),
        [
            Selector {
                name: "masterpolicyd_a".to_owned(),
                labels: vec![label("result", &["x", "y"]), label("job", &["j"])]
            },
            Selector { name: "masterpolicyd_b".to_owned(), labels: Vec::new() },
        ]
    );
}

#[test]
fn the_alerts_use_metrics_that_there_are() {
    let samples = fresh_samples();
    // Comments and annotations name the program's metrics as little as they may misname them.
    for text in [read_packaged(RULES_FILE), read_packaged(RULE_TESTS)] {
        let selectors = selectors(&text);
        assert!(!selectors.is_empty());
        for selector in &selectors {
            assert_selects(selector, &samples);
        }
    }
}

/// Every string under a key of this name, wherever in the document.
fn strings<'a>(value: &'a serde_json::Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == key => found.push(text),
                    value => strings(value, key, found),
                }
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                strings(value, key, found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read_packaged(DASHBOARD)).expect("JSON");
    let mut expressions = Vec::new();
    for key in ["expr", "query"] {
        strings(&dashboard, key, &mut expressions);
    }
    let selectors: Vec<Selector> = expressions.iter().flat_map(|it| selectors(it)).collect();
    let samples = fresh_samples();
    for selector in &selectors {
        assert_selects(selector, &samples);
    }
    for Metric { name, .. } in &METRICS {
        assert!(selectors.iter().any(|it| it.name.starts_with(name)), "{name} is not shown");
    }
}

/// A Prometheus; killed when dropped.
struct Prometheus {
    child: Child,
    _directory: Scratch,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes `target` as the comment in the rules says it should be scraped, only oftener, and
    /// judges by the rules.
    fn start(program: &Path, address: SocketAddr, target: SocketAddr) -> Self {
        let directory = Scratch::new();
        let configuration = directory.file(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [{}]\n\
                 scrape_configs:\n\
                 \x20 - job_name: masterpolicyd\n\
                 \x20   static_configs: [{{targets: ['{target}']}}]\n",
                packaged(RULES_FILE).display()
            ),
        );
        let child = Command::new(program)
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting prometheus");
        Self { child, _directory: directory }
    }
}

/// What the API answers, once it answers. The expressions here need no escaping.
fn api(address: SocketAddr, path: &str) -> Option<serde_json::Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut received = String::new();
    stream.read_to_string(&mut received).ok()?;
    let (head, body) = received.split_once("\r\n\r\n")?;
    head.contains(" 200 OK").then(|| serde_json::from_str(body).expect("JSON"))
}

/// Waits until the instant value of an expression is this one.
#[track_caller]
fn wait_for_value(prometheus: SocketAddr, expression: &str, expected: &str) {
    let began = Instant::now();
    loop {
        let answer = api(prometheus, &format!("/api/v1/query?query={expression}"));
        let value = answer.as_ref().map(|answer| &answer["data"]["result"][0]["value"][1]);
        if value.is_some_and(|value| value == expected) {
            return;
        }
        assert!(began.elapsed() < 2 * SOON, "{expression} is not {expected}: {answer:#?}");
        thread::sleep(10 * GLANCE);
    }
}

#[test]
fn a_real_prometheus_scrapes_and_judges() {
    let test = "a_real_prometheus_scrapes_and_judges";
    let Some(program) = find_program("prometheus") else {
        return skip(test, "prometheus is not installed");
    };
    in_own_network(test, || {
        let (policy, metrics, prometheus) = (loopback(843), loopback(9843), loopback(9090));
        let mut daemon =
            Setup::bound(&[policy]).tables(&format!("[metrics]\nlisten = \"{metrics}\"")).start();
        for _ in 0..3 {
            assert_eq!(ask(policy), document_of(843, RULES));
        }
        let _prometheus = Prometheus::start(&program, prometheus, metrics);
        wait_for_value(prometheus, "up", "1");
        wait_for_value(prometheus, "masterpolicyd_requests_total{result=\"served\"}", "3");
        wait_for_value(prometheus, "masterpolicyd_request_duration_seconds_count", "3");

        daemon.break_main_file();
        daemon.reload();
        wait_for_value(prometheus, "count(ALERTS{alertname=\"MasterpolicydReloadFailed\"})", "1");

        assert_eq!(daemon.terminate().code(), Some(0));
        wait_for_value(prometheus, "up", "0");
        wait_for_value(prometheus, "count(ALERTS{alertname=\"MasterpolicydDown\"})", "1");
    });
}
