//! What listens on TCP on this host, and which process holds it, as the kernel tells it in
//! `/proc`. Spawns nothing, changes nothing, and has never heard of a policy.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use procfs::ProcError;
use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, all_processes};

use crate::printable::Escaped;

/// The process that is 1 in every process namespace. It holds the sockets it starts services
/// with, so that naming it says little.
const INIT: i32 = 1;

/// How long the descriptors of all processes are looked through. Any user can have millions.
const SEARCH: Duration = Duration::from_secs(3);

/// A TCP socket that waits for connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostListener {
    /// Where it listens. The kernel does not tell here whether an IPv6 wildcard takes IPv4
    /// connections as well.
    pub address: SocketAddr,
    /// The socket's inode, the same in every process that holds it.
    pub inode: u64,
    /// The user who made it.
    pub uid: u32,
    /// Who holds it; `None` when that process may not be read, or was not found in time.
    pub process: Option<Process>,
}

impl HostListener {
    /// Whether only this host can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }

    /// Whether it takes what is sent to `address`.
    #[must_use]
    pub fn covers(&self, address: SocketAddr) -> bool {
        let (own, wanted) = (self.address.ip(), address.ip());
        self.address.port() == address.port()
            && (own.to_canonical() == wanted.to_canonical()
                || own.is_unspecified() && own.is_ipv4() == wanted.is_ipv4())
    }

    /// Whether it takes what is sent to `address` if it is an IPv6 wildcard that takes IPv4 too,
    /// which the kernel does not tell here.
    #[must_use]
    pub fn may_cover(&self, address: SocketAddr) -> bool {
        self.covers(address)
            || self.address.port() == address.port()
                && self.address.ip() == Ipv6Addr::UNSPECIFIED
                && address.is_ipv4()
    }

    /// Whether binding `address` fails, or may fail, while this listens.
    fn conflict(&self, address: SocketAddr) -> Option<Conflict> {
        if self.address.port() != address.port() {
            return None;
        }
        match (self.address.ip(), address.ip()) {
            (own, wanted) if own == wanted => Some(Conflict::Certain),
            (own, wanted) if own.is_ipv4() == wanted.is_ipv4() => {
                (own.is_unspecified() || wanted.is_unspecified()).then_some(Conflict::Certain)
            }
            (IpAddr::V6(own), IpAddr::V4(wanted)) => match own.to_ipv4_mapped() {
                Some(mapped)
                    if mapped == wanted || mapped.is_unspecified() || wanted.is_unspecified() =>
                {
                    Some(Conflict::Certain)
                }
                None if own.is_unspecified() => Some(Conflict::UnlessV6Only),
                _ => None,
            },
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conflict {
    Certain,
    /// An IPv6 wildcard takes the IPv4 port too, unless it is v6-only.
    UnlessV6Only,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// The name it gave itself, at most 15 bytes of anything; [`Display`](fmt::Display) escapes it.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", Escaped(&self.name), self.pid)
    }
}

/// Why it cannot be told what listens.
#[derive(Debug)]
pub struct InventoryError {
    table: &'static str,
    source: ProcError,
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read {}: ", self.table)?;
        match &self.source {
            ProcError::PermissionDenied(_) => f.write_str("permission denied"),
            ProcError::NotFound(_) => f.write_str("no such file; is /proc mounted?"),
            ProcError::Io(error, _) => write!(f, "{error}"),
            error => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for InventoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Everything that listens in this network namespace, by port and then by address.
///
/// Reads the descriptors of every process that may be read, so the call takes milliseconds on a
/// small host and tenths of a second on one with thousands of processes. It takes no more than
/// some seconds, however many descriptors there are.
pub fn listeners() -> Result<Vec<HostListener>, InventoryError> {
    let mut listeners = sockets()?;
    let holders = processes(listeners.iter().map(|listener| listener.inode));
    for listener in &mut listeners {
        listener.process = holders.get(&listener.inode).cloned();
    }
    Ok(listeners)
}

/// Whether a process has listeners of its own at `address`, in another network namespace than the
/// one of those that are `here`. Not where that may not be read.
#[must_use]
pub fn is_elsewhere(pid: i32, address: SocketAddr, here: &[HostListener]) -> bool {
    let Ok(process) = procfs::process::Process::new(pid) else { return false };
    let tables = [process.tcp(), process.tcp6()];
    let own = covering(listening(tables.into_iter().flatten().flatten()), address);
    let is_here = |it: &HostListener| here.iter().any(|other| other.inode == it.inode);
    !own.is_empty() && !own.iter().any(is_here)
}

/// Whether a process holds one of these sockets; `None` where that may not be read.
#[must_use]
pub fn holds(pid: i32, listeners: &[HostListener]) -> Option<bool> {
    let descriptors = procfs::process::Process::new(pid).ok()?.fd().ok()?;
    // One that cannot be read was closed since.
    let mut targets = descriptors.flatten().map(|descriptor| descriptor.target);
    Some(
        targets.any(|target| {
            listeners.iter().any(|listener| target == FDTarget::Socket(listener.inode))
        }),
    )
}

/// Who keeps `address` from being bound (an IPv6 one as v6-only); empty when nobody listens in its
/// way, or when that cannot be found out.
#[must_use]
pub fn holders(address: SocketAddr) -> Vec<HostListener> {
    let mut in_the_way = conflicting(sockets().unwrap_or_default(), address);
    let holders = processes(in_the_way.iter().map(|listener| listener.inode));
    for listener in &mut in_the_way {
        listener.process = holders.get(&listener.inode).cloned();
    }
    in_the_way
}

/// Those that take what is sent to `address`, or may take it where none certainly does: beside one
/// that does, the kernel allows only an IPv6 wildcard that takes no IPv4.
#[must_use]
pub fn covering(mut listeners: Vec<HostListener>, address: SocketAddr) -> Vec<HostListener> {
    if listeners.iter().any(|listener| listener.covers(address)) {
        listeners.retain(|listener| listener.covers(address));
    } else {
        listeners.retain(|listener| listener.may_cover(address));
    }
    listeners
}

/// Those that certainly are in the way of `address`, else those that may be.
fn conflicting(mut sockets: Vec<HostListener>, address: SocketAddr) -> Vec<HostListener> {
    let is_certain =
        |socket: &HostListener| matches!(socket.conflict(address), Some(Conflict::Certain));
    if sockets.iter().any(is_certain) {
        sockets.retain(is_certain);
    } else {
        sockets.retain(|socket| socket.conflict(address).is_some());
    }
    sockets
}

/// Every listening socket, the process of each still unknown.
fn sockets() -> Result<Vec<HostListener>, InventoryError> {
    let error = |table| move |source| InventoryError { table, source };
    let mut entries = procfs::net::tcp().map_err(error("/proc/net/tcp"))?;
    match procfs::net::tcp6() {
        Ok(more) => entries.extend(more),
        // A kernel without IPv6 has no such table.
        Err(ProcError::NotFound(_)) => {}
        Err(source) => return Err(error("/proc/net/tcp6")(source)),
    }
    let mut listeners = listening(entries);
    listeners
        .sort_by_key(|listener| (listener.address.port(), listener.address.ip(), listener.inode));
    Ok(listeners)
}

/// Those of these sockets that listen.
fn listening(entries: impl IntoIterator<Item = TcpNetEntry>) -> Vec<HostListener> {
    entries
        .into_iter()
        .filter(|entry| entry.state == TcpState::Listen)
        .map(|TcpNetEntry { local_address, inode, uid, .. }| HostListener {
            address: local_address,
            inode,
            uid,
            process: None,
        })
        .collect()
}

/// Which process holds each of these sockets; where several do, the [`likelier`] one. Those that are
/// not found in [`SEARCH`] are missing.
fn processes(inodes: impl Iterator<Item = u64>) -> HashMap<u64, Process> {
    let mut wanted: HashMap<u64, Option<i32>> = inodes.map(|inode| (inode, None)).collect();
    if wanted.is_empty() {
        return HashMap::new();
    }
    let end = Instant::now() + SEARCH;
    // Whatever cannot be read here belongs to somebody else, or is gone since.
    'search: for process in all_processes().into_iter().flatten().flatten() {
        for descriptor in process.fd().into_iter().flatten().flatten() {
            if Instant::now() >= end {
                break 'search;
            }
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            let Some(holder) = wanted.get_mut(&inode) else { continue };
            *holder = Some(holder.map_or(process.pid, |known| likelier(known, process.pid)));
        }
    }
    wanted
        .into_iter()
        .filter_map(|(inode, pid)| {
            let pid = pid?;
            Some((inode, Process { pid, name: name_of(pid).unwrap_or_default() }))
        })
        .collect()
}

/// Whom an administrator would name of two processes that hold a socket: the one with the lower
/// number, which is the parent of workers; but init only where nobody else does.
fn likelier(one: i32, other: i32) -> i32 {
    let (low, high) = (one.min(other), one.max(other));
    if low == INIT { high } else { low }
}

/// Read as bytes, because a name may be anything.
fn name_of(pid: i32) -> Option<String> {
    let mut name = Vec::new();
    let process = procfs::process::Process::new(pid).ok()?;
    process.open_relative("comm").ok()?.read_to_end(&mut name).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn socket(address: &str) -> HostListener {
        HostListener { address: address.parse().unwrap(), inode: 1, uid: 0, process: None }
    }

    fn in_the_way(sockets: &[&str], address: &str) -> Vec<String> {
        let sockets = sockets.iter().map(|address| socket(address)).collect();
        conflicting(sockets, address.parse().unwrap())
            .iter()
            .map(|listener| listener.address.to_string())
            .collect()
    }

    #[test]
    fn a_socket_of_this_process_is_found_with_its_name_and_number() {
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = own.local_addr().unwrap();
        let found = listeners().unwrap();
        let listener = found.iter().find(|listener| listener.address == address).unwrap();
        let process = listener.process.as_ref().unwrap();
        assert_eq!(u32::try_from(process.pid).unwrap(), std::process::id());
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(process.name, name.trim_end());
        assert_eq!(listener.uid, nix::unistd::geteuid().as_raw());
        assert!(listener.is_loopback());
        assert_eq!(holders(address), std::slice::from_ref(listener));
        drop(own);
        assert!(holders(address).iter().all(|left| left.inode != listener.inode));
    }

    #[test]
    fn an_ipv6_socket_is_read_in_the_right_byte_order() {
        let Ok(own) = TcpListener::bind("[::1]:0") else {
            eprintln!("skipped an_ipv6_socket_is_read_in_the_right_byte_order: no IPv6 loopback");
            return;
        };
        let found = holders(own.local_addr().unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].address, own.local_addr().unwrap());
    }

    #[test]
    fn a_connection_is_no_listener() {
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(own.local_addr().unwrap()).unwrap();
        let accepted = own.accept().unwrap().0;
        let found = listeners().unwrap();
        let at = |address| found.iter().filter(|listener| listener.address == address).count();
        assert_eq!(at(client.local_addr().unwrap()), 0);
        assert_eq!(at(accepted.local_addr().unwrap()), 1);
    }

    #[test]
    fn wildcards_are_in_the_way_of_every_address_of_their_family() {
        let taken = ["0.0.0.0:843", "192.0.2.1:843", "[2001:db8::1]:843", "0.0.0.0:80"];
        assert_eq!(in_the_way(&taken, "192.0.2.1:843"), ["0.0.0.0:843", "192.0.2.1:843"]);
        assert_eq!(in_the_way(&taken, "192.0.2.2:843"), ["0.0.0.0:843"]);
        assert_eq!(in_the_way(&taken, "[::]:843"), ["[2001:db8::1]:843"]);
        assert!(in_the_way(&taken, "[2001:db8::2]:843").is_empty());
        assert!(in_the_way(&taken, "0.0.0.0:7843").is_empty());
    }

    #[test]
    fn an_ipv6_wildcard_is_suspected_of_the_ipv4_port_only_when_nobody_else_is() {
        assert_eq!(in_the_way(&["[::]:843"], "0.0.0.0:843"), ["[::]:843"]);
        assert_eq!(in_the_way(&["0.0.0.0:843", "[::]:843"], "0.0.0.0:843"), ["0.0.0.0:843"]);
        assert_eq!(
            in_the_way(&["[::ffff:192.0.2.1]:843"], "0.0.0.0:843"),
            ["[::ffff:192.0.2.1]:843"]
        );
        assert!(in_the_way(&["[::ffff:192.0.2.1]:843"], "192.0.2.2:843").is_empty());
    }

    #[test]
    fn a_wildcard_covers_its_family_and_an_address_itself() {
        let covers = |own: &str, address: &str| socket(own).covers(address.parse().unwrap());
        assert!(covers("0.0.0.0:843", "127.0.0.1:843"));
        assert!(covers("0.0.0.0:843", "0.0.0.0:843"));
        assert!(covers("[::]:843", "[::1]:843"));
        assert!(covers("[::ffff:127.0.0.1]:843", "127.0.0.1:843"));
        assert!(!covers("0.0.0.0:843", "[::1]:843"));
        assert!(!covers("[::]:843", "127.0.0.1:843"));
        assert!(!covers("127.0.0.1:843", "0.0.0.0:843"));
        assert!(!covers("0.0.0.0:843", "127.0.0.1:844"));
    }

    #[test]
    fn an_ipv6_wildcard_is_said_to_take_ipv4_only_when_nobody_else_does() {
        let covering = |sockets: &[&str], address: &str| {
            let sockets = sockets.iter().map(|address| socket(address)).collect();
            super::covering(sockets, address.parse().unwrap())
        };
        assert_eq!(covering(&["[::]:843", "[::1]:843"], "127.0.0.1:843"), [socket("[::]:843")]);
        for own in ["127.0.0.1:843", "0.0.0.0:843", "[::ffff:127.0.0.1]:843"] {
            assert_eq!(covering(&[own, "[::]:843"], "127.0.0.1:843"), [socket(own)]);
        }
        assert_eq!(covering(&["0.0.0.0:843", "[::]:844"], "[::1]:843"), []);
    }

    #[test]
    fn of_several_holders_the_parent_is_named_but_not_init() {
        assert_eq!(likelier(812, 815), 812);
        assert_eq!(likelier(815, 812), 812);
        assert_eq!(likelier(INIT, 815), 815);
        assert_eq!(likelier(815, INIT), 815);
        assert_eq!(likelier(INIT, INIT), INIT);
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        let process = Process { pid: 7, name: "\u{1b}[31m\n".into() };
        assert_eq!(process.to_string(), "\\u{1b}[31m\\n[7]");
    }
}
