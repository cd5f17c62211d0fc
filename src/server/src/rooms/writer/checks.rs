//! Checks 4 to 6 of §Checks performed on receipt of a PDU: the authorisation rules with the state that the event's own
//! `auth_events` give, with the state before it, and with the room's current state.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::{
    auth::{self, AuthError},
    event::pdu::Pdu,
};
use ruma::{EventId, OwnedEventId, events::StateEventType};

use super::Writer;
use crate::{
    database::{Error, Write},
    numbers::EventNumber,
    tables::rooms::{EventStatus, StateRoot},
};

/// The events that an event names as allowing it, and the create event.
#[derive(Debug, Default)]
pub(super) struct AuthSet {
    pub(super) numbers: Vec<EventNumber>,
    pdus: HashMap<OwnedEventId, Arc<Pdu>>,
}

impl AuthSet {
    fn at(&self, kind: &str, state_key: &str) -> Option<Arc<Pdu>> {
        self.pdus.values().find(|pdu| pdu.is(kind, state_key)).cloned()
    }
}

impl Writer {
    /// The auth events of an event, or the ids of those that are not here.
    pub(super) async fn auth_set(&self, pdu: &Pdu) -> Result<Result<AuthSet, Vec<OwnedEventId>>, Error> {
        if pdu.kind == "m.room.create" {
            // It may have none; the rules refuse it if it does.
            return Ok(Ok(AuthSet::default()));
        }
        let mut wanted = pdu.auth_events.clone();
        wanted.sort_unstable();
        wanted.dedup();
        if self.room.rules.authorization.room_create_event_id_as_room_id
            && let Ok(create) = EventId::parse(format!("${}", self.room.room_id.strip_sigil()))
        {
            wanted.push(create);
        }
        let (events, missing) = self.held(&wanted).await?;
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
        let mut set = AuthSet::default();
        for event in events {
            let auth_event = event.pdu(&self.room)?;
            if pdu.auth_events.contains(&auth_event.event_id) {
                set.numbers.push(event.number);
            }
            set.pdus.insert(auth_event.event_id.clone(), auth_event);
        }
        Ok(Ok(set))
    }

    /// Check 4, and what the rules say of the auth events themselves.
    pub(super) fn check_by_auth_events(&self, pdu: &Pdu, set: &AuthSet) -> Result<(), AuthError> {
        let rules = &self.room.rules.authorization;
        auth::check_auth_events(rules, pdu, |event_id: &EventId| set.pdus.get(event_id).cloned())?;
        auth::check_state(rules, pdu, |kind: &StateEventType, state_key| set.at(&kind.to_string(), state_key))
    }

    /// Checks 5 and 6: whether a state of the room lets the event pass.
    pub(super) async fn check_at(
        &mut self,
        pdu: &Pdu,
        root: StateRoot,
    ) -> Result<Result<(), AuthError>, Error> {
        let rules = &self.room.rules.authorization;
        let needed =
            auth::state_needed(&pdu.kind, &pdu.sender, pdu.state_key.as_deref(), &pdu.content, rules);
        let needed = match needed {
            Ok(needed) => needed,
            Err(error) => return Ok(Err(error)),
        };
        let names: Vec<(String, String)> =
            needed.into_iter().map(|(kind, state_key)| (kind.to_string(), state_key)).collect();
        let state = self.pdus_at(root, &names).await?;
        let rules = &self.room.rules.authorization;
        Ok(auth::check_state(rules, pdu, |kind: &StateEventType, state_key| {
            let name = (kind.to_string(), state_key.to_owned());
            state.get(&name).cloned()
        }))
    }

    /// A state that may lack members together with what an event cites: of the two, resolution chooses.
    pub(super) async fn with_cited(
        &mut self,
        root: StateRoot,
        cited: &AuthSet,
        write: &mut Write,
    ) -> Result<StateRoot, Error> {
        let mut entries = Vec::with_capacity(cited.numbers.len());
        for event in self.events_of(&cited.numbers).await? {
            if let (Some(state_key), false) =
                (&event.record.state_key, event.record.status == EventStatus::Rejected)
            {
                let key = self.room.hash_key.entry_key(&event.record.kind, state_key);
                entries.push((key, Some(event.number.0)));
            }
        }
        let cited = self.updated(root, &entries, write).await?;
        self.resolved([root, cited], write).await
    }

    /// These pieces of a state, parsed.
    pub(super) async fn pdus_at(
        &mut self,
        root: StateRoot,
        names: &[(String, String)],
    ) -> Result<HashMap<(String, String), Arc<Pdu>>, Error> {
        let keys: Vec<_> =
            names.iter().map(|(kind, state_key)| self.room.hash_key.entry_key(kind, state_key)).collect();
        let numbers = self.entries_of(root, &keys).await?;
        let (names, numbers): (Vec<_>, Vec<_>) =
            names.iter().zip(numbers).filter_map(|(name, number)| Some((name, number?))).unzip();
        let mut pdus = HashMap::with_capacity(names.len());
        for (name, event) in names.into_iter().zip(self.events_of(&numbers).await?) {
            pdus.insert(name.clone(), event.pdu(&self.room)?);
        }
        Ok(pdus)
    }
}
