//! Whose devices a client should look at again, and whose it may forget.
//!
//! The specification asks for those who share an *encrypted* room. Here all rooms count, as clients have come to expect:
//! they may look before a room is encrypted.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#tracking-the-device-list-for-a-user>

use roaring::RoaringBitmap;
use ruma::OwnedUserId;

use super::{answer::Answering, sharing::Sharing};
use crate::{
    database::Error,
    numbers::{RoomNumber, UserNumber},
    sync::{json::Json, token::SyncToken},
};

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
        let mut changed = sharing.coming.clone();
        if self.known.is_none() {
            // The client knows devices as of a history that is no longer ours.
            changed = self.all_who_share().await?;
        } else {
            changed |= self.changed_keys(token).await?;
        }
        changed -= &sharing.going;
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
    async fn changed_keys(&self, token: SyncToken) -> Result<RoaringBitmap, Error> {
        let (own, since) = (self.request.caller.user, token.position);
        let activity = &self.inner.activity;
        if !activity.device_list_changed(since) && !activity.user_data_changed(own, since) {
            return Ok(RoaringBitmap::new());
        }
        let users = self.all_who_share().await?;
        let changed = self.inner.sources.keys.changed(own, &users, since, self.position).await?;
        Ok(changed.into_iter().map(|user| user.0).collect())
    }

    /// Everybody in the reader's rooms, and the reader.
    async fn all_who_share(&self) -> Result<RoaringBitmap, Error> {
        let rooms: Vec<_> = self.rooms.joined.iter().map(RoomNumber).collect();
        let mut users = self.inner.members.union(&rooms).await?;
        users.insert(self.request.caller.user.0);
        Ok(users)
    }

    async fn user_ids(&self, users: &RoaringBitmap) -> Result<Vec<OwnedUserId>, Error> {
        let numbers: Vec<_> = users.iter().map(UserNumber).collect();
        Ok(self.inner.sources.users.ids(&numbers).await?.into_iter().flatten().collect())
    }
}
