//! The connections that are not finished: a table for each kind.

use std::time::Instant;

use super::connection::Connection;
use super::limits::{Connections, Limits};
use super::listener::Purpose;

/// Unfinished scrapes, from all sources. They have a table of their own, so that no number of
/// scrapers takes the place of a player.
pub const SCRAPES: usize = 16;

/// The tables.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) players: Connections<Connection>,
    scrapes: Connections<Connection>,
    /// The most players that the descriptors allow, whatever the configuration says.
    capacity: usize,
}

impl Unfinished {
    /// Empty tables. The descriptors allow `capacity` players, whatever `limits` say.
    pub(super) fn new(limits: &Limits, capacity: usize) -> Self {
        let players =
            Connections::new(limits.connections.min(capacity), limits.connections_per_source);
        Self { players, scrapes: Connections::new(SCRAPES, SCRAPES), capacity }
    }

    /// Has the limits of a new configuration count.
    pub(super) fn set_limits(&mut self, limits: &Limits) {
        let most = limits.connections.min(self.capacity);
        self.players.set_limits(most, limits.connections_per_source);
    }

    /// The connections of one kind.
    pub(super) fn of(&mut self, purpose: Purpose) -> &mut Connections<Connection> {
        match purpose {
            Purpose::Policy => &mut self.players,
            Purpose::Metrics => &mut self.scrapes,
        }
    }

    /// How many there are, of both kinds.
    pub(super) fn len(&self) -> usize {
        self.players.len() + self.scrapes.len()
    }

    /// When the first of them has to be finished.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        [self.players.next_deadline(), self.scrapes.next_deadline()].into_iter().flatten().min()
    }
}
