//! A served request allocates no memory: counted by an allocator that counts.
//!
//! The server runs here on a thread of its own, and only what this thread allocates is counted.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::SystemTime;

use masterpolicyd::background::Reloading;
use masterpolicyd::document::{Document, Documents, PortRanges};
use masterpolicyd::listen;
use masterpolicyd::notify::Notifier;
use masterpolicyd::policy::{MetaPolicy, Policy};
use masterpolicyd::server::limits::Limits;
use masterpolicyd::server::{self, Listener, Purpose, Server, Service};

use support::SOON;
use support::load::REQUEST;
use support::network::{address_of, listen as listening_socket};

/// Exchanges before the count begins: whatever grows once has grown by then.
const WARM_UP: usize = 200;

/// Exchanges that are counted.
const COUNTED: usize = 2000;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator; counts what is asked of it on threads that want it.
struct Counting;

impl Counting {
    fn count() {
        if IS_COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// The one `unsafe` of the tests: an allocator cannot be written without. Every call goes to the
// system's allocator as it came, so what the caller promised there holds here. The count touches
// a thread-local that needs neither memory nor a destructor, so it cannot come back here.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Starts a server that ends with the process, on a thread whose allocations count.
fn serve() -> (SocketAddr, Document) {
    let socket = listening_socket((Ipv4Addr::LOCALHOST, 0).into());
    socket.set_nonblocking(true).expect("a socket that does not block");
    let address = address_of(&socket);
    let policy = Policy { meta_policy: MetaPolicy::MasterOnly, rules: Vec::new() };
    let documents = Documents::encode(&policy, PortRanges::AsWritten).expect("a short document");
    let service = Service {
        documents: documents.clone(),
        rules: 0,
        left_out: 0,
        limits: Limits::default(),
        balancers: Vec::new(),
        log_requests: false,
        loaded: SystemTime::now(),
    };
    thread::spawn(move || {
        IS_COUNTED.set(true);
        let signals = server::block_signals().expect("blocking signals");
        listen::defer_accept(&socket).expect("TCP_DEFER_ACCEPT");
        let listener = Listener::new(socket.into(), address, Purpose::Policy, false);
        let poll = server::poll().expect("a poll");
        let load = || Err("nobody asks for one".into());
        let wake = server::waker(&poll).expect("a waker");
        let (reloading, ()) = Reloading::start(load, wake, || ()).expect("a thread");
        let server = Server::new(
            poll,
            vec![listener],
            &signals,
            1024,
            service,
            reloading,
            Notifier::default(),
        )
        .expect("a server");
        server.run()
    });
    (address, documents.for_port(address.port()).clone())
}

/// Allocations of the server during so many calls of `exchange`, after as many as warm it up.
fn allocations_during(mut exchange: impl FnMut()) -> u64 {
    for _ in 0..WARM_UP {
        exchange();
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(before > 0, "setting up allocates, so nothing is counted at all");
    for _ in 0..COUNTED {
        exchange();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, SOON).expect("connecting");
    stream.set_read_timeout(Some(SOON)).expect("a read timeout");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

fn assert_answered(mut stream: TcpStream, document: &Document) {
    let mut answer = [0; 4096];
    let mut length = 0;
    loop {
        match stream.read(&mut answer[length..]).expect("the answer") {
            0 => break,
            count => length += count,
        }
    }
    assert_eq!(&answer[..length], document.bytes());
}

/// One test, since the count is one for the whole process.
#[test]
fn no_request_makes_the_server_allocate() {
    let (address, document) = serve();
    let whole = allocations_during(|| {
        let mut stream = dial(address);
        stream.write_all(REQUEST).expect("sending");
        assert_answered(stream, &document);
    });
    assert_eq!(whole, 0, "allocations in {COUNTED} exchanges with the request in one segment");

    // It waits among the unfinished connections between its two halves.
    let in_halves = allocations_during(|| {
        let mut stream = dial(address);
        stream.write_all(&REQUEST[..10]).expect("sending");
        // The server has read the first half when it answers a later connection.
        let mut other = dial(address);
        other.write_all(REQUEST).expect("sending");
        assert_answered(other, &document);
        stream.write_all(&REQUEST[10..]).expect("sending");
        assert_answered(stream, &document);
    });
    assert_eq!(in_halves, 0, "allocations in {COUNTED} exchanges with the request in two segments");

    let half_closed = allocations_during(|| {
        let mut stream = dial(address);
        stream.write_all(&REQUEST[..22]).expect("sending");
        stream.shutdown(Shutdown::Write).expect("closing one side");
        assert_answered(stream, &document);
    });
    assert_eq!(half_closed, 0, "allocations in {COUNTED} exchanges without a NUL");
}
