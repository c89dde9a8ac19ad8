//! What balancers send before the client's own bytes: headers of the PROXY protocol, written here
//! by hand from its text and not by the code under test.

use std::net::{IpAddr, SocketAddr};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 1.
pub(crate) fn line(client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), asked.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), asked.port()).into_bytes()
}

/// A header of version 1 that does not say who the client is.
pub(crate) fn unknown() -> Vec<u8> {
    b"PROXY UNKNOWN\r\n".to_vec()
}

/// A header of version 2; in IPv6 where one of the two is.
pub(crate) fn v2(client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::new();
    let transport = match (client.ip(), asked.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            addresses.extend([from.octets(), to.octets()].concat());
            0x11
        }
        (from, to) => {
            for address in [from, to] {
                addresses.extend(match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                });
            }
            0x21
        }
    };
    for port in [client.port(), asked.port()] {
        addresses.extend(port.to_be_bytes());
    }
    let length = u8::try_from(addresses.len()).expect("a short header");
    [&SIGNATURE[..], &[0x21, transport, 0, length], &addresses].concat()
}

/// A header of version 2 for a connection of the balancer's own.
pub(crate) fn local() -> Vec<u8> {
    [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
}
