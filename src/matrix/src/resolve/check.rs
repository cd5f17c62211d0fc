//! The iterative auth checks: events in their order, each allowed by what came before or left out.

use std::{collections::HashMap, sync::Arc};

use ruma::{events::StateEventType, room_version_rules::AuthorizationRules};

use super::view::{StateKey, View};
use crate::{
    auth::{auth_types, check_state},
    event::Pdu,
};

/// A state in the making.
#[derive(Debug)]
pub(super) struct Checks {
    rules: AuthorizationRules,
    /// The create event's number.
    create: u32,
    /// Whether the unconflicted state lies beneath what was resolved so far.
    falls_back: bool,
    /// What was resolved so far.
    pub(super) resolved: HashMap<StateKey, u32>,
}

impl Checks {
    pub(super) fn new(rules: AuthorizationRules, create: u32, falls_back: bool) -> Self {
        Self { rules, create, falls_back, resolved: HashMap::new() }
    }

    /// Applies those events that are allowed, in this order. `None` if something is missing; then
    /// nothing was applied.
    pub(super) fn apply(&mut self, events: &[u32], view: &mut View<'_>) -> Option<()> {
        let before = self.resolved.clone();
        for number in events {
            if self.apply_one(*number, view).is_none() {
                self.resolved = before;
                return None;
            }
        }
        Some(())
    }

    /// The state under a key: `Some(None)` if there is none, `None` if that is not known yet.
    #[expect(clippy::option_option, reason = "not known yet, and known not to exist")]
    pub(super) fn state(&self, key: &StateKey, view: &mut View<'_>) -> Option<Option<u32>> {
        match self.resolved.get(key) {
            Some(number) => Some(Some(*number)),
            None if self.falls_back => view.unconflicted(key),
            None => Some(None),
        }
    }

    fn apply_one(&mut self, number: u32, view: &mut View<'_>) -> Option<()> {
        let event = view.event(number)?;
        let Some(state_key) = &event.state_key else { return Some(()) };
        let key = (StateEventType::from(event.kind.as_str()), state_key.clone());
        let keys = auth_types(&event.kind, &event.sender, Some(state_key), &event.content, &self.rules);
        // Content that does not say what would authorise it is not allowed.
        let Ok(keys) = keys else { return Some(()) };
        let authorising = self.authorising(number, &event, &keys, view)?;
        let allowed = check_state(&self.rules, &event, |kind, key| authorising.get(kind, key));
        if allowed.is_ok() {
            self.resolved.insert(key, number);
        }
        Some(())
    }

    /// The state by which an event is judged: what was resolved so far, and where that has
    /// nothing, what the event itself names. Rejected events never count.
    fn authorising(
        &self,
        number: u32,
        event: &Pdu,
        keys: &[StateKey],
        view: &mut View<'_>,
    ) -> Option<Authorising> {
        let mut authorising = Authorising(Vec::with_capacity(keys.len()));
        let vertex = view.vertex(number)?;
        for auth_event in &vertex.auth_events {
            authorising.put(view.event(*auth_event)?);
        }
        if self.rules.room_create_event_id_as_room_id && event.kind != "m.room.create" {
            authorising.put(view.event(self.create)?);
        }
        for key in keys {
            if let Some(number) = self.state(key, view)? {
                authorising.put(view.event(number)?);
            }
        }
        Some(authorising)
    }
}

/// The few state events that authorise one event.
struct Authorising(Vec<Arc<Pdu>>);

impl Authorising {
    /// Adds an accepted state event, in place of one with the same key.
    fn put(&mut self, event: Arc<Pdu>) {
        let Some(state_key) = &event.state_key else { return };
        if event.rejected {
            return;
        }
        match self.0.iter_mut().find(|other| other.is(&event.kind, state_key)) {
            Some(other) => *other = event,
            None => self.0.push(event),
        }
    }

    fn get(&self, kind: &StateEventType, state_key: &str) -> Option<Arc<Pdu>> {
        let kind = kind.to_string();
        self.0.iter().find(|event| event.is(&kind, state_key)).cloned()
    }
}
