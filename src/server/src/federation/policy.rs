//! Which servers may be spoken to, and how often that was refused.
//!
//! One question, asked for every request in and every request out; and what a partner is kept from in particular (invites,
//! media, profiles), asked where that is done.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedServerName, ServerName, api::federation::transactions::edu::Edu, serde::Raw};

use crate::config::{FederationMode, Live, Refusable};

/// Servers whose refusals are counted one by one; the others are counted together.
const COUNTED_MAX: usize = 10_000;

/// The server may not be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this server does not talk to that one")]
pub struct Refused;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the other server.
    Inbound,
    /// To the other server.
    Outbound,
}

/// How often a server was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Its requests.
    pub inbound: u64,
    /// Requests to it, which were not sent.
    pub outbound: u64,
}

/// The rule. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    config: Live,
    own_name: OwnedServerName,
    refusals: Arc<Mutex<BTreeMap<OwnedServerName, Refusals>>>,
}

impl Policy {
    /// The rule that the configuration states, as it is at the time of each question.
    pub fn new(config: Live, own_name: OwnedServerName) -> Self {
        Self { config, own_name, refusals: Arc::default() }
    }

    /// Whether the server may be spoken to; a refusal is counted and logged.
    pub fn may_talk_to(&self, server: &ServerName, direction: Direction) -> Result<(), Refused> {
        let rule = match direction {
            Direction::Inbound => Refusable::Inbound,
            Direction::Outbound => Refusable::Outbound,
        };
        if self.is_listed(server) && !self.config.get().federation.refuses(server, rule) {
            return Ok(());
        }
        tracing::info!(%server, ?direction, "refused: this server does not talk to that one");
        self.count(server, direction);
        Err(Refused)
    }

    /// Whether a server may do or get something, which is refused and counted if its rule keeps it from that.
    pub fn permits(&self, server: &ServerName, what: Refusable, direction: Direction) -> Result<(), Refused> {
        if !self.config.get().federation.refuses(server, what) {
            return Ok(());
        }
        tracing::info!(%server, ?direction, ?what, "refused: that server's rule keeps it from this");
        self.count(server, direction);
        Err(Refused)
    }

    /// Whether the rule of a server lets it send, or be sent, ephemeral data of this type.
    pub fn permits_edu(&self, server: &ServerName, kind: &str, direction: Direction) -> bool {
        let what = match kind {
            "m.presence" => Refusable::Presence,
            "m.typing" => Refusable::Typing,
            "m.receipt" => Refusable::Receipts,
            _ => return true,
        };
        self.permits(server, what, direction).is_ok()
    }

    /// What a server's rule lets it send of ephemeral data.
    pub fn permitted_edus(&self, origin: &ServerName, edus: Vec<Raw<Edu>>) -> Vec<Raw<Edu>> {
        let kind = |edu: &Raw<Edu>| edu.get_field::<String>("edu_type").ok().flatten().unwrap_or_default();
        edus.into_iter().filter(|edu| self.permits_edu(origin, &kind(edu), Direction::Inbound)).collect()
    }

    fn count(&self, server: &ServerName, direction: Direction) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < COUNTED_MAX || refusals.contains_key(server) {
            let count = refusals.entry(server.to_owned()).or_default();
            let number = match direction {
                Direction::Inbound => &mut count.inbound,
                Direction::Outbound => &mut count.outbound,
            };
            *number = number.saturating_add(1);
        }
    }

    /// Whether requests to the server may be sent, without counting: for choosing among servers.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.is_listed(server) && !self.config.get().federation.refuses(server, Refusable::Outbound)
    }

    fn is_listed(&self, server: &ServerName) -> bool {
        let config = self.config.get();
        let federation = &config.federation;
        let named = |list: &[OwnedServerName]| {
            list.iter().any(|name| name.as_str().eq_ignore_ascii_case(server.as_str()))
        };
        // Nobody has a conversation with themselves over the network.
        !server.as_str().eq_ignore_ascii_case(self.own_name.as_str())
            && match federation.mode {
                FederationMode::Off => false,
                FederationMode::Allow => named(&federation.allow),
                FederationMode::Open => !named(&federation.deny),
            }
    }

    /// How often each server was refused.
    pub fn refusals(&self) -> Vec<(OwnedServerName, Refusals)> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().map(|(server, count)| (server.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::config::{Config, PartnerRule};

    fn policy(mode: FederationMode) -> Policy {
        let mut config = Config::default();
        config.federation.mode = mode;
        config.federation.allow = vec![server_name!("Partner.example").to_owned()];
        config.federation.deny = vec![server_name!("unwanted.example").to_owned()];
        Policy::new(Live::new(config), server_name!("own.example").to_owned())
    }

    #[test]
    fn modes_allow_what_they_say() {
        for (mode, partner, unwanted, other) in [
            (FederationMode::Off, false, false, false),
            (FederationMode::Allow, true, false, false),
            (FederationMode::Open, true, false, true),
        ] {
            let policy = policy(mode);
            for (server, allowed) in [
                (server_name!("partner.example"), partner),
                (server_name!("unwanted.example"), unwanted),
                (server_name!("UNWANTED.example"), unwanted),
                (server_name!("other.example"), other),
                // A port or another label makes it another server.
                (server_name!("unwanted.example:1"), other),
                (server_name!("a.unwanted.example"), other),
                (server_name!("own.example"), false),
            ] {
                assert_eq!(policy.allows(server), allowed, "{mode:?} {server}");
            }
        }
    }

    #[test]
    fn rules_keep_servers_from_what_they_say() {
        let mut config = Config::default();
        config.federation.mode = FederationMode::Open;
        let rule = |server: &str, refuse: &[Refusable]| PartnerRule {
            server: server.to_owned(),
            refuse: refuse.to_vec(),
        };
        config.federation.rules = vec![
            rule("quiet.example", &[Refusable::Inbound]),
            rule("*", &[Refusable::Media, Refusable::Outbound]),
            rule("Friend.example", &[]),
        ];
        let live = Live::new(config.clone());
        let policy = Policy::new(live.clone(), server_name!("own.example").to_owned());
        let (quiet, friend) = (server_name!("quiet.example"), server_name!("friend.example"));
        let other = server_name!("other.example");
        for (server, inbound, outbound, media) in [
            (quiet, Err(Refused), Ok(()), Ok(())),
            (friend, Ok(()), Ok(()), Ok(())),
            (other, Ok(()), Err(Refused), Err(Refused)),
        ] {
            assert_eq!(policy.may_talk_to(server, Direction::Inbound), inbound, "{server}");
            assert_eq!(policy.may_talk_to(server, Direction::Outbound), outbound, "{server}");
            assert_eq!(policy.allows(server), outbound.is_ok(), "{server}");
            assert_eq!(policy.permits(server, Refusable::Media, Direction::Inbound), media, "{server}");
            assert_eq!(policy.permits(server, Refusable::Typing, Direction::Inbound), Ok(()), "{server}");
        }
        assert_eq!(policy.refusals().len(), 2);
        config.federation.rules.clear();
        live.reload(&config);
        assert_eq!(policy.may_talk_to(quiet, Direction::Inbound), Ok(()), "a reload is enough");
    }

    #[test]
    fn refusals_are_counted_each_way() {
        let (policy, server) = (policy(FederationMode::Allow), server_name!("other.example"));
        for direction in [Direction::Inbound, Direction::Outbound, Direction::Inbound] {
            assert_eq!(policy.may_talk_to(server, direction), Err(Refused));
        }
        assert_eq!(policy.may_talk_to(server_name!("partner.example"), Direction::Inbound), Ok(()));
        assert_eq!(policy.refusals(), [(server.to_owned(), Refusals { inbound: 2, outbound: 1 })]);
    }
}
