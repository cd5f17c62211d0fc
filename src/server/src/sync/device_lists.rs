//! Whose devices a client should look at again, and whose it may forget.
//!
//! The specification asks for those who share an *encrypted* room. Here all rooms count, as clients have come to expect:
//! they may look before a room is encrypted.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>

use allod_storage::Position;
use roaring::RoaringBitmap;
use ruma::OwnedUserId;

use super::{
    Inner,
    json::Json,
    sharing::{Sharing, Whereabouts},
};
use crate::{
    database::Error,
    numbers::{RoomNumber, UserNumber},
};

impl Inner {
    /// Writes `device_lists`; whether there is anything to tell. Without `since` the reader knows devices as of a history that
    /// is no longer ours: everybody's may have changed.
    pub(super) async fn write_device_lists(
        &self,
        json: &mut Json,
        reader: Whereabouts<'_>,
        (since, until): (Option<Position>, Position),
        sharing: &Sharing,
    ) -> Result<bool, Error> {
        let mut changed = sharing.coming.clone();
        match since {
            None => changed = self.all_who_share(reader).await?,
            Some(since) => changed |= self.changed_keys(reader, since, until).await?,
        }
        changed -= &sharing.going;
        // Who comes to a room of other servers has their own devices told of there: the other devices learn of it too.
        if !reader.newly_joined.is_empty() && self.has_users_of_others(&sharing.coming).await? {
            changed.insert(reader.own.0);
        }
        if changed.is_empty() && sharing.going.is_empty() {
            return Ok(false);
        }
        json.object("device_lists");
        json.member("changed", &self.user_ids(&changed).await?);
        json.member("left", &self.user_ids(&sharing.going).await?);
        json.close();
        Ok(true)
    }

    /// Whose keys changed, among those who share a room.
    pub(super) async fn changed_keys(
        &self,
        reader: Whereabouts<'_>,
        since: Position,
        until: Position,
    ) -> Result<RoaringBitmap, Error> {
        let own = reader.own;
        if !self.activity.device_list_changed(since) && !self.activity.user_data_changed(own, since) {
            return Ok(RoaringBitmap::new());
        }
        let users = self.all_who_share(reader).await?;
        let changed = self.sources.keys.changed(own, &users, since, until).await?;
        Ok(changed.into_iter().map(|user| user.0).collect())
    }

    /// Everybody in the reader's rooms, and the reader.
    async fn all_who_share(&self, reader: Whereabouts<'_>) -> Result<RoaringBitmap, Error> {
        let rooms: Vec<_> = reader.joined.iter().map(RoomNumber).collect();
        let mut users = self.members.union(&rooms).await?;
        users.insert(reader.own.0);
        Ok(users)
    }

    pub(super) async fn has_users_of_others(&self, users: &RoaringBitmap) -> Result<bool, Error> {
        Ok(self.user_ids(users).await?.iter().any(|user_id| !self.sources.users.is_local(user_id)))
    }

    pub(super) async fn user_ids(&self, users: &RoaringBitmap) -> Result<Vec<OwnedUserId>, Error> {
        let numbers: Vec<_> = users.iter().map(UserNumber).collect();
        Ok(self.sources.users.ids(&numbers).await?.into_iter().flatten().collect())
    }
}
