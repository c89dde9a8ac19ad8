//! Players on slow and lossy networks: how many have their document before they give up, and how
//! their connections end, beside nginx on the same path. The path is loopback with netem, which the
//! kernel of a container host may lack: `make check-network` boots one that has it.

mod support;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::{fmt, fs};

use masterpolicyd::probe::MASTER_LIMIT;

use support::balancer::Balancer;
use support::daemon::document;
use support::load::{self, Load, Report, Shape, Sources};
use support::network::in_own_network;
use support::{Setup, find_program, skip};

/// How many requests each server has for each document on each path.
const REQUESTS: usize = 200;

/// How many of them are under way at once.
const CONCURRENCY: usize = 10;

/// Bytes, with the NUL.
const SIZES: [usize; 3] = [300, 1400, 4000];

/// What the packets of both directions meet.
#[derive(Debug, Clone, Copy)]
struct NetworkPath {
    /// There and back, in milliseconds.
    delay: u32,
    /// Of a hundred packets.
    loss: u32,
    is_reordering: bool,
}

impl NetworkPath {
    /// Every combination, in the order of the table.
    fn all() -> impl Iterator<Item = Self> {
        [0, 50, 200, 600].into_iter().flat_map(|delay| {
            [0, 1, 5].into_iter().flat_map(move |loss| {
                [false, true].map(|is_reordering| Self { delay, loss, is_reordering })
            })
        })
    }

    fn is_ideal(self) -> bool {
        self.delay == 0 && self.loss == 0 && !self.is_reordering
    }

    /// The words for tc. One packet in four overtakes those before it, so there has to be a delay
    /// that it does not have.
    fn netem(self) -> String {
        let there = if self.is_reordering { (self.delay / 2).max(1) } else { self.delay / 2 };
        let mut words = format!("netem limit 100000 delay {there}ms");
        if self.loss > 0 {
            write!(words, " loss {}%", self.loss).expect("writing to a string");
        }
        if self.is_reordering {
            words += " reorder 25%";
        }
        words
    }
}

impl fmt::Display for NetworkPath {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let order = if self.is_reordering { "one in four early" } else { "kept" };
        write!(f, "{} ms | {} % | {order}", self.delay, self.loss)
    }
}

/// Runs a command line, and says whether it succeeded.
fn run(line: &str) -> bool {
    let mut words = line.split(' ');
    let program = words.next().and_then(find_program);
    program.is_some_and(|program| {
        Command::new(program).args(words).status().is_ok_and(|s| s.success())
    })
}

/// The domains of rules for port 5000 that make a document of this size.
fn domains_for(size: usize) -> Vec<String> {
    let domain =
        |number: usize, padding: usize| format!("host{number:02}{}.test", "x".repeat(padding));
    let empty = document(&[]).len();
    let smallest = document(&[(&domain(0, 0), "5000")]).len() - empty;
    let (count, rest) = ((size - empty) / smallest, (size - empty) % smallest);
    (0..count)
        .map(|number| domain(number, rest / count + usize::from(number < rest % count)))
        .collect()
}

/// A server, and the document that is its answer.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    document: Vec<u8>,
}

/// nginx with two servers for each document: one answers at once, one when it has looked whether TLS
/// begins, and so has read the request.
fn nginx(test: &str, documents: &[Vec<u8>]) -> Option<(Balancer, Vec<Server>)> {
    let kinds =
        ["off", "on"].iter().flat_map(|reads| documents.iter().map(move |one| (reads, one)));
    let mut stream = String::new();
    let mut servers = Vec::new();
    for (port, (reads, document)) in (900..).zip(kinds) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let answer = String::from_utf8_lossy(document);
        writeln!(stream, "server {{ listen {address}; ssl_preread {reads}; return '{answer}'; }}")
            .expect("writing to a string");
        servers.push(Server { address, document: document.clone() });
    }
    let process = Balancer::nginx_with(test, &stream, servers[0].address)?;
    Some((process, servers))
}

/// One load for each server, all at the same time.
fn ask_all(servers: &[Server]) -> Vec<Report> {
    let ask = |server: &Server| {
        load::run(&Load {
            target: server.address,
            requests: REQUESTS,
            concurrency: CONCURRENCY,
            shape: Shape::Whole,
            sources: Sources::LOOPBACK,
            documents: &[&server.document],
        })
    };
    thread::scope(|scope| {
        let loads: Vec<_> = servers.iter().map(|server| scope.spawn(move || ask(server))).collect();
        loads.into_iter().map(|load| load.join().expect("a load")).collect()
    })
}

/// Prints the rows of the table in docs/reliability.md.
#[test]
#[ignore = "takes minutes, and a kernel with netem; make check-network runs it"]
fn no_player_is_reset_on_a_slow_and_lossy_network() {
    let test = "no_player_is_reset_on_a_slow_and_lossy_network";
    in_own_network(test, || {
        // Packets of the size that they have on Ethernet, each lost or late by itself.
        assert!(run("ip link set lo mtu 1500 gso_max_segs 1"), "packets of an ordinary size");
        // What one path taught the kernel is not to help on the next.
        fs::write("/proc/sys/net/ipv4/tcp_no_metrics_save", "1").expect("no memory of a path");
        if !run("tc qdisc add dev lo root netem") {
            return skip(test, "the kernel has no netem, or tc is not installed");
        }

        let mut servers = Vec::new();
        let mut daemons = Vec::new();
        for domains in SIZES.map(domains_for) {
            let rules: Vec<_> = domains.iter().map(|domain| (domain.as_str(), "5000")).collect();
            let daemon = Setup::new().rules(&rules).start();
            servers.push(Server { address: daemon.address(), document: document(&rules) });
            daemons.push(daemon);
        }
        let documents: Vec<_> = servers.iter().map(|server| server.document.clone()).collect();
        assert!(documents.iter().map(Vec::len).eq(SIZES), "documents of these sizes");
        let Some((_nginx, theirs)) = nginx(test, &documents) else { return };
        servers.extend(theirs);

        // Behind what the harness has begun to write.
        println!();
        let mut resets = Vec::new();
        for path in NetworkPath::all() {
            let netem = format!("tc qdisc change dev lo root {}", path.netem());
            assert!(run(&netem), "{netem}");
            let reports = ask_all(&servers);
            let mut row = format!("| {path} |");
            for report in &reports {
                let in_time = report.arrival.within(MASTER_LIMIT);
                write!(row, " {in_time} / {} / {} |", report.resets, report.unended)
                    .expect("writing to a string");
            }
            println!("{row}");
            if path.is_ideal() {
                let in_time = |report: &Report| report.arrival.within(MASTER_LIMIT) == REQUESTS;
                let daemons = &reports[..daemons.len()];
                assert!(daemons.iter().all(in_time), "too busy a machine to measure: {daemons:#?}");
            }
            let failures = reports.into_iter().take(daemons.len());
            resets.extend(failures.filter(|report| report.resets > 0).map(|report| (path, report)));
        }
        assert!(resets.is_empty(), "the daemon's connections were reset: {resets:#?}");
    });
}
