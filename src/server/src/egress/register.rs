//! Which hosts this server has spoken to, and what for: what an administrator can ask at any time.
//!
//! Kept in memory, from the start of the server.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

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
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 4] = [Self::Federation, Self::Push, Self::Appservice, Self::Preview];

    /// Its name, as reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Federation => "federation",
            Self::Push => "push",
            Self::Appservice => "application services",
            Self::Preview => "previews of links",
        }
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

/// The register.
#[derive(Clone, Debug, Default)]
pub struct Register(Arc<Mutex<BTreeMap<(Purpose, String), Contact>>>);

impl Register {
    /// Notes something about a host at a time.
    pub(super) fn note(&self, purpose: Purpose, host: &str, now_ms: u64, change: impl FnOnce(&mut Contact)) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (purpose, host.to_owned());
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&key) {
            OTHERS.clone_into(&mut key.1);
        }
        let contact = hosts.entry(key).or_insert(Contact { first_ms: now_ms, ..Contact::default() });
        contact.last_ms = now_ms;
        change(contact);
    }

    /// All that is known, by purpose and host.
    pub fn list(&self) -> Vec<(Purpose, String, Contact)> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.iter().map(|((purpose, host), contact)| (*purpose, host.clone(), *contact)).collect()
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
