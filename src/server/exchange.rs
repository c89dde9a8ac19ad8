//! One exchange, a request and its answer, as a state machine fed with bytes.
//!
//! It owns the order of things: when the request is complete, when it can no longer become one,
//! when to shut down and when to drain so that no reset overtakes the answer. It knows no socket,
//! no clock and no mio: whoever drives it does what [`Exchange::want`] asks for and reports what
//! came of it.

use crate::document::{ONE_ROUND_TRIP, REQUEST};

/// The request as Adobe's own text spells it in places, and some clients with it.
pub const SPACED_REQUEST: &[u8; 23] = b"<policy-file-request />";

/// How many bytes after the request are read and thrown away, at most, while waiting for the
/// client to close. A client that sends more than this is closed on, and may see a reset.
pub const DRAIN_LIMIT: usize = 1024 * 1024;

/// The longest answer after which the server closes first, in bytes. What has not left when the
/// socket is closed is lost if the client sends one more byte, so with an answer that does not leave
/// at once the client has to close first.
const SENT_AT_ONCE: usize = ONE_ROUND_TRIP;

/// How much of a malformed request is kept for the log, in bytes.
const QUOTED: usize = 32;

/// What a server waits for before it answers.
pub trait Request {
    /// Takes what the client sent, which is not empty, until the request is complete or cannot
    /// become one.
    fn take(&mut self, bytes: &[u8]) -> RequestSoFar;

    /// Whether nothing has been taken yet.
    fn is_untouched(&self) -> bool;
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestSoFar {
    /// More of it has to come.
    Unfinished,
    /// It is complete, and this may follow it.
    Complete(Rest),
    /// It cannot become a request, whatever follows.
    Malformed,
}

/// What may still come from the client once its request is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: it ended by the book.
    Nothing,
    /// The end of the request may be on its way, or more than a request has come. Closing with
    /// such bytes unread would make the kernel send a reset after the answer.
    Perhaps,
}

/// A socket policy request, of which so many bytes have come and were right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRequest {
    matched: u8,
    spelling: Spelling,
}

/// How the request is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Spelling {
    #[default]
    Usual,
    /// With a space before the slash.
    Spaced,
}

impl Spelling {
    const fn text(self) -> &'static [u8] {
        match self {
            Self::Usual => REQUEST,
            Self::Spaced => SPACED_REQUEST,
        }
    }
}

impl PolicyRequest {
    /// Takes bytes as the request in one spelling, of which those before were right.
    fn take_as(&mut self, spelling: Spelling, bytes: &[u8]) -> RequestSoFar {
        let missing = &spelling.text()[usize::from(self.matched)..];
        let length = missing.len().min(bytes.len());
        if bytes[..length] != missing[..length] {
            RequestSoFar::Malformed
        } else if length < missing.len() {
            // Less than the request is long, so it fits.
            self.matched += u8::try_from(length).unwrap_or(0);
            self.spelling = spelling;
            RequestSoFar::Unfinished
        } else if bytes[length..] == [0] {
            RequestSoFar::Complete(Rest::Nothing)
        } else {
            RequestSoFar::Complete(Rest::Perhaps)
        }
    }

    /// Whether all that has come is the same in both spellings.
    fn may_be_spaced(&self) -> bool {
        usize::from(self.matched) <= REQUEST.len() - "/>".len()
    }
}

impl Request for PolicyRequest {
    fn take(&mut self, bytes: &[u8]) -> RequestSoFar {
        match self.take_as(self.spelling, bytes) {
            RequestSoFar::Malformed if self.may_be_spaced() => {
                self.take_as(Spelling::Spaced, bytes)
            }
            taken => taken,
        }
    }

    fn is_untouched(&self) -> bool {
        self.matched == 0
    }
}

/// One exchange, from the first byte to the close.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange<R> {
    request: R,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
    /// The request is awaited, or the rest of it.
    #[default]
    Request,
    /// The request is complete and so many bytes of the answer have left.
    Answer { sent: usize, rest: Rest },
    /// The answer is with the kernel, which holds its last segment back; shutting down sends it.
    ShutDown { then: AfterAnswer },
    /// All is said; so many bytes that the client sends all the same have been thrown away.
    Drain { drained: usize },
    /// Nothing is left to do but to close.
    Closed(Ending),
}

/// What follows once the answer has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterAnswer {
    Close,
    Drain,
}

/// What the exchange needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want<'a> {
    /// Read from the client, then call [`Exchange::received`], [`Exchange::ended`] or
    /// [`Exchange::failed`].
    Read,
    /// Send the answer from this byte on, then call [`Exchange::sent`] or [`Exchange::failed`].
    Send {
        /// Index of the first byte that has not been sent.
        from: usize,
    },
    /// Shut down the writing side, then call [`Exchange::shut_down`] or [`Exchange::failed`].
    ShutDown,
    /// Close; this is what became of the exchange.
    Close(&'a Ending),
}

/// What became of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The whole answer was handed to the kernel.
    Served,
    /// What came cannot become a request.
    Malformed,
    /// The deadline passed.
    Timeout,
    /// It made room for a newer connection.
    Evicted,
    /// It made room for a newer connection from the same source.
    SourceLimit,
    /// The client ended or reset the connection in the middle of its request or of the answer.
    Aborted,
    /// The client left without a byte, as health checks do.
    Unasked,
}

impl Outcome {
    /// Every outcome, in the order of their discriminants.
    pub const EVERY: [Self; 7] = [
        Self::Served,
        Self::Malformed,
        Self::Timeout,
        Self::Evicted,
        Self::SourceLimit,
        Self::Aborted,
        Self::Unasked,
    ];

    /// The name that metrics and logs use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Malformed => "malformed",
            Self::Aborted => "aborted",
            Self::Timeout => "timeout",
            Self::Evicted => "evicted",
            Self::SourceLimit => "source_limit",
            Self::Unasked => "unasked",
        }
    }
}

/// What became of an exchange, and the bytes that show why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What became of it.
    pub outcome: Outcome,
    /// The beginning of what is not a request; empty for every other outcome.
    pub quoted: Box<[u8]>,
}

impl Ending {
    /// These bytes cannot become a request.
    #[must_use]
    pub fn malformed(bytes: &[u8]) -> Self {
        let quoted = bytes[..bytes.len().min(QUOTED)].into();
        Self { outcome: Outcome::Malformed, quoted }
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, quoted: Box::default() }
    }
}

impl<R: Request> Exchange<R> {
    /// An exchange that waits for `request`.
    #[must_use]
    pub fn of(request: R) -> Self {
        Self { request, state: State::Request }
    }

    /// The request as far as it has come; the whole of it once an answer is wanted.
    pub fn request(&self) -> &R {
        &self.request
    }

    /// What is needed next.
    #[must_use]
    pub fn want(&self) -> Want<'_> {
        match &self.state {
            State::Request | State::Drain { .. } => Want::Read,
            State::Answer { sent, .. } => Want::Send { from: *sent },
            State::ShutDown { .. } => Want::ShutDown,
            State::Closed(ending) => Want::Close(ending),
        }
    }

    /// Takes what the client sent; `bytes` is not empty.
    pub fn received(&mut self, bytes: &[u8]) {
        match self.state {
            State::Request => {
                self.state = match self.request.take(bytes) {
                    RequestSoFar::Unfinished => State::Request,
                    RequestSoFar::Complete(rest) => State::Answer { sent: 0, rest },
                    RequestSoFar::Malformed => State::Closed(Ending::malformed(bytes)),
                };
            }
            State::Drain { drained } => {
                let drained = drained.saturating_add(bytes.len());
                self.state = if drained < DRAIN_LIMIT {
                    State::Drain { drained }
                } else {
                    State::Closed(Outcome::Served.into())
                };
            }
            State::Answer { .. } | State::ShutDown { .. } | State::Closed(_) => {}
        }
    }

    /// Takes note that the client will send no more.
    pub fn ended(&mut self) {
        match self.state {
            State::Request => self.failed(),
            State::Drain { .. } => self.state = State::Closed(Outcome::Served.into()),
            State::Answer { .. } | State::ShutDown { .. } | State::Closed(_) => {}
        }
    }

    /// Takes note that `count` more bytes of an answer of `length` have been handed to the
    /// kernel.
    pub fn sent(&mut self, count: usize, length: usize) {
        if let State::Answer { sent, rest } = self.state {
            let sent = sent + count;
            self.state = match rest {
                _ if sent < length => State::Answer { sent, rest },
                Rest::Nothing if length <= SENT_AT_ONCE => {
                    State::ShutDown { then: AfterAnswer::Close }
                }
                Rest::Nothing | Rest::Perhaps => State::ShutDown { then: AfterAnswer::Drain },
            };
        }
    }

    /// Takes note that the writing side is shut down.
    pub fn shut_down(&mut self) {
        if let State::ShutDown { then } = self.state {
            self.state = match then {
                AfterAnswer::Close => State::Closed(Outcome::Served.into()),
                AfterAnswer::Drain => State::Drain { drained: 0 },
            };
        }
    }

    /// Takes note that the connection is broken, or that the client has left it.
    pub fn failed(&mut self) {
        let left_at_once = self.state == State::Request && self.request.is_untouched();
        self.close(if left_at_once { Outcome::Unasked } else { Outcome::Aborted });
    }

    /// Ends the exchange early. What had been served stays served.
    pub fn close(&mut self, outcome: Outcome) {
        match self.state {
            State::Request | State::Answer { .. } => self.state = State::Closed(outcome.into()),
            State::ShutDown { .. } | State::Drain { .. } => {
                self.state = State::Closed(Outcome::Served.into());
            }
            State::Closed(_) => {}
        }
    }

    /// Ends the exchange early, as [`close`](Self::close) does, and says what became of it.
    #[must_use]
    pub fn ending(mut self, outcome: Outcome) -> Ending {
        self.close(outcome);
        match self.state {
            State::Closed(ending) => ending,
            _ => outcome.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const ANSWER: usize = 100;

    fn outcome<R: Request>(exchange: &Exchange<R>) -> Option<Outcome> {
        match exchange.want() {
            Want::Close(ending) => Some(ending.outcome),
            _ => None,
        }
    }

    /// An exchange that was fed `chunks` one after another.
    fn fed(chunks: &[&[u8]]) -> Exchange<PolicyRequest> {
        let mut exchange = Exchange::<PolicyRequest>::default();
        for chunk in chunks {
            assert_eq!(exchange.want(), Want::Read);
            exchange.received(chunk);
        }
        exchange
    }

    #[test]
    fn a_request_by_the_book_is_answered_and_closed() {
        let mut exchange = fed(&[b"<policy-file-request/>\0"]);
        assert_eq!(exchange.want(), Want::Send { from: 0 });
        exchange.sent(ANSWER, ANSWER);
        // What the kernel holds back has to leave before the close: one more byte from the client
        // makes the close a reset, which would take the answer with it.
        assert_eq!(exchange.want(), Want::ShutDown);
        exchange.shut_down();
        assert_eq!(outcome(&exchange), Some(Outcome::Served));
    }

    /// Ten segments of 1,428 bytes leave at once.
    #[test]
    fn an_answer_that_cannot_leave_at_once_is_not_closed_on() {
        for (length, becomes) in [(14_280, Some(Outcome::Served)), (14_281, None)] {
            let mut exchange = fed(&[b"<policy-file-request/>\0"]);
            exchange.sent(length, length);
            exchange.shut_down();
            assert_eq!(outcome(&exchange), becomes, "an answer of {length} bytes");
        }
    }

    #[test]
    fn a_short_send_goes_on_where_it_stopped() {
        let mut exchange = fed(&[b"<policy-file-request/>\0"]);
        for sent in 1..ANSWER {
            exchange.sent(1, ANSWER);
            assert_eq!(exchange.want(), Want::Send { from: sent });
        }
        exchange.sent(1, ANSWER);
        assert_eq!(exchange.want(), Want::ShutDown);
    }

    #[test]
    fn the_answer_goes_after_22_bytes_and_a_late_nul_is_drained() {
        let mut exchange = fed(&[b"<policy-file-request/>"]);
        assert_eq!(exchange.want(), Want::Send { from: 0 });
        exchange.sent(ANSWER, ANSWER);
        assert_eq!(exchange.want(), Want::ShutDown);
        exchange.shut_down();
        assert_eq!(exchange.want(), Want::Read);
        exchange.received(b"\0");
        assert_eq!(exchange.want(), Want::Read);
        exchange.ended();
        assert_eq!(outcome(&exchange), Some(Outcome::Served));
    }

    #[test]
    fn whatever_follows_the_request_is_drained_up_to_a_mebibyte() {
        for rest in [&b"\n"[..], b"\r\n", b"\0\0", b"\0<policy-file-request/>\0", b"x"] {
            let mut exchange = fed(&[b"<policy-file-request/>"]);
            let mut whole = REQUEST.to_vec();
            whole.extend_from_slice(rest);
            exchange.clone_from(&fed(&[&whole]));
            exchange.sent(ANSWER, ANSWER);
            assert_eq!(exchange.want(), Want::ShutDown, "{}", rest.escape_ascii());
            exchange.shut_down();
            exchange.received(&vec![b'x'; 1_048_575]);
            assert_eq!(exchange.want(), Want::Read);
            exchange.received(b"x");
            assert_eq!(outcome(&exchange), Some(Outcome::Served));
        }
    }

    #[test]
    fn the_first_wrong_byte_closes_and_no_later_byte_mends_it() {
        for index in 0..REQUEST.len() {
            let mut request = *REQUEST;
            request[index] ^= 0x20;
            let exchange = fed(&[&request[..=index]]);
            let ending = Ending { outcome: Outcome::Malformed, quoted: request[..=index].into() };
            assert_eq!(exchange.want(), Want::Close(&ending), "byte {index}");
        }
    }

    #[test]
    fn what_is_quoted_of_no_request_is_short() {
        let exchange = fed(&[&[b'x'; 1000]]);
        assert!(matches!(exchange.want(), Want::Close(ending) if *ending.quoted == [b'x'; QUOTED]));
    }

    #[test]
    fn the_request_with_a_space_is_answered_however_it_is_cut() {
        for cut in 1..SPACED_REQUEST.len() {
            let (first, second) = SPACED_REQUEST.split_at(cut);
            let exchange = fed(&[first, second]);
            assert_eq!(exchange.want(), Want::Send { from: 0 }, "cut after {cut} bytes");
        }
        let by_the_book = fed(&[b"<policy-file-request />\0"]);
        assert_eq!(by_the_book.state, fed(&[b"<policy-file-request/>\0"]).state);
    }

    #[test]
    fn no_third_spelling_is_answered_however_it_is_cut() {
        for bytes in [
            &b"<policy-file-request  />\0"[..],
            b"<policy-file-request / >",
            b"<policy-file-request/ >",
            b"<policy-file-request//>",
            b"<policy-file-request>",
            b"<policy-file -request/>",
            b" <policy-file-request/>",
        ] {
            for cut in 1..=bytes.len() {
                let mut exchange = fed(&[&bytes[..cut]]);
                exchange.received(&bytes[cut..]);
                let text = bytes.escape_ascii();
                assert_eq!(outcome(&exchange), Some(Outcome::Malformed), "{text} cut after {cut}");
            }
        }
    }

    #[test]
    fn an_end_before_the_request_is_whole_aborts() {
        for length in 1..REQUEST.len() {
            let mut exchange = fed(&[&REQUEST[..length]]);
            exchange.ended();
            assert_eq!(outcome(&exchange), Some(Outcome::Aborted));
        }
    }

    #[test]
    fn whoever_leaves_without_a_byte_has_not_asked() {
        let leave: [fn(&mut Exchange<PolicyRequest>); 2] = [Exchange::ended, Exchange::failed];
        for leave in leave {
            let mut exchange = Exchange::default();
            leave(&mut exchange);
            assert_eq!(outcome(&exchange), Some(Outcome::Unasked));
        }
    }

    #[test]
    fn what_was_served_stays_served() {
        let mut exchange = fed(&[REQUEST]);
        exchange.sent(ANSWER, ANSWER);
        exchange.shut_down();
        exchange.close(Outcome::Timeout);
        assert_eq!(outcome(&exchange), Some(Outcome::Served));
        let mut unanswered = fed(&[REQUEST]);
        unanswered.close(Outcome::Timeout);
        assert_eq!(outcome(&unanswered), Some(Outcome::Timeout));
    }

    #[test]
    fn each_outcome_has_a_name_of_its_own() {
        let names = Outcome::EVERY.map(Outcome::as_str);
        assert_eq!(HashSet::from(names).len(), Outcome::EVERY.len(), "{names:?}");
    }

    #[test]
    fn an_ending_is_not_taken_back() {
        let mut served = fed(&[REQUEST]);
        served.sent(ANSWER, ANSWER);
        served.shut_down();
        assert_eq!(served.ending(Outcome::Evicted), Outcome::Served.into());
        let malformed = fed(&[b"GET /"]);
        assert_eq!(malformed.ending(Outcome::Evicted), Ending::malformed(b"GET /"));
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            tail in proptest::collection::vec(any::<u8>(), 0..64),
            cuts in proptest::collection::vec(1usize..8, 1..64),
        ) {
            let mut bytes = REQUEST.to_vec();
            bytes.extend_from_slice(&tail);
            let mut exchange = Exchange::<PolicyRequest>::default();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || exchange.want() != Want::Read {
                    break;
                }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                exchange.received(chunk);
                rest = after;
            }
            prop_assert_eq!(exchange.want(), Want::Send { from: 0 });
        }

        #[test]
        fn nothing_but_the_request_is_answered(
            bytes in proptest::collection::vec(any::<u8>(), 1..64),
        ) {
            let exchange = fed(&[&bytes]);
            let spellings = [&REQUEST[..], SPACED_REQUEST];
            let answered = exchange.want() == Want::Send { from: 0 };
            prop_assert_eq!(answered, spellings.iter().any(|it| bytes.starts_with(it)));
            let waiting = exchange.want() == Want::Read;
            let begins = |it: &&[u8]| bytes.len() < it.len() && it.starts_with(&bytes);
            prop_assert_eq!(waiting, !answered && spellings.iter().any(begins));
        }
    }
}
