//! Which rooms are whose business: those with one of an application service's users, aliases or room ids.

use std::sync::Arc;

use roaring::RoaringBitmap;
use ruma::{OwnedUserId, UserId};

use super::{Inner, State};
use crate::{
    bridges::Bridge,
    database::Error,
    numbers::{RoomNumber, UserNumber},
    rooms::{Room, event::StoredEvent},
};

/// Which users are an application service's own. Ids and namespaces never change, so what was found out stays true.
#[derive(Debug, Default)]
pub(super) struct Known {
    looked_at: RoaringBitmap,
    own: RoaringBitmap,
}

impl Inner {
    /// Whether an event is an application service's business.
    pub(super) async fn concerns(
        &self,
        state: &State,
        bridge: &Bridge,
        room: &Arc<Room>,
        event: &StoredEvent,
    ) -> Result<bool, Error> {
        if bridge.has_room(&room.room_id) || self.is_own(state, bridge, event.record.sender).await? {
            return Ok(true);
        }
        if event.record.kind == "m.room.member"
            && let Some(target) = event.record.state_key.as_deref().and_then(|id| UserId::parse(id).ok())
            && bridge.has_user(&target)
        {
            return Ok(true);
        }
        self.has_business(state, bridge, room.number).await
    }

    /// Whether what happens in a room is an application service's business.
    pub(super) async fn has_business(
        &self,
        state: &State,
        bridge: &Bridge,
        room: RoomNumber,
    ) -> Result<bool, Error> {
        let members = self.sources.sync.members().joined(room).await?;
        if self.has_own(state, bridge, &members).await? {
            return Ok(true);
        }
        let aliases = self.sources.rooms.aliases(room).await?;
        Ok(aliases.iter().any(|alias| bridge.has_alias(alias)))
    }

    /// Whether a user is an application service's own, of this server.
    pub(super) async fn is_own(
        &self,
        state: &State,
        bridge: &Bridge,
        user: UserNumber,
    ) -> Result<bool, Error> {
        self.has_own(state, bridge, &RoaringBitmap::from_iter([user.0])).await
    }

    /// Whether one of these users is.
    async fn has_own(&self, state: &State, bridge: &Bridge, users: &RoaringBitmap) -> Result<bool, Error> {
        let unknown: Vec<UserNumber> = {
            let known = state.known();
            if !known.own.is_disjoint(users) {
                return Ok(true);
            }
            (users - &known.looked_at).iter().map(UserNumber).collect()
        };
        if unknown.is_empty() {
            return Ok(false);
        }
        let ids: Vec<Option<OwnedUserId>> = self.sources.users.ids(&unknown).await?;
        let mut known = state.known();
        for (user, id) in unknown.iter().zip(ids) {
            known.looked_at.insert(user.0);
            if id.is_some_and(|id| self.sources.users.is_local(&id) && bridge.has_user(&id)) {
                known.own.insert(user.0);
            }
        }
        Ok(!known.own.is_disjoint(users))
    }
}
