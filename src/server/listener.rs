//! One listening socket: who comes next, how many wait, and when accepting pauses.
//!
//! It is told what its clients want and does nothing about it, and it does not know who has to make
//! room for one.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::getsockopt;

use super::limits::{Backlog, Newcomers, Turn};

/// Failures of `accept4` in a row before its listener pauses.
const ACCEPT_FAILURES: u32 = 8;

/// How long a listener pauses. Its edge is not repeated, so nothing but this timer wakes it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients of a socket want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The policy.
    Policy,
    /// The metrics.
    Metrics,
}

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// Its number, by which the poll's events name it.
    pub(super) number: usize,
    /// The address it is bound to.
    pub(super) address: SocketAddr,
    /// What it is for.
    pub(super) purpose: Purpose,
    /// Whether somebody else holds the socket too, so that clients queue up while nobody serves.
    pub(super) is_kept: bool,
    queue: Queue,
    newcomers: Newcomers,
    /// When the first of the queue has its turn, if that is not now.
    waits_until: Option<Instant>,
    failures: u32,
    paused_until: Option<Instant>,
}

/// What is known of the connections that wait to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// None wait; whoever comes brings an edge of their own.
    Empty,
    /// Some may wait, and the kernel has not been asked how many.
    Unknown,
    /// So many wait.
    Holds(Backlog),
    /// Some may wait; only an accept tells.
    Untold,
}

/// Who came next.
#[derive(Debug)]
pub(super) enum Admission {
    /// A client.
    Client {
        stream: TcpStream,
        /// Its address.
        peer: SocketAddr,
        /// Since when it is known that it waits.
        since: Instant,
    },
    /// Nobody waits, or those who do have to wait on, or the listener pauses.
    Nobody,
    /// `accept4` failed.
    Failed(AcceptFailure),
}

/// `accept4` failed.
#[derive(Debug)]
pub(super) struct AcceptFailure {
    /// The system's reason.
    pub(super) error: io::Error,
    /// What helps.
    pub(super) relief: Relief,
}

/// What helps where a connection could not be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relief {
    /// The descriptors or the memory are used up: another connection has to be closed, at once or
    /// once it has had its time, which [`Listener::may_wait`] decides. Where there is none,
    /// [`Listener::pause`].
    MakeRoom,
    /// The listener pauses.
    Pause,
    /// Nothing is needed: this was about that one connection.
    Nothing,
}

/// The beginning of `struct tcp_info` in 32-bit words, as `linux/tcp.h` has it: 8 bytes of flags,
/// then `rto`, `ato`, `snd_mss`, `rcv_mss`, `unacked` and `sacked`.
#[derive(Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u32; 8],
    nix::sys::socket::sockopt::GetStruct<[u32; 8]>
);

/// The accept queue of a listening socket, where the kernel tells of it.
///
/// Of a socket that listens it says so in `tcpi_unacked` and `tcpi_sacked`, which is where `ss(8)`
/// has its Recv-Q and Send-Q from. Zero is no answer: a kernel that only resembles Linux leaves
/// the fields empty.
fn backlog(socket: &impl AsFd) -> Option<Backlog> {
    let [.., waiting, most] = getsockopt(socket, TcpInfo).ok()?;
    (waiting > 0).then_some(Backlog { waiting, most })
}

impl Listener {
    /// Takes up a socket that listens, does not block, and is bound to `address`. `is_kept` says
    /// whether somebody else holds it too.
    #[must_use]
    pub fn new(
        socket: std::net::TcpListener,
        address: SocketAddr,
        purpose: Purpose,
        is_kept: bool,
    ) -> Self {
        Self {
            socket: TcpListener::from_std(socket),
            number: 0,
            address,
            purpose,
            is_kept,
            // An inherited socket may have a queue already.
            queue: Queue::Unknown,
            newcomers: Newcomers::default(),
            waits_until: None,
            failures: 0,
            paused_until: None,
        }
    }

    /// Has the poll say when somebody comes.
    pub(super) fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, Interest::READABLE)
    }

    /// Takes note that somebody may wait.
    pub(super) fn somebody_came(&mut self) {
        self.queue = Queue::Unknown;
    }

    /// Takes the next connection from the queue, if it need not wait because the places are
    /// crowded until some later time.
    pub(super) fn admit(&mut self, now: Instant, crowded_until: Option<Instant>) -> Admission {
        self.waits_until = None;
        match self.paused_until {
            Some(end) if end > now => return Admission::Nobody,
            _ => self.paused_until = None,
        }
        match self.queue {
            Queue::Empty => return Admission::Nobody,
            // An accept that finds the queue empty has made a socket, an inode and a file for
            // nothing, which costs several times what it costs to ask how many wait.
            Queue::Unknown => {
                self.queue = backlog(&self.socket).map_or(Queue::Untold, Queue::Holds);
            }
            Queue::Holds(_) | Queue::Untold => {}
        }
        let mut since = now;
        if let Queue::Holds(queue) = self.queue {
            match self.newcomers.turn(crowded_until, queue, now) {
                Turn::Now { since: seen } => since = seen,
                Turn::Later { until } => {
                    self.waits_until = Some(until);
                    return Admission::Nobody;
                }
            }
        }
        match self.socket.accept() {
            Ok((stream, peer)) => {
                self.failures = 0;
                self.queue = match self.queue {
                    Queue::Holds(Backlog { waiting: 1, .. }) => Queue::Empty,
                    Queue::Holds(Backlog { waiting, most }) => {
                        Queue::Holds(Backlog { waiting: waiting - 1, most })
                    }
                    queue => queue,
                };
                Admission::Client { stream, peer, since }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.failures = 0;
                self.queue = Queue::Empty;
                Admission::Nobody
            }
            Err(error) => Admission::Failed(self.failed(error, now)),
        }
    }

    fn failed(&mut self, error: io::Error, now: Instant) -> AcceptFailure {
        self.failures += 1;
        let out_of_resources = matches!(
            Errno::from_raw(error.raw_os_error().unwrap_or(0)),
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM
        );
        // Whether a connection that failed by itself still counts is not known.
        self.queue = if out_of_resources { Queue::Unknown } else { Queue::Untold };
        let relief = if out_of_resources && self.failures == 1 {
            Relief::MakeRoom
        } else if out_of_resources || self.failures >= ACCEPT_FAILURES {
            self.pause(now);
            Relief::Pause
        } else {
            // ECONNABORTED, EPERM from a firewall, and errors of the network.
            Relief::Nothing
        };
        AcceptFailure { error, relief }
    }

    /// Whether those in the queue can be left there until one of the others has had its time, after
    /// the system had nothing left for the first of them.
    pub(super) fn may_wait(&mut self) -> bool {
        let may_wait = backlog(&self.socket).is_some_and(|queue| !queue.is_pressing());
        if may_wait {
            self.failures = 0;
        }
        may_wait
    }

    /// Accepts nobody for a while.
    pub(super) fn pause(&mut self, now: Instant) {
        self.failures = 0;
        self.paused_until = Some(now + ACCEPT_PAUSE);
    }

    /// Ends a pause, and asks the kernel anew who waits.
    pub(super) fn look_again(&mut self) {
        self.paused_until = None;
        self.waits_until = None;
        self.queue = Queue::Unknown;
    }

    /// Whether somebody may wait who can be admitted now.
    pub(super) fn is_ready(&self) -> bool {
        self.queue != Queue::Empty && self.resumes().is_none()
    }

    /// When somebody may be admitted who cannot be now.
    pub(super) fn resumes(&self) -> Option<Instant> {
        self.paused_until.or(self.waits_until).filter(|_| self.queue != Queue::Empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_waits_in_the_accept_queue_is_counted() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let waiting = || backlog(&socket).map(|queue| queue.waiting);
        assert_eq!(waiting(), None);
        let connect = || TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let _clients = [connect(), connect(), connect()];
        assert_eq!(waiting(), Some(3));
        assert!(backlog(&socket).is_some_and(|queue| queue.most >= 3));
        socket.accept().unwrap();
        assert_eq!(waiting(), Some(2));
    }

    fn listener() -> (Listener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        (Listener::new(socket, address, Purpose::Policy, false), address)
    }

    #[test]
    fn everyone_who_waits_is_admitted_and_nobody_is_waited_for_in_vain() {
        let now = Instant::now();
        let (mut listener, address) = listener();
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        for _ in 0..3 {
            assert!(listener.is_ready());
            assert!(matches!(listener.admit(now, None), Admission::Client { .. }));
        }
        assert_eq!(listener.queue, Queue::Empty);
        assert!(!listener.is_ready());
        assert!(matches!(listener.admit(now, None), Admission::Nobody));
    }

    #[test]
    fn while_the_places_are_crowded_the_queue_waits_and_nothing_spins() {
        let now = Instant::now();
        let (mut listener, address) = listener();
        let _client = TcpStream::connect(address).unwrap();
        let until = now + Duration::from_millis(50);
        assert!(matches!(listener.admit(now, Some(until)), Admission::Nobody));
        assert!(!listener.is_ready());
        assert_eq!(listener.resumes(), Some(until));
        let Admission::Client { since, .. } = listener.admit(until, None) else {
            panic!("its turn has come")
        };
        assert_eq!(since, now, "it was there when the server looked first");
        assert!(!listener.is_ready());
        assert_eq!(listener.resumes(), None);
    }

    #[test]
    fn without_descriptors_one_makes_room_and_then_the_listener_pauses() {
        let now = Instant::now();
        let (mut listener, _) = listener();
        let emfile = || io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(listener.failed(emfile(), now).relief, Relief::MakeRoom);
        assert_eq!(listener.failed(emfile(), now).relief, Relief::Pause);
        assert!(matches!(listener.admit(now, None), Admission::Nobody));
        assert!(!listener.is_ready());
        assert_eq!(listener.resumes(), Some(now + ACCEPT_PAUSE));
        assert!(matches!(listener.admit(now + ACCEPT_PAUSE, None), Admission::Nobody));
        assert!(!listener.is_ready(), "nobody was there after the pause");
        assert_eq!(listener.resumes(), None);
    }

    #[test]
    fn connections_that_fail_one_by_one_pause_in_the_end() {
        let now = Instant::now();
        let (mut listener, _) = listener();
        let aborted = || io::Error::from_raw_os_error(libc::ECONNABORTED);
        for _ in 1..ACCEPT_FAILURES {
            assert_eq!(listener.failed(aborted(), now).relief, Relief::Nothing);
        }
        assert_eq!(listener.failed(aborted(), now).relief, Relief::Pause);
    }
}
