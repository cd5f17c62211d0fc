//! Who has come to share a room with the reader since, and who may share none any more: what device lists and presence
//! ask.

use allod_matrix::state::Difference;
use allod_storage::Position;
use roaring::RoaringBitmap;
use ruma::UserId;

use super::Inner;
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

/// Where a reader is, and how that changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whereabouts<'a> {
    /// The reader.
    pub(super) own: UserNumber,
    /// The rooms that they have joined.
    pub(super) joined: &'a RoaringBitmap,
    /// Those joined since, and not joined before.
    pub(super) newly_joined: &'a RoaringBitmap,
    /// Those no longer joined that were.
    pub(super) newly_left: &'a RoaringBitmap,
    /// What is looked at: behind the first position, if the reader knows one, up to the second.
    pub(super) window: (Option<Position>, Position),
}

impl Inner {
    /// Finds who comes and goes, from the rooms whose state changed and the reader's own coming and going.
    pub(super) async fn sharing(&self, reader: Whereabouts<'_>, changed: &Changed) -> Result<Sharing, Error> {
        let members = &self.members;
        let mut sharing = Sharing::default();
        for room in reader.newly_joined.iter().map(RoomNumber) {
            sharing.coming |= &*members.joined(room).await?;
        }
        for room in reader.newly_left.iter().map(RoomNumber) {
            sharing.going |= &*members.joined(room).await?;
        }
        for (room, differences) in changed {
            self.find_in_room(*room, differences, reader.window, &mut sharing).await?;
        }
        let own = reader.own.0;
        sharing.coming.remove(own);
        sharing.going.remove(own);
        if !sharing.going.is_empty() {
            let rooms: Vec<_> = reader.joined.iter().map(RoomNumber).collect();
            sharing.going -= members.union(&rooms).await?;
            sharing.coming -= &sharing.going;
        }
        Ok(sharing)
    }

    /// The state that changed in these rooms in a window, where members did.
    pub(super) async fn changes_of_members(
        &self,
        rooms: &RoaringBitmap,
        since: Position,
        until: Position,
    ) -> Result<Changed, Error> {
        let states = self.sources.rooms.states();
        let mut changed = Changed::new();
        for number in rooms.iter().map(RoomNumber) {
            if !self.activity.members_changed(number, since) || !self.activity.state_changed(number, since) {
                continue;
            }
            let room = self.sources.rooms.get(number).await?;
            if !self.reader.state_changed(&room, since, until).await? {
                continue;
            }
            let (before, after) =
                (states.root_at(number, since).await?, states.root_at(number, until).await?);
            changed.push((number, states.diff(&room, before, after).await?));
        }
        Ok(changed)
    }

    async fn find_in_room(
        &self,
        number: RoomNumber,
        differences: &[Difference],
        (since, until): (Option<Position>, Position),
        sharing: &mut Sharing,
    ) -> Result<(), Error> {
        let room = self.sources.rooms.get(number).await?;
        let member = room.hash_key.type_prefix("m.room.member");
        let others = match since {
            Some(since) => self.changed_but_for_wholeness(&room, since, until).await?,
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
        let event = self.sources.rooms.events().load(room.number, EventNumber(number)).await?;
        if crate::rooms::membership::of(&*event.pdu(room)?) != Some(Membership::Join) {
            return Ok(None);
        }
        let target = event.record.state_key.as_deref().and_then(|id| <&UserId>::try_from(id).ok());
        match target {
            Some(target) => self.sources.users.number(target).await,
            None => Ok(None),
        }
    }
}
