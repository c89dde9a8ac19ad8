//! What the design was decided on: waiting for the request in the kernel, how many connections are
//! taken from one listener in a row, and whether more processes would help.
//!
//! Another build that is given with `--beside` goes through the same, for the other side of a
//! decision.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use socket2::{Domain, Socket, Type};

use crate::cores::Cores;
use crate::figures::{Figures, measure, microseconds};
use crate::peers::{Peer, Running};
use crate::state::{IDLE_SOURCES, PORT};
use crate::support::Setup;
use crate::support::daemon::RULES;
use crate::support::load::{self, Load, Shape, connect};

/// Silent connections that a flood keeps open at a time, and opens in all at most.
const FLOOD_HELD: usize = 6000;
const FLOOD_TOTAL: usize = 200_000;

/// What one way of doing it came to.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) figures: Figures,
    /// Silent connections that were opened meanwhile.
    pub(crate) silent: usize,
}

/// Everything that the page shows for its decisions.
#[derive(Debug, Serialize)]
pub(crate) struct Decisions {
    pub(crate) floods: Vec<Case>,
    pub(crate) listeners: Vec<Case>,
    pub(crate) workers: Vec<Case>,
}

impl Case {
    fn new(name: String, figures: Figures, silent: usize) -> Self {
        crate::tell(format_args!(
            "{name}: {:.2} us of cpu, {:.0} requests/s, p50 {:.0} us, p99 {:.0} us, {} spoiled, \
             {silent} silent",
            figures.cpu_us,
            figures.requests_per_second,
            figures.p50_us,
            figures.p99_us,
            figures.spoiled
        ));
        Self { name, figures, silent }
    }
}

pub(crate) fn measure_all(
    peers: &[Peer],
    cores: Cores,
    requests: usize,
    answer: &[u8],
) -> Decisions {
    let builds = || peers.iter().filter(|peer| peer.is_daemon());
    Decisions {
        floods: builds().flat_map(|peer| floods(peer, cores, requests, answer)).collect(),
        listeners: builds().flat_map(|peer| listeners(peer, cores, requests, answer)).collect(),
        workers: workers(cores, requests, answer),
    }
}

/// A load beside clients that connect and say nothing, each time the kernel treats the queue of
/// half-open connections differently.
fn floods(peer: &Peer, cores: Cores, requests: usize, answer: &[u8]) -> Vec<Case> {
    const SYN_COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";
    let cases = [
        ("no flood", "1", false),
        ("flood, SYN cookies when the queue is full", "1", true),
        ("flood, never SYN cookies", "0", true),
        ("flood, always SYN cookies", "2", true),
    ];
    let figures = cases.map(|(name, cookies, is_flooded)| {
        fs::write(SYN_COOKIES, cookies).expect("setting SYN cookies");
        let server = peer.start(cores, answer);
        let (figures, silent) = if is_flooded {
            beside_flood(server.address, || measure(&server, requests, 64, answer))
        } else {
            (measure(&server, requests, 64, answer), 0)
        };
        Case::new(format!("{}, {name}", peer.name), figures, silent)
    });
    fs::write(SYN_COOKIES, "1").expect("setting SYN cookies");
    figures.into()
}

/// Opens silent connections, and closes the oldest of too many, until `body` is done.
fn beside_flood<T>(target: SocketAddr, body: impl FnOnce() -> T) -> (T, usize) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut held = VecDeque::with_capacity(FLOOD_HELD);
            let mut opened = 0;
            while opened < FLOOD_TOTAL && !is_over.load(Ordering::Relaxed) {
                if held.len() == FLOOD_HELD {
                    held.pop_front();
                }
                held.extend(connect(target, IDLE_SOURCES.address(opened)).ok());
                opened += 1;
                if opened % 32 == 0 {
                    // The load has the same processor.
                    thread::sleep(Duration::from_millis(1));
                }
            }
            opened
        });
        let outcome = body();
        is_over.store(true, Ordering::Relaxed);
        (outcome, flood.join().expect("the flood"))
    })
}

/// One client at a time on one listener, while the other has as much to do as there can be.
fn listeners(peer: &Peer, cores: Cores, requests: usize, answer: &[u8]) -> Vec<Case> {
    let [busy, quiet] = [PORT, PORT + 1].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let start = || {
        let setup = Setup::bound(&[busy, quiet]).program(peer.program()).rules(RULES);
        Running::daemon(setup, cores)
    };
    let on_quiet = |server: &mut Running| {
        server.address = quiet;
        measure(server, requests / 50, 1, answer)
    };
    let alone = on_quiet(&mut start());
    let mut server = start();
    let is_over = AtomicBool::new(false);
    let beside = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                load::run(&Load {
                    target: busy,
                    requests: requests / 10,
                    concurrency: 512,
                    shape: Shape::Whole,
                    sources: IDLE_SOURCES,
                    documents: &[answer],
                });
            }
        });
        let figures = on_quiet(&mut server);
        is_over.store(true, Ordering::Relaxed);
        figures
    });
    let case = |name: &str, figures| Case::new(format!("{}, {name}", peer.name), figures, 0);
    vec![case("the other listener idle", alone), case("512 at a time on the other one", beside)]
}

/// One process, two on its processor, and two on a processor each, behind one address.
fn workers(cores: Cores, requests: usize, answer: &[u8]) -> Vec<Case> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let shared_socket = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        // For what the daemons before left in TIME_WAIT.
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&address.into()).expect("binding");
        socket.listen(4096).expect("listening");
        socket
    };
    let worker =
        |cores| Running::daemon(Setup::inherited(vec![shared_socket()]).rules(RULES), cores);
    let case = |name: &str, workers: &[Running]| {
        let [first, others @ ..] = workers else { panic!("no worker") };
        let cpu = || others.iter().map(Running::cpu_time).sum::<Duration>();
        let before = cpu();
        let mut figures = measure(first, requests, 64, answer);
        let count = f64::from(u32::try_from(requests).expect("a bounded load"));
        figures.cpu_us += microseconds(cpu().saturating_sub(before)) / count;
        Case::new(name.to_owned(), figures, 0)
    };
    vec![
        case("one process", &[worker(cores)]),
        case("two processes on one core", &[worker(cores), worker(cores)]),
        case(
            "two processes on a core each, one of them the client's",
            &[worker(cores), worker(cores.beside_the_client())],
        ),
    ]
}
