//! `make bench`: the daemon beside its peers, and beside the least that the kernel asks for.
//!
//! It measures, in a network namespace of its own, and writes the figures as JSON;
//! benches/report.py makes the page and the chart of them.

#[path = "../../tests/support/mod.rs"]
mod support;

mod cores;
mod decisions;
mod figures;
mod peers;
mod rounds;
mod state;

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::Command;

use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use cores::Cores;
use decisions::Decisions;
use figures::Figures;
use peers::Peer;
use rounds::PeerFigures;
use support::Scratch;
use support::daemon::{PROGRAM, RULES, document};
use support::network::in_own_network;

/// Compares masterpolicyd with other servers.
#[derive(Debug, Parser)]
struct Arguments {
    /// A minute instead of ten: too few requests for anything but a first impression
    #[arg(long)]
    quick: bool,
    /// Just this part; the page stays as it is
    #[arg(long)]
    only: Option<Part>,
    /// Another build of the daemon to be measured beside it
    #[arg(long, value_name = "NAME=PROGRAM", value_parser = named_program)]
    beside: Vec<(String, PathBuf)>,
    /// Leave out the servers whose name has this in it
    #[arg(long, value_name = "WORD")]
    without: Vec<String>,
    /// Where the figures go
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    output: PathBuf,
    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every server in turn
    Rounds,
    /// Memory, system calls, start, reload, many rules
    State,
    /// Floods, listeners, workers
    Decisions,
}

fn named_program(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, program)) => Ok((name.to_owned(), PathBuf::from(program))),
        None => Err("not NAME=PROGRAM".to_owned()),
    }
}

/// How much of everything.
struct Extent {
    rounds: usize,
    requests: usize,
    /// Exchanges with the daemon in all.
    exchanges: usize,
    idle_connections: usize,
    beside_connections: usize,
    side_requests: usize,
    rules_requests: usize,
    starts: usize,
    reloads: usize,
}

const FULL: Extent = Extent {
    rounds: 5,
    requests: 100_000,
    exchanges: 1_000_000,
    idle_connections: 10_000,
    beside_connections: 5_000,
    side_requests: 50_000,
    rules_requests: 10_000,
    starts: 20,
    reloads: 10,
};

const QUICK: Extent = Extent {
    rounds: 2,
    requests: 10_000,
    exchanges: 30_000,
    idle_connections: 2_000,
    beside_connections: 1_000,
    side_requests: 10_000,
    rules_requests: 2_000,
    starts: 5,
    reloads: 3,
};

/// Requests under way at a time.
const CONCURRENCY: usize = 64;

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Results {
    quick: bool,
    date: String,
    commit: String,
    machine: String,
    concurrency: usize,
    requests: usize,
    answer_bytes: usize,
    missing: Vec<String>,
    peers: Vec<PeerFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<DaemonFigures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decisions: Option<Decisions>,
}

/// What is measured of the daemon alone.
#[derive(Debug, Serialize)]
struct DaemonFigures {
    /// Of one load that makes up the rest of the million.
    rest: Option<Figures>,
    start_ms: Vec<f64>,
    reload: state::Reload,
    idle: Option<state::Pair>,
    idle_count: usize,
    rules: state::Pair,
    rules_count: usize,
    binary_bytes: u64,
}

/// Says how far it is.
fn tell(line: fmt::Arguments) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn main() {
    let arguments = Arguments::parse();
    in_own_network("bench", || measure(&arguments));
}

fn measure(arguments: &Arguments) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raising it as far as it goes");
    // Past this many the kernel forgets a connection before its last segment, and answers that with
    // a reset which is no server's doing.
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "4000000").expect("room for TIME_WAIT");
    let extent = if arguments.quick { &QUICK } else { &FULL };
    let answer = document(RULES);
    let workshop = Scratch::new();
    // Before this thread is kept on one of them.
    let machine = machine();
    let cores = Cores::take();

    let mut missing = Vec::new();
    let mut peers = Vec::new();
    for peer in Peer::every(&workshop, &arguments.beside) {
        match peer {
            Ok(peer) if arguments.without.iter().any(|word| peer.name.contains(word)) => {}
            Ok(peer) => peers.push(peer),
            Err(name) => {
                support::skip(&name, "it is not installed here");
                missing.push(name);
            }
        }
    }

    let is_wanted = |part| arguments.only.is_none_or(|only| only == part);
    let rounds = if is_wanted(Part::Rounds) { extent.rounds } else { 0 };
    let mut figures = rounds::run(&peers, cores, rounds, extent.requests, CONCURRENCY, &answer);
    let mut daemon = None;
    if is_wanted(Part::State) {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            tell(format_args!("system calls and idle connections: {}", peer.name));
            figures.system_calls = state::system_calls(peer, cores, 2000, &answer);
            if peer.keeps_idle_connections() {
                figures.connections =
                    state::idle_connections(peer, cores, extent.idle_connections, &answer);
            }
        }
        let own = peers.iter().zip(&figures).find(|(peer, _)| peer.is_this_build());
        daemon = own.map(|(peer, figures)| measure_daemon(peer, figures, cores, extent, &answer));
    }
    let decisions = is_wanted(Part::Decisions).then(|| {
        tell(format_args!("floods, listeners and workers"));
        decisions::measure_all(&peers, cores, extent.side_requests, &answer)
    });

    let results = Results {
        quick: arguments.quick,
        date: output_of("date", &["-u", "+%Y-%m-%d"]),
        commit: output_of("git", &["rev-parse", "--short", "HEAD"]),
        machine,
        concurrency: CONCURRENCY,
        requests: extent.requests,
        answer_bytes: answer.len(),
        missing,
        peers: figures,
        daemon,
        decisions,
    };
    let text = serde_json::to_string_pretty(&results).expect("figures are plain data");
    fs::write(&arguments.output, text + "\n").expect("writing the figures");
    tell(format_args!("the figures are in {}", arguments.output.display()));
}

fn measure_daemon(
    peer: &Peer,
    figures: &PeerFigures,
    cores: Cores,
    extent: &Extent,
    answer: &[u8],
) -> DaemonFigures {
    tell(format_args!("start and reload"));
    let start_ms = state::starts(peer, cores, extent.starts);
    let reload = state::reload(cores, 1000, extent.reloads);
    tell(format_args!("beside {} idle connections", extent.beside_connections));
    let busy = cores.beside_the_client();
    let idle = state::beside_idle_connections(
        busy,
        extent.beside_connections,
        extent.rounds,
        extent.side_requests,
    );
    tell(format_args!("1000 rules"));
    let rules = state::many_rules(busy, 1000, extent.rounds, extent.rules_requests);
    let rounds = figures.rounds.iter().chain(&figures.apart);
    let done: usize = rounds.map(|round| round.requests).sum();
    tell(format_args!("the rest of {} exchanges", extent.exchanges));
    let rest = extent.exchanges.checked_sub(done).filter(|left| *left > 0).map(|left| {
        let server = peer.start(busy, answer);
        figures::measure(&server, left, CONCURRENCY, answer)
    });
    DaemonFigures {
        rest,
        start_ms,
        reload,
        idle,
        idle_count: extent.beside_connections,
        rules,
        rules_count: 1000,
        binary_bytes: fs::metadata(PROGRAM).expect("the program").len(),
    }
}

/// The processor, how many of it, the memory and the kernel.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory: u64 = field("/proc/meminfo", "MemTotal")
        .split(' ')
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0);
    format!(
        "{} cores of {}, {} GiB, {} {}",
        std::thread::available_parallelism().map_or(1, usize::from),
        field("/proc/cpuinfo", "model name"),
        memory.div_ceil(1024 * 1024),
        output_of("uname", &["-s"]),
        output_of("uname", &["-r"]),
    )
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned()).unwrap_or_default()
}
