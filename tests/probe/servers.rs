//! Servers that misbehave in exactly one way each, on ports of their own.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// What a player sends.
pub(crate) const REQUEST: &[u8] = b"<policy-file-request/>\0";

/// Answers every connection with a behaviour, each in a thread of its own, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    stops: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn start(behaviour: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), behaviour)
    }

    /// Listens on `listener`.
    pub(crate) fn start_on(
        listener: TcpListener,
        behaviour: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let stops = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let behaviour = Arc::new(behaviour);
        let thread = thread::spawn({
            let stops = Arc::clone(&stops);
            let accepted = Arc::clone(&accepted);
            move || {
                for stream in listener.incoming() {
                    if stops.load(Ordering::SeqCst) {
                        break;
                    }
                    accepted.fetch_add(1, Ordering::SeqCst);
                    let behaviour = Arc::clone(&behaviour);
                    thread::spawn(move || behaviour(stream.unwrap()));
                }
            }
        });
        Self { address, stops, accepted, thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until so many connections have come.
    pub(crate) fn wait_for_connections(&self, count: usize) {
        wait_for(|| self.accepted.load(Ordering::SeqCst) >= count);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        _ = TcpStream::connect(self.address);
        _ = self.thread.take().unwrap().join();
    }
}

/// A port that refuses, held so that nobody else takes it meanwhile.
pub(crate) struct RefusingPort(Socket);

impl RefusingPort {
    pub(crate) fn hold() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// Reads the request, and fails the test's thread when it is anything but the 23 bytes.
pub(crate) fn read_request(stream: &mut TcpStream) {
    let mut request = [0; 64];
    let length = stream.read(&mut request).unwrap();
    assert_eq!(&request[..length], REQUEST, "the request is not 23 bytes in one segment");
}

/// Waits until the client closes.
pub(crate) fn wait_for_close(stream: &mut TcpStream) {
    let mut more = [0; 64];
    while matches!(stream.read(&mut more), Ok(1..)) {}
}

/// Reads, answers with `answer`, closes in order: a server without fault, if the answer is.
pub(crate) fn answer(answer: impl Into<Vec<u8>>) -> impl Fn(TcpStream) + Send + Sync {
    let answer = answer.into();
    move |mut stream| {
        read_request(&mut stream);
        answer_now(&mut stream, &answer);
    }
}

/// Answers a request that was read, and closes in order.
pub(crate) fn answer_now(stream: &mut TcpStream, answer: impl AsRef<[u8]>) {
    _ = stream.write_all(answer.as_ref());
    _ = stream.shutdown(Shutdown::Write);
    wait_for_close(stream);
}

/// Reads, answers and leaves closing to the client.
pub(crate) fn answer_and_stay(answer: impl Into<Vec<u8>>) -> impl Fn(TcpStream) + Send + Sync {
    let answer = answer.into();
    move |mut stream| {
        read_request(&mut stream);
        stream.write_all(&answer).unwrap();
        wait_for_close(&mut stream);
    }
}

/// Answers at once, and closes with the request unread in its receive queue.
pub(crate) fn answer_unasked(answer: impl Into<Vec<u8>>) -> impl Fn(TcpStream) + Send + Sync {
    let answer = answer.into();
    move |mut stream| {
        stream.write_all(&answer).unwrap();
        stream.peek(&mut [0]).unwrap();
    }
}

/// Reads whatever comes and closes in order, without a byte.
pub(crate) fn close(mut stream: TcpStream) {
    _ = stream.read(&mut [0; 256]);
    _ = stream.shutdown(Shutdown::Write);
    wait_for_close(&mut stream);
}

/// Reads whatever comes and resets the connection, without a byte.
pub(crate) fn reset(mut stream: TcpStream) {
    _ = stream.read(&mut [0; 256]);
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads, sends `part` of an answer and resets the connection.
pub(crate) fn reset_after(part: &'static [u8]) -> impl Fn(TcpStream) + Send + Sync {
    move |mut stream| {
        read_request(&mut stream);
        stream.write_all(part).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// Sends one part, waits until the client has taken it, and sends the other.
pub(crate) fn answer_in_two(
    first: impl Into<Vec<u8>>,
    second: impl Into<Vec<u8>>,
) -> impl Fn(TcpStream) + Send + Sync {
    let (first, second) = (first.into(), second.into());
    move |mut stream| {
        read_request(&mut stream);
        stream.write_all(&first).unwrap();
        wait_until_read(&stream);
        stream.write_all(&second).unwrap();
    }
}

/// Waits until the client's system has what was sent, and then until the client has read it, both
/// of which the kernel shows.
fn wait_until_read(stream: &TcpStream) {
    let client = format!(":{:04X}", stream.peer_addr().unwrap().port());
    wait_for(|| {
        queues(|_, remote| remote.ends_with(&client)).is_none_or(|(unsent, _)| unsent == 0)
    });
    wait_for(|| queues(|local, _| local.ends_with(&client)).is_none_or(|(_, unread)| unread == 0));
}

/// The sizes of the send and receive queues of the first connection that is `wanted`.
fn queues(wanted: impl Fn(&str, &str) -> bool) -> Option<(u32, u32)> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (send, receive) = fields.get(4)?.split_once(':')?;
        let size = |hex| u32::from_str_radix(hex, 16).unwrap();
        wanted(fields[1], fields[2]).then(|| (size(send), size(receive)))
    })
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for a minute");
        thread::sleep(Duration::from_millis(1));
    }
}
