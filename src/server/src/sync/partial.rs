//! Members of rooms that were joined before all of their members were known: who sends something cites their own
//! membership, so that it is here even where the state lacks it.

use std::collections::{BTreeMap, BTreeSet};

use allod_matrix::state::EntryKey;

use super::{room_delta::RoomReader, timeline::Timeline};
use crate::{database::Error, numbers::EventNumber, rooms::Room};

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
