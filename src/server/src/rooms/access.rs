//! Who may look into a room, and how far. Reading a room's events or state takes a [`View`], which only this file makes.

use std::sync::Arc;

use allod_storage::Position;
use ruma::{OwnedUserId, RoomId};

use super::{Room, Rooms, send::Caller};
use crate::{
    database::Error,
    numbers::{EventNumber, RoomNumber},
    tables::{
        Stamped,
        rooms::{HeadRecord, MemberRecord, Membership, RoomHead, RoomMember, StateRoot, UserRoom},
    },
};

/// Why a room stays closed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The server does not know the room, or the caller has no business in it; told alike.
    #[error("you are not in this room")]
    Forbidden,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// One user's view of one room.
#[derive(Clone, Debug)]
pub struct View {
    /// The room.
    pub room: Arc<Room>,
    /// Who looks.
    pub caller: Caller,
    /// Their membership now.
    pub membership: Option<Membership>,
    /// The newest state that they may see: now, or when they left.
    pub root: StateRoot,
    /// The last event that they may see, unless the room is readable for all.
    pub until: Position,
    /// Until when they had joined; zero for those who never did.
    pub joined_until: Position,
}

/// How far back the changes of a membership are followed to find a join.
const MEMBERSHIP_CHANGES_MAX: usize = 100;

impl Rooms {
    /// The caller's view of a room: for members, for those who were, and for all where history is readable for all.
    pub async fn view(&self, room_id: &RoomId, caller: &Caller) -> Result<View, AccessError> {
        let room = self.find(room_id).await?.ok_or(AccessError::Forbidden)?;
        let view = self.view_of(room, caller).await?;
        let left = matches!(view.membership, Some(Membership::Leave | Membership::Ban));
        if left && self.has_forgotten(view.room.number, caller).await? {
            return Err(AccessError::Forbidden);
        }
        if view.joined_until > Position::ZERO || self.is_world_readable(&view).await? {
            return Ok(view);
        }
        Err(AccessError::Forbidden)
    }

    /// The caller's view of a room that they have joined now.
    pub async fn joined_view(&self, room_id: &RoomId, caller: &Caller) -> Result<View, AccessError> {
        let room = self.find(room_id).await?.ok_or(AccessError::Forbidden)?;
        let view = self.view_of(room, caller).await?;
        if view.membership == Some(Membership::Join) { Ok(view) } else { Err(AccessError::Forbidden) }
    }

    /// The view of any local user, whatever it shows: callers that hand it on must check it.
    pub(crate) async fn view_of(&self, room: Arc<Room>, caller: &Caller) -> Result<View, Error> {
        let member = self.core.database.get::<RoomMember>(&(room.number, caller.user)).await?;
        let head = self.head(room.number).await?;
        let membership = member.as_ref().map(|member| member.value.membership);
        let newest = Position::new(u64::MAX);
        let (root, until, joined_until) = match &member {
            Some(member) if membership == Some(Membership::Join) => {
                let _ = member;
                (head.root, newest, newest)
            }
            Some(member) if matches!(membership, Some(Membership::Leave | Membership::Ban)) => {
                self.left_view(room.number, member).await?
            }
            _ => (head.root, newest, Position::ZERO),
        };
        Ok(View { room, caller: caller.clone(), membership, root, until, joined_until })
    }

    /// What someone who is no longer in the room may see.
    async fn left_view(
        &self,
        room: RoomNumber,
        member: &Stamped<MemberRecord>,
    ) -> Result<(StateRoot, Position, Position), Error> {
        let mut event = self.core.events.load(room, member.value.event).await?;
        let (root, until) = (event.record.state_after, event.position);
        for _ in 0..MEMBERSHIP_CHANGES_MAX {
            let Some(before) = event.record.replaces else { break };
            let left_at = event.position;
            event = self.core.events.load(room, before).await?;
            if self.membership_in(room, before).await? == Some(Membership::Join) {
                return Ok((root, until, left_at));
            }
        }
        Ok((root, until, Position::ZERO))
    }

    pub(crate) async fn membership_in(
        &self,
        room: RoomNumber,
        event: EventNumber,
    ) -> Result<Option<Membership>, Error> {
        let room = self.get(room).await?;
        let event = self.core.events.load(room.number, event).await?;
        Ok(super::membership::of(&*event.pdu(&room)?))
    }

    async fn has_forgotten(&self, room: RoomNumber, caller: &Caller) -> Result<bool, Error> {
        let row = self.core.database.get::<UserRoom>(&(caller.user, room)).await?;
        Ok(row.is_some_and(|row| row.value.forgotten))
    }

    async fn is_world_readable(&self, view: &View) -> Result<bool, Error> {
        let content = self.current_content(&view.room, "m.room.history_visibility", "").await?;
        let visibility = content.as_ref().and_then(|content| content.get("history_visibility")?.as_str());
        Ok(visibility == Some("world_readable"))
    }

    /// The newest end of a room.
    pub(crate) async fn head(&self, room: RoomNumber) -> Result<HeadRecord, Error> {
        let head = self.core.database.get::<RoomHead>(&room).await?;
        Ok(head.map(|head| head.value).unwrap_or_default())
    }

    /// Root of the room's current state.
    pub async fn current_root(&self, room: RoomNumber) -> Result<StateRoot, Error> {
        Ok(self.head(room).await?.root)
    }
}

/// For a room with restricted joins that the caller needs no invitation to: the local member in whose name they join.
pub(super) async fn join_authoriser(
    rooms: &Rooms,
    room: &Room,
    caller: &Caller,
) -> Result<Option<OwnedUserId>, Error> {
    let member = rooms.member(room.number, caller.user).await?;
    if matches!(member.map(|member| member.membership), Some(Membership::Join | Membership::Invite)) {
        return Ok(None);
    }
    let Some(rules) = rooms.current_content(room, "m.room.join_rules", "").await? else { return Ok(None) };
    if !matches!(
        rules.get("join_rule").and_then(|rule| rule.as_str()),
        Some("restricted" | "knock_restricted")
    ) {
        return Ok(None);
    }
    let allow = rules.get("allow").and_then(|allow| allow.as_array()).cloned().unwrap_or_default();
    for condition in allow {
        let kind = condition.get("type").and_then(|kind| kind.as_str());
        let room_id =
            condition.get("room_id").and_then(|id| id.as_str()).and_then(|id| RoomId::parse(id).ok());
        if let (Some("m.room_membership"), Some(room_id)) = (kind, room_id)
            && let Some(other) = rooms.find(&room_id).await?
            && rooms.is_joined(other.number, caller.user).await?
        {
            return rooms.local_inviter(room).await;
        }
    }
    Ok(None)
}
