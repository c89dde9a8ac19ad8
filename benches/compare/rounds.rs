//! The rounds: every server in turn answers the same load, again and again, so that whatever else
//! the machine does meanwhile hits them all.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cores::Cores;
use crate::peers::{Peer, Running};
use crate::state::{Calls, IdleConnections};
use crate::support::load::{self, Load, Shape, Sources};

/// Requests before the first that counts: caches, compilers at run time, pools.
const WARM_UP: usize = 1000;

/// What one load came to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    pub(crate) requests: usize,
    /// Exchanges whose client did not get the whole answer and an orderly end.
    pub(crate) spoiled: usize,
    /// The first of them, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
    /// Resets that were sent, as the kernel counts them.
    pub(crate) resets: u64,
    /// Of the server, per request.
    pub(crate) cpu_us: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// Everything about one server.
#[derive(Debug, Serialize)]
pub(crate) struct PeerFigures {
    pub(crate) name: String,
    pub(crate) is_daemon: bool,
    /// On the client's processor, always with a queue.
    pub(crate) rounds: Vec<Figures>,
    /// On a processor of its own, woken for most requests.
    pub(crate) apart: Vec<Figures>,
    /// Resident memory before the first request.
    pub(crate) resident_idle_kib: u64,
    /// Descriptors in use when all is answered, beyond those before.
    pub(crate) descriptors_left: usize,
    pub(crate) connections: Option<IdleConnections>,
    pub(crate) system_calls: Option<BTreeMap<String, Calls>>,
}

impl PeerFigures {
    fn new(name: &str, is_daemon: bool) -> Self {
        Self {
            name: name.to_owned(),
            is_daemon,
            rounds: Vec::new(),
            apart: Vec::new(),
            resident_idle_kib: 0,
            descriptors_left: 0,
            connections: None,
            system_calls: None,
        }
    }
}

/// Has a server answer one load.
pub(crate) fn measure(
    server: &Running,
    requests: usize,
    concurrency: usize,
    answer: &[u8],
) -> Figures {
    let resets_before = resets_sent();
    let cpu_before = server.cpu_time();
    let report = load::run(&Load {
        target: server.address,
        requests,
        concurrency,
        shape: Shape::Whole,
        sources: Sources::LOOPBACK,
        documents: &[answer],
    });
    let cpu = server.cpu_time().saturating_sub(cpu_before);
    let count = f64::from(u32::try_from(requests).expect("a bounded load"));
    Figures {
        requests,
        spoiled: requests - report.answered,
        fault: report.failures.into_iter().next(),
        resets: resets_sent() - resets_before,
        cpu_us: microseconds(cpu) / count,
        requests_per_second: count / report.elapsed.as_secs_f64(),
        p50_us: microseconds(report.latency.quantile(500)),
        p99_us: microseconds(report.latency.quantile(990)),
        p999_us: microseconds(report.latency.quantile(999)),
    }
}

pub(crate) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Every server in turn, `rounds` times, each time started anew: with a queue, and then with half as
/// many requests on a processor of its own.
pub(crate) fn run(
    peers: &[Peer],
    cores: Cores,
    rounds: usize,
    requests: usize,
    concurrency: usize,
    answer: &[u8],
) -> Vec<PeerFigures> {
    let mut figures: Vec<PeerFigures> =
        peers.iter().map(|peer| PeerFigures::new(&peer.name, peer.is_daemon())).collect();
    for round in 1..=rounds {
        for (peer, figures) in peers.iter().zip(&mut figures) {
            let server = peer.start(cores.beside_the_client(), answer);
            figures.resident_idle_kib = figures.resident_idle_kib.max(server.resident_kib());
            let descriptors = server.descriptors();
            measure(&server, WARM_UP, concurrency, answer);
            let busy = measure(&server, peer.requests(requests), concurrency, answer);
            figures.descriptors_left = server.descriptors().saturating_sub(descriptors);
            drop(server);
            let server = peer.start(cores, answer);
            measure(&server, WARM_UP, concurrency, answer);
            let apart = measure(&server, peer.requests(requests / 2), concurrency, answer);
            crate::tell(format_args!(
                "round {round} of {rounds}: {:<42} {:6.2} us of cpu, {:6.2} on its own core, \
                 {:6.0} requests/s, p99 {:5.0} us",
                peer.name, busy.cpu_us, apart.cpu_us, apart.requests_per_second, apart.p99_us
            ));
            for figures in [&busy, &apart] {
                if let Some(fault) = &figures.fault {
                    crate::tell(format_args!("  {} spoiled, such as: {fault}", figures.spoiled));
                }
            }
            figures.rounds.push(busy);
            figures.apart.push(apart);
        }
    }
    figures
}

/// Resets that this network namespace has sent since it exists. Exact in a namespace of one's
/// own: what no client can see for certain, the kernel counts.
fn resets_sent() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("the counters of TCP");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    names
        .split(' ')
        .zip(values.split(' '))
        .find_map(|(name, value)| (name == "OutRsts").then(|| value.parse().expect("a count")))
        .expect("OutRsts")
}
