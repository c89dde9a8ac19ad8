//! The unfinished connections: how many there may be in all and from one source, which of them
//! makes room for a newcomer, and when each has to be done. The clock is passed in.
//!
//! Every connection has the same time to finish, so the order of arrival is the order of the
//! deadlines: one list through the connections gives both the next deadline and the oldest
//! connection, and one more list per source its oldest. All operations take constant time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use slab::Slab;

/// Who a connection is counted against: an IPv4 address, or an IPv6 /64, of which an attacker has
/// as many addresses as he likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// One IPv4 address, also when it came through an IPv6 socket.
    V4(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    V6([u16; 4]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

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
    sources: HashMap<Source, Ends>,
    capacity: usize,
    per_source: usize,
}

#[derive(Debug)]
struct Entry<T> {
    connection: T,
    source: Source,
    deadline: Instant,
    /// Neighbours among all connections.
    among_all: Links,
    /// Neighbours among those of the same source.
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

const NOBODY: u32 = u32::MAX;

/// Memory for so many connections is kept when there are none.
const KEPT_CAPACITY: usize = 64;

impl Ends {
    const EMPTY: Self = Self { oldest: NOBODY, newest: NOBODY, count: 0 };
}

/// Which of an entry's two lists is meant.
type List<T> = fn(&mut Entry<T>) -> &mut Links;

fn among_all<T>(entry: &mut Entry<T>) -> &mut Links {
    &mut entry.among_all
}

fn among_source<T>(entry: &mut Entry<T>) -> &mut Links {
    &mut entry.among_source
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
            sources: HashMap::new(),
            capacity: 1,
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
    pub fn make_room(&mut self, source: Source) -> Option<(T, Eviction)> {
        let (key, eviction) = match self.sources.get(&source) {
            Some(ends) if ends.count as usize >= self.per_source => (ends.oldest, Eviction::Source),
            _ if self.len() >= self.capacity => (self.arrivals.oldest, Eviction::Total),
            _ => return None,
        };
        self.remove(key as usize).map(|connection| (connection, eviction))
    }

    /// Adds a connection and returns its key. A deadline before that of an earlier connection
    /// (after a reload that shortened the time) is put off until that one's.
    pub fn insert(&mut self, source: Source, deadline: Instant, connection: T) -> usize {
        let latest = self.entries.get(self.arrivals.newest as usize).map(|entry| entry.deadline);
        let links = Links { older: NOBODY, newer: NOBODY };
        let key = self.entries.insert(Entry {
            connection,
            source,
            deadline: latest.map_or(deadline, |latest| deadline.max(latest)),
            among_all: links,
            among_source: links,
        });
        // The capacity is below NOBODY, so every key is, too.
        let link = u32::try_from(key).unwrap_or(NOBODY);
        append(&mut self.entries, &mut self.arrivals, among_all, link);
        let ends = self.sources.entry(source).or_insert(Ends::EMPTY);
        append(&mut self.entries, ends, among_source, link);
        key
    }

    /// The connection under `key`.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.connection)
    }

    /// Takes out the connection under `key`.
    pub fn remove(&mut self, key: usize) -> Option<T> {
        let entry = self.entries.try_remove(key)?;
        unlink(&mut self.entries, &mut self.arrivals, among_all, entry.among_all);
        if let Some(ends) = self.sources.get_mut(&entry.source) {
            unlink(&mut self.entries, ends, among_source, entry.among_source);
            if ends.count == 0 {
                self.sources.remove(&entry.source);
            }
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
        self.entries.get(self.arrivals.oldest as usize).map(|entry| entry.deadline)
    }

    /// Takes out one connection whose deadline has passed.
    pub fn remove_expired(&mut self, now: Instant) -> Option<T> {
        self.next_deadline().filter(|deadline| *deadline <= now).and_then(|_| self.remove_oldest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn source(number: u8) -> Source {
        Source::V4(Ipv4Addr::new(127, 0, 1, number))
    }

    #[test]
    fn ipv6_sources_count_per_64_and_mapped_addresses_as_ipv4() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn the_oldest_of_the_source_goes_before_the_oldest_of_all() {
        let now = Instant::now();
        let mut connections = Connections::new(3, 2);
        connections.insert(source(1), now, "a1");
        connections.insert(source(2), now, "b1");
        connections.insert(source(2), now, "b2");
        assert_eq!(connections.make_room(source(2)), Some(("b1", Eviction::Source)));
        assert_eq!(connections.make_room(source(2)), None);
        connections.insert(source(2), now, "b3");
        assert_eq!(connections.make_room(source(3)), Some(("a1", Eviction::Total)));
        assert_eq!(connections.make_room(source(3)), None);
    }

    #[test]
    fn connections_expire_in_the_order_of_their_arrival() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut connections = Connections::new(10, 10);
        connections.insert(source(1), now + 5 * second, 1);
        // As after a reload that shortened the time.
        connections.insert(source(1), now + 2 * second, 2);
        connections.insert(source(2), now + 6 * second, 3);
        assert_eq!(connections.next_deadline(), Some(now + 5 * second));
        assert_eq!(connections.remove_expired(now + 4 * second), None);
        assert_eq!(connections.remove_expired(now + 5 * second), Some(1));
        assert_eq!(connections.remove_expired(now + 5 * second), Some(2));
        assert_eq!(connections.remove_expired(now + 5 * second), None);
        assert_eq!(connections.len(), 1);
    }

    #[test]
    fn lowered_limits_take_hold_as_newcomers_arrive() {
        let now = Instant::now();
        let mut connections = Connections::new(8, 8);
        for number in 0..8 {
            connections.insert(source(number), now, number);
        }
        connections.set_limits(2, 8);
        let mut gone = Vec::new();
        while let Some((connection, _)) = connections.make_room(source(9)) {
            gone.push(connection);
        }
        assert_eq!(gone, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(u8),
        Leave(usize),
        Expire(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0u8..5).prop_map(Step::Arrive),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => (0u64..20).prop_map(Step::Expire),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        /// Against a plain vector that is searched from its start.
        #[test]
        fn it_agrees_with_a_naive_model(steps in steps()) {
            const CAPACITY: usize = 12;
            const PER_SOURCE: usize = 4;
            let start = Instant::now();
            let mut connections = Connections::new(CAPACITY, PER_SOURCE);
            let mut model: Vec<(u64, u8, usize)> = Vec::new();
            for (time, step) in (0u64..).zip(steps) {
                match step {
                    Step::Arrive(number) => {
                        while let Some((gone, eviction)) = connections.make_room(source(number)) {
                            let of_source = |entry: &&(u64, u8, usize)| entry.1 == number;
                            let crowded = model.iter().filter(of_source).count() >= PER_SOURCE;
                            let index = if crowded {
                                model.iter().position(|entry| entry.1 == number).unwrap()
                            } else {
                                prop_assert!(model.len() >= CAPACITY);
                                0
                            };
                            let expected =
                                if crowded { Eviction::Source } else { Eviction::Total };
                            prop_assert_eq!((gone, eviction), (model.remove(index).0, expected));
                        }
                        let deadline = start + Duration::from_millis(time);
                        let key = connections.insert(source(number), deadline, time);
                        model.push((time, number, key));
                    }
                    Step::Leave(which) if !model.is_empty() => {
                        let (time, _, key) = model.remove(which % model.len());
                        prop_assert_eq!(connections.remove(key), Some(time));
                        prop_assert_eq!(connections.remove(key), None);
                    }
                    Step::Leave(_) => prop_assert_eq!(connections.remove(0), None),
                    Step::Expire(age) => {
                        let passed = time.saturating_sub(age);
                        let now = start + Duration::from_millis(passed);
                        while let Some(gone) = connections.remove_expired(now) {
                            prop_assert!(gone <= passed);
                            prop_assert_eq!(model.remove(0).0, gone);
                        }
                        prop_assert!(model.first().is_none_or(|oldest| oldest.0 > passed));
                    }
                }
                prop_assert_eq!(connections.len(), model.len());
                prop_assert!(connections.sources.len() <= model.len());
            }
        }
    }
}
