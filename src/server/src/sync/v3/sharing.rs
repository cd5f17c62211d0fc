//! Who has come to share a room with the reader since, and who may share none any more: what device lists and presence
//! ask.

use allod_matrix::state::Difference;
use roaring::RoaringBitmap;
use ruma::UserId;

use super::answer::Answering;
use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber, UserNumber},
    rooms::Room,
    tables::rooms::Membership,
};

/// State that changed in rooms that the reader stays in.
pub(super) type Changed = Vec<(RoomNumber, Vec<Difference>)>;

/// Users by number; the reader is not among them.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// They joined a room of the reader's, or the reader joined one of theirs.
    pub(super) coming: RoaringBitmap,
    /// They left a room of the reader's, or the reader left one of theirs, and they share no other.
    pub(super) going: RoaringBitmap,
}

impl Answering<'_> {
    /// Finds who comes and goes, from the rooms whose state changed and the reader's own coming and going.
    pub(super) async fn sharing(&self, changed: &Changed) -> Result<Sharing, Error> {
        let members = &self.inner.members;
        let mut sharing = Sharing::default();
        if self.known.is_none() {
            return Ok(sharing);
        }
        for room in self.plan.newly_joined.iter().map(RoomNumber) {
            sharing.coming |= &*members.joined(room).await?;
        }
        for room in self.plan.newly_left.iter().map(RoomNumber) {
            sharing.going |= &*members.joined(room).await?;
        }
        for (room, differences) in changed {
            self.find_in_room(*room, differences, &mut sharing).await?;
        }
        let own = self.request.caller.user.0;
        sharing.coming.remove(own);
        sharing.going.remove(own);
        if !sharing.going.is_empty() {
            let rooms: Vec<_> = self.rooms.joined.iter().map(RoomNumber).collect();
            sharing.going -= members.union(&rooms).await?;
            sharing.coming -= &sharing.going;
        }
        Ok(sharing)
    }

    async fn find_in_room(
        &self,
        number: RoomNumber,
        differences: &[Difference],
        sharing: &mut Sharing,
    ) -> Result<(), Error> {
        let room = self.inner.sources.rooms.get(number).await?;
        let member = room.hash_key.type_prefix("m.room.member");
        let others = match self.since() {
            Some(since) => self.changed_but_for_wholeness(&room, since).await?,
            None => None,
        };
        let differences = others.as_deref().unwrap_or(differences);
        for difference in differences.iter().filter(|difference| difference.key.type_prefix() == member) {
            let before = self.joined_by(&room, difference.before).await?;
            let after = self.joined_by(&room, difference.after).await?;
            match (before, after) {
                (None, Some(user)) => {
                    sharing.coming.insert(user.0);
                }
                (Some(user), None) => {
                    sharing.going.insert(user.0);
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        Ok(())
    }

    /// Who is joined by a member event.
    async fn joined_by(&self, room: &Room, event: Option<u32>) -> Result<Option<UserNumber>, Error> {
        let Some(number) = event else { return Ok(None) };
        let event = self.inner.sources.rooms.events().load(room.number, EventNumber(number)).await?;
        if crate::rooms::membership::of(&*event.pdu(room)?) != Some(Membership::Join) {
            return Ok(None);
        }
        let target = event.record.state_key.as_deref().and_then(|id| <&UserId>::try_from(id).ok());
        match target {
            Some(target) => self.inner.sources.users.number(target).await,
            None => Ok(None),
        }
    }
}
