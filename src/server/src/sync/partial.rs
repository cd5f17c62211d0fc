//! Members of rooms that were joined before all of their members were known: who sends something cites their own
//! membership, so that it is here even where the state lacks it.

use std::collections::{BTreeMap, BTreeSet};

use allod_matrix::state::{Difference, EntryKey};
use allod_storage::Position;

use super::{Inner, room_delta::RoomReader, timeline::Timeline};
use crate::{
    database::Error,
    numbers::EventNumber,
    rooms::{Room, partial::Completeness},
};

/// A member whose event is needed, and the event that counts where the state has none.
pub(super) type Needed = (EntryKey, Option<EventNumber>);

impl RoomReader {
    /// Adds to members that are needed what the events of a timeline cite of them, if members of the room are missing.
    pub(super) async fn with_cited(
        &self,
        room: &Room,
        timeline: &Timeline,
        keys: Vec<EntryKey>,
    ) -> Result<Vec<Needed>, Error> {
        let mut cited: BTreeMap<EntryKey, EventNumber> = BTreeMap::new();
        if self.rooms.is_partial(room.number) {
            let numbers =
                timeline.events.iter().flat_map(|(_, event)| event.record.auth_events.iter().copied());
            let numbers: Vec<EventNumber> = numbers.collect::<BTreeSet<_>>().into_iter().collect();
            for event in self.rooms.events().load_many(room.number, &numbers).await? {
                if let Some(state_key) = event.record.state_key.as_deref()
                    && event.record.kind == "m.room.member"
                {
                    cited.insert(room.hash_key.entry_key("m.room.member", state_key), event.number);
                }
            }
        }
        Ok(keys.into_iter().map(|key| (key, cited.get(&key).copied())).collect())
    }
}

impl Inner {
    /// What changed in a room in a window, without those who only became known when it became whole; none if it did not.
    /// Of who is in a room that is not encrypted, devices need not be looked at for that.
    pub(super) async fn changed_but_for_wholeness(
        &self,
        room: &Room,
        since: Position,
        until: Position,
    ) -> Result<Option<Vec<Difference>>, Error> {
        let Completeness::WholeSince(at) = self.sources.rooms.completeness(room.number).await? else {
            return Ok(None);
        };
        if at <= since || at > until || self.members.is_encrypted(room.number).await? {
            return Ok(None);
        }
        let states = self.sources.rooms.states();
        let before = Position::new(at.get().saturating_sub(1));
        let known = states.root_at(room.number, since).await?;
        let partial = states.root_at(room.number, before).await?;
        let whole = states.root_at(room.number, at).await?;
        let now = states.root_at(room.number, until).await?;
        let mut changed = states.diff(room, known, partial).await?;
        changed.extend(states.diff(room, whole, now).await?);
        Ok(Some(changed))
    }
}
