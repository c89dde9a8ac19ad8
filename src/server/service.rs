//! What is served. It knows neither how it was read nor who asks.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::limits::Limits;
use crate::document::Documents;
use crate::network::Network;
use crate::policy::MASTER_PORT;

/// Everything a reload can change.
#[derive(Debug, Clone)]
pub struct Service {
    /// What is answered, by the port that was asked.
    pub documents: Documents,
    /// How many rules it holds.
    pub rules: usize,
    /// How many drop-ins of packages are broken and left out of it.
    pub left_out: usize,
    /// What clients may use up.
    pub limits: Limits,
    /// From where a connection begins with a header of the PROXY protocol, which is believed.
    pub balancers: Vec<Network>,
    /// Whether each request served is logged.
    pub log_requests: bool,
    /// When it was read, by the clock on the wall.
    pub loaded: SystemTime,
}

impl Service {
    /// Whether a connection from `peer` is a balancer's.
    pub(super) fn is_balancer(&self, peer: SocketAddr) -> bool {
        self.balancers.iter().any(|network| network.contains(peer.ip()))
    }

    /// The length of the longest answer that is given on these ports. Behind a balancer any port
    /// may have been asked.
    pub(super) fn longest_answer(&self, ports: &[u16]) -> usize {
        let balanced = (!self.balancers.is_empty()).then_some(MASTER_PORT);
        self.documents.longest(ports.iter().copied().chain(balanced)).bytes().len()
    }
}
