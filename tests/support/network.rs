//! Network namespaces that live and die with a thread: nothing of the host is touched, no name
//! is left behind, and port 843 is free in each.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Protocol, Socket, Type};

use super::{find_program, is_root, skip};

/// Runs `body` in a network namespace of its own, with loopback up. Sockets that it creates and
/// processes that it starts belong to that namespace. Says `skipped` where that cannot be done.
pub(crate) fn in_own_network(test: &str, body: impl FnOnce() + Send) {
    if !is_root() {
        return skip(test, "a network namespace of its own needs root");
    }
    let Some(ip) = find_program("ip") else {
        return skip(test, "ip of iproute2 is not installed");
    };
    let outcome = thread::scope(|scope| {
        scope
            .spawn(|| {
                if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                    return skip(test, format_args!("cannot unshare the network: {error}"));
                }
                set_up_loopback(&ip);
                body();
            })
            .join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// As [`in_own_network`] for root, and in the network of the host for anyone else: for tests
/// that need room for their connections rather than privileges.
pub(crate) fn in_a_roomy_network(test: &str, body: impl FnOnce() + Send) {
    if is_root() {
        in_own_network(test, body);
    } else {
        body();
    }
}

fn set_up_loopback(ip: &std::path::Path) {
    let up = Command::new(ip).args(["link", "set", "lo", "up"]).status().expect("starting ip");
    assert!(up.success(), "ip link set lo up: {up}");
    // A whole IPv6 network on loopback, as 127.0.0.0/8 is for IPv4.
    let _ = Command::new(ip)
        .args(["-6", "route", "add", "local", "fd00::/16", "dev", "lo"])
        .status()
        .expect("starting ip");
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").expect("widening the ports");
}

/// A listening socket, as systemd passes them. Port 0 lets the system choose.
pub(crate) fn listen(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("IPV6_V6ONLY");
    }
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("binding {address}: {error}"));
    socket.listen(4096).expect("listening");
    socket
}

/// Where a socket is bound.
pub(crate) fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().ok().and_then(|address| address.as_socket()).expect("a bound address")
}

/// Resets that this network namespace has sent since it exists. Exact in a namespace of one's
/// own: what no client can see for certain, the kernel counts.
pub(crate) fn resets_sent() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("the counters of TCP");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    names
        .split(' ')
        .zip(values.split(' '))
        .find_map(|(name, value)| (name == "OutRsts").then(|| value.parse().expect("a count")))
        .expect("OutRsts")
}
