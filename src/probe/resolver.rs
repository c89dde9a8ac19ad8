//! From a name to the addresses that are asked. The system's resolver cannot be interrupted and
//! takes as long as its own configuration says, so that it is waited for no longer than the limit.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::bounded::{NoResult, within};
use crate::probe::finding::Finding;
use crate::probe::question::Family;
use crate::probe::target::Target;

/// How many addresses of a name are asked; whoever answers for the name decides how many it has.
pub const MOST_ADDRESSES: usize = 8;

/// What came of looking a name up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// How long it took.
    pub took: Duration,
    /// The addresses to ask, with the port of the target, in the resolver's order; else why there
    /// are none.
    pub servers: Result<Vec<SocketAddr>, Finding>,
    /// How many more there are than [`MOST_ADDRESSES`].
    pub left_out: usize,
}

/// Looks `target` up, waiting no longer than `limit`.
pub(super) fn resolve(target: &Target, family: Family, limit: Duration) -> Resolution {
    let started = Instant::now();
    let mut servers = look_up(target, limit).and_then(|all| choose(&all, family));
    let mut left_out = 0;
    if let Ok(servers) = &mut servers {
        left_out = servers.len().saturating_sub(MOST_ADDRESSES);
        servers.truncate(MOST_ADDRESSES);
    }
    Resolution { took: started.elapsed(), servers, left_out }
}

fn look_up(target: &Target, limit: Duration) -> Result<Vec<SocketAddr>, Finding> {
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, target.port)]);
    }
    let name = (target.host.clone(), target.port);
    let answer = within(limit, move || -> io::Result<Vec<SocketAddr>> {
        Ok(name.to_socket_addrs()?.collect())
    });
    match answer {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) | Err(NoResult::NoThread(error)) => {
            Err(Finding::Unresolved(error.to_string()))
        }
        Err(NoResult::TimeIsUp) => Err(Finding::Unresolved(format!(
            "the resolver of this host has not answered within {} s",
            limit.as_secs_f64()
        ))),
    }
}

/// The addresses of the family asked for, each once.
fn choose(all: &[SocketAddr], family: Family) -> Result<Vec<SocketAddr>, Finding> {
    let mut servers: Vec<SocketAddr> = Vec::new();
    for &server in all.iter().filter(|&&server| family.has(server)) {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if !servers.is_empty() {
        return Ok(servers);
    }
    Err(match (all.first(), family) {
        (None, _) | (_, Family::Any) => Finding::Unresolved("it has no address".to_owned()),
        (Some(other), Family::V4) => Finding::OtherFamily { missing: "A", such_as: other.ip() },
        (Some(other), Family::V6) => Finding::OtherFamily { missing: "AAAA", such_as: other.ip() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn each_address_of_the_family_is_asked_once() {
        let all = servers(&["192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.1:80", "192.0.2.2:80"]);
        assert_eq!(choose(&all, Family::V4), Ok(servers(&["192.0.2.1:80", "192.0.2.2:80"])));
        assert_eq!(choose(&all, Family::V6), Ok(servers(&["[2001:db8::1]:80"])));
    }

    #[test]
    fn a_name_of_the_other_family_alone_is_told_apart_from_no_name() {
        let finding = choose(&servers(&["192.0.2.1:80"]), Family::V6).unwrap_err();
        assert_eq!(
            finding.to_string(),
            "it has no IPv6 address (AAAA record in the DNS), only others such as 192.0.2.1"
        );
        let finding = choose(&servers(&["[2001:db8::1]:80"]), Family::V4).unwrap_err();
        assert_eq!(
            finding.to_string(),
            "it has no IPv4 address (A record in the DNS), only others such as 2001:db8::1"
        );
        assert_eq!(
            choose(&[], Family::V6),
            Err(Finding::Unresolved("it has no address".to_owned()))
        );
    }
}
