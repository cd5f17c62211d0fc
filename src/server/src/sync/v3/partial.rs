//! Rooms that were joined before all of their members were known. Clients that load members lazily see them at once; the
//! others, who take what they are told for all members, when the room is whole.

use std::collections::BTreeSet;

use allod_matrix::state::Difference;
use allod_storage::Position;

use super::answer::Answering;
use crate::{
    database::Error,
    numbers::RoomNumber,
    rooms::{Room, partial::Completeness},
};

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

    /// What changed in a room since a position, without those who only became known when it became whole; none if it did
    /// not. Of who is in a room that is not encrypted, devices need not be looked at for that.
    pub(super) async fn changed_but_for_wholeness(
        &self,
        room: &Room,
        since: Position,
    ) -> Result<Option<Vec<Difference>>, Error> {
        let Completeness::WholeSince(at) = self.inner.sources.rooms.completeness(room.number).await? else {
            return Ok(None);
        };
        if at <= since || at > self.position || self.inner.members.is_encrypted(room.number).await? {
            return Ok(None);
        }
        let states = self.inner.sources.rooms.states();
        let before = Position::new(at.get().saturating_sub(1));
        let known = states.root_at(room.number, since).await?;
        let partial = states.root_at(room.number, before).await?;
        let whole = states.root_at(room.number, at).await?;
        let now = states.root_at(room.number, self.position).await?;
        let mut changed = states.diff(room, known, partial).await?;
        changed.extend(states.diff(room, whole, now).await?);
        Ok(Some(changed))
    }
}
