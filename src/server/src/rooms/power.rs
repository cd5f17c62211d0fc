//! What members of a room have the power to do now.

use std::sync::Arc;

use allod_matrix::{
    event::pdu::Pdu,
    power::{Action, Powers},
};
use ruma::OwnedUserId;

use super::{Room, Rooms, event::StoredEvent, send::Caller};
use crate::{
    database::{Corrupt, Error, Range},
    tables::rooms::{Membership, RoomMember},
};

impl Rooms {
    /// The room's power levels now.
    pub async fn powers(&self, room: &Room) -> Result<Powers, Error> {
        let missing = || Error::Corrupt("CurrentState", Corrupt("a room has no create event"));
        let create = self.current_pdu(room, "m.room.create", "").await?.ok_or_else(missing)?;
        let levels = self.current_pdu(room, "m.room.power_levels", "").await?;
        Ok(Powers::new(&create, levels, &room.rules.authorization))
    }

    /// Whether the caller has joined and has the power to set state of this type.
    pub(crate) async fn may_send_state(
        &self,
        room: &Room,
        caller: &Caller,
        kind: &str,
    ) -> Result<bool, Error> {
        let joined = self.is_joined(room.number, caller.user).await?;
        Ok(joined && self.powers(room).await?.may(&caller.user_id, Action::SetState(kind)))
    }

    /// A local member who may invite.
    pub(crate) async fn local_inviter(&self, room: &Room) -> Result<Option<OwnedUserId>, Error> {
        let powers = self.powers(room).await?;
        let mut range = Range::<RoomMember>::prefix(&room.number);
        loop {
            let page = self.core.database.scan(&range).await?;
            for ((_, user), row) in &page.rows {
                if row.value.membership == Membership::Join
                    && let Some(user_id) = self.core.users.id(*user).await?
                    && self.is_ours(&user_id)
                    && powers.may(&user_id, Action::Invite)
                {
                    return Ok(Some(user_id));
                }
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => return Ok(None),
            }
        }
    }

    /// A piece of current state, parsed.
    pub(crate) async fn current_pdu(
        &self,
        room: &Room,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<Pdu>>, Error> {
        let event = self.current_event(room, kind, state_key).await?;
        event.map(|event| event.pdu(room)).transpose()
    }

    /// A piece of current state, as it is stored.
    pub(crate) async fn current_event(
        &self,
        room: &Room,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        let root = self.current_root(room.number).await?;
        let Some(number) = self.core.states.get(room, root, kind, state_key).await? else { return Ok(None) };
        Ok(Some(self.core.events.load(room.number, number).await?))
    }
}
