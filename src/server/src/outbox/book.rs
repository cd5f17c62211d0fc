//! All servers that something is to be sent to, and what of it is not yet durable.

use std::collections::{BTreeSet, HashMap};

use ruma::{OwnedServerName, ServerName};

use super::{
    backoff::Backoff,
    destination::{Destination, Edu, Lag, Waiting},
    ledger,
};
use crate::numbers::{Hash128, RoomNumber};

/// The servers.
#[derive(Debug, Default)]
pub(super) struct Book {
    servers: HashMap<OwnedServerName, Destination>,
    /// By the hash under which their rows stand.
    names: HashMap<Hash128, OwnedServerName>,
    /// Up to where the log was handed out.
    pub(super) handed_out: u64,
    pub(super) dirty: Dirty,
}

/// What is to be made durable.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Rooms of which a server is behind, or no longer is.
    pub(super) rooms: BTreeSet<(OwnedServerName, RoomNumber)>,
    /// Servers that were or were not reached.
    pub(super) servers: BTreeSet<OwnedServerName>,
    /// What was given away.
    pub(super) ledger: ledger::Pending,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.servers.is_empty() && self.ledger.is_empty()
    }
}

impl Book {
    /// The entry of a server.
    pub(super) fn entry(&mut self, server: &ServerName, hash: impl FnOnce() -> Hash128) -> &mut Destination {
        if !self.servers.contains_key(server) {
            let hash = hash();
            self.names.insert(hash, server.to_owned());
            self.servers.insert(server.to_owned(), Destination::new(hash, Backoff::default()));
        }
        self.servers.entry(server.to_owned()).or_default()
    }

    /// The entry of a server that has one.
    pub(super) fn get(&mut self, server: &ServerName) -> Option<&mut Destination> {
        self.servers.get_mut(server)
    }

    /// The server whose rows stand under this hash, if it has an entry.
    pub(super) fn by_hash(&self, hash: Hash128) -> Option<&OwnedServerName> {
        self.names.get(&hash)
    }

    /// Whether a task must be started for the server; it counts as started then.
    pub(super) fn must_start(&mut self, server: &ServerName) -> bool {
        let Some(destination) = self.servers.get_mut(server) else { return false };
        let must = !destination.running && destination.has_work();
        destination.running |= must;
        must
    }

    /// Adds an event for a server.
    pub(super) fn push(&mut self, server: &ServerName, hash: Hash128, waiting: Waiting) {
        let behind = self.entry(server, || hash).push(waiting);
        self.dirty.rooms.extend(behind.into_iter().map(|room| (server.to_owned(), room)));
    }

    /// Adds ephemeral data for a server.
    pub(super) fn push_edu(&mut self, server: &ServerName, hash: Hash128, edu: Edu) {
        self.entry(server, || hash).push_edu(edu);
    }

    /// A server of which is known that it is behind.
    pub(super) fn was_lagging(&mut self, server: &ServerName, hash: Hash128, room: RoomNumber, lag: Lag) {
        self.entry(server, || hash).was_lagging(room, lag);
    }

    /// A server counts as behind in a room from there on.
    pub(super) fn was_behind(&mut self, server: &ServerName, hash: Hash128, room: RoomNumber, from: u64) {
        let lag = Lag { from, upto: self.handed_out.max(from) };
        self.entry(server, || hash).was_lagging(room, lag);
        self.dirty.rooms.insert((server.to_owned(), room));
    }

    /// A server was not reached.
    pub(super) fn failed(&mut self, server: &ServerName, backoff: Backoff) {
        let Some(destination) = self.servers.get_mut(server) else { return };
        destination.backoff = backoff;
        let behind = destination.fall_behind();
        self.dirty.rooms.extend(behind.into_iter().map(|room| (server.to_owned(), room)));
        self.dirty.servers.insert(server.to_owned());
    }

    /// A server was reached.
    pub(super) fn reached(&mut self, server: &ServerName) {
        let Some(destination) = self.servers.get_mut(server) else { return };
        if !destination.backoff.is_well() {
            destination.backoff = Backoff::default();
            self.dirty.servers.insert(server.to_owned());
        }
    }

    /// Nothing is kept for a server any more.
    pub(super) fn give_up(&mut self, server: &ServerName) {
        let Some(destination) = self.servers.get_mut(server) else { return };
        let rooms = destination.give_up();
        destination.backoff = Backoff::default();
        self.dirty.rooms.extend(rooms.into_iter().map(|room| (server.to_owned(), room)));
        self.dirty.servers.insert(server.to_owned());
    }

    /// The task of a server ends, unless there is something to do again. What is not needed is forgotten.
    pub(super) fn may_end(&mut self, server: &ServerName) -> bool {
        let Some(destination) = self.servers.get_mut(server) else { return true };
        if destination.has_work() {
            return false;
        }
        destination.running = false;
        if destination.is_idle() {
            let hash = destination.hash;
            self.names.remove(&hash);
            self.servers.remove(server);
        }
        true
    }

    /// Up to where everything has reached its server, or is held in rows.
    pub(super) fn safe(&self) -> u64 {
        let waiting = self.servers.values().filter_map(Destination::first_waiting).min();
        waiting.map_or(self.handed_out, |first| first.saturating_sub(1).min(self.handed_out))
    }

    /// All servers, in the order of their names.
    pub(super) fn all(&self) -> Vec<(&OwnedServerName, &Destination)> {
        let mut all: Vec<_> = self.servers.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }

    /// Names of all servers with something to do.
    pub(super) fn with_work(&self) -> Vec<OwnedServerName> {
        let with_work = self.servers.iter().filter(|(_, destination)| destination.has_work());
        let mut names: Vec<_> = with_work.map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }
}
