//! A header of the PROXY protocol with arbitrary cuts: it is read as `ppp` reads it, and however it
//! is cut, the same becomes of it.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use masterpolicyd::server::preamble::{Header, HeaderSoFar, Preamble};
use ppp::{v1, v2};

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let whole = Preamble::default().take(&bytes);
    let mut preamble = Preamble::default();
    let mut parsed = HeaderSoFar::Unfinished;
    let mut before = 0;
    let mut cuts = cuts.iter().map(|cut| usize::from(*cut).max(1)).chain(std::iter::repeat(7));
    while before < bytes.len() && parsed == HeaderSoFar::Unfinished {
        let end = (before + cuts.next().unwrap_or(1)).min(bytes.len());
        parsed = match preamble.take(&bytes[before..end]) {
            HeaderSoFar::Complete { header, taken } => {
                HeaderSoFar::Complete { header, taken: before + taken }
            }
            parsed => parsed,
        };
        before = end;
    }
    assert_eq!(parsed, whole);
    // What is not known of it is another matter: there `ppp` has limits that the protocol has not.
    if let HeaderSoFar::Complete { header: Header::Client { client, asked }, taken } = whole {
        assert_eq!(named_by_ppp(&bytes), Some(([client, asked], taken)));
    }
});

/// The client and where it connected to, and how long the header is.
fn named_by_ppp(bytes: &[u8]) -> Option<([SocketAddr; 2], usize)> {
    let by_ipv4 = |it: v1::IPv4| {
        [(it.source_address, it.source_port), (it.destination_address, it.destination_port)]
            .map(SocketAddr::from)
    };
    let by_ipv6 = |it: v1::IPv6| {
        [(it.source_address, it.source_port), (it.destination_address, it.destination_port)]
            .map(SocketAddr::from)
    };
    if let Ok(v2::Header { header, addresses, .. }) = v2::Header::try_from(bytes) {
        return match addresses {
            v2::Addresses::IPv4(addresses) => Some((by_ipv4(addresses), header.len())),
            v2::Addresses::IPv6(addresses) => Some((by_ipv6(addresses), header.len())),
            _ => None,
        };
    }
    let v1::Header { header, addresses } = v1::Header::try_from(bytes).ok()?;
    match addresses {
        v1::Addresses::Tcp4(addresses) => Some((by_ipv4(addresses), header.len())),
        v1::Addresses::Tcp6(addresses) => Some((by_ipv6(addresses), header.len())),
        v1::Addresses::Unknown => None,
    }
}
