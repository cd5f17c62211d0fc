//! Which events of a room a user may see: looks up what the rule asks about, and asks it.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::visibility::{self, Before};
use allod_storage::Position;
use ruma::events::room::{history_visibility::HistoryVisibility, member::MembershipState};

use super::{Rooms, access::View, event::StoredEvent};
use crate::{database::Error, tables::rooms::StateRoot};

/// What each state says to one reader; the states of neighbouring events are mostly the same.
#[derive(Debug, Default)]
pub(crate) struct Sights(HashMap<StateRoot, Before>);

impl Sights {
    /// Most events change nothing that matters here: what is known of the state on one side of them holds on the other.
    fn derive(&mut self, view: &View, event: &StoredEvent) {
        let record = &event.record;
        let matters = match record.kind.as_str() {
            "m.room.history_visibility" => true,
            "m.room.member" => record.state_key.as_deref() == Some(view.caller.user_id.as_str()),
            _ => false,
        };
        if matters || record.state_before == record.state_after {
            return;
        }
        let (before, after) = (self.0.get(&record.state_before), self.0.get(&record.state_after));
        match (before.cloned(), after.cloned()) {
            (Some(sight), None) => drop(self.0.insert(record.state_after, sight)),
            (None, Some(sight)) => drop(self.0.insert(record.state_before, sight)),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }
}

impl Rooms {
    /// For each event, whether the viewer may see it.
    pub async fn visible(&self, view: &View, events: &[Arc<StoredEvent>]) -> Result<Vec<bool>, Error> {
        let mut sights = Sights::default();
        let mut visible = Vec::with_capacity(events.len());
        for event in events {
            visible.push(self.is_visible(view, event, &mut sights).await?);
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
        sights.derive(view, event);
        let before = self.sight(view, event.record.state_before, sights).await?;
        sights.derive(view, event);
        Ok(before)
    }

    /// What the state just after an event says.
    pub(crate) async fn sight_after(
        &self,
        view: &View,
        event: &StoredEvent,
        sights: &mut Sights,
    ) -> Result<Before, Error> {
        sights.derive(view, event);
        let after = self.sight(view, event.record.state_after, sights).await?;
        sights.derive(view, event);
        Ok(after)
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
        sights.0.insert(root, before.clone());
        Ok(before)
    }
}
