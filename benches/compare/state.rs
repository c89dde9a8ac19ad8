//! What a server holds and does beside answering: memory under idle connections, system calls,
//! start, reload, and what many connections or many rules add to a request.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use crate::cores::Cores;
use crate::figures::{Figures, measure, microseconds};
use crate::peers::{Peer, Running, daemon_with};
use crate::support::daemon::{RULES, Rule, document};
use crate::support::load::{self, Load, REQUEST, Shape, Sources, connect};
use crate::support::{SOON, Scratch, find_program, set_mode};

/// The port of daemons that are not in the rounds.
pub(crate) const PORT: u16 = 10_900;

/// Idle clients come from here, so that the load is not among them for any limit per source: 400
/// addresses, 25 connections each at 10,000.
pub(crate) const IDLE_SOURCES: Sources = Sources::spread(Ipv4Addr::new(127, 0, 16, 1), 400);

/// How many connections are opened before the server has to have taken them: fewer than a queue
/// of connections that have sent nothing holds.
const BATCH: usize = 1000;

/// Room for so many idle connections, which stay as long as they are wanted here.
const ROOMY: &str = "[limits]\nconnections = 16384\nrequest-timeout = \"5m\"";

/// Resident memory with so many connections that have not asked.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct IdleConnections {
    pub(crate) count: usize,
    pub(crate) silent_kib: u64,
    pub(crate) begun_kib: u64,
}

/// Opens `count` connections that send these bytes and no more, and waits until the server holds
/// them all. `None` where it does not.
fn hold(server: &Running, count: usize, bytes: &[u8]) -> Option<Vec<socket2::Socket>> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        for number in held.len()..count.min(held.len() + BATCH) {
            let socket = connect(server.address, IDLE_SOURCES.address(number)).ok()?;
            let deadline = Instant::now() + SOON;
            while !bytes.is_empty() && (&socket).write(bytes).is_err() {
                if Instant::now() > deadline {
                    return None;
                }
                thread::yield_now();
            }
            held.push(socket);
        }
        let deadline = Instant::now() + SOON;
        // Its own few descriptors are in the count: so many connections it does not have yet.
        while server.descriptors() < held.len() {
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    Some(held)
}

/// Memory with `count` connections that sent nothing, and with as many that sent 10 bytes.
pub(crate) fn idle_connections(
    peer: &Peer,
    cores: Cores,
    count: usize,
    answer: &[u8],
) -> Option<IdleConnections> {
    let resident = |bytes: &[u8]| {
        let server = if peer.is_daemon() {
            daemon_with(ROOMY, RULES, PORT, cores)
        } else {
            peer.start(cores, answer)
        };
        let _held = hold(&server, count, bytes)?;
        Some(server.resident_kib())
    };
    let silent_kib = resident(b"")?;
    let begun_kib = resident(&REQUEST[..10])?;
    Some(IdleConnections { count, silent_kib, begun_kib })
}

/// How often a system call is made for one request.
#[derive(Debug, Serialize)]
pub(crate) struct Calls {
    pub(crate) per_request: f64,
    /// Those that failed, which is mostly that nothing was there yet.
    pub(crate) failed: f64,
}

/// System calls by name, as strace counts them over a short load.
pub(crate) fn system_calls(
    peer: &Peer,
    cores: Cores,
    requests: usize,
    answer: &[u8],
) -> Option<BTreeMap<String, Calls>> {
    let strace = find_program("strace")?;
    let server = peer.start(cores, answer);
    let directory = Scratch::new();
    let output = directory.path().join("calls");
    let processes = server.processes();
    let mut command = Command::new(strace);
    command.arg("-f").arg("-c").arg("-o").arg(&output);
    for pid in &processes {
        command.arg("-p").arg(pid.to_string());
    }
    let mut tracer = command.stderr(Stdio::piped()).spawn().expect("starting strace");
    let mut said = BufReader::new(tracer.stderr.take().expect("a pipe")).lines();
    for _ in &processes {
        let line = said.next().and_then(Result::ok).unwrap_or_default();
        if !line.contains("attached") {
            let _ = tracer.wait();
            return None;
        }
    }
    // Reads the rest, so that strace never waits for a reader.
    let rest = thread::spawn(move || said.for_each(drop));
    measure(&server, requests, 64, answer);
    let pid = Pid::from_raw(i32::try_from(tracer.id()).expect("a process id"));
    kill(pid, Signal::SIGINT).expect("ending strace");
    tracer.wait().expect("the end of strace");
    rest.join().expect("strace's own words");
    let text = fs::read_to_string(&output).expect("what strace counted");
    let count = f64::from(u32::try_from(requests).expect("a short load"));
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let name = *words.last()?;
        // "% time", "------" and "total" frame the rows.
        words[0].parse::<f64>().ok().filter(|_| name != "total")?;
        let calls = |column: usize| words.get(column).and_then(|it| it.parse::<f64>().ok());
        let per_request = calls(3)? / count;
        // The column of errors is empty where there were none.
        let failed = calls(4).unwrap_or(0.0) / count;
        Some((name.to_owned(), Calls { per_request, failed }))
    });
    Some(rows.collect())
}

/// How long from the start of the process to READY=1, in milliseconds.
pub(crate) fn starts(peer: &Peer, cores: Cores, times: usize) -> Vec<f64> {
    let address = (Ipv4Addr::LOCALHOST, PORT).into();
    (0..times)
        .map(|_| {
            let setup = peer.setup(address).rules(RULES);
            let began = Instant::now();
            let mut daemon = cores.with_server(|| setup.spawn());
            daemon.wait_for_state("READY=1");
            microseconds(began.elapsed()) / 1000.0
        })
        .collect()
}

/// What a reload takes, and what clients wait meanwhile.
#[derive(Debug, Serialize)]
pub(crate) struct Reload {
    pub(crate) drop_ins: usize,
    pub(crate) milliseconds: Vec<f64>,
    /// The longest that a request took while nothing was reloaded, and while reloads went on.
    pub(crate) longest_wait_without_ms: f64,
    pub(crate) longest_wait_ms: f64,
}

pub(crate) fn reload(cores: Cores, drop_ins: usize, times: usize) -> Reload {
    let mut server = daemon_with("", RULES, PORT, cores);
    let address = server.address;
    let daemon = server.as_daemon();
    let policies = daemon.directory.path().join("policy.d");
    let mut text = document(RULES);
    let old = text.clone();
    for number in 0..drop_ins {
        let path = policies.join(format!("{number:04}.toml"));
        let rule = format!(
            "[[allow-access-from]]\ndomain = \"h{number:04}.example.org\"\nto-ports = 5000\n"
        );
        fs::write(&path, rule).expect("writing a drop-in");
        set_mode(&path, 0o644);
    }
    daemon.reload();
    text = daemon.ask();
    let documents: &[&[u8]] = &[&old, &text];
    let longest = |requests| {
        let report = load::run(&Load {
            target: address,
            requests,
            concurrency: 4,
            shape: Shape::Whole,
            sources: Sources::LOOPBACK,
            documents,
        });
        report.assert_all_answered();
        microseconds(report.latency.longest()) / 1000.0
    };
    let requests = 2000 * times;
    let longest_wait_without_ms = longest(requests);
    let mut milliseconds = Vec::new();
    let longest_wait_ms = thread::scope(|scope| {
        let load = scope.spawn(|| longest(requests));
        for _ in 0..times {
            let began = Instant::now();
            daemon.reload();
            milliseconds.push(microseconds(began.elapsed()) / 1000.0);
        }
        load.join().expect("the load")
    });
    Reload { drop_ins, milliseconds, longest_wait_without_ms, longest_wait_ms }
}

/// Two ways to run the daemon, in turns.
#[derive(Debug, Serialize)]
pub(crate) struct Pair {
    pub(crate) plain: Vec<Figures>,
    pub(crate) burdened: Vec<Figures>,
    /// Bytes of the two answers.
    pub(crate) answers: [usize; 2],
}

/// A request beside `count` connections that have begun theirs, and one without them.
pub(crate) fn beside_idle_connections(
    cores: Cores,
    count: usize,
    rounds: usize,
    requests: usize,
) -> Option<Pair> {
    let answer = document(RULES);
    let [plain, burdened] = [PORT, PORT + 1].map(|port| daemon_with(ROOMY, RULES, port, cores));
    let _held = hold(&burdened, count, &REQUEST[..10])?;
    let servers = [(&plain, answer.as_slice()), (&burdened, answer.as_slice())];
    Some(in_turns(servers, rounds, requests))
}

/// A document of 1,000 rules, and one of a single rule that is as long: what the rules cost, the
/// size of the answer set aside.
pub(crate) fn many_rules(cores: Cores, count: usize, rounds: usize, requests: usize) -> Pair {
    let domains: Vec<String> = (0..count).map(|it| format!("h{it:04}.example.com")).collect();
    let many: Vec<Rule> = domains.iter().map(|domain| (domain.as_str(), "5000")).collect();
    let long = document(&many);
    let mut ports = "10001".to_owned();
    // Odd ports of five figures, which are no range, until the answers are about as long.
    for port in (10_003..65_535).step_by(2) {
        if document(&[("one.example.com", &ports)]).len() + 6 > long.len() {
            break;
        }
        write!(ports, ",{port}").expect("writing to a string");
    }
    let one: &[Rule] = &[("one.example.com", &ports)];
    let plain = daemon_with("", one, PORT, cores);
    let burdened = daemon_with("", &many, PORT + 1, cores);
    in_turns([(&plain, &document(one)), (&burdened, &long)], rounds, requests)
}

fn in_turns(servers: [(&Running, &[u8]); 2], rounds: usize, requests: usize) -> Pair {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((server, answer), figures) in servers.iter().zip(&mut figures) {
            figures.push(measure(server, requests, 64, answer));
        }
    }
    let [plain, burdened] = figures;
    Pair { plain, burdened, answers: servers.map(|(_, answer)| answer.len()) }
}
