//! Which hosts this server has spoken to, and what for: what an administrator can ask at any time.
//!
//! Kept in memory while the server runs; `super::kept` has the rows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// What a request to another machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Other Matrix servers: discovery, keys, rooms.
    Federation,
    /// Push gateways, which users' applications name.
    Push,
    /// Bridges and bots, which the configuration names.
    Appservice,
    /// Pages of the web, for previews of links.
    Preview,
    /// The object store of media, which the configuration names.
    Objects,
    /// The scanner of media, which the configuration names.
    Scanner,
    /// The mail server, which the configuration names.
    Mail,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 7] = [
        Self::Federation,
        Self::Push,
        Self::Appservice,
        Self::Preview,
        Self::Objects,
        Self::Scanner,
        Self::Mail,
    ];

    /// Its name, as reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Federation => "federation",
            Self::Push => "push",
            Self::Appservice => "application services",
            Self::Preview => "previews of links",
            Self::Objects => "object storage",
            Self::Scanner => "scanner",
            Self::Mail => "mail",
        }
    }

    /// What stands for it in rows.
    pub(super) fn id(self) -> u8 {
        match self {
            Self::Federation => 1,
            Self::Push => 2,
            Self::Appservice => 3,
            Self::Preview => 4,
            Self::Objects => 5,
            Self::Scanner => 6,
            Self::Mail => 7,
        }
    }

    pub(super) fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.id() == id)
    }
}

/// Hosts that are told apart; beyond that, new ones are counted as one.
const HOSTS_MAX: usize = 20_000;
/// The entry of the hosts beyond.
const OTHERS: &str = "(others)";

/// What is known of the requests to one host for one purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// Requests sent.
    pub requests: u64,
    /// Requests refused before anything was sent.
    pub refused: u64,
    /// Bytes of bodies received, after decompression.
    pub bytes_received: u64,
    /// Bytes of bodies sent.
    pub bytes_sent: u64,
    /// When the first was, in milliseconds since the epoch.
    pub first_ms: u64,
    /// When the last was, in milliseconds since the epoch.
    pub last_ms: u64,
}

/// A host, and what it is spoken to for.
type Key = (Purpose, String);

/// The register.
#[derive(Clone, Debug, Default)]
pub struct Register(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    hosts: Mutex<Hosts>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Hosts {
    contacts: BTreeMap<Key, Contact>,
    /// What is not written down as it is.
    changed: BTreeSet<Key>,
}

impl Register {
    /// Notes something about a host at a time.
    pub(super) fn note(&self, purpose: Purpose, host: &str, now_ms: u64, change: impl FnOnce(&mut Contact)) {
        let mut hosts = self.hosts();
        let mut key = (purpose, host.to_owned());
        if hosts.contacts.len() >= HOSTS_MAX && !hosts.contacts.contains_key(&key) {
            OTHERS.clone_into(&mut key.1);
        }
        let new = Contact { first_ms: now_ms, ..Contact::default() };
        let contact = hosts.contacts.entry(key.clone()).or_insert(new);
        contact.last_ms = now_ms;
        change(contact);
        hosts.changed.insert(key);
        drop(hosts);
        self.0.changed.notify_one();
    }

    /// Sets what was known of a host when the server was last stopped; before anything else is noted.
    pub(super) fn restore(&self, purpose: Purpose, host: String, before: Contact) {
        self.hosts().contacts.insert((purpose, host), before);
    }

    /// Ends when something is not written down.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What is not written down as it is; it counts as written then.
    pub(super) fn take_changed(&self) -> Vec<(Purpose, String, Contact)> {
        let mut hosts = self.hosts();
        let changed = std::mem::take(&mut hosts.changed);
        let contact = |key: Key| hosts.contacts.get(&key).map(|contact| (key.0, key.1, *contact));
        changed.into_iter().filter_map(contact).collect()
    }

    /// These were not written down after all.
    pub(super) fn put_back(&self, keys: impl Iterator<Item = Key>) {
        self.hosts().changed.extend(keys);
        self.0.changed.notify_one();
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is known, by purpose and host.
    pub fn list(&self) -> Vec<(Purpose, String, Contact)> {
        let hosts = self.hosts();
        hosts.contacts.iter().map(|((purpose, host), contact)| (*purpose, host.clone(), *contact)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_counted_by_purpose_and_their_number_is_bounded() {
        let register = Register::default();
        for number in 0..HOSTS_MAX + 10 {
            let host = format!("{number}.example");
            register.note(Purpose::Federation, &host, 7, |contact| contact.requests += 1);
        }
        register.note(Purpose::Federation, "1.example", 9, |contact| contact.requests += 1);
        let list = register.list();
        assert_eq!(list.len(), HOSTS_MAX + 1);
        let of = |host: &str| list.iter().find(|(_, name, _)| name == host).unwrap().2;
        assert_eq!(of(OTHERS).requests, 10);
        assert_eq!(of("1.example"), Contact { requests: 2, first_ms: 7, last_ms: 9, ..Contact::default() });
    }
}
