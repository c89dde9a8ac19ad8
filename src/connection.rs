//! One exchange, a request and its answer, as a state machine fed with bytes.
//!
//! It owns the order of things: when the request is complete, when it can no longer become one,
//! when to shut down and when to drain so that no reset overtakes the answer. It knows no socket,
//! no clock and no mio: whoever drives it does what [`Exchange::want`] asks for and reports what
//! came of it.

/// What a client sends, before a terminator that is a NUL by the book, and anything or nothing in
/// the wild.
pub const REQUEST: &[u8; 22] = b"<policy-file-request/>";

/// How many bytes after the request are read and thrown away, at most, while waiting for the
/// client to close. A client that sends more than this is closed on, and may see a reset.
pub const DRAIN_LIMIT: usize = 1024 * 1024;

/// The longest answer that leaves at once, in bytes: ten segments, which is the initial congestion
/// window of RFC 6928. What has not left when the socket is closed is lost if the client sends one
/// more byte, so with a longer answer the client has to close first.
const SENT_AT_ONCE: usize = 10 * 1428;

/// What a server waits for before it answers.
pub trait Request: Default {
    /// Takes what the client sent, which is not empty, until the request is complete or cannot
    /// become one.
    fn take(&mut self, bytes: &[u8]) -> Taken;
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
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
}

impl Request for PolicyRequest {
    fn take(&mut self, bytes: &[u8]) -> Taken {
        let missing = &REQUEST[usize::from(self.matched)..];
        let length = missing.len().min(bytes.len());
        if bytes[..length] != missing[..length] {
            Taken::Malformed
        } else if length < missing.len() {
            // Less than REQUEST is long, so it fits.
            self.matched += u8::try_from(length).unwrap_or(0);
            Taken::Unfinished
        } else if bytes[length..] == [0] {
            Taken::Complete(Rest::Nothing)
        } else {
            Taken::Complete(Rest::Perhaps)
        }
    }
}

/// One exchange, from the first byte to the close.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange<R> {
    request: R,
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
    Closed(Outcome),
}

/// What follows once the answer has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterAnswer {
    Close,
    Drain,
}

/// What the exchange needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
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
    Close(Outcome),
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
    /// The client ended or reset the connection before it had asked and been answered.
    Aborted,
}

impl Outcome {
    /// Every outcome, in the order of their discriminants.
    pub const EVERY: [Self; 6] = [
        Self::Served,
        Self::Malformed,
        Self::Timeout,
        Self::Evicted,
        Self::SourceLimit,
        Self::Aborted,
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
        }
    }
}

impl<R: Request> Exchange<R> {
    /// The request as far as it has come; the whole of it once an answer is wanted.
    pub fn request(&self) -> &R {
        &self.request
    }

    /// What is needed next.
    #[must_use]
    pub fn want(&self) -> Want {
        match self.state {
            State::Request | State::Drain { .. } => Want::Read,
            State::Answer { sent, .. } => Want::Send { from: sent },
            State::ShutDown { .. } => Want::ShutDown,
            State::Closed(outcome) => Want::Close(outcome),
        }
    }

    /// Takes what the client sent; `bytes` is not empty.
    pub fn received(&mut self, bytes: &[u8]) {
        match self.state {
            State::Request => {
                self.state = match self.request.take(bytes) {
                    Taken::Unfinished => State::Request,
                    Taken::Complete(rest) => State::Answer { sent: 0, rest },
                    Taken::Malformed => State::Closed(Outcome::Malformed),
                };
            }
            State::Drain { drained } => {
                let drained = drained.saturating_add(bytes.len());
                self.state = if drained < DRAIN_LIMIT {
                    State::Drain { drained }
                } else {
                    State::Closed(Outcome::Served)
                };
            }
            State::Answer { .. } | State::ShutDown { .. } | State::Closed(_) => {}
        }
    }

    /// Takes note that the client will send no more.
    pub fn ended(&mut self) {
        self.state = match self.state {
            State::Request => State::Closed(Outcome::Aborted),
            State::Drain { .. } => State::Closed(Outcome::Served),
            state => state,
        };
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
                AfterAnswer::Close => State::Closed(Outcome::Served),
                AfterAnswer::Drain => State::Drain { drained: 0 },
            };
        }
    }

    /// Takes note that the connection is broken.
    pub fn failed(&mut self) {
        self.close(Outcome::Aborted);
    }

    /// Ends the exchange early. What had been served stays served.
    pub fn close(&mut self, outcome: Outcome) {
        self.state = State::Closed(match self.state {
            State::Request | State::Answer { .. } => outcome,
            State::ShutDown { .. } | State::Drain { .. } => Outcome::Served,
            State::Closed(earlier) => earlier,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANSWER: usize = 100;

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
        assert_eq!(exchange.want(), Want::Close(Outcome::Served));
    }

    #[test]
    fn an_answer_that_cannot_leave_at_once_is_not_closed_on() {
        for (length, next) in [
            (SENT_AT_ONCE, Want::Close(Outcome::Served)),
            (SENT_AT_ONCE + 1, Want::Read),
        ] {
            let mut exchange = fed(&[b"<policy-file-request/>\0"]);
            exchange.sent(length, length);
            exchange.shut_down();
            assert_eq!(exchange.want(), next, "an answer of {length} bytes");
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
        assert_eq!(exchange.want(), Want::Close(Outcome::Served));
    }

    #[test]
    fn whatever_follows_the_request_is_drained_up_to_a_limit() {
        for rest in [&b"\n"[..], b"\r\n", b"\0\0", b"\0<policy-file-request/>\0", b"x"] {
            let mut exchange = fed(&[b"<policy-file-request/>"]);
            let mut whole = REQUEST.to_vec();
            whole.extend_from_slice(rest);
            exchange.clone_from(&fed(&[&whole]));
            exchange.sent(ANSWER, ANSWER);
            assert_eq!(exchange.want(), Want::ShutDown, "{}", rest.escape_ascii());
            exchange.shut_down();
            exchange.received(&vec![b'x'; DRAIN_LIMIT - 1]);
            assert_eq!(exchange.want(), Want::Read);
            exchange.received(b"x");
            assert_eq!(exchange.want(), Want::Close(Outcome::Served));
        }
    }

    #[test]
    fn the_first_wrong_byte_closes_and_no_later_byte_mends_it() {
        for index in 0..REQUEST.len() {
            let mut request = *REQUEST;
            request[index] ^= 0x20;
            let exchange = fed(&[&request[..=index]]);
            assert_eq!(exchange.want(), Want::Close(Outcome::Malformed), "byte {index}");
        }
    }

    #[test]
    fn an_end_before_the_request_is_whole_aborts() {
        for length in 0..REQUEST.len() {
            let mut exchange = Exchange::<PolicyRequest>::default();
            if length > 0 {
                exchange.received(&REQUEST[..length]);
            }
            exchange.ended();
            assert_eq!(exchange.want(), Want::Close(Outcome::Aborted));
        }
    }

    #[test]
    fn what_was_served_stays_served() {
        let mut exchange = fed(&[REQUEST]);
        exchange.sent(ANSWER, ANSWER);
        exchange.shut_down();
        exchange.close(Outcome::Timeout);
        assert_eq!(exchange.want(), Want::Close(Outcome::Served));
        let mut unanswered = fed(&[REQUEST]);
        unanswered.close(Outcome::Timeout);
        assert_eq!(unanswered.want(), Want::Close(Outcome::Timeout));
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
            let answered = exchange.want() == Want::Send { from: 0 };
            prop_assert_eq!(answered, bytes.starts_with(REQUEST));
            let waiting = exchange.want() == Want::Read;
            prop_assert_eq!(waiting, bytes.len() < REQUEST.len() && REQUEST.starts_with(&bytes));
        }
    }
}
