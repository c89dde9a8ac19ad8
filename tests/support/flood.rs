//! Clients that hold connections, and a slow one among them.

use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Daemon;
use super::daemon::{RULES, dial, document, read_to_end};
use super::load::{self, REQUEST, Sources};

/// Opens connections that say `bytes` and then nothing, and holds them.
pub(crate) fn hold(
    target: SocketAddr,
    count: usize,
    sources: Sources,
    bytes: &[u8],
) -> Vec<TcpStream> {
    (0..count)
        .map(|number| {
            let mut stream = TcpStream::from(
                load::connect(target, sources.address(number)).expect("a descriptor and a port"),
            );
            // On loopback the handshake is over when connect returns, unless the queue is full.
            match stream.write_all(bytes) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("connection {number} of the flood: {error}"),
            }
            stream
        })
        .collect()
}

/// Has a client send half its request, 100 others come, and the client send the rest 20 ms later,
/// so many times over; returns the others. Fails unless the client is answered each time that it
/// was not the machine that kept it for 200 ms, which is longer than any client is given.
#[track_caller]
pub(crate) fn answers_a_client_that_needs_20_ms(
    daemon: &Daemon,
    rounds: usize,
    others: Sources,
) -> Vec<TcpStream> {
    let mut held = Vec::new();
    let mut in_time = 0;
    for _ in 0..rounds {
        let began = Instant::now();
        let mut client = dial(daemon.address());
        client.write_all(&REQUEST[..10]).expect("half a request");
        held.extend(hold(daemon.address(), 100, others, &REQUEST[..10]));
        thread::sleep(Duration::from_millis(20));
        let sent = client.write_all(&REQUEST[10..]);
        if began.elapsed() < Duration::from_millis(200) {
            sent.expect("the other half");
            assert_eq!(read_to_end(&mut client), document(RULES));
            in_time += 1;
        }
    }
    assert!(in_time > 0, "no round of {rounds} took less than 200 ms");
    held
}
