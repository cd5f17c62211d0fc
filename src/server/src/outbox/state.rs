//! How it stands with other servers, for administrators.

use super::{Outbox, destination::Destination};

/// How it stands with a server to which something is sent, or with several taken together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    /// The server's name, or what several are called.
    pub name: String,
    /// How many servers these are: with something to be sent, or not reached.
    pub servers: usize,
    /// How many of them were not reached when last tried.
    pub unreached: usize,
    /// Events that wait for them while they are reached.
    pub waiting_events: usize,
    /// Rooms of which they are behind.
    pub behind_rooms: usize,
    /// Since when the first of them has not been reached, in milliseconds since the epoch.
    pub unreached_since_ms: Option<u64>,
    /// When one of them is tried again, in milliseconds since the epoch.
    pub next_try_ms: Option<u64>,
}

impl ServerState {
    fn of(name: &str, destination: &Destination) -> Self {
        let (waiting_events, behind_rooms) = destination.waiting();
        let backoff = &destination.backoff;
        let unreached = !backoff.is_well();
        Self {
            name: name.to_owned(),
            servers: 1,
            unreached: usize::from(unreached),
            waiting_events,
            behind_rooms,
            unreached_since_ms: backoff.fail_since_ms.filter(|_| unreached),
            next_try_ms: unreached.then_some(backoff.next_at_ms),
        }
    }

    /// Takes another into this one.
    pub(crate) fn add(&mut self, other: &Self) {
        let earlier = |ours: Option<u64>, theirs: Option<u64>| ours.into_iter().chain(theirs).min();
        self.servers = self.servers.saturating_add(other.servers);
        self.unreached = self.unreached.saturating_add(other.unreached);
        self.waiting_events = self.waiting_events.saturating_add(other.waiting_events);
        self.behind_rooms = self.behind_rooms.saturating_add(other.behind_rooms);
        self.unreached_since_ms = earlier(self.unreached_since_ms, other.unreached_since_ms);
        self.next_try_ms = earlier(self.next_try_ms, other.next_try_ms);
    }
}

impl Outbox {
    /// How it stands with all servers that have something to be sent or were not reached, by name.
    pub fn states(&self) -> Vec<ServerState> {
        let book = self.0.book();
        book.all()
            .into_iter()
            .map(|(name, destination)| ServerState::of(name.as_str(), destination))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn several_servers_are_taken_together() {
        let mut first = Destination::default();
        first.backoff.failed(5_000, &Random::seeded(1));
        let mut sum = ServerState { name: "both".to_owned(), ..ServerState::default() };
        sum.add(&ServerState::of("a.example", &first));
        sum.add(&ServerState::of("b.example", &Destination::default()));
        assert_eq!((sum.name.as_str(), sum.servers, sum.unreached), ("both", 2, 1));
        assert_eq!(sum.unreached_since_ms, Some(5_000));
        assert!(sum.next_try_ms.is_some_and(|next| next > 5_000));
    }
}
