//! The unfinished connections: how many there may be in all and from one source, which of them
//! makes room for a newcomer, when a newcomer waits for that, and when each has to be done. The
//! clock is passed in.
//!
//! One list through the connections gives the oldest of all, and one list per source the oldest of
//! that source. Runs are lists in the order of the deadlines. While every connection has the same
//! time to finish there is one run. A connection that has less time than the ones before it,
//! because a reload shortened the time, begins another, so there are at most as many runs as there
//! were different times. With that number fixed, all operations take constant time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::network::Network;

/// What all clients together, and each source, may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Unfinished connections in all; at least 1.
    pub connections: usize,
    /// Unfinished connections of one source; at least 1.
    pub connections_per_source: usize,
    /// Which addresses are one source.
    pub source_prefix: SourcePrefix,
    /// The deadline of a whole exchange, counted from accept.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_source: 32,
            source_prefix: SourcePrefix::default(),
            request_timeout: Duration::from_secs(5),
        }
    }
}

/// Who a connection is counted against: a client, as far as its address tells.
pub type Source = Network;

/// How many bits the addresses of one source share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourcePrefix {
    /// Of IPv4 addresses, at most 32.
    pub ipv4: u8,
    /// Of IPv6 addresses, at most 128.
    pub ipv6: u8,
}

impl Default for SourcePrefix {
    /// One IPv4 address, and an IPv6 /64: of that, an attacker has as many addresses as he likes.
    fn default() -> Self {
        Self { ipv4: 32, ipv6: 64 }
    }
}

impl SourcePrefix {
    /// The source that `address` belongs to.
    #[must_use]
    pub fn source_of(self, address: IpAddr) -> Source {
        let address = address.to_canonical();
        Network::around(address, if address.is_ipv4() { self.ipv4 } else { self.ipv6 })
    }
}

/// How long a client has for its request, whatever happens, from the time that the server knows
/// of its connection: in the queue of the kernel, or accepted.
///
/// A client sends its request right behind the last segment of the handshake, so this is the time
/// of a client that is slow to run or of a segment that comes late. `tests/crowd.rs` compares
/// what else could decide who makes room.
pub const GRACE: Duration = Duration::from_millis(200);

/// Why a connection had to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// There were as many connections as there may be; it was the oldest.
    Total,
    /// Its source had as many connections as it may have; it was that source's oldest.
    Source,
}

/// The unfinished connections, each a `T` under a key that is free for reuse once it is removed.
#[derive(Debug)]
pub struct Connections<T> {
    entries: Slab<Entry<T>>,
    arrivals: Ends,
    /// Every connection is in one of these; the last one is not empty.
    runs: Vec<Run>,
    sources: HashMap<Source, Ends>,
    capacity: usize,
    /// So many there were when the system had nothing left for another.
    most_at_present: Option<usize>,
    per_source: usize,
}

#[derive(Debug)]
struct Entry<T> {
    connection: T,
    /// None where it is not known yet.
    source: Option<Source>,
    /// Since when the server knows of it.
    since: Instant,
    deadline: Instant,
    /// Index of the run it is in.
    run: u32,
    /// Neighbours in that run.
    in_run: Links,
    /// Neighbours among all connections.
    among_all: Links,
    /// Neighbours among those of the same source, where that is known.
    among_source: Links,
}

/// The neighbours of a connection in one list; [`NOBODY`] at its ends.
#[derive(Debug, Clone, Copy)]
struct Links {
    older: u32,
    newer: u32,
}

/// The ends of one list, and how long it is.
#[derive(Debug, Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
    count: u32,
}

/// A list of connections whose deadlines never decrease.
#[derive(Debug)]
struct Run {
    ends: Ends,
    /// The latest deadline that was ever put in.
    latest: Instant,
}

const NOBODY: u32 = u32::MAX;

/// Memory for so many connections is kept when there are none.
const KEPT_CAPACITY: usize = 64;

impl Ends {
    const EMPTY: Self = Self { oldest: NOBODY, newest: NOBODY, count: 0 };
}

/// Which of an entry's lists is meant.
type List<T> = fn(&mut Entry<T>) -> &mut Links;

fn among_all<T>(entry: &mut Entry<T>) -> &mut Links {
    &mut entry.among_all
}

fn in_run<T>(entry: &mut Entry<T>) -> &mut Links {
    &mut entry.in_run
}

fn among_source<T>(entry: &mut Entry<T>) -> &mut Links {
    &mut entry.among_source
}

/// A key as lists have it. The capacity is below [`NOBODY`], so every key is, too.
fn link(key: usize) -> u32 {
    u32::try_from(key).unwrap_or(NOBODY)
}

/// Puts `key` at the new end of a list.
fn append<T>(entries: &mut Slab<Entry<T>>, ends: &mut Ends, list: List<T>, key: u32) {
    *list(&mut entries[key as usize]) = Links { older: ends.newest, newer: NOBODY };
    match ends.newest {
        NOBODY => ends.oldest = key,
        newest => list(&mut entries[newest as usize]).newer = key,
    }
    ends.newest = key;
    ends.count += 1;
}

/// Takes an entry with these `links` out of a list.
fn unlink<T>(entries: &mut Slab<Entry<T>>, ends: &mut Ends, list: List<T>, links: Links) {
    match links.older {
        NOBODY => ends.oldest = links.newer,
        older => list(&mut entries[older as usize]).newer = links.newer,
    }
    match links.newer {
        NOBODY => ends.newest = links.older,
        newer => list(&mut entries[newer as usize]).older = links.older,
    }
    ends.count -= 1;
}

impl<T> Connections<T> {
    /// Room for `capacity` connections, `per_source` of them from one source; each at least 1.
    #[must_use]
    pub fn new(capacity: usize, per_source: usize) -> Self {
        let mut connections = Self {
            entries: Slab::new(),
            arrivals: Ends::EMPTY,
            runs: Vec::new(),
            sources: HashMap::new(),
            capacity: 1,
            most_at_present: None,
            per_source: 1,
        };
        connections.set_limits(capacity, per_source);
        connections
    }

    /// Changes the limits. Connections beyond the new ones go as newcomers arrive.
    pub fn set_limits(&mut self, capacity: usize, per_source: usize) {
        self.capacity = capacity.clamp(1, NOBODY as usize - 1);
        self.per_source = per_source.max(1);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes one connection out to make room for a newcomer from `source`, where that is needed:
    /// the oldest of the same source when the source is at its limit, else the oldest of all when
    /// all are. Call it until it returns `None`, then [`insert`](Self::insert).
    pub fn make_room(&mut self, source: Option<Source>) -> Option<(T, Eviction)> {
        if let Some(connection) = source.and_then(|source| self.make_room_in(source)) {
            return Some((connection, Eviction::Source));
        }
        if self.len() < self.capacity {
            return None;
        }
        self.remove_oldest().map(|connection| (connection, Eviction::Total))
    }

    /// Takes the oldest connection of `source` out where the source is at its limit. Call it until
    /// it returns `None`, then [`set_source`](Self::set_source).
    pub fn make_room_in(&mut self, source: Source) -> Option<T> {
        let ends = self.sources.get(&source)?;
        let oldest = ends.oldest;
        (ends.count as usize >= self.per_source).then(|| self.remove(oldest as usize)).flatten()
    }

    /// Counts the connection under `key`, whose source was not known, against `source` from now on:
    /// it is the newest there.
    pub fn set_source(&mut self, key: usize, source: Source) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.source.is_none()) else {
            return;
        };
        entry.source = Some(source);
        self.count(key, source);
    }

    fn count(&mut self, key: usize, source: Source) {
        let ends = self.sources.entry(source).or_insert(Ends::EMPTY);
        append(&mut self.entries, ends, among_source, link(key));
    }

    /// Until when a newcomer has to wait so that the connection which makes room for it has had
    /// its [`GRACE`]; `None` is not at all.
    #[must_use]
    pub fn crowded_until(&self, now: Instant) -> Option<Instant> {
        if self.len() < self.most_at_present.unwrap_or(self.capacity).min(self.capacity) {
            return None;
        }
        let oldest = self.entries.get(self.arrivals.oldest as usize)?;
        Some(oldest.since + GRACE).filter(|end| *end > now)
    }

    /// Takes note that the system has no descriptor or memory for another connection: until it is
    /// seen to have, there are as many places as there are connections now.
    pub fn fill(&mut self) {
        self.most_at_present = Some(self.len());
    }

    /// Adds a connection of which the server knows `since` then, and returns its key. Where its
    /// `source` is not known, it counts among all and against nobody.
    pub fn insert(
        &mut self,
        source: Option<Source>,
        since: Instant,
        deadline: Instant,
        connection: T,
    ) -> usize {
        let run = self.run_for(deadline);
        let links = Links { older: NOBODY, newer: NOBODY };
        let key = self.entries.insert(Entry {
            connection,
            source,
            since,
            deadline,
            // There are fewer runs than numbers of this type.
            run: u32::try_from(run).unwrap_or(NOBODY),
            in_run: links,
            among_all: links,
            among_source: links,
        });
        append(&mut self.entries, &mut self.arrivals, among_all, link(key));
        append(&mut self.entries, &mut self.runs[run].ends, in_run, link(key));
        if let Some(source) = source {
            self.count(key, source);
        }
        self.most_at_present = self.most_at_present.filter(|most| *most >= self.len());
        key
    }

    /// The first run that a connection with this deadline can be appended to. It is made where
    /// there is none.
    fn run_for(&mut self, deadline: Instant) -> usize {
        let index = self.runs.iter().position(|run| run.latest <= deadline).unwrap_or_else(|| {
            self.runs.push(Run { ends: Ends::EMPTY, latest: deadline });
            self.runs.len() - 1
        });
        self.runs[index].latest = deadline;
        index
    }

    /// The connection under `key`.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.connection)
    }

    /// Takes out the connection under `key`.
    pub fn remove(&mut self, key: usize) -> Option<T> {
        let entry = self.entries.try_remove(key)?;
        unlink(&mut self.entries, &mut self.arrivals, among_all, entry.among_all);
        let run = &mut self.runs[entry.run as usize].ends;
        unlink(&mut self.entries, run, in_run, entry.in_run);
        while self.runs.last().is_some_and(|run| run.ends.count == 0) {
            self.runs.pop();
        }
        if let Some(source) = entry.source {
            if let Some(ends) = self.sources.get_mut(&source) {
                unlink(&mut self.entries, ends, among_source, entry.among_source);
                if ends.count == 0 {
                    self.sources.remove(&source);
                }
            }
        }
        if self.is_empty() {
            self.most_at_present = None;
        }
        if self.is_empty() && self.entries.capacity() > KEPT_CAPACITY {
            // A flood has passed: its memory goes back.
            self.entries.shrink_to_fit();
            self.sources.shrink_to_fit();
        }
        Some(entry.connection)
    }

    /// Takes out the oldest connection.
    pub fn remove_oldest(&mut self) -> Option<T> {
        self.remove(self.arrivals.oldest as usize)
    }

    /// When the next connection has to be done.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_due().map(|(deadline, _)| deadline)
    }

    /// Takes out one connection whose deadline has passed.
    pub fn remove_expired(&mut self, now: Instant) -> Option<T> {
        let (_, key) = self.next_due().filter(|(deadline, _)| *deadline <= now)?;
        self.remove(key as usize)
    }

    /// The connection that has to be done next, and when.
    fn next_due(&self) -> Option<(Instant, u32)> {
        let first = |run: &Run| {
            let key = run.ends.oldest;
            self.entries.get(key as usize).map(|entry| (entry.deadline, key))
        };
        self.runs.iter().filter_map(first).min_by_key(|(deadline, _)| *deadline)
    }
}

/// The queue of a listening socket, in which the kernel keeps connections until they are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How many connections are in it, at least 1.
    pub waiting: u32,
    /// How many it holds.
    pub most: u32,
}

impl Backlog {
    /// Whether it is so full that nobody in it may be left waiting: it must never be full.
    #[must_use]
    pub fn is_pressing(self) -> bool {
        self.waiting > self.most / 2
    }
}

/// The connections in one such queue, as far as it is known since when they have been there.
///
/// Their time passes while they wait: a request that comes meanwhile is there when its connection
/// is accepted, and then needs no place among the unfinished.
#[derive(Debug, Default)]
pub struct Newcomers {
    seen: Option<Seen>,
}

/// The first connections of a queue, so many, have been there since then or longer.
#[derive(Debug, Clone, Copy)]
struct Seen {
    since: Instant,
    count: u32,
}

/// When the first connection of a queue is to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Now. The server knows of it since then.
    Now {
        /// What [`Connections::insert`] wants to know.
        since: Instant,
    },
    /// Then, or once a place is free.
    Later {
        /// When to ask again at the latest.
        until: Instant,
    },
}

impl Newcomers {
    /// When the first of a queue is to be accepted, which is at once unless the places are
    /// [crowded](Connections::crowded_until). The queue never fills because of that: once it is
    /// half full, nobody waits.
    pub fn turn(&mut self, crowded_until: Option<Instant>, queue: Backlog, now: Instant) -> Turn {
        let waiting = queue.waiting;
        let seen = match self.seen {
            Some(Seen { since, count }) => Seen { since, count: count.min(waiting) },
            None => Seen { since: now, count: waiting },
        };
        if let Some(until) = crowded_until.filter(|_| !queue.is_pressing()) {
            self.seen = Some(seen);
            return Turn::Later { until };
        }
        let count = seen.count.saturating_sub(1);
        self.seen = (count > 0).then_some(Seen { count, ..seen });
        Turn::Now { since: seen.since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn source(number: u8) -> Source {
        SourcePrefix::default().source_of(IpAddr::from([127, 0, 1, number]))
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64_unless_told_otherwise() {
        let source = |prefix: SourcePrefix, text: &str| prefix.source_of(text.parse().unwrap());
        let by_default = |text| source(SourcePrefix::default(), text);
        assert_eq!(by_default("2001:db8:1:2::1"), by_default("2001:db8:1:2:ffff::9"));
        assert_ne!(by_default("2001:db8:1:2::1"), by_default("2001:db8:1:3::1"));
        assert_ne!(by_default("192.0.2.1"), by_default("192.0.2.2"));
        assert_eq!(by_default("::ffff:192.0.2.1"), by_default("192.0.2.1"));
        let wide = |text| source(SourcePrefix { ipv4: 24, ipv6: 48 }, text);
        assert_eq!(wide("192.0.2.1"), wide("::ffff:192.0.2.200"));
        assert_ne!(wide("192.0.2.1"), wide("192.0.3.1"));
        assert_eq!(wide("2001:db8:1:2::1"), wide("2001:db8:1:3::1"));
    }

    #[test]
    fn a_connection_stays_with_the_source_that_it_came_with() {
        let now = Instant::now();
        let address: IpAddr = "192.0.2.0".parse().unwrap();
        let of = |ipv4| Some(SourcePrefix { ipv4, ..SourcePrefix::default() }.source_of(address));
        let mut connections = Connections::new(10, 1);
        let key = connections.insert(of(32), now, now, "counted by its address");
        // As after a reload that widened the prefix.
        assert_eq!(connections.make_room(of(24)), None);
        connections.insert(of(24), now, now, "counted by its network");
        assert_eq!(connections.remove(key), Some("counted by its address"));
        assert_eq!(connections.make_room(of(32)), None);
        let made_room = ("counted by its network", Eviction::Source);
        assert_eq!(connections.make_room(of(24)), Some(made_room));
    }

    #[test]
    fn the_oldest_of_the_source_goes_before_the_oldest_of_all() {
        let now = Instant::now();
        let mut connections = Connections::new(3, 2);
        connections.insert(Some(source(1)), now, now, "a1");
        connections.insert(Some(source(2)), now, now, "b1");
        connections.insert(Some(source(2)), now, now, "b2");
        assert_eq!(connections.make_room(Some(source(2))), Some(("b1", Eviction::Source)));
        assert_eq!(connections.make_room(Some(source(2))), None);
        connections.insert(Some(source(2)), now, now, "b3");
        assert_eq!(connections.make_room(Some(source(3))), Some(("a1", Eviction::Total)));
        assert_eq!(connections.make_room(Some(source(3))), None);
    }

    #[test]
    fn without_descriptors_there_are_as_many_places_as_connections() {
        let now = Instant::now();
        let mut connections = Connections::new(10, 10);
        let keys = [1, 2].map(|number| connections.insert(Some(source(number)), now, now, number));
        assert_eq!(connections.crowded_until(now), None);
        connections.fill();
        assert_eq!(connections.crowded_until(now), Some(now + GRACE));
        assert_eq!(connections.crowded_until(now + GRACE), None, "the oldest has had its time");
        connections.remove(keys[0]);
        assert_eq!(connections.crowded_until(now), None, "a descriptor is free");
        connections.insert(Some(source(3)), now, now, 3);
        assert_eq!(connections.crowded_until(now), Some(now + GRACE));
        connections.insert(Some(source(4)), now, now, 4);
        assert_eq!(connections.crowded_until(now), None, "there are more descriptors after all");
        connections.fill();
        let most = connections.len();
        while connections.remove_oldest().is_some() {}
        for _ in 0..most {
            connections.insert(Some(source(5)), now, now, 5);
        }
        assert_eq!(connections.crowded_until(now), None, "all that was held is free again");
    }

    #[test]
    fn the_memory_of_a_flood_goes_back_when_it_is_over_and_that_of_64_connections_is_kept() {
        let now = Instant::now();
        let mut connections = Connections::new(1000, 1000);
        for (count, kept) in [(64, 64), (1000, 0)] {
            for number in 0..count {
                connections.insert(Some(source(1)), now, now, number);
            }
            while connections.len() > 1 {
                connections.remove_oldest();
                assert!(connections.entries.capacity() >= count, "while the flood goes on");
            }
            connections.remove_oldest();
            assert_eq!(connections.entries.capacity(), kept, "after {count} connections");
        }
    }

    #[test]
    fn however_many_connections_there_may_be_no_key_of_theirs_ends_a_list() {
        assert!(Connections::<()>::new(usize::MAX, 1).capacity < NOBODY as usize);
    }

    #[test]
    fn a_deadline_before_that_of_an_earlier_connection_counts() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut connections = Connections::new(10, 10);
        connections.insert(Some(source(1)), now, now + 5 * second, 1);
        // As after a reload that shortened the time.
        connections.insert(Some(source(1)), now, now + 2 * second, 2);
        connections.insert(Some(source(2)), now, now + 3 * second, 3);
        connections.insert(Some(source(2)), now, now + 6 * second, 4);
        assert_eq!(connections.next_deadline(), Some(now + 2 * second));
        assert_eq!(connections.remove_expired(now + second), None);
        let expired = std::iter::from_fn(|| connections.remove_expired(now + 5 * second));
        assert_eq!(expired.collect::<Vec<_>>(), [2, 3, 1]);
        assert_eq!(connections.next_deadline(), Some(now + 6 * second));
        assert_eq!(connections.len(), 1);
    }

    #[test]
    fn reloads_that_shorten_and_lengthen_the_time_leave_two_runs() {
        let now = Instant::now();
        let mut connections = Connections::new(1000, 1000);
        for number in 0..1000 {
            let time = Duration::from_secs(if number % 2 == 0 { 20 } else { 5 });
            connections.insert(
                Some(source(1)),
                now,
                now + Duration::from_millis(number) + time,
                number,
            );
        }
        assert_eq!(connections.runs.len(), 2);
        while connections.remove_oldest().is_some() {}
        assert!(connections.runs.is_empty());
    }

    #[test]
    fn lowered_limits_take_hold_as_newcomers_arrive() {
        let now = Instant::now();
        let mut connections = Connections::new(8, 8);
        for number in 0..8 {
            connections.insert(Some(source(number)), now, now, number);
        }
        connections.set_limits(2, 8);
        let mut gone = Vec::new();
        while let Some((connection, _)) = connections.make_room(Some(source(9))) {
            gone.push(connection);
        }
        assert_eq!(gone, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn who_waited_in_the_queue_makes_room_at_once_and_who_did_not_has_its_grace() {
        let start = Instant::now();
        let millisecond = Duration::from_millis(1);
        let mut connections = Connections::new(1, 1);
        let mut newcomers = Newcomers::default();
        let mut turn = |connections: &Connections<u32>, waiting, now| {
            newcomers.turn(connections.crowded_until(now), Backlog { waiting, most: 100 }, now)
        };
        assert_eq!(turn(&connections, 3, start), Turn::Now { since: start });
        connections.insert(Some(source(1)), start, start + 5000 * millisecond, 1);
        // Two are left, and two more come while they wait.
        let now = start + 10 * millisecond;
        assert_eq!(turn(&connections, 2, now), Turn::Later { until: start + GRACE });
        let now = start + GRACE;
        for number in [2, 3] {
            assert_eq!(turn(&connections, 6 - number, now), Turn::Now { since: start });
            assert!(connections.make_room(Some(source(2))).is_some());
            connections.insert(Some(source(2)), start, now + 5000 * millisecond, number);
        }
        // The server sees the third now.
        assert_eq!(turn(&connections, 2, now), Turn::Now { since: now });
        assert!(connections.make_room(Some(source(2))).is_some());
        connections.insert(Some(source(2)), now, now + 5000 * millisecond, 4);
        assert_eq!(turn(&connections, 1, now), Turn::Later { until: now + GRACE });
        connections.remove_oldest();
        assert_eq!(turn(&connections, 1, now), Turn::Now { since: now });
    }

    #[test]
    fn a_queue_that_is_half_full_waits_for_nothing() {
        let now = Instant::now();
        let until = now + GRACE;
        let mut newcomers = Newcomers::default();
        let mut turn = |waiting| newcomers.turn(Some(until), Backlog { waiting, most: 100 }, now);
        assert_eq!(turn(50), Turn::Later { until });
        assert_eq!(turn(51), Turn::Now { since: now });
        assert_eq!(turn(50), Turn::Later { until });
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// From this source or one that is not known yet, with so long to finish.
        Arrive(Option<u8>, u64),
        /// One whose source is not known turns out to be from this one.
        Name(usize, u8),
        Leave(usize),
        Expire(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (proptest::option::of(0u8..5), prop_oneof![Just(50), Just(10), Just(200)])
                .prop_map(|(number, patience)| Step::Arrive(number, patience)),
            1 => (any::<usize>(), 0u8..5).prop_map(|(which, number)| Step::Name(which, number)),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => (0u64..200).prop_map(Step::Expire),
        ];
        proptest::collection::vec(step, 1..200)
    }

    /// A connection of the model: known by its time of arrival.
    #[derive(Debug, Clone, Copy)]
    struct Arrived {
        time: u64,
        number: Option<u8>,
        /// When its source became known.
        named: u64,
        deadline: u64,
        key: usize,
    }

    const CAPACITY: usize = 12;
    const PER_SOURCE: usize = 4;

    /// Where in the model stands the one that has been longest with this source, if the source has
    /// as many as it may.
    fn crowded(model: &[Arrived], number: u8) -> Option<usize> {
        let mut own: Vec<_> =
            (0..model.len()).filter(|index| model[*index].number == Some(number)).collect();
        own.sort_by_key(|index| model[*index].named);
        own.first().copied().filter(|_| own.len() >= PER_SOURCE)
    }

    proptest! {
        /// Against a plain vector in the order of arrival that is searched from its start.
        #[test]
        fn it_agrees_with_a_naive_model(steps in steps()) {
            let start = Instant::now();
            let at = |time| start + Duration::from_millis(time);
            let mut connections = Connections::new(CAPACITY, PER_SOURCE);
            let mut model: Vec<Arrived> = Vec::new();
            for (time, step) in (0u64..).zip(steps) {
                match step {
                    Step::Arrive(number, patience) => {
                        let source = number.map(source);
                        while let Some((gone, eviction)) = connections.make_room(source) {
                            let own = number.and_then(|number| crowded(&model, number));
                            prop_assert!(own.is_some() || model.len() >= CAPACITY);
                            let expected =
                                if own.is_some() { Eviction::Source } else { Eviction::Total };
                            let index = own.unwrap_or(0);
                            prop_assert_eq!((gone, eviction), (model.remove(index).time, expected));
                        }
                        prop_assert!(model.len() < CAPACITY);
                        let deadline = time + patience;
                        let key = connections.insert(source, at(time), at(deadline), time);
                        model.push(Arrived { time, number, named: time, deadline, key });
                    }
                    Step::Name(which, number) => {
                        let own = source(number);
                        let mut unknown = model.iter().filter(|it| it.number.is_none());
                        let Some(&Arrived { key, .. }) = unknown.nth(which % 4) else {
                            continue;
                        };
                        while let Some(gone) = connections.make_room_in(own) {
                            let index = crowded(&model, number).unwrap();
                            prop_assert_eq!(gone, model.remove(index).time);
                        }
                        prop_assert_eq!(crowded(&model, number), None);
                        connections.set_source(key, own);
                        let it = model.iter_mut().find(|it| it.key == key).unwrap();
                        (it.number, it.named) = (Some(number), time);
                    }
                    Step::Leave(which) if !model.is_empty() => {
                        let Arrived { time, key, .. } = model.remove(which % model.len());
                        prop_assert_eq!(connections.remove(key), Some(time));
                        prop_assert_eq!(connections.remove(key), None);
                    }
                    Step::Leave(_) => prop_assert_eq!(connections.remove(0), None),
                    Step::Expire(ahead) => {
                        let now = time + ahead;
                        let mut latest = 0;
                        while let Some(gone) = connections.remove_expired(at(now)) {
                            let index = model.iter().position(|it| it.time == gone).unwrap();
                            let deadline = model.remove(index).deadline;
                            prop_assert!(latest <= deadline && deadline <= now);
                            latest = deadline;
                        }
                        prop_assert!(model.iter().all(|it| it.deadline > now));
                    }
                }
                let earliest = model.iter().map(|it| it.deadline).min();
                prop_assert_eq!(connections.next_deadline(), earliest.map(at));
                prop_assert_eq!(connections.len(), model.len());
                prop_assert_eq!(connections.is_empty(), model.is_empty());
                for Arrived { key, time, .. } in &model {
                    prop_assert_eq!(connections.get_mut(*key).copied(), Some(*time));
                }
                prop_assert!(connections.sources.len() <= model.len());
                prop_assert!(connections.runs.len() <= 3);
            }
        }
    }
}
