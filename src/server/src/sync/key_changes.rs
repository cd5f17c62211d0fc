//! Whose devices or keys changed between two syncs: for clients that were away and kept both tokens. They are told what the
//! syncs told, or would have.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>

use roaring::RoaringBitmap;
use ruma::OwnedUserId;

use super::{Sync, plan::plan, sharing::Whereabouts, token::SyncToken, v3::SyncError};
use crate::numbers::{RoomNumber, UserNumber};

/// Whose devices a client should look at again, and whose it may forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Those whose devices or keys changed, or who have come to share a room.
    pub changed: Vec<OwnedUserId>,
    /// Those who share no room any more.
    pub left: Vec<OwnedUserId>,
}

impl Sync {
    /// What became of devices and keys between the two tokens, of those who share a room with `user` now or shared one.
    /// Everybody's changed, if a token is of another history.
    pub async fn key_changes(&self, user: UserNumber, from: &str, to: &str) -> Result<KeyChanges, SyncError> {
        let from: SyncToken = from.parse().map_err(|_| SyncError::BadToken)?;
        let to: SyncToken = to.parse().map_err(|_| SyncError::BadToken)?;
        let inner = &self.0;
        let generation = inner.sources.database.store().generation();
        let rooms = inner.memberships.current(user).await?;
        let (mut changed, mut left) = (RoaringBitmap::new(), RoaringBitmap::new());
        if from.generation == generation && to.generation == generation {
            let (since, upto) = (from.position, to.position);
            let changes = inner.memberships.changes(user, since, upto).await?;
            let plan = plan(&rooms, Some(since), &changes, false);
            let reader = Whereabouts {
                own: user,
                joined: &rooms.joined,
                newly_joined: &plan.newly_joined,
                newly_left: &plan.newly_left,
                window: (Some(since), upto),
            };
            let stayed = plan.joined.iter().filter(|joined| joined.since.is_some());
            let stayed: RoaringBitmap = stayed.map(|joined| joined.room.0).collect();
            let of_members = inner.changes_of_members(&stayed, since, upto).await?;
            let sharing = inner.sharing(reader, &of_members).await?;
            changed = inner.changed_keys(reader, since, upto).await?;
            changed |= &sharing.coming;
            changed -= &sharing.going;
            if !reader.newly_joined.is_empty() && inner.has_users_of_others(&sharing.coming).await? {
                changed.insert(user.0);
            }
            left = sharing.going;
        } else {
            let joined: Vec<RoomNumber> = rooms.joined.iter().map(RoomNumber).collect();
            changed |= inner.members.union(&joined).await?;
            changed.insert(user.0);
        }
        Ok(KeyChanges { changed: inner.user_ids(&changed).await?, left: inner.user_ids(&left).await? })
    }
}
