//! A client that counts to the last request: so many exchanges, so many at a time, each answer
//! compared whole and each end of stream looked at. One thread and one poll set, so that what it
//! measures is the server and not the scheduling of a hundred threads.
//!
//! It knows the protocol and nothing of the daemon: it can be pointed at any server.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};

/// What a player sends.
pub(crate) const REQUEST: &[u8; 23] = b"<policy-file-request/>\0";

/// How long an exchange may take before it counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many failures are kept word for word.
const EXAMPLES: usize = 8;

/// The order in which a client sends and hangs up. Every shape is one that the field has, or that
/// an ordinary network makes of an ordinary request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The 23 bytes in one segment, once the poll says that the connection is there: every Flash
    /// player, as every client that waits for more than one thing.
    Whole,
    /// Each byte in a segment of its own.
    ByteByByte,
    /// The 22 bytes and nothing more: Silverlight.
    WithoutNul,
    /// The NUL in a second segment, on its way while the server answers.
    NulLater,
    /// The NUL only once the answer is there: the latest moment at which it can do harm.
    NulAfterAnswer,
    /// A newline for the NUL: `echo '<policy-file-request/>' | nc`.
    Newline,
    /// The end of the stream for the NUL: `printf '<policy-file-request/>' | nc -N`.
    HalfClosed,
    /// 200 more bytes behind the NUL, in the same segment.
    TrailingBytes,
    /// The whole request, and the client's side of the stream closed at once.
    ShutFirst,
    /// The request twice in one segment.
    Twice,
    /// A newline in a segment of its own behind the whole request: `echo` behind a NUL.
    NewlineBehind,
    /// An urgent byte behind the whole request.
    UrgentBehind,
}

impl Shape {
    /// Every shape but the ordinary one.
    pub(crate) const ODD: [Self; 9] = [
        Self::ByteByByte,
        Self::WithoutNul,
        Self::NulLater,
        Self::NulAfterAnswer,
        Self::Newline,
        Self::HalfClosed,
        Self::TrailingBytes,
        Self::ShutFirst,
        Self::Twice,
    ];

    /// The shapes that send more once they have sent a whole request. The kernel resets such a
    /// connection when it is closed, so all that can be promised is the answer.
    pub(crate) const TALKATIVE: [Self; 2] = [Self::NewlineBehind, Self::UrgentBehind];

    fn steps(self) -> Vec<Step> {
        let unterminated = &REQUEST[..22];
        match self {
            Self::Whole => vec![Step::Send(REQUEST.to_vec())],
            Self::ByteByByte => {
                REQUEST.iter().flat_map(|byte| [Step::Send(vec![*byte]), Step::LetOthers]).collect()
            }
            Self::WithoutNul => vec![Step::Send(unterminated.to_vec())],
            Self::NulLater => {
                vec![Step::Send(unterminated.to_vec()), Step::LetOthers, Step::Send(vec![0])]
            }
            Self::NulAfterAnswer => {
                vec![Step::Send(unterminated.to_vec()), Step::AwaitAnswer, Step::Send(vec![0])]
            }
            Self::Newline => vec![Step::Send([unterminated, b"\n"].concat())],
            Self::HalfClosed => vec![Step::Send(unterminated.to_vec()), Step::ShutDownWriting],
            Self::TrailingBytes => {
                vec![Step::Send([REQUEST.as_slice(), [b'x'; 200].as_slice()].concat())]
            }
            Self::ShutFirst => vec![Step::Send(REQUEST.to_vec()), Step::ShutDownWriting],
            Self::Twice => vec![Step::Send([REQUEST.as_slice(), REQUEST].concat())],
            Self::NewlineBehind => vec![Step::Send(REQUEST.to_vec()), Step::Send(b"\n".to_vec())],
            Self::UrgentBehind => vec![Step::Send(REQUEST.to_vec()), Step::SendUrgent(b'!')],
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    SendUrgent(u8),
    /// Every other client gets its turn before this one goes on.
    LetOthers,
    AwaitAnswer,
    ShutDownWriting,
}

/// Where the connections come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sources {
    /// Wherever the system says.
    Any,
    /// `count` addresses in turn, from `first` on.
    Spread { first: IpAddr, count: u32 },
}

impl Sources {
    /// 64 addresses of 127.0.1.0/24, so that no limit per source is met.
    pub(crate) const LOOPBACK: Self = Self::spread(Ipv4Addr::new(127, 0, 1, 1), 64);

    pub(crate) const fn spread(first: Ipv4Addr, count: u32) -> Self {
        Self::Spread { first: IpAddr::V4(first), count }
    }

    /// The address of the connection with this number.
    pub(crate) fn address(self, number: usize) -> Option<IpAddr> {
        match self {
            Self::Any => None,
            Self::Spread { first, count } => {
                let offset = u32::try_from(number % count as usize).expect("below a u32");
                Some(match first {
                    IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + offset).into(),
                    IpAddr::V6(first) => {
                        Ipv6Addr::from_bits(first.to_bits() + u128::from(offset)).into()
                    }
                })
            }
        }
    }
}

/// One load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) target: SocketAddr,
    pub(crate) requests: usize,
    pub(crate) concurrency: usize,
    pub(crate) shape: Shape,
    pub(crate) sources: Sources,
    /// The documents that are an answer, each with its NUL.
    pub(crate) documents: &'a [&'a [u8]],
}

/// What came of a load.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) requests: usize,
    /// Exchanges whose answer was whole and whose stream ended in order.
    pub(crate) answered: usize,
    /// How often each document was the answer, in the order of [`Load::documents`].
    pub(crate) by_document: Vec<usize>,
    /// Exchanges that a reset ended, with the whole answer or without.
    pub(crate) resets: usize,
    /// Exchanges that had no end when [`PATIENCE`] did.
    pub(crate) unended: usize,
    /// The first few of those that were not answered, in words.
    pub(crate) failures: Vec<String>,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
    /// From the call of `connect` to the last byte of the document, however the exchange ended.
    pub(crate) arrival: Latency,
}

impl Report {
    /// Fails unless every request was answered.
    #[track_caller]
    pub(crate) fn assert_all_answered(&self) {
        assert_eq!(
            (self.answered, self.requests),
            (self.requests, self.requests),
            "answered of requested; the first failures: {:#?}",
            self.failures
        );
    }
}

/// Durations in ascending order; as [`Report::latency`] from the call of `connect` to the end of the
/// stream, of the exchanges that were answered.
#[derive(Debug)]
pub(crate) struct Latency(Vec<Duration>);

impl Latency {
    fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    /// The time that `per_mille` of a thousand exchanges did not exceed; 999 is p99.9.
    pub(crate) fn quantile(&self, per_mille: usize) -> Duration {
        let rank = (self.0.len() * per_mille).div_ceil(1000).max(1) - 1;
        self.0.get(rank).copied().unwrap_or_default()
    }

    /// How many exchanges took no longer than this.
    pub(crate) fn within(&self, limit: Duration) -> usize {
        self.0.partition_point(|sample| *sample <= limit)
    }

    pub(crate) fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

/// Opens a connection without waiting for it.
///
/// The port of a bound source is chosen by `connect`, where the system knows the whole 4-tuple;
/// chosen by `bind` the ports of an address run out.
pub(crate) fn connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Ok(()) => Ok(socket),
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Runs one load to its end.
pub(crate) fn run(load: &Load) -> Report {
    let mut client = Client::new(load);
    client.run();
    client.report()
}

/// One exchange under way.
struct Exchange {
    stream: TcpStream,
    shape: Shape,
    began: Instant,
    /// The next step, and how much of it has gone.
    step: usize,
    sent: usize,
    received: Vec<u8>,
    /// When the whole document was there, counted from `began`.
    arrived: Option<Duration>,
}

/// Why an exchange was not answered.
struct Failure {
    cause: Cause,
    words: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Reset,
    Unended,
    Other,
}

impl Failure {
    /// Of what the system said, and what was being done.
    fn of(error: &io::Error, doing: &str) -> Self {
        let cause = match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Cause::Reset,
            _ => Cause::Other,
        };
        Self { cause, words: format!("{doing}: {error}") }
    }
}

enum Sending {
    /// Every step is taken.
    Complete,
    Blocked,
    LetsOthers,
}

enum Progress {
    Waiting,
    LetOthers,
    Done(Result<usize, Failure>),
}

struct Client<'a> {
    load: &'a Load<'a>,
    steps: Vec<Step>,
    poll: Poll,
    slots: Vec<Option<Exchange>>,
    /// Slots that begin, or that gave way: they go on in the next turn.
    resumed: VecDeque<usize>,
    buffer: Box<[u8]>,
    begun: usize,
    ended: usize,
    began: Instant,
    by_document: Vec<usize>,
    resets: usize,
    unended: usize,
    failures: Vec<String>,
    latency: Vec<Duration>,
    arrival: Vec<Duration>,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load<'a>) -> Self {
        Self {
            load,
            steps: load.shape.steps(),
            poll: Poll::new().expect("a poll set"),
            slots: (0..load.concurrency).map(|_| None).collect(),
            resumed: VecDeque::new(),
            buffer: vec![0; 16 * 1024].into_boxed_slice(),
            begun: 0,
            ended: 0,
            began: Instant::now(),
            by_document: vec![0; load.documents.len()],
            resets: 0,
            unended: 0,
            failures: Vec::new(),
            latency: Vec::with_capacity(load.requests),
            arrival: Vec::with_capacity(load.requests),
        }
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        for slot in 0..self.slots.len() {
            self.begin(slot);
        }
        while self.ended < self.load.requests {
            let timeout =
                if self.resumed.is_empty() { Duration::from_secs(1) } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.expect("polling"),
            }
            if events.is_empty() && self.resumed.is_empty() {
                self.give_up_on_the_silent();
            }
            for event in &events {
                self.advance(event.token().0);
            }
            for _ in 0..self.resumed.len() {
                if let Some(slot) = self.resumed.pop_front() {
                    self.advance(slot);
                }
            }
        }
    }

    fn begin(&mut self, slot: usize) {
        while self.begun < self.load.requests {
            let source = self.load.sources.address(self.begun);
            self.begun += 1;
            let began = Instant::now();
            let stream = connect(self.load.target, source).and_then(|socket| {
                let mut stream = TcpStream::from_std(socket.into());
                let interest = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut stream, Token(slot), interest)?;
                Ok(stream)
            });
            match stream {
                Ok(stream) => {
                    let received = Vec::with_capacity(1024);
                    let shape = self.load.shape;
                    self.slots[slot] = Some(Exchange {
                        stream,
                        shape,
                        began,
                        step: 0,
                        sent: 0,
                        received,
                        arrived: None,
                    });
                    return;
                }
                Err(error) => self.end(Duration::ZERO, Err(Failure::of(&error, "connect"))),
            }
        }
    }

    fn advance(&mut self, slot: usize) {
        let Some(exchange) = &mut self.slots[slot] else { return };
        match exchange.advance(&self.steps, self.load.documents, &mut self.buffer) {
            Progress::Waiting => {}
            Progress::LetOthers => self.resumed.push_back(slot),
            Progress::Done(outcome) => {
                let elapsed = exchange.began.elapsed();
                self.arrival.extend(exchange.arrived);
                self.slots[slot] = None;
                self.end(elapsed, outcome);
                self.begin(slot);
            }
        }
    }

    fn give_up_on_the_silent(&mut self) {
        for slot in 0..self.slots.len() {
            let Some(exchange) = &self.slots[slot] else { continue };
            let elapsed = exchange.began.elapsed();
            if elapsed > PATIENCE {
                let words = format!(
                    "no end after {PATIENCE:?}: at step {}, {} bytes received",
                    exchange.step,
                    exchange.received.len()
                );
                let failure = Failure { cause: Cause::Unended, words };
                self.arrival.extend(exchange.arrived);
                self.slots[slot] = None;
                self.end(elapsed, Err(failure));
                self.begin(slot);
            }
        }
    }

    fn end(&mut self, elapsed: Duration, outcome: Result<usize, Failure>) {
        self.ended += 1;
        match outcome {
            Ok(document) => {
                self.by_document[document] += 1;
                self.latency.push(elapsed);
            }
            Err(failure) => {
                match failure.cause {
                    Cause::Reset => self.resets += 1,
                    Cause::Unended => self.unended += 1,
                    Cause::Other => {}
                }
                if self.failures.len() < EXAMPLES {
                    self.failures.push(failure.words);
                }
            }
        }
    }

    fn report(self) -> Report {
        Report {
            requests: self.load.requests,
            answered: self.by_document.iter().sum(),
            by_document: self.by_document,
            resets: self.resets,
            unended: self.unended,
            failures: self.failures,
            elapsed: self.began.elapsed(),
            latency: Latency::new(self.latency),
            arrival: Latency::new(self.arrival),
        }
    }
}

impl Exchange {
    fn advance(&mut self, steps: &[Step], documents: &[&[u8]], buffer: &mut [u8]) -> Progress {
        match self.send(steps) {
            Ok(Sending::Complete) => self.receive(documents, buffer),
            Ok(Sending::Blocked) => Progress::Waiting,
            Ok(Sending::LetsOthers) => Progress::LetOthers,
            Err(failure) => Progress::Done(Err(failure)),
        }
    }

    /// Takes the steps that can be taken.
    fn send(&mut self, steps: &[Step]) -> Result<Sending, Failure> {
        while let Some(step) = steps.get(self.step) {
            let done = match step {
                Step::Send(bytes) => self.stream.write(&bytes[self.sent..]).map(|written| {
                    self.sent += written;
                    self.sent == bytes.len()
                }),
                Step::SendUrgent(byte) => {
                    SockRef::from(&self.stream).send_out_of_band(&[*byte]).map(|_| true)
                }
                Step::ShutDownWriting => self.stream.shutdown(Shutdown::Write).map(|()| true),
                Step::AwaitAnswer => self.stream.peek(&mut [0]).map(|_| true),
                Step::LetOthers => {
                    self.step += 1;
                    return Ok(Sending::LetsOthers);
                }
            };
            match done {
                Ok(true) => {
                    self.step += 1;
                    self.sent = 0;
                }
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sending::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if self.step > 0 && self.is_talkative() => break,
                Err(error) => return Err(Failure::of(&error, &format!("{step:?}"))),
            }
        }
        Ok(Sending::Complete)
    }

    /// Reads what there is, and judges it at the end of the stream.
    fn receive(&mut self, documents: &[&[u8]], buffer: &mut [u8]) -> Progress {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Progress::Done(self.judge(documents)),
                Ok(count) => {
                    self.received.extend_from_slice(&buffer[..count]);
                    if self.arrived.is_none() && documents.contains(&self.received.as_slice()) {
                        self.arrived = Some(self.began.elapsed());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if self.is_talkative() => return Progress::Done(self.judge(documents)),
                Err(error) => {
                    let doing = format!("after {} bytes", self.received.len());
                    return Progress::Done(Err(Failure::of(&error, &doing)));
                }
            }
        }
    }

    fn is_talkative(&self) -> bool {
        Shape::TALKATIVE.contains(&self.shape)
    }

    fn judge(&self, documents: &[&[u8]]) -> Result<usize, Failure> {
        // A reset that arrives behind the end of the stream shows in no read: ask for it.
        let error = self.stream.take_error().unwrap_or_else(Some);
        let error = error.filter(|_| !self.is_talkative());
        let document = documents.iter().position(|document| *document == self.received);
        match (document, error) {
            (Some(document), None) => Ok(document),
            (Some(_), Some(error)) => Err(Failure::of(&error, "behind the answer")),
            (None, error) => {
                let doing = format!(
                    "not the document: {} bytes, {:?}",
                    self.received.len(),
                    String::from_utf8_lossy(&self.received)
                );
                Err(match error {
                    Some(error) => Failure::of(&error, &doing),
                    None => Failure { cause: Cause::Other, words: doing },
                })
            }
        }
    }
}
