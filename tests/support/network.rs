//! Network namespaces that live and die with a thread: nothing of the host is touched, no name
//! is left behind, and port 843 is free in each.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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

fn set_up_loopback(ip: &Path) {
    let up = Command::new(ip).args(["link", "set", "lo", "up"]).status().expect("starting ip");
    assert!(up.success(), "ip link set lo up: {up}");
    // IPv6 networks on loopback, as 127.0.0.0/8 is for IPv4. Where there is no IPv6, the tests
    // that need it say so when they bind.
    let _ = Command::new(ip)
        .args(["-6", "route", "add", "local", "fd00::/16", "dev", "lo"])
        .stderr(Stdio::null())
        .status();
    let _ = fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
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

/// Which resets count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resets {
    /// All of them.
    Every,
    /// Those of a close that left bytes unread. Where the client has shut down first, it is the
    /// client's end that waits out the connection, and a busy machine's delayed acknowledgement
    /// may find the server's end gone: the reset that follows meets nobody.
    Aborts,
}

/// Counts the resets that leave one port of this network: what no client can see for certain,
/// since a reset may come when its socket is gone. The kernel's own counter would not do: it has
/// those of the clients' side too, where a delayed acknowledgement can cross a close.
#[derive(Debug)]
pub(crate) struct ResetCounter {
    iptables: PathBuf,
}

impl ResetCounter {
    /// Begins to count; `None`, and a line that says so, where that cannot be done.
    pub(crate) fn on(test: &str, port: u16, resets: Resets) -> Option<Self> {
        let what = format!("{test} (the resets)");
        if !is_root() {
            skip(&what, "counting them needs root");
            return None;
        }
        let Some(iptables) = find_program("iptables") else {
            skip(&what, "iptables is not installed");
            return None;
        };
        let flags = match resets {
            Resets::Every => "RST RST",
            Resets::Aborts => "RST,ACK RST,ACK",
        };
        let rule = format!("-A OUTPUT -p tcp --sport {port} --tcp-flags {flags}");
        let added = Command::new(&iptables).args(rule.split(' ')).status().expect("iptables");
        assert!(added.success(), "iptables {rule}: {added}");
        Some(Self { iptables })
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> u64 {
        let listing = Command::new(&self.iptables)
            .args(["-L", "OUTPUT", "-v", "-n", "-x"])
            .output()
            .expect("starting iptables");
        let text = String::from_utf8_lossy(&listing.stdout).into_owned();
        text.lines()
            .nth(2)
            .and_then(|rule| rule.split_whitespace().next())
            .and_then(|packets| packets.parse().ok())
            .unwrap_or_else(|| panic!("not a listing of one rule:\n{text}"))
    }
}
