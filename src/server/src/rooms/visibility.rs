//! Which events of a room a user may see: looks up what the rule asks about, and asks it.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use allod_matrix::{
    event::pdu::Pdu,
    visibility::{self, Before},
};
use allod_storage::Position;
use quick_cache::sync::Cache;
use ruma::events::room::{history_visibility::HistoryVisibility, member::MembershipState};

use super::{Rooms, access::View, event::StoredEvent};
use crate::{database::Error, numbers::UserNumber, tables::rooms::StateRoot};

/// Pairs of a state and a reader of which it is remembered what the state says.
const SIGHTS_KEPT_MAX: usize = 20_000;

/// What states say to readers, kept in memory: a state never changes, and redaction takes nothing away that matters here.
#[derive(Clone)]
pub(crate) struct KnownSights(Arc<Cache<(StateRoot, UserNumber), Before>>);

impl KnownSights {
    /// Nothing is known.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Cache::new(SIGHTS_KEPT_MAX)))
    }
}

/// What each state says to one reader; the states of neighbouring events are mostly the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sights(HashMap<StateRoot, Before, BuildHasherDefault<RootHasher>>);

/// Roots are keyed hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct RootHasher(u64);

impl Hasher for RootHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(8) {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What an event changes that matters to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Matters {
    Visibility,
    Membership,
    Not,
}

impl Matters {
    fn of(view: &View, event: &StoredEvent) -> Self {
        let record = &event.record;
        match (record.kind.as_str(), record.state_key.as_deref()) {
            _ if record.state_before == record.state_after => Self::Not,
            ("m.room.history_visibility", Some("")) => Self::Visibility,
            ("m.room.member", Some(state_key)) if state_key == view.caller.user_id => Self::Membership,
            _ => Self::Not,
        }
    }

    /// What a state says that differs from another one by this event.
    fn apply(self, event: Option<&Pdu>, other: Before) -> Before {
        match self {
            Self::Visibility => Before { visibility: visibility::history_visibility(event), ..other },
            Self::Membership => Before { membership: visibility::membership(event), ..other },
            Self::Not => other,
        }
    }
}

impl Rooms {
    /// For each event, whether the viewer may see it.
    pub async fn visible(&self, view: &View, events: &[Arc<StoredEvent>]) -> Result<Vec<bool>, Error> {
        self.visible_with(view, events, &mut Sights::default()).await
    }

    /// The same with what is known of states, and learning more of them.
    pub(crate) async fn visible_with(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        sights: &mut Sights,
    ) -> Result<Vec<bool>, Error> {
        let mut visible = Vec::with_capacity(events.len());
        for event in events {
            visible.push(self.is_visible(view, event, sights).await?);
        }
        Ok(visible)
    }

    /// Whether the viewer may see the event.
    pub(crate) async fn is_visible(
        &self,
        view: &View,
        event: &StoredEvent,
        sights: &mut Sights,
    ) -> Result<bool, Error> {
        if !event.is_shown() {
            return Ok(false);
        }
        let before = self.sight_before(view, event, sights).await?;
        if before.membership == MembershipState::Join || before.visibility == HistoryVisibility::WorldReadable
        {
            return Ok(true);
        }
        let joined_since = view.joined_until > Position::ZERO && event.position <= view.joined_until;
        let pdu = event.pdu(&view.room)?;
        Ok(visibility::is_visible(&pdu, &view.caller.user_id, &before, joined_since))
    }

    /// What the state just before an event says.
    pub(crate) async fn sight_before(
        &self,
        view: &View,
        event: &StoredEvent,
        sights: &mut Sights,
    ) -> Result<Before, Error> {
        let record = &event.record;
        if let Some(after) = sights.0.get(&record.state_after).cloned()
            && !sights.0.contains_key(&record.state_before)
        {
            // The event is what the two states differ by, so the one before has what it replaced.
            let matters = Matters::of(view, event);
            let replaced = match record.replaces.filter(|_| matters != Matters::Not) {
                Some(number) => Some(self.core.events.load(view.room.number, number).await?.pdu(&view.room)?),
                None => None,
            };
            sights.0.insert(record.state_before, matters.apply(replaced.as_deref(), after));
        }
        self.sight(view, record.state_before, sights).await
    }

    /// What the state just after an event says.
    pub(crate) async fn sight_after(
        &self,
        view: &View,
        event: &StoredEvent,
        sights: &mut Sights,
    ) -> Result<Before, Error> {
        let record = &event.record;
        if let Some(before) = sights.0.get(&record.state_before).cloned()
            && !sights.0.contains_key(&record.state_after)
        {
            let matters = Matters::of(view, event);
            let pdu = if matters == Matters::Not { None } else { Some(event.pdu(&view.room)?) };
            sights.0.insert(record.state_after, matters.apply(pdu.as_deref(), before));
        }
        self.sight(view, record.state_after, sights).await
    }

    /// What a state says of the room's visibility and the reader's membership.
    pub(crate) async fn sight(
        &self,
        view: &View,
        root: StateRoot,
        sights: &mut Sights,
    ) -> Result<Before, Error> {
        if let Some(before) = sights.0.get(&root) {
            return Ok(before.clone());
        }
        let known = (root, view.caller.user);
        if let Some(before) = self.core.sights.0.get(&known) {
            sights.0.insert(root, before.clone());
            return Ok(before);
        }
        let room = &view.room;
        let keys = [
            room.hash_key.entry_key("m.room.history_visibility", ""),
            room.hash_key.entry_key("m.room.member", view.caller.user_id.as_str()),
        ];
        let found = self.core.states.get_many(room, root, &keys).await?;
        let mut pdus = Vec::with_capacity(found.len());
        for number in found {
            pdus.push(match number {
                Some(number) => Some(self.core.events.load(room.number, number).await?.pdu(room)?),
                None => None,
            });
        }
        let mut pdus = pdus.iter().map(Option::as_deref);
        let before = Before {
            visibility: visibility::history_visibility(pdus.next().flatten()),
            membership: visibility::membership(pdus.next().flatten()),
        };
        self.core.sights.0.insert(known, before.clone());
        sights.0.insert(root, before.clone());
        Ok(before)
    }
}
