//! Rooms that were joined before all of their members were known. Clients that load members lazily see them at once; the
//! others, who take what they are told for all members, when the room is whole.

use std::collections::BTreeSet;

use super::answer::Answering;
use crate::{database::Error, numbers::RoomNumber, rooms::partial::Completeness};

impl Answering<'_> {
    /// Leaves out the rooms of which members are missing, unless the client loads members lazily; shows those anew that
    /// have become whole.
    pub(super) async fn hold_back_partial(&mut self) -> Result<(), Error> {
        if self.filter.lazy.is_some() {
            return Ok(());
        }
        let rooms = &self.inner.sources.rooms;
        let mut held: BTreeSet<RoomNumber> = BTreeSet::new();
        for joined in &mut self.plan.joined {
            match rooms.completeness(joined.room).await? {
                Completeness::Whole => {}
                Completeness::WholeSince(at) if at <= self.position => {
                    if joined.since.is_some_and(|since| since < at) {
                        joined.since = None;
                        self.plan.newly_joined.insert(joined.room.0);
                    }
                }
                Completeness::WholeSince(_) | Completeness::Partial => {
                    held.insert(joined.room);
                    self.plan.newly_joined.remove(joined.room.0);
                }
            }
        }
        self.plan.joined.retain(|joined| !held.contains(&joined.room));
        Ok(())
    }
}
