//! Whose devices a client should look at again, and whose it may forget.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>

use allod_matrix::state::Difference;
use roaring::RoaringBitmap;
use ruma::{OwnedUserId, UserId};

use super::answer::Answering;
use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber, UserNumber},
    rooms::Room,
    sync::{json::Json, token::SyncToken},
    tables::rooms::Membership,
};

/// What the rooms of an answer say about who shares an encrypted room since.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// State that changed in rooms that the user stays in.
    pub(super) changed: Vec<(RoomNumber, Vec<Difference>)>,
}

/// Users, by number.
#[derive(Debug, Default)]
struct Lists {
    changed: RoaringBitmap,
    /// Perhaps left: if they share no other encrypted room.
    gone: RoaringBitmap,
}

impl Answering<'_> {
    /// Writes `device_lists`; whether there is anything to tell. `token` is the client's, whatever its history.
    pub(super) async fn write_device_lists(
        &self,
        json: &mut Json,
        token: Option<SyncToken>,
        sharing: &Sharing,
    ) -> Result<bool, Error> {
        // A first sync begins with no devices known, so nothing has changed.
        let Some(token) = token else { return Ok(false) };
        let members = &self.inner.members;
        let own = self.request.caller.user;
        let mut lists = Lists::default();
        if self.known.is_none() {
            // The client knows devices as of a history that is no longer ours.
            let encrypted = members.encrypted(&self.rooms.joined).await?;
            lists.changed = members.union(&encrypted).await?;
            lists.changed.insert(own.0);
        } else {
            self.find_changed_keys(token, &mut lists).await?;
            self.find_coming_and_going(sharing, &mut lists).await?;
        }
        lists.gone.remove(own.0);
        if !lists.gone.is_empty() {
            let encrypted = members.encrypted(&self.rooms.joined).await?;
            lists.gone -= members.union(&encrypted).await?;
            lists.changed -= &lists.gone;
        }
        if lists.changed.is_empty() && lists.gone.is_empty() {
            return Ok(false);
        }
        json.object("device_lists");
        json.member("changed", &self.user_ids(&lists.changed).await?);
        json.member("left", &self.user_ids(&lists.gone).await?);
        json.close();
        Ok(true)
    }

    /// Whose keys changed, among those who share a room, encrypted or not: clients may want to look before it is.
    async fn find_changed_keys(&self, token: SyncToken, lists: &mut Lists) -> Result<(), Error> {
        let (activity, members) = (&self.inner.activity, &self.inner.members);
        let (own, since) = (self.request.caller.user, token.position);
        if !activity.device_list_changed(since) && !activity.user_data_changed(own, since) {
            return Ok(());
        }
        let rooms: Vec<_> = self.rooms.joined.iter().map(RoomNumber).collect();
        let mut users = members.union(&rooms).await?;
        users.insert(own.0);
        let changed = self.inner.sources.keys.changed(own, &users, since, self.position).await?;
        lists.changed.extend(changed.into_iter().map(|user| user.0));
        Ok(())
    }

    /// Who has come to share an encrypted room, and who may share none any more.
    async fn find_coming_and_going(&self, sharing: &Sharing, lists: &mut Lists) -> Result<(), Error> {
        let members = &self.inner.members;
        for room in self.plan.newly_joined.iter().map(RoomNumber) {
            if members.is_encrypted(room).await? {
                lists.changed |= &*members.joined(room).await?;
                lists.changed.remove(self.request.caller.user.0);
            }
        }
        for room in self.plan.newly_left.iter().map(RoomNumber) {
            if members.is_encrypted(room).await? {
                lists.gone |= &*members.joined(room).await?;
            }
        }
        for (room, differences) in &sharing.changed {
            if members.is_encrypted(*room).await? {
                self.find_in_room(*room, differences, lists).await?;
            }
        }
        Ok(())
    }

    /// The same in one encrypted room that the user stays in.
    async fn find_in_room(
        &self,
        number: RoomNumber,
        differences: &[Difference],
        lists: &mut Lists,
    ) -> Result<(), Error> {
        let rooms = &self.inner.sources.rooms;
        let room = rooms.get(number).await?;
        let encryption = room.hash_key.entry_key("m.room.encryption", "");
        if differences.iter().any(|difference| difference.key == encryption && difference.before.is_none()) {
            lists.changed |= &*self.inner.members.joined(number).await?;
            lists.changed.remove(self.request.caller.user.0);
        }
        let member = room.hash_key.type_prefix("m.room.member");
        for difference in differences.iter().filter(|difference| difference.key.type_prefix() == member) {
            let before = self.member_at(&room, difference.before).await?;
            let after = self.member_at(&room, difference.after).await?;
            let joined = |member: Option<(UserNumber, Membership)>| {
                member.filter(|(_, membership)| *membership == Membership::Join).map(|(user, _)| user.0)
            };
            match (joined(before), joined(after)) {
                (None, Some(user)) => {
                    lists.changed.insert(user);
                }
                (Some(user), None) => {
                    lists.gone.insert(user);
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        Ok(())
    }

    /// Whom a member event is about, and what it says.
    async fn member_at(
        &self,
        room: &Room,
        event: Option<u32>,
    ) -> Result<Option<(UserNumber, Membership)>, Error> {
        let Some(number) = event else { return Ok(None) };
        let rooms = &self.inner.sources.rooms;
        let event = rooms.events().load(room.number, EventNumber(number)).await?;
        let target = event.record.state_key.as_deref().and_then(|id| <&UserId>::try_from(id).ok());
        let Some(target) = target else { return Ok(None) };
        let user = self.inner.sources.users.number(target).await?;
        Ok(user.zip(crate::rooms::membership::of(&*event.pdu(room)?)))
    }

    async fn user_ids(&self, users: &RoaringBitmap) -> Result<Vec<OwnedUserId>, Error> {
        let numbers: Vec<_> = users.iter().map(UserNumber).collect();
        Ok(self.inner.sources.users.ids(&numbers).await?.into_iter().flatten().collect())
    }
}
