//! One client: its socket, the exchange on it, and since when.
//!
//! It does what the exchange wants until that is over or the socket is not ready. Where a balancer
//! speaks for the client, it reads who that is first. It knows no other connection, and nothing of
//! who closes it when.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use log::{Level, log_enabled, trace};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::exchange::{Ending, Exchange, Outcome, PolicyRequest, Request, Want};
use super::listener::Purpose;
use super::preamble::{Header, HeaderSoFar, Preamble};
use super::scrape::{self, HttpRequest};
use crate::document::{Document, Documents};

/// How often a connection is asked about again that the poll called writable and that was not.
const FALSE_ALARMS: u8 = 16;

/// A client and what is exchanged with it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// The client. As long as a balancer has not said who that is, the balancer.
    pub(super) peer: SocketAddr,
    /// Whether it comes from a balancer.
    pub(super) is_balanced: bool,
    /// When it was accepted.
    pub(super) accepted: Instant,
    stage: Stage,
    /// What the poll has been told to wait for.
    watched: Option<Interest>,
    /// How often the poll called it ready and it was not.
    false_alarms: u8,
}

/// What is exchanged.
#[derive(Debug)]
enum Stage {
    /// The header of a balancer, which comes first. This is the port that the balancer connected to.
    Preamble { preamble: Box<Preamble>, port: u16 },
    Policy {
        exchange: Exchange<PolicyRequest>,
        /// The answer it began with, which a reload does not change.
        document: Document,
    },
    Scrape {
        exchange: Exchange<HttpRequest>,
        /// The answer, once the request is known.
        response: Option<Vec<u8>>,
    },
}

/// How far an exchange has got.
#[derive(Debug)]
pub(super) enum Progress {
    /// It goes on when the socket is ready for this.
    Blocked(Interest),
    /// It is over.
    Ended(Ending),
}

/// Where the answer to a request comes from.
trait Responder<R> {
    /// The whole answer to a request that is complete; the same at every call.
    fn answer_to(&mut self, request: &R) -> &[u8];
}

impl Responder<PolicyRequest> for Document {
    fn answer_to(&mut self, _: &PolicyRequest) -> &[u8] {
        self.bytes()
    }
}

/// The response to a scrape, which is written when it is first asked for.
struct Response<'a> {
    written: &'a mut Option<Vec<u8>>,
    metrics: &'a dyn Fn() -> String,
}

impl Responder<HttpRequest> for Response<'_> {
    fn answer_to(&mut self, request: &HttpRequest) -> &[u8] {
        self.written.get_or_insert_with(|| scrape::response(request, self.metrics))
    }
}

/// Reads a header and says where in the buffer stands what came with it; before that is known, how
/// far it has got.
fn meet(
    mut stream: &TcpStream,
    peer: SocketAddr,
    preamble: &mut Preamble,
    buffer: &mut [u8],
) -> Result<(Header, Range<usize>), Progress> {
    loop {
        match stream.read(buffer) {
            Ok(count @ 1..) => {
                trace!("{peer}: read {count} bytes, and expects a header");
                match preamble.take(&buffer[..count]) {
                    HeaderSoFar::Unfinished => {}
                    HeaderSoFar::Complete { header, taken } => return Ok((header, taken..count)),
                    HeaderSoFar::Malformed => {
                        return Err(Progress::Ended(Ending::malformed(&buffer[..count])));
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(Progress::Blocked(Interest::READABLE));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) if preamble.is_untouched() => {
                return Err(Progress::Ended(Outcome::Unasked.into()));
            }
            Ok(0) | Err(_) => return Err(Progress::Ended(Outcome::Aborted.into())),
        }
    }
}

/// What is logged of a connection at trace.
pub(super) enum Traced<'a> {
    Accepted { on: SocketAddr },
    Read(usize),
    Sent { count: usize, of: usize },
    ShutDown,
    Failed(&'a io::Error),
    Closed { after: Duration, outcome: Outcome },
}

/// Logs a step. Out of the way of those that nobody logs.
#[cold]
#[inline(never)]
pub(super) fn trace_step(peer: &SocketAddr, step: &Traced<'_>) {
    match step {
        Traced::Accepted { on } => trace!("{peer}: accepted on {on}"),
        Traced::Read(count) => trace!("{peer}: read {count} bytes"),
        Traced::Sent { count, of } => trace!("{peer}: sent {count} bytes of an answer of {of}"),
        Traced::ShutDown => trace!("{peer}: shut down for sending"),
        Traced::Failed(error) => trace!("{peer}: failed: {error}"),
        Traced::Closed { after, outcome } => {
            trace!("{peer}: closed after {after:.1?}: {}", outcome.as_str());
        }
    }
}

/// Does whatever an exchange wants until it is over or has to wait.
fn drive<R: Request>(
    mut stream: &TcpStream,
    peer: &SocketAddr,
    exchange: &mut Exchange<R>,
    responder: &mut impl Responder<R>,
    buffer: &mut [u8],
) -> Progress {
    loop {
        let (step, interest) = match exchange.want() {
            Want::Read => {
                let read = stream.read(buffer).map(|count| {
                    if log_enabled!(Level::Trace) {
                        trace_step(peer, &Traced::Read(count));
                    }
                    match count {
                        0 => exchange.ended(),
                        count => exchange.received(&buffer[..count]),
                    }
                });
                (read, Interest::READABLE)
            }
            Want::Send { from } => {
                let bytes = responder.answer_to(exchange.request());
                // MSG_MORE holds the last segment back until the shutdown that follows at once, so
                // that the end of the answer and the FIN leave in one.
                let sent = SockRef::from(stream)
                    .send_with_flags(&bytes[from..], libc::MSG_MORE | libc::MSG_NOSIGNAL)
                    .map(|count| {
                        if log_enabled!(Level::Trace) {
                            trace_step(peer, &Traced::Sent { count, of: bytes.len() });
                        }
                        exchange.sent(count, bytes.len());
                    });
                (sent, Interest::WRITABLE)
            }
            Want::ShutDown => {
                let shut_down = stream.shutdown(Shutdown::Write).map(|()| {
                    if log_enabled!(Level::Trace) {
                        trace_step(peer, &Traced::ShutDown);
                    }
                    exchange.shut_down();
                });
                (shut_down, Interest::WRITABLE)
            }
            Want::Close(ending) => return Progress::Ended(ending.clone()),
        };
        match step {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Progress::Blocked(interest);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                if log_enabled!(Level::Trace) {
                    trace_step(peer, &Traced::Failed(&error));
                }
                exchange.failed();
            }
        }
    }
}

impl Connection {
    /// A client that is to have `document`.
    pub(super) fn for_policy(
        stream: TcpStream,
        peer: SocketAddr,
        accepted: Instant,
        document: Document,
    ) -> Self {
        let stage = Stage::Policy { exchange: Exchange::default(), document };
        Self { stream, peer, is_balanced: false, accepted, stage, watched: None, false_alarms: 0 }
    }

    /// A balancer that is to say first who the client is, and that has connected to `port`.
    pub(super) fn behind_balancer(
        stream: TcpStream,
        balancer: SocketAddr,
        accepted: Instant,
        port: u16,
    ) -> Self {
        let stage = Stage::Preamble { preamble: Box::default(), port };
        Self {
            stream,
            peer: balancer,
            is_balanced: true,
            accepted,
            stage,
            watched: None,
            false_alarms: 0,
        }
    }

    /// Whether it is not known yet for whom a balancer speaks.
    pub(super) fn awaits_header(&self) -> bool {
        matches!(self.stage, Stage::Preamble { .. })
    }

    /// A client that is to have the metrics, once it asks as `request` expects.
    pub(super) fn for_metrics(
        stream: TcpStream,
        peer: SocketAddr,
        accepted: Instant,
        request: HttpRequest,
    ) -> Self {
        let stage = Stage::Scrape { exchange: Exchange::of(request), response: None };
        Self { stream, peer, is_balanced: false, accepted, stage, watched: None, false_alarms: 0 }
    }

    /// What it is for.
    pub(super) fn purpose(&self) -> Purpose {
        match self.stage {
            Stage::Preamble { .. } | Stage::Policy { .. } => Purpose::Policy,
            Stage::Scrape { .. } => Purpose::Metrics,
        }
    }

    /// Goes on with the exchange. `buffer` is what is read into; `documents` are looked at where a
    /// balancer says what was asked, and `metrics` is called where they are asked for.
    pub(super) fn advance(
        &mut self,
        buffer: &mut [u8],
        documents: &Documents,
        metrics: &dyn Fn() -> String,
    ) -> Progress {
        loop {
            match &mut self.stage {
                Stage::Preamble { preamble, port } => {
                    let (header, rest) = match meet(&self.stream, self.peer, preamble, buffer) {
                        Ok(met) => met,
                        Err(progress) => return progress,
                    };
                    let (client, asked) = match header {
                        Header::Client { client, asked } => (client, asked.port()),
                        Header::Unknown | Header::Local => (self.peer, *port),
                    };
                    let document = documents.for_port(asked).clone();
                    let mut exchange = Exchange::default();
                    if !rest.is_empty() {
                        exchange.received(&buffer[rest]);
                    }
                    trace!("{}: the header names {client}, port {asked}", self.peer);
                    self.peer = client;
                    self.stage = Stage::Policy { exchange, document };
                }
                Stage::Policy { exchange, document } => {
                    return drive(&self.stream, &self.peer, exchange, document, buffer);
                }
                Stage::Scrape { exchange, response } => {
                    let mut response = Response { written: response, metrics };
                    return drive(&self.stream, &self.peer, exchange, &mut response, buffer);
                }
            }
        }
    }

    /// Has the poll say under `token` when the socket is ready for `interest`.
    pub(super) fn watch(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        match self.watched.replace(interest) {
            None => registry.register(&mut self.stream, token, interest),
            // Reading until it would block arms the edge again. A write that blocks though the
            // poll called it ready does so too, by the book; asking again costs little, and a
            // socket that goes on like this has its deadline.
            Some(before) if before == interest => {
                if interest.is_readable() || self.false_alarms == FALSE_ALARMS {
                    return Ok(());
                }
                self.false_alarms += 1;
                registry.reregister(&mut self.stream, token, interest)
            }
            Some(_) => registry.reregister(&mut self.stream, token, interest),
        }
    }

    /// Says what becomes of a connection that is closed before its end, because of `outcome`.
    ///
    /// Its request may have come since the poll last looked, and then it is answered: under a
    /// flood, the oldest connection is not always one of the flood's.
    pub(super) fn end(
        &mut self,
        outcome: Outcome,
        buffer: &mut [u8],
        documents: &Documents,
    ) -> Ending {
        if self.purpose() == Purpose::Metrics {
            return outcome.into();
        }
        match (self.advance(buffer, documents, &String::new), &mut self.stage) {
            (Progress::Ended(ending), _) => ending,
            (Progress::Blocked(_), Stage::Policy { exchange, .. }) => {
                std::mem::take(exchange).ending(outcome)
            }
            (Progress::Blocked(_), _) => outcome.into(),
        }
    }
}
