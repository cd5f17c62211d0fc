//! Whose devices or keys changed between two syncs: for clients that were away and kept both tokens.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3keyschanges>

use ruma::OwnedUserId;

use super::{Sync, token::SyncToken, v3::SyncError};
use crate::{
    numbers::{RoomNumber, UserNumber},
    tables::rooms::Membership,
};

impl Sync {
    /// Users who share a room with `user` now, and whose devices or keys changed between the two tokens, or who share an
    /// encrypted room since then because `user` joined it. Everybody, if the first token is of another history.
    pub async fn key_changes(
        &self,
        user: UserNumber,
        from: &str,
        to: &str,
    ) -> Result<Vec<OwnedUserId>, SyncError> {
        let from: SyncToken = from.parse().map_err(|_| SyncError::BadToken)?;
        let to: SyncToken = to.parse().map_err(|_| SyncError::BadToken)?;
        let inner = &self.0;
        let joined = inner.memberships.current(user).await?;
        let rooms: Vec<RoomNumber> = joined.joined.iter().map(RoomNumber).collect();
        let mut users = inner.members.union(&rooms).await?;
        users.insert(user.0);
        let generation = inner.sources.database.store().generation();
        if from.generation == generation && to.generation == generation {
            let (since, upto) = (from.position, to.position);
            let changed = inner.sources.keys.changed(user, &users, since, upto).await?;
            users = changed.into_iter().map(|user| user.0).collect();
            for (_, change) in inner.memberships.changes(user, since, upto).await? {
                let joins = change.membership == Membership::Join && change.before != Some(Membership::Join);
                if joins && inner.members.is_encrypted(change.room).await? {
                    users |= &*inner.members.joined(change.room).await?;
                }
            }
        }
        let users: Vec<UserNumber> = users.iter().map(UserNumber).collect();
        Ok(inner.sources.users.ids(&users).await?.into_iter().flatten().collect())
    }
}
