//! What clients can cause in the log, and how much of it.
//!
//! Each kind of line is bounded: a flood is a line when it begins, and a count for each interval
//! while it lasts. The clock is passed in.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::exchange::{Ending, Outcome};
use super::limits::{Eviction, Source};
use super::listener::AcceptFailure;

/// Lines a second for connections that were closed, at debug level.
const CONNECTION_LINES: u32 = 10;

/// Lines a second for requests served, where the configuration asks for them.
const REQUEST_LINES: u32 = 1000;

/// Whether each request served is worth a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServedLines {
    Written,
    Unwanted,
}

/// What the log has been told, so that it is not told too much.
#[derive(Debug)]
pub(super) struct Incidents {
    connections: Throttle,
    requests: Throttle,
    evictions: Incident,
    source_limits: Incident,
    /// The source that was over its limit last.
    crowding_source: Option<Source>,
    headers_missing: Incident,
    headers_unexpected: Incident,
    accept_errors: Incident,
    reloads_awaited: Incident,
}

/// Whose connections make room for others, as of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowding {
    /// The oldest of all.
    pub(super) oldest: bool,
    /// The oldest of this source, which has had its limit.
    pub(super) source: Option<Source>,
}

impl fmt::Display for Crowding {
    /// The end of a status line; nothing where no connection makes room.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest {
            f.write_str("; the oldest unfinished connections make room")?;
        }
        match self.source {
            Some(source) => write!(f, "; the oldest of {source} make room"),
            None => Ok(()),
        }
    }
}

impl Incidents {
    pub(super) fn new() -> Self {
        Self {
            connections: Throttle::new(CONNECTION_LINES),
            requests: Throttle::new(REQUEST_LINES),
            evictions: Incident::default(),
            source_limits: Incident::default(),
            crowding_source: None,
            headers_missing: Incident::default(),
            headers_unexpected: Incident::default(),
            accept_errors: Incident::default(),
            reloads_awaited: Incident::default(),
        }
    }

    /// An exchange with `peer` is over, after `duration`.
    pub(super) fn ended(
        &mut self,
        peer: SocketAddr,
        ending: &Ending,
        duration: Duration,
        served: ServedLines,
        now: Instant,
    ) {
        let milliseconds = duration.as_secs_f64() * 1000.0;
        match ending.outcome {
            Outcome::Served if served == ServedLines::Written => {
                if self.requests.admits(now) {
                    info!("served {peer} in {milliseconds:.3} ms");
                }
            }
            _ if !log::log_enabled!(log::Level::Debug) => {}
            _ if !self.connections.admits(now) => {}
            Outcome::Malformed => {
                debug!("closed {peer}: \"{}\" is not a request", ending.quoted.escape_ascii());
            }
            outcome => debug!("closed {peer}: {} after {milliseconds:.3} ms", outcome.as_str()),
        }
    }

    /// A connection from `source` makes room for another; `open` are unfinished, itself included.
    pub(super) fn made_room(
        &mut self,
        source: Source,
        eviction: Eviction,
        open: usize,
        now: Instant,
    ) {
        match eviction {
            Eviction::Total => {
                if self.evictions.begins(now) {
                    warn!(
                        "{open} unfinished connections (limits.connections, or the descriptor \
                         limit): the oldest make room for new ones"
                    );
                }
            }
            Eviction::Source => {
                self.crowding_source = Some(source);
                if self.source_limits.begins(now) {
                    warn!(
                        "{source} has limits.connections-per-source unfinished connections: its \
                         oldest make room for new ones"
                    );
                }
            }
        }
    }

    /// A connection from `balancer` did not begin with a header of the PROXY protocol.
    pub(super) fn no_header(&mut self, balancer: SocketAddr, ending: &Ending, now: Instant) {
        if self.headers_missing.begins(now) {
            warn!(
                "closed {balancer}: \"{}\" is not a header of the PROXY protocol; have it send one \
                 (send-proxy-v2 in HAProxy, proxy_protocol on in nginx), or take it out of \
                 proxy-protocol.from",
                ending.quoted.escape_ascii()
            );
        }
    }

    /// A connection from `peer`, whom the configuration does not name as a balancer, began with a
    /// header of the PROXY protocol.
    pub(super) fn unexpected_header(&mut self, peer: SocketAddr, now: Instant) {
        if self.headers_unexpected.begins(now) {
            warn!(
                "closed {peer}: it began with a header of the PROXY protocol; if {} is your \
                 balancer, add it to proxy-protocol.from",
                peer.ip().to_canonical()
            );
        }
    }

    /// A connection could not be accepted on `address`.
    pub(super) fn accept_failed(
        &mut self,
        address: SocketAddr,
        failure: &AcceptFailure,
        now: Instant,
    ) {
        if self.accept_errors.begins(now) {
            warn!("cannot accept on {address}: {}", failure.error);
        }
    }

    /// A reload was asked for while one was running; whether that is worth a line.
    pub(super) fn reload_awaited(&mut self, now: Instant) -> bool {
        self.reloads_awaited.begins(now)
    }

    /// Whether connections make room: now, or less than two minutes ago.
    pub(super) fn is_crowded(&self) -> bool {
        self.evictions.due().is_some() || self.source_limits.due().is_some()
    }

    /// Whose connections do.
    pub(super) fn crowding(&self) -> Crowding {
        let is_over_limit = self.source_limits.due().is_some();
        Crowding {
            oldest: self.evictions.due().is_some(),
            source: self.crowding_source.filter(|_| is_over_limit),
        }
    }

    /// When [`settle`](Self::settle) has something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        let Self {
            connections,
            requests,
            evictions,
            source_limits,
            crowding_source: _,
            headers_missing,
            headers_unexpected,
            accept_errors,
            reloads_awaited,
        } = self;
        [
            connections.due(),
            requests.due(),
            evictions.due(),
            source_limits.due(),
            headers_missing.due(),
            headers_unexpected.due(),
            accept_errors.due(),
            reloads_awaited.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Says how much the log was spared.
    pub(super) fn settle(&mut self, now: Instant) {
        if let Some(lines) = self.connections.settle(now) {
            debug!("{lines} more connections were closed in the last second");
        }
        if let Some(lines) = self.requests.settle(now) {
            info!("{lines} more requests were served in the last second");
        }
        let interval = Incident::INTERVAL.as_secs();
        if let Some(count) = self.evictions.settle(now) {
            warn!("{count} more unfinished connections made room in the last {interval} s");
        }
        if let Some(count) = self.source_limits.settle(now) {
            warn!(
                "{count} more connections were over their source's limit in the last {interval} s"
            );
        }
        if let Some(count) = self.headers_missing.settle(now) {
            warn!(
                "{count} more connections from proxy-protocol.from had no header of the PROXY \
                 protocol in the last {interval} s"
            );
        }
        if let Some(count) = self.headers_unexpected.settle(now) {
            warn!(
                "{count} more connections began with a header of the PROXY protocol in the last \
                 {interval} s and are not from proxy-protocol.from"
            );
        }
        if let Some(count) = self.accept_errors.settle(now) {
            warn!("accept failed {count} more times in the last {interval} s");
        }
        if let Some(count) = self.reloads_awaited.settle(now) {
            info!(
                "a reload was asked for {count} more times in the last {interval} s while one was \
                 running"
            );
        }
    }
}

/// Bounds how many lines a second clients can cause. The clock is passed in.
#[derive(Debug)]
pub(super) struct Throttle {
    lines_per_second: u32,
    second_ends: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Throttle {
    /// Lets so many lines through in each second.
    pub(super) fn new(lines_per_second: u32) -> Self {
        Self { lines_per_second, second_ends: None, written: 0, suppressed: 0 }
    }

    /// Whether one more line may be written now.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        if self.second_ends.is_none_or(|end| end <= now) && self.suppressed == 0 {
            self.second_ends = Some(now + Duration::from_secs(1));
            self.written = 0;
        }
        // One line of the second is kept for the summary.
        if self.written + 1 < self.lines_per_second {
            self.written += 1;
            true
        } else {
            self.suppressed += 1;
            false
        }
    }

    /// When [`settle`](Self::settle) has something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.second_ends.filter(|_| self.suppressed > 0)
    }

    /// How many lines were held back in the second that has ended; the caller logs the number.
    pub(super) fn settle(&mut self, now: Instant) -> Option<u64> {
        self.due().filter(|end| *end <= now)?;
        self.second_ends = Some(now + Duration::from_secs(1));
        // The summary itself is the first line of the next second.
        self.written = 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Something that happens again and again under attack: worth a line when it begins, and a count
/// per interval while it goes on. The clock is passed in.
#[derive(Debug, Default)]
pub(super) struct Incident {
    interval_ends: Option<Instant>,
    count: u64,
}

impl Incident {
    /// How long occurrences are counted before they are told.
    const INTERVAL: Duration = Duration::from_secs(60);

    /// Takes note of one occurrence; whether it is the first one, and so worth a line at once.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        if self.interval_ends.is_none() {
            self.interval_ends = Some(now + Self::INTERVAL);
            return true;
        }
        self.count += 1;
        false
    }

    /// When [`settle`](Self::settle) has something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        self.interval_ends
    }

    /// How many more occurrences there were in the interval that has ended. When there were none,
    /// the incident is over and the next one begins with a line again.
    pub(super) fn settle(&mut self, now: Instant) -> Option<u64> {
        self.interval_ends.filter(|end| *end <= now)?;
        let count = std::mem::take(&mut self.count);
        self.interval_ends = (count > 0).then(|| now + Self::INTERVAL);
        (count > 0).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::limits::SourcePrefix;

    #[test]
    fn a_flood_is_a_few_lines_and_a_count_per_second() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10);
        let mut lines = 0;
        let mut counted = 0;
        for millisecond in 0..5000 {
            let now = start + Duration::from_millis(millisecond);
            if let Some(suppressed) = throttle.settle(now) {
                counted += suppressed;
                lines += 1;
            }
            if throttle.admits(now) {
                counted += 1;
                lines += 1;
            }
        }
        assert!(lines <= 50, "{lines} lines in 5 s");
        let end = throttle.due().unwrap();
        counted += throttle.settle(end).unwrap();
        assert_eq!(counted, 5000);
        assert_eq!(throttle.due(), None);
    }

    #[test]
    fn a_line_now_and_then_is_never_held_back() {
        let start = Instant::now();
        let mut throttle = Throttle::new(10);
        assert!((0..100).all(|second| throttle.admits(start + Duration::from_secs(second))));
        assert_eq!(throttle.due(), None);
    }

    #[test]
    fn it_is_told_whose_connections_make_room_as_long_as_they_do() {
        let (now, open) = (Instant::now(), 3);
        let source = |ip: [u8; 4]| SourcePrefix::default().source_of(ip.into());
        let mut incidents = Incidents::new();
        let crowding = |incidents: &Incidents| incidents.crowding().to_string();
        assert!(!incidents.is_crowded());
        incidents.made_room(source([192, 0, 2, 7]), Eviction::Source, open, now);
        incidents.made_room(source([192, 0, 2, 8]), Eviction::Source, open, now);
        assert!(incidents.is_crowded());
        assert_eq!(crowding(&incidents), "; the oldest of 192.0.2.8 make room");
        incidents.made_room(source([192, 0, 2, 9]), Eviction::Total, open, now);
        assert_eq!(
            crowding(&incidents),
            "; the oldest unfinished connections make room; the oldest of 192.0.2.8 make room"
        );
        incidents.settle(now + Incident::INTERVAL);
        incidents.settle(now + 2 * Incident::INTERVAL);
        assert_eq!((crowding(&incidents).as_str(), incidents.is_crowded()), ("", false));
    }

    #[test]
    fn an_incident_is_told_when_it_begins_and_counted_while_it_lasts() {
        let start = Instant::now();
        let later = |intervals: u32| start + Incident::INTERVAL * intervals;
        let mut incident = Incident::default();
        assert_eq!(incident.due(), None);
        assert!(incident.begins(start));
        assert!(!incident.begins(start));
        assert!(!incident.begins(start));
        assert_eq!(incident.settle(start), None);
        assert_eq!(incident.settle(later(1)), Some(2));
        assert_eq!(incident.settle(later(2)), None);
        assert_eq!(incident.due(), None);
        assert!(incident.begins(later(3)));
    }
}
