//! The listening sockets: inherited ones are adopted, the others bound.
//!
//! This module knows addresses and sockets, systemd's way of passing them on, and what an
//! administrator can do about each failure: for that it names the key `listen`. It reads no
//! configuration, accepts no connection, and logs nothing.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd, RawFd};

use listenfd::ListenFd;
use nix::sys::socket::setsockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Binding a port below this one takes a privilege, unless the sysctl
/// `net.ipv4.ip_unprivileged_port_start` says otherwise: this is its default (ip(7)).
pub const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// What the names of our sockets in systemd's descriptor store begin with. A socket that a
/// socket unit hands over is named after the unit and never begins with this.
pub const STORE_PREFIX: &str = "masterpolicyd-store-";

/// The name under which the socket of this address is kept in the descriptor store.
///
/// A name must have no colon and no control character, since `LISTEN_FDNAMES` separates by
/// colons (`sd_pid_notify_with_fds(3)`).
#[must_use]
pub fn store_name(address: SocketAddr) -> String {
    format!("{STORE_PREFIX}{address}").replace(':', "_")
}

/// The most sockets that may be handed over. A service manager hands over one for each address,
/// and room is made for as many as it claims.
const MOST_HANDED_OVER: i64 = 1024;

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST_HANDED_OVER: RawFd = 3;

/// The descriptors that `LISTEN_FDS` and `LISTEN_PID` say were handed over to this process.
pub fn handed_over() -> Result<Range<RawFd>, BindError> {
    let number = |name| std::env::var(name).ok()?.parse::<i64>().ok();
    let is_meant =
        std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count = number("LISTEN_FDS").filter(|count| is_meant && *count > 0).unwrap_or(0);
    let first = number("LISTEN_FDS_FIRST_FD").unwrap_or(FIRST_HANDED_OVER.into());
    if count > MOST_HANDED_OVER || !(0..=MOST_HANDED_OVER).contains(&first) {
        return Err(BindError::TooMany { count });
    }
    let descriptor = |number| RawFd::try_from(number).unwrap_or(FIRST_HANDED_OVER);
    Ok(descriptor(first)..descriptor(first + count))
}

/// How a listening socket came to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketOrigin {
    /// Bound by this process.
    Bound,
    /// Handed over by a socket unit, or by whoever sets `LISTEN_FDS`.
    SocketUnit,
    /// Taken back from the descriptor store.
    Stored {
        /// Its name there.
        name: String,
    },
}

impl fmt::Display for SocketOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bound => "bound",
            Self::SocketUnit => "from the socket unit",
            Self::Stored { .. } => "from the descriptor store",
        })
    }
}

/// A socket that listens, does not block and is closed on exec.
#[derive(Debug)]
pub struct ListeningSocket {
    /// The socket.
    pub socket: TcpListener,
    /// The address that was asked for. With port 0, only the socket knows which port it got.
    pub address: SocketAddr,
    /// Where it came from.
    pub origin: SocketOrigin,
}

/// Everything that [`bind`] achieved.
#[derive(Debug)]
pub struct Bound {
    /// In the order of the addresses asked for; those that were skipped are missing.
    pub sockets: Vec<ListeningSocket>,
    /// The addresses that are done [without](IfTaken::GoWithout), since their ports are taken.
    pub without: Vec<SocketAddr>,
    /// What the administrator should know.
    pub warnings: Vec<Warning>,
    /// Names of sockets in the descriptor store that are of no use any more. Until the store
    /// drops them, too, they hold their port, and clients wait in their queue for nothing.
    pub to_remove_from_store: Vec<String>,
}

/// What the administrator should know about the sockets, though it keeps nothing from starting.
#[derive(Debug)]
pub enum Warning {
    /// The host has no IPv6, so this wildcard address was skipped.
    NoIpv6(SocketAddr),
    /// No interface has the address. It is served once one has.
    Absent(SocketAddr),
    /// The address is that of all hosts of a network. The system binds it.
    Broadcast(IpAddr),
    /// The socket unit handed over an IPv6 socket that takes IPv4 connections too.
    DualStack(SocketAddr),
    /// A socket in the descriptor store is of no use.
    UnusableInStore {
        /// Its name there.
        name: String,
        /// What is wrong with it.
        reason: io::Error,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoIpv6(address) => write!(f, "skipped {address}: this host has no IPv6"),
            Self::Absent(address) => write!(
                f,
                "no interface of this host has the address of {address} yet: it is served as soon as one \
                 does"
            ),
            Self::Broadcast(ip) => write!(
                f,
                "{ip} is the broadcast address of a network, and nobody can connect to it: write an \
                 address of this host in listen"
            ),
            Self::DualStack(address) => write!(
                f,
                "{address} from the socket unit takes IPv4 connections too: \
                 set BindIPv6Only=ipv6-only in the unit"
            ),
            Self::UnusableInStore { name, reason } => {
                write!(f, "dropped {name} from the descriptor store: {reason}")
            }
        }
    }
}

/// Sockets that were open and listening when the process started.
#[derive(Debug, Default)]
pub struct Inherited {
    offers: Vec<Offer<TcpListener>>,
    unusable_in_store: Vec<(String, io::Error)>,
}

/// An inherited socket. What is decided about it does not depend on its type.
#[derive(Debug)]
struct Offer<T> {
    socket: T,
    address: SocketAddr,
    origin: SocketOrigin,
}

impl Inherited {
    /// Takes what `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PID` describe (`sd_listen_fds(3)`);
    /// nothing unless `LISTEN_PID` is this process. A second call finds nothing, since
    /// this removes `LISTEN_FDS` and `LISTEN_PID` from the environment; that is legal while the
    /// process has a single thread.
    pub fn from_env() -> Result<Self, BindError> {
        // The crate takes those without a LISTEN_PID too.
        if handed_over()?.is_empty() {
            return Ok(Self::default());
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..descriptors.len() {
            let name = names.next().unwrap_or_default();
            match (take_listener(&mut descriptors, index), origin_of(name)) {
                (Ok((socket, address)), origin) => {
                    inherited.offers.push(Offer { socket, address, origin });
                }
                // The store outlives whoever filled it, so it must not keep us from starting.
                (Err(reason), SocketOrigin::Stored { name }) => {
                    inherited.unusable_in_store.push((name, reason));
                }
                (Err(reason), _) => {
                    let name = name.to_owned();
                    return Err(BindError::Inherited { position: index + 1, name, reason });
                }
            }
        }
        Ok(inherited)
    }
}

fn origin_of(name: &str) -> SocketOrigin {
    if name.starts_with(STORE_PREFIX) {
        SocketOrigin::Stored { name: name.to_owned() }
    } else {
        SocketOrigin::SocketUnit
    }
}

fn take_listener(
    descriptors: &mut ListenFd,
    index: usize,
) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = descriptors
        .take_tcp_listener(index)?
        .ok_or_else(|| io::Error::other("it was taken before"))?;
    let raw = SockRef::from(&socket);
    if !matches!(raw.protocol()?, Some(Protocol::TCP | Protocol::MPTCP)) {
        return Err(io::Error::other("it is not a TCP socket"));
    }
    if !raw.is_listener()? {
        return Err(io::Error::other("it does not listen"));
    }
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// What to do about an address whose port is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    /// Try again now.
    TryAgain,
    /// Do without this address, and serve the others.
    GoWithout,
    /// Nothing: that it is taken is the error.
    GiveUp,
}

/// Provides a listening socket for each of `addresses`, which are all that the daemon listens
/// on: the inherited one that is bound to it, or else a new one.
///
/// The sockets of a socket unit must be exactly these: the unit may live in a private network,
/// where binding would work and nobody could connect. A socket of the descriptor store that
/// meets no address is closed. An IPv6 wildcard is skipped on a host without IPv6. An address that no
/// interface has is bound all the same, since it may come: it belongs to an interface that is slow
/// to start, or moves from host to host.
///
/// `holders` names whoever has the port of an address; it is asked only about one that is taken.
/// `when_taken` is then told the error, and returns what to do, once it is time to do it.
pub fn bind(
    addresses: &[SocketAddr],
    inherited: Inherited,
    holders: &dyn Fn(SocketAddr) -> Vec<String>,
    when_taken: &mut dyn FnMut(&BindError) -> IfTaken,
) -> Result<Bound, BindError> {
    let refused = |address, reason: io::Error| {
        let is_taken = reason.kind() == io::ErrorKind::AddrInUse;
        let holders = if is_taken { holders(address) } else { Vec::new() };
        BindError::Bind { address, reason, holders }
    };
    let plan = plan(addresses, inherited.offers, &host_has_ipv6)?;
    let mut bound = Bound {
        sockets: Vec::with_capacity(plan.actions.len()),
        without: vec![],
        warnings: vec![],
        to_remove_from_store: plan.unused_in_store,
    };
    for socket in &plan.leftovers {
        stop_listening(socket);
    }
    for (name, reason) in inherited.unusable_in_store {
        bound.to_remove_from_store.push(name.clone());
        bound.warnings.push(Warning::UnusableInStore { name, reason });
    }
    for (address, action) in plan.actions {
        let (socket, origin) = match action {
            Action::Adopt(socket, origin) => (socket, origin),
            Action::Bind => {
                let attempt = || bound_socket(address);
                let Some((socket, presence)) =
                    unless_taken(address, attempt, &refused, when_taken)?
                else {
                    bound.without.push(address);
                    continue;
                };
                if presence == Presence::Absent {
                    bound.warnings.push(Warning::Absent(address));
                }
                (socket, SocketOrigin::Bound)
            }
            Action::Skip => {
                bound.warnings.push(Warning::NoIpv6(address));
                continue;
            }
        };
        if is_broadcast(address) {
            bound.warnings.push(Warning::Broadcast(address.ip()));
        }
        if origin == SocketOrigin::SocketUnit && takes_ipv4_too(&socket, address) {
            bound.warnings.push(Warning::DualStack(address));
        }
        bound.sockets.push(ListeningSocket { socket, address, origin });
    }
    if bound.sockets.is_empty() && bound.without.is_empty() && !addresses.is_empty() {
        return Err(BindError::NoAddress);
    }
    // Not before all are bound: whoever connected would wait in the queue while another port is taken.
    for bound_socket in std::mem::take(&mut bound.sockets) {
        let ListeningSocket { socket, address, origin } = &bound_socket;
        // As long as the kernel allows, which caps it at net.core.somaxconn. Where somebody else has
        // bound the address before, with SO_REUSEADDR too, whoever listens first has it.
        let attempt = || SockRef::from(socket).listen(i32::MAX);
        let listens = *origin != SocketOrigin::Bound
            || unless_taken(*address, attempt, &refused, when_taken)?.is_some();
        if listens {
            bound.sockets.push(bound_socket);
        } else {
            bound.without.push(*address);
        }
    }
    Ok(bound)
}

/// Where the socket of each address comes from.
#[derive(Debug)]
struct Plan<T> {
    actions: Vec<(SocketAddr, Action<T>)>,
    unused_in_store: Vec<String>,
    /// The sockets of these names.
    leftovers: Vec<T>,
}

#[derive(Debug, PartialEq, Eq)]
enum Action<T> {
    Adopt(T, SocketOrigin),
    Bind,
    Skip,
}

fn plan<T>(
    addresses: &[SocketAddr],
    offers: Vec<Offer<T>>,
    has_ipv6: &dyn Fn() -> bool,
) -> Result<Plan<T>, BindError> {
    let (mut unit, mut stored): (Vec<_>, Vec<_>) =
        offers.into_iter().partition(|offer| offer.origin == SocketOrigin::SocketUnit);
    let has_unit = !unit.is_empty();
    let mut actions = Vec::with_capacity(addresses.len());
    let mut missing = Vec::new();
    for &address in addresses {
        // Beside a socket unit the store can only hold leftovers of the time before it.
        let offers = if has_unit { &mut unit } else { &mut stored };
        let action = match offers.iter().position(|offer| offer.address == address) {
            Some(index) => {
                let offer = offers.swap_remove(index);
                Action::Adopt(offer.socket, offer.origin)
            }
            None if is_ipv6_wildcard(address) && !has_ipv6() => Action::Skip,
            None if has_unit => {
                missing.push(address);
                continue;
            }
            None => Action::Bind,
        };
        actions.push((address, action));
    }
    let unnamed: Vec<_> = unit.into_iter().map(|offer| offer.address).collect();
    if !missing.is_empty() || !unnamed.is_empty() {
        let ipv6_only = missing.iter().any(|missing| has_other_wildcard(addresses, *missing));
        return Err(BindError::Mismatch { missing, unnamed, ipv6_only });
    }
    let in_use = |name: &String| {
        actions.iter().any(
            |(_, action)| matches!(action, Action::Adopt(_, SocketOrigin::Stored { name: n }) if n == name),
        )
    };
    let (mut unused_in_store, leftovers): (Vec<_>, Vec<_>) = stored
        .into_iter()
        .filter_map(|offer| match offer.origin {
            SocketOrigin::Stored { name } => Some((name, offer.socket)),
            SocketOrigin::Bound | SocketOrigin::SocketUnit => None,
        })
        // Removing a name from the store removes every socket of that name.
        .filter(|(name, _)| !in_use(name))
        .unzip();
    unused_in_store.sort();
    unused_in_store.dedup();
    Ok(Plan { actions, unused_in_store, leftovers })
}

/// Gives the address of a leftover back at once. The store has a descriptor of it, too, and would
/// keep it listening until it has been told to forget it: 0.0.0.0:843 from before a restart would
/// be in the way of 127.0.0.1:843 after it.
fn stop_listening(socket: &TcpListener) {
    if let Err(error) = SockRef::from(socket).shutdown(Shutdown::Both) {
        debug_assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "it listens no more");
    }
}

fn is_ipv6_wildcard(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Whether `addresses` names the wildcard of the other family at the same port. One socket of
/// both families, systemd's default, would then keep the other from being bound.
fn has_other_wildcard(addresses: &[SocketAddr], address: SocketAddr) -> bool {
    address.ip().is_unspecified()
        && addresses.iter().any(|other| {
            other.ip().is_unspecified()
                && other.port() == address.port()
                && other.is_ipv4() != address.is_ipv4()
        })
}

/// Whether the kernel gives out IPv6 sockets at all. Where only its addresses are turned off
/// (`net.ipv6.conf.all.disable_ipv6`), the wildcard can be bound and serves once they are back.
fn host_has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))
        .map_or_else(|error| !is_no_ipv6(&error), |_| true)
}

fn is_no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn takes_ipv4_too(socket: &TcpListener, address: SocketAddr) -> bool {
    is_ipv6_wildcard(address) && SockRef::from(socket).only_v6().is_ok_and(|only| !only)
}

/// What an attempt at an address comes to; nothing where it is done without the address.
fn unless_taken<T>(
    address: SocketAddr,
    mut attempt: impl FnMut() -> io::Result<T>,
    refused: &dyn Fn(SocketAddr, io::Error) -> BindError,
    when_taken: &mut dyn FnMut(&BindError) -> IfTaken,
) -> Result<Option<T>, BindError> {
    loop {
        let reason = match attempt() {
            Ok(done) => return Ok(Some(done)),
            Err(reason) => reason,
        };
        let is_taken = reason.kind() == io::ErrorKind::AddrInUse;
        let error = refused(address, reason);
        match if is_taken { when_taken(&error) } else { IfTaken::GiveUp } {
            IfTaken::TryAgain => {}
            IfTaken::GoWithout => return Ok(None),
            IfTaken::GiveUp => return Err(error),
        }
    }
}

/// Whether this is the broadcast address of a network that this host is in: a datagram socket can be
/// connected to it with `SO_BROADCAST` only (`ip(7)`). Neither attempt sends anything.
fn is_broadcast(address: SocketAddr) -> bool {
    if !address.is_ipv4() {
        return false;
    }
    // It is not bound first, which a security module may deny.
    let attempt = || -> io::Result<bool> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        match socket.connect(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            _ => return Ok(false),
        }
        // A route or a filter may have denied it as well.
        socket.set_broadcast(true)?;
        Ok(socket.connect(&address.into()).is_ok())
    };
    attempt().unwrap_or(false)
}

/// Whether an interface has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Present,
    Absent,
}

/// A socket that does not listen yet.
fn bound_socket(address: SocketAddr) -> io::Result<(TcpListener, Presence)> {
    // New sockets of this crate are closed on exec.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // On Linux this takes no port from a listener; it only disregards connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    let presence = match socket.bind(&address.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let freed = match address {
                SocketAddr::V4(_) => socket.set_freebind_v4(true),
                SocketAddr::V6(_) => socket.set_freebind_v6(true),
            };
            freed.map_err(|_| error)?;
            socket.bind(&address.into())?;
            Presence::Absent
        }
        bound => bound.map(|()| Presence::Present)?,
    };
    Ok((socket.into(), presence))
}

/// `TCP_DEFER_ACCEPT`, which no crate in use has; seconds.
#[derive(Clone, Copy)]
struct DeferAccept;

nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32,
    nix::sys::socket::sockopt::SetStruct<'_, u32>
);

/// Lets the kernel wait with a connection until its first bytes are there, so that accepting and
/// reading are one step.
///
/// The wait is one second, the shortest that there is, which the kernel counts as one
/// retransmission of its SYN-ACK: a peer that stays silent is seen after about that second, and
/// then has the deadline of every other. `tcp(7)`.
pub fn defer_accept(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, DeferAccept, &1)?)
}

/// Why there is no socket for an address.
#[derive(Debug)]
pub enum BindError {
    /// An address cannot be bound, or cannot be listened on.
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        reason: io::Error,
        /// Who has the port, where it is taken and that can be known.
        holders: Vec<String>,
    },
    /// More sockets than anybody hands over are said to have been.
    TooMany {
        /// How many, according to `LISTEN_FDS`.
        count: i64,
    },
    /// An inherited descriptor is not a listening TCP socket.
    Inherited {
        /// Which one of all, counted from 1.
        position: usize,
        /// Its name, such as that of the socket unit; may be empty.
        name: String,
        /// What is wrong with it.
        reason: io::Error,
    },
    /// The sockets that the socket unit hands over are not the addresses to listen on.
    Mismatch {
        /// What the unit does not hand over.
        missing: Vec<SocketAddr>,
        /// What the unit hands over though nothing names it.
        unnamed: Vec<SocketAddr>,
        /// Whether the unit must be told to keep IPv6 from taking IPv4's port.
        ipv6_only: bool,
    },
    /// Every address was skipped, for the host has no IPv6.
    NoAddress,
}

impl BindError {
    /// Whether it is for want of permission, rather than a fault of the system or the
    /// configuration.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(
            self,
            Self::Bind { reason, .. } if reason.kind() == io::ErrorKind::PermissionDenied
        )
    }

    /// Whether the configuration is at fault, the daemon's or that of its socket unit.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::TooMany { .. } | Self::Inherited { .. } | Self::Mismatch { .. } | Self::NoAddress
        )
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, reason, holders } => {
                write!(f, "cannot bind {address}: {reason}: {}", remedy(*address, reason, holders))
            }
            Self::TooMany { count } => write!(
                f,
                "cannot use inherited descriptors: LISTEN_FDS={count}, but at most \
                 {MOST_HANDED_OVER} can be handed over, from number {FIRST_HANDED_OVER} on: unset \
                 LISTEN_FDS, or let the socket unit start the daemon"
            ),
            Self::Inherited { position, name, reason } => {
                write!(f, "cannot use inherited descriptor {position}")?;
                if !name.is_empty() {
                    write!(f, " ({})", name.escape_default())?;
                }
                write!(f, ": {reason}: a socket unit must have ListenStream=ADDRESS:PORT and ")?;
                f.write_str("Accept=no")
            }
            Self::Mismatch { missing, unnamed, ipv6_only } => {
                f.write_str("the socket unit and the configuration disagree")?;
                let mut separator = ": ";
                for address in missing {
                    write!(
                        f,
                        "{separator}nothing was handed over for {address}, so add \
                         ListenStream={address} to the unit"
                    )?;
                    separator = "; ";
                }
                if *ipv6_only {
                    f.write_str(", with BindIPv6Only=ipv6-only")?;
                }
                for address in unnamed {
                    write!(
                        f,
                        "{separator}{address} was handed over but is not in listen, so remove \
                         ListenStream={address} from the unit or add the address"
                    )?;
                    separator = "; ";
                }
                Ok(())
            }
            Self::NoAddress => f.write_str(
                "nothing to listen on: this host has no IPv6, and listen has only IPv6 addresses: \
                 add \"0.0.0.0:843\" to listen",
            ),
        }
    }
}

impl Error for BindError {}

/// What names the program that has a port, where this process may not see it.
pub struct Finder(pub u16);

impl fmt::Display for Finder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ss -tanp 'sport = :{}' as root names it", self.0)
    }
}

/// What an administrator can do about it.
fn remedy(address: SocketAddr, reason: &io::Error, holders: &[String]) -> String {
    match reason.kind() {
        // A capability of the file itself would be every user's who runs it.
        io::ErrorKind::PermissionDenied if address.port() < FIRST_UNPRIVILEGED_PORT => {
            "start as root (sudo), use the systemd unit, or write \
             AmbientCapabilities=CAP_NET_BIND_SERVICE into a unit of your own"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "allow it in SELinux or AppArmor, or in SocketBindDeny= of the systemd unit".to_owned()
        }
        io::ErrorKind::AddrInUse if holders.is_empty() => {
            format!("another program has the port: stop that program ({})", Finder(address.port()))
        }
        io::ErrorKind::AddrInUse => {
            format!("{} has the port: stop it, or change the address in listen", holders.join(", "))
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has the address: correct it, or start after \
             network-online.target"
                .to_owned()
        }
        _ if is_no_ipv6(reason) => {
            "this host has no IPv6: remove the address from listen".to_owned()
        }
        _ => "see listen in masterpolicyd.toml(5)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::getsockopt;
    use nix::sys::socket::sockopt::ReuseAddr;
    use std::collections::BTreeMap;

    const WITH_IPV6: &dyn Fn() -> bool = &|| true;
    const WITHOUT_IPV6: &dyn Fn() -> bool = &|| false;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn from_unit(text: &str) -> Offer<()> {
        Offer { socket: (), address: text.parse().unwrap(), origin: SocketOrigin::SocketUnit }
    }

    fn from_store(text: &str) -> Offer<()> {
        let address = text.parse().unwrap();
        Offer { socket: (), address, origin: SocketOrigin::Stored { name: store_name(address) } }
    }

    fn actions(plan: Plan<()>) -> Vec<Action<()>> {
        plan.actions.into_iter().map(|(_, action)| action).collect()
    }

    /// Binds where no port is taken.
    fn bind_free(addresses: &[SocketAddr], inherited: Inherited) -> Result<Bound, BindError> {
        let nobody = |_| unreachable!("holders are asked for only where a port is taken");
        let mut never = |_: &BindError| unreachable!("only a port that is taken is waited for");
        bind(addresses, inherited, &nobody, &mut never)
    }

    fn listening_socket(address: SocketAddr) -> TcpListener {
        let bound = bind_free(&[address], Inherited::default()).unwrap();
        bound.sockets.into_iter().next().unwrap().socket
    }

    #[test]
    fn a_leftover_that_the_store_still_holds_is_not_in_the_way() {
        let wildcard = listening_socket("0.0.0.0:0".parse().unwrap());
        let kept_by_the_store = wildcard.try_clone().unwrap();
        let old = wildcard.local_addr().unwrap();
        let name = store_name(old);
        let inherited = Inherited {
            offers: vec![Offer {
                socket: wildcard,
                address: old,
                origin: SocketOrigin::Stored { name: name.clone() },
            }],
            unusable_in_store: vec![],
        };
        let new = SocketAddr::from(([127, 0, 0, 1], old.port()));
        let bound = bind_free(&[new], inherited).unwrap();
        assert_eq!(bound.sockets[0].origin, SocketOrigin::Bound);
        assert_eq!(bound.to_remove_from_store, [name]);
        drop(kept_by_the_store);
    }

    #[test]
    fn names_in_the_store_are_legal_and_come_back_as_ours() {
        for text in ["0.0.0.0:843", "[::]:843", "[fe80::1%2]:843", "[2001:db8::1]:65535"] {
            let name = store_name(text.parse().unwrap());
            assert!(!name.contains(|c: char| c == ':' || c.is_control()), "{name}");
            assert!(name.len() < 256, "{name}");
            assert_eq!(origin_of(&name), SocketOrigin::Stored { name });
        }
        assert_eq!(origin_of("masterpolicyd.socket"), SocketOrigin::SocketUnit);
        assert_eq!(origin_of(""), SocketOrigin::SocketUnit);
    }

    #[test]
    fn without_inheritance_every_address_is_bound() {
        let wanted = addresses(&["0.0.0.0:843", "[::]:843"]);
        let plan = plan::<()>(&wanted, vec![], WITH_IPV6).unwrap();
        assert_eq!(plan.unused_in_store, Vec::<String>::new());
        assert_eq!(actions(plan), [Action::Bind, Action::Bind]);
    }

    #[test]
    fn a_host_without_ipv6_skips_the_wildcard_alone() {
        let wanted = addresses(&["[::]:843", "0.0.0.0:843", "[::1]:843"]);
        let plan = plan::<()>(&wanted, vec![], WITHOUT_IPV6).unwrap();
        assert_eq!(actions(plan), [Action::Skip, Action::Bind, Action::Bind]);
    }

    #[test]
    fn the_sockets_of_a_unit_are_adopted_in_the_order_of_the_addresses() {
        let wanted = addresses(&["0.0.0.0:843", "[::]:843", "127.0.0.1:9843"]);
        let offers = ["127.0.0.1:9843", "0.0.0.0:843", "[::]:843"].map(from_unit).into();
        let plan = plan(&wanted, offers, WITH_IPV6).unwrap();
        let order: Vec<_> = plan.actions.iter().map(|(address, _)| *address).collect();
        assert_eq!(order, wanted);
        assert!(actions(plan).iter().all(|s| *s == Action::Adopt((), SocketOrigin::SocketUnit)));
    }

    #[test]
    fn a_unit_that_hands_over_less_is_refused_with_the_line_to_add() {
        let wanted = addresses(&["0.0.0.0:843", "[::]:843"]);
        let error = plan(&wanted, vec![from_unit("[::]:843")], WITH_IPV6).unwrap_err();
        assert!(error.is_configuration() && !error.is_permission());
        assert_eq!(
            error.to_string(),
            "the socket unit and the configuration disagree: nothing was handed over for \
             0.0.0.0:843, so add ListenStream=0.0.0.0:843 to the unit, with \
             BindIPv6Only=ipv6-only"
        );
    }

    #[test]
    fn a_unit_that_hands_over_more_is_refused_with_the_line_to_remove() {
        let wanted = addresses(&["127.0.0.1:843"]);
        let offers = ["127.0.0.1:843", "127.0.0.1:844"].map(from_unit).into();
        let error = plan(&wanted, offers, WITH_IPV6).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the socket unit and the configuration disagree: 127.0.0.1:844 was handed over but \
             is not in listen, so remove ListenStream=127.0.0.1:844 from the unit or add the \
             address"
        );
    }

    #[test]
    fn every_disagreement_with_the_unit_is_shown_at_once() {
        let wanted = addresses(&["127.0.0.1:1", "127.0.0.1:2"]);
        let offers = ["127.0.0.1:3", "127.0.0.1:4"].map(from_unit).into();
        let text = plan(&wanted, offers, WITH_IPV6).unwrap_err().to_string();
        for port in 1..=4 {
            assert!(text.contains(&format!("ListenStream=127.0.0.1:{port} ")), "{port}: {text}");
        }
        assert!(!text.contains("BindIPv6Only"), "{text}");
    }

    #[test]
    fn a_socket_handed_over_twice_is_one_too_many() {
        let wanted = addresses(&["127.0.0.1:843"]);
        let offers = ["127.0.0.1:843", "127.0.0.1:843"].map(from_unit).into();
        assert!(matches!(
            plan(&wanted, offers, WITH_IPV6),
            Err(BindError::Mismatch { unnamed, .. }) if unnamed == wanted
        ));
    }

    #[test]
    fn a_unit_need_not_hand_over_a_wildcard_that_the_host_cannot_have() {
        let wanted = addresses(&["0.0.0.0:843", "[::]:843"]);
        let plan = plan(&wanted, vec![from_unit("0.0.0.0:843")], WITHOUT_IPV6).unwrap();
        assert_eq!(actions(plan), [Action::Adopt((), SocketOrigin::SocketUnit), Action::Skip]);
    }

    #[test]
    fn the_store_gives_what_is_listened_on_and_loses_the_rest() {
        let wanted = addresses(&["0.0.0.0:843", "127.0.0.1:9843"]);
        let offers = ["0.0.0.0:843", "0.0.0.0:7843"].map(from_store).into();
        let plan = plan(&wanted, offers, WITH_IPV6).unwrap();
        assert_eq!(plan.unused_in_store, [store_name("0.0.0.0:7843".parse().unwrap())]);
        let name = store_name(wanted[0]);
        assert_eq!(actions(plan), [Action::Adopt((), SocketOrigin::Stored { name }), Action::Bind]);
    }

    #[test]
    fn beside_a_unit_the_store_is_emptied() {
        let wanted = addresses(&["0.0.0.0:843"]);
        let offers = vec![from_store("0.0.0.0:843"), from_unit("0.0.0.0:843")];
        let plan = plan(&wanted, offers, WITH_IPV6).unwrap();
        assert_eq!(plan.unused_in_store, [store_name(wanted[0])]);
        assert_eq!(actions(plan), [Action::Adopt((), SocketOrigin::SocketUnit)]);
    }

    /// Removing a name removes every socket of that name, the one in use among them.
    #[test]
    fn a_name_that_is_in_use_stays_in_the_store() {
        let wanted = addresses(&["0.0.0.0:843"]);
        let offers = ["0.0.0.0:843", "0.0.0.0:843"].map(from_store).into();
        let plan = plan(&wanted, offers, WITH_IPV6).unwrap();
        assert_eq!(plan.unused_in_store, Vec::<String>::new());
    }

    #[test]
    fn a_bound_socket_listens_without_blocking() {
        let bound = bind_free(&addresses(&["127.0.0.1:0"]), Inherited::default()).unwrap();
        let [ListeningSocket { socket, origin, .. }] = &bound.sockets[..] else {
            panic!("one address, one socket: {bound:?}")
        };
        assert_eq!(*origin, SocketOrigin::Bound);
        assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(getsockopt(socket, ReuseAddr).unwrap());
        assert_eq!(fcntl(socket, FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
        std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
    }

    /// Or else it would take IPv4's connections, too, and IPv4's address could not be bound.
    #[test]
    fn an_ipv6_socket_leaves_ipv4_alone() {
        if !host_has_ipv6() {
            eprintln!("skipped an_ipv6_socket_leaves_ipv4_alone: no IPv6");
            return;
        }
        let wildcard = "[::]:0".parse().unwrap();
        assert!(!takes_ipv4_too(&listening_socket(wildcard), wildcard));
        let systemd_default = TcpListener::bind(wildcard).unwrap();
        assert!(takes_ipv4_too(&systemd_default, wildcard));
    }

    #[test]
    fn a_port_that_is_taken_is_refused_with_its_holder() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let asked = |about: SocketAddr| {
            assert_eq!(about, address);
            vec!["nginx (pid 12)".to_owned()]
        };
        let mut give_up = |_: &BindError| IfTaken::GiveUp;
        let error = bind(&[address], Inherited::default(), &asked, &mut give_up).unwrap_err();
        assert!(!error.is_permission() && !error.is_configuration());
        assert_eq!(
            error.to_string(),
            format!(
                "cannot bind {address}: Address already in use (os error 98): nginx (pid 12) has \
                 the port: stop it, or change the address in listen"
            )
        );
        let nobody_known = |_| vec![];
        let error =
            bind(&[address], Inherited::default(), &nobody_known, &mut give_up).unwrap_err();
        assert!(error.to_string().contains("ss -tanp"), "{error}");
    }

    #[test]
    fn a_port_that_is_taken_is_tried_as_often_as_told_and_others_do_not_listen_meanwhile() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let mut taken = Some(taken);
        let mut tries = 0;
        let mut wait = |error: &BindError| {
            assert!(matches!(error, BindError::Bind { address: it, .. } if *it == address));
            let refused = std::net::TcpStream::connect(other).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            tries += 1;
            if tries == 3 {
                taken = None;
            }
            IfTaken::TryAgain
        };
        let bound = bind(&[other, address], Inherited::default(), &|_| vec![], &mut wait).unwrap();
        assert_eq!((bound.sockets.len(), tries), (2, 3));
        std::net::TcpStream::connect(other).unwrap();
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn an_address_whose_port_is_taken_can_be_gone_without() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let other = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let mut go_without = |_: &BindError| IfTaken::GoWithout;
        let wanted = [address, other];
        let bound = bind(&wanted, Inherited::default(), &|_| vec![], &mut go_without).unwrap();
        assert_eq!(bound.without, [address]);
        assert_eq!((bound.sockets.len(), bound.sockets[0].address), (1, other));
        std::net::TcpStream::connect(other).unwrap();
    }

    /// Where both have set `SO_REUSEADDR`, both can bind, and whoever is second to listen cannot.
    #[test]
    fn a_port_that_is_taken_between_bind_and_listen_is_taken_all_the_same() {
        for then in [IfTaken::GoWithout, IfTaken::TryAgain, IfTaken::GiveUp] {
            let (contended, _) = bound_socket("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = contended.local_addr().unwrap();
            let held = TcpListener::bind("127.0.0.1:0").unwrap();
            let later = held.local_addr().unwrap();
            let (mut contended, mut held) = (Some(contended), Some(held));
            let mut asked = Vec::new();
            let mut when_taken = |error: &BindError| {
                let BindError::Bind { address: about, .. } = error else { panic!("{error}") };
                asked.push(*about);
                if *about == later {
                    // The first address is bound by now.
                    SockRef::from(contended.as_ref().unwrap()).listen(1).unwrap();
                    held = None;
                    return IfTaken::TryAgain;
                }
                if then == IfTaken::TryAgain {
                    contended = None;
                }
                then
            };
            let wanted = [address, later];
            let outcome = bind(&wanted, Inherited::default(), &|_| vec![], &mut when_taken);
            assert_eq!(asked, [later, address], "{then:?}");
            match (then, outcome) {
                (IfTaken::GoWithout, Ok(bound)) => {
                    assert_eq!((bound.sockets.len(), &bound.without[..]), (1, &[address][..]));
                }
                (IfTaken::TryAgain, Ok(bound)) => {
                    assert_eq!((bound.sockets.len(), bound.without.len()), (2, 0));
                    std::net::TcpStream::connect(address).unwrap();
                }
                (IfTaken::GiveUp, Err(BindError::Bind { address: it, .. })) => {
                    assert_eq!(it, address);
                }
                (then, outcome) => panic!("{then:?}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn an_address_that_no_interface_has_is_bound_with_a_warning() {
        let absent = addresses(&["192.0.2.1:0"]);
        let bound = bind_free(&absent, Inherited::default()).unwrap();
        assert_eq!(bound.sockets[0].address, absent[0]);
        let warnings: Vec<_> = bound.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "no interface of this host has the address of 192.0.2.1:0 yet: it is served as soon as \
                 one does"
            ]
        );
    }

    #[test]
    fn remedies_for_permission_depend_on_the_port() {
        let error = |text: &str| BindError::Bind {
            address: text.parse().unwrap(),
            reason: io::Error::from_raw_os_error(libc::EACCES),
            holders: vec![],
        };
        let privileged = error("0.0.0.0:843");
        assert!(privileged.is_permission());
        assert_eq!(
            privileged.to_string(),
            "cannot bind 0.0.0.0:843: Permission denied (os error 13): start as root (sudo), use the \
             systemd unit, or write AmbientCapabilities=CAP_NET_BIND_SERVICE into a unit of your own"
        );
        assert!(error("0.0.0.0:7843").to_string().contains("SocketBindDeny="));
    }

    /// `RestrictAddressFamilies=AF_INET` of a unit looks the same as a kernel without IPv6.
    #[test]
    fn without_the_address_family_the_wildcard_is_skipped_with_a_warning() {
        // The filter binds the thread that sets it.
        std::thread::spawn(|| {
            refuse_ipv6_sockets();
            assert_skips_ipv6();
        })
        .join()
        .unwrap();
    }

    fn assert_skips_ipv6() {
        assert!(!host_has_ipv6());
        let both = addresses(&["127.0.0.1:0", "[::]:0"]);
        let bound = bind_free(&both, Inherited::default()).unwrap();
        assert_eq!(bound.sockets.len(), 1);
        let warnings: Vec<_> = bound.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, ["skipped [::]:0: this host has no IPv6"]);

        let error = bind_free(&both[1..], Inherited::default()).unwrap_err();
        assert!(matches!(error, BindError::NoAddress), "{error}");
        let error = bind_free(&addresses(&["[::1]:0"]), Inherited::default()).unwrap_err();
        assert!(error.to_string().contains("this host has no IPv6"), "{error}");
    }

    fn refuse_ipv6_sockets() {
        use seccompiler::{
            BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
            SeccompFilter, SeccompRule,
        };
        let family = u64::try_from(libc::AF_INET6).unwrap();
        let is_ipv6 =
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family).unwrap();
        let rules =
            BTreeMap::from([(libc::SYS_socket, vec![SeccompRule::new(vec![is_ipv6]).unwrap()])]);
        let refusal = SeccompAction::Errno(u32::try_from(libc::EAFNOSUPPORT).unwrap());
        let architecture = std::env::consts::ARCH.try_into().unwrap();
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    }

    #[test]
    fn accepting_can_wait_for_the_request() {
        let bound = bind_free(&addresses(&["127.0.0.1:0"]), Inherited::default()).unwrap();
        let socket = &bound.sockets[0].socket;
        defer_accept(socket).unwrap();
        let mut client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        // The handshake is over on loopback once connect returns.
        assert_eq!(socket.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        io::Write::write_all(&mut client, b"<").unwrap();
        let mut readable = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut readable, PollTimeout::from(10_000u16)).unwrap();
        socket.accept().expect("the connection came with its first byte");
    }
}
