//! The rounds: every server in turn answers the same load, again and again, so that whatever else
//! the machine does meanwhile hits them all.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cores::Cores;
use crate::figures::{Figures, measure};
use crate::peers::Peer;
use crate::state::{Calls, IdleConnections};

/// Requests before the first that counts: caches, compilers at run time, pools.
const WARM_UP: usize = 1000;

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
