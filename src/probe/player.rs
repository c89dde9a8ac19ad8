//! One exchange on the wire, as a player makes it: connect, send the request in one segment, read
//! to the NUL. And, for a server that answered nothing at all, the question what it is. Reports
//! what happened and judges nothing. Whatever the server sends, nothing here takes longer than its
//! limit and [`AFTERMATH`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::document::REQUEST;

/// What ends a request by the book.
const NUL: &[u8] = b"\0";

/// What a balancer sends on a connection of its own: a header of the PROXY protocol, version 2, with
/// the command `LOCAL` and nothing more.
pub const LOCAL_HEADER: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// As whom a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guise {
    /// A player.
    #[default]
    Player,
    /// A balancer that checks it: [`LOCAL_HEADER`] comes before the request.
    Balancer,
}

/// Longer answers are cut off here, so that no server can fill the memory of whoever asks it.
pub const ANSWER_LIMIT: usize = 1024 * 1024;

/// How long the way a whole answer's connection ends is watched. A close or a reset travels with
/// the answer or right behind it; the time does not count as the server's.
pub const AFTERMATH: Duration = Duration::from_millis(200);

/// What every TLS server and every web server answers: a `ClientHello` of TLS 1.2, of the fewest
/// bytes, with an empty line in its random part, which ends a malformed request of HTTP.
pub const GREETING: &[u8] = b"\x16\x03\x01\x00\x33\x01\x00\x00\x2f\x03\x03\
    \r\n\r\nmasterpolicyd probe asks who\
    \x00\x00\x08\xc0\x2f\xc0\x30\x00\x9c\x00\x2f\x01\x00";

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The system said that nobody listens.
    Refused,
    /// Nothing came back, not even a refusal.
    Filtered,
    /// A network or a host on the way is missing; holds the system's reason.
    Unreachable(String),
    /// This host could not try, or its system reported what no server causes; holds the reason.
    Failed(String),
    /// A NUL came: the answer is whole.
    Answered(Aftermath),
    /// The server closed without a NUL.
    Closed,
    /// The server, or something on the way, reset the connection before a NUL came.
    Reset,
    /// Time ran out before a NUL came.
    TimedOut,
    /// [`ANSWER_LIMIT`] bytes came and no NUL among them.
    TooLarge,
}

/// What became of the connection after the NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// The server closed it in order.
    Closed,
    /// It was reset.
    Reset,
    /// The server left closing to the client.
    Open,
}

/// All that was seen of one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// What came, the NUL and what followed it included.
    pub received: Vec<u8>,
    /// In how many reads the answer came, up to the one with the NUL. More than one proves more
    /// than one segment; the reverse does not hold, because segments merge before they are read.
    pub reads: usize,
    /// How it ended.
    pub end: End,
    /// From the first packet to the NUL, or to the end where none came.
    pub took: Duration,
}

/// Asks `server` for its policy and waits for it no longer than `limit`, connecting included.
#[must_use]
pub fn ask(server: SocketAddr, limit: Duration, guise: Guise) -> Transcript {
    let started = Instant::now();
    let mut received = Vec::new();
    let mut reads = 0;
    let end = match TcpStream::connect_timeout(&server, limit) {
        Err(error) => not_connected(&error),
        Ok(stream) if is_its_own_peer(&stream) => End::Refused,
        Ok(mut stream) => {
            let deadline = started + limit;
            match request(&mut stream, guise, deadline, &mut received, &mut reads) {
                Ok(Some(end)) => end,
                Ok(None) => {
                    let took = started.elapsed();
                    let end = End::Answered(watch_the_end(&mut stream, &mut received));
                    return Transcript { received, reads, end, took };
                }
                Err(error) => End::Failed(error.to_string()),
            }
        }
    };
    Transcript { received, reads, end, took: started.elapsed() }
}

/// Asks who listens at `server` with [`GREETING`] on a connection of its own. Returns how the
/// reply begins; empty where none came within `limit`.
#[must_use]
pub fn greet(server: SocketAddr, limit: Duration) -> Vec<u8> {
    let started = Instant::now();
    let reply = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&server, limit)?;
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() || is_its_own_peer(&stream) {
            return Ok(Vec::new());
        }
        stream.write_all(GREETING)?;
        stream.set_read_timeout(Some(left))?;
        let mut reply = vec![0; 64];
        let length = stream.read(&mut reply)?;
        reply.truncate(length);
        Ok(reply)
    };
    reply().unwrap_or_default()
}

/// Where nobody listens, a connection whose own port happens to be the one that it looks for meets
/// itself.
fn is_its_own_peer(stream: &TcpStream) -> bool {
    matches!((stream.local_addr(), stream.peer_addr()), (Ok(own), Ok(peer)) if own == peer)
}

fn not_connected(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionRefused => End::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => End::Filtered,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            End::Unreachable(error.to_string())
        }
        ErrorKind::ConnectionReset => End::Reset,
        _ => End::Failed(error.to_string()),
    }
}

/// Sends the request and reads to the NUL, for which it returns `None`.
fn request(
    stream: &mut TcpStream,
    guise: Guise,
    deadline: Instant,
    received: &mut Vec<u8>,
    reads: &mut usize,
) -> io::Result<Option<End>> {
    let written = match guise {
        Guise::Player => stream.write_all(&[REQUEST, NUL].concat()),
        // In one segment, as a balancer whose client has asked already.
        Guise::Balancer => stream.write_all(&[LOCAL_HEADER, &REQUEST[..], NUL].concat()),
    };
    let reset_early = match written {
        Ok(()) => false,
        // What the server sent before that can still be read, but not that it was a reset.
        Err(error) if is_reset(&error) => true,
        Err(error) => return Err(error),
    };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Some(End::TimedOut));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) if reset_early => return Ok(Some(End::Reset)),
            Ok(0) => return Ok(Some(End::Closed)),
            Ok(length) => {
                let room = ANSWER_LIMIT - received.len();
                let news = &buffer[..length.min(room)];
                received.extend_from_slice(news);
                *reads += 1;
                if news.contains(&0) {
                    return Ok(None);
                }
                if received.len() == ANSWER_LIMIT {
                    return Ok(Some(End::TooLarge));
                }
            }
            Err(error) if is_reset(&error) => return Ok(Some(End::Reset)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => return Ok(Some(End::TimedOut)),
            Err(error) => return Err(error),
        }
    }
}

/// Sees how the server leaves, and collects what it still sends, within [`ANSWER_LIMIT`].
fn watch_the_end(stream: &mut TcpStream, received: &mut Vec<u8>) -> Aftermath {
    let deadline = Instant::now() + AFTERMATH;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return Aftermath::Open;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Aftermath::Closed,
            Ok(length) => {
                let room = ANSWER_LIMIT - received.len();
                received.extend_from_slice(&buffer[..length.min(room)]);
            }
            Err(error) if is_reset(&error) => return Aftermath::Reset,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Aftermath::Open,
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
    )
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_is_as_long_as_it_says() {
        let length = |bytes: &[u8]| (usize::from(bytes[0]) << 8) | usize::from(bytes[1]);
        assert_eq!(length(&GREETING[3..]), GREETING.len() - 5);
        assert_eq!(length(&GREETING[7..]), GREETING.len() - 9);
    }
}
