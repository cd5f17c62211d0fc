//! Membership: join, invite, leave, kick, ban, unban, knock, forget.

use std::sync::Arc;

use allod_matrix::event::{build::Signed, pdu::Pdu};
use ruma::{OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use serde_json::{Map, Value};

use super::{Append, AppendError, Appended, Room, Rooms, send::Caller};
use crate::{
    database::{Error, Write},
    invite_rules::Verdict,
    numbers::UserNumber,
    tables::rooms::{Membership, UserRoom},
};

/// Why a membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The server does not know the room.
    #[error("this server does not know the room")]
    UnknownRoom,
    /// The person concerned must not be in that state for this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The room does not let guests in.
    #[error("guests may not join this room")]
    GuestsForbidden,
    /// The person who is invited does not want invitations of the caller.
    #[error("the user does not accept your invitations")]
    InviteBlocked,
    /// A room cannot be forgotten by who is in it.
    #[error("leave the room before you forget it")]
    StillIn,
    /// The event was not taken.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// What a membership change says besides the membership.
#[derive(Clone, Debug, Default)]
pub struct MembershipOptions {
    /// Shown to the members.
    pub reason: Option<String>,
    /// Marks an invitation to a direct chat.
    pub is_direct: Option<bool>,
}

/// The membership that a member event states.
pub(crate) fn of(pdu: &Pdu) -> Option<Membership> {
    Some(match pdu.membership()? {
        MembershipState::Join => Membership::Join,
        MembershipState::Invite => Membership::Invite,
        MembershipState::Knock => Membership::Knock,
        MembershipState::Ban => Membership::Ban,
        _ => Membership::Leave,
    })
}

impl Membership {
    /// As `m.room.member` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }
}

impl Rooms {
    /// The room with this id, or an error that says the server does not know it.
    pub async fn known(&self, room_id: &RoomId) -> Result<Arc<Room>, MembershipError> {
        self.find(room_id).await?.ok_or(MembershipError::UnknownRoom)
    }

    /// Refuses where the room does not let guests join.
    pub async fn check_guest_access(&self, room_id: &RoomId) -> Result<(), MembershipError> {
        let room = self.known(room_id).await?;
        let content = self.current_content(&room, "m.room.guest_access", "").await?;
        let access = content.as_ref().and_then(|content| content.get("guest_access")?.as_str());
        if access == Some("can_join") { Ok(()) } else { Err(MembershipError::GuestsForbidden) }
    }

    /// Joins the caller to a room of this server. What `content` says goes into the member event, but for what others
    /// must be able to trust.
    pub async fn join(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        content: Map<String, Value>,
    ) -> Result<Arc<Room>, MembershipError> {
        let room = self.known(room_id).await?;
        if let Some(Value::Object(signed)) = content.get("third_party_signed") {
            self.redeem(&room, caller, signed).await?;
        }
        let mut content = self.own_member_content(Membership::Join, caller.user, content).await?;
        if let Some(authoriser) = self.join_authoriser(&room, caller).await? {
            content.insert("join_authorised_via_users_server".to_owned(), authoriser.to_string().into());
        }
        self.set_member(&room, caller, &caller.user_id, content).await?;
        Ok(room)
    }

    /// Asks to be let into a room of this server.
    pub async fn knock(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        options: &MembershipOptions,
    ) -> Result<Arc<Room>, MembershipError> {
        let room = self.known(room_id).await?;
        let content = self.member_content(Membership::Knock, caller.user, options).await?;
        self.set_member(&room, caller, &caller.user_id, content).await?;
        Ok(room)
    }

    /// Invites a user.
    pub async fn invite(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        target: &UserId,
        options: &MembershipOptions,
    ) -> Result<Appended, MembershipError> {
        let room = self.known(room_id).await?;
        if self.is_invite_blocked(caller, target).await? {
            return Err(MembershipError::InviteBlocked);
        }
        let user = self.core.users.number_or_new(target).await?;
        let content = self.member_content(Membership::Invite, user, options).await?;
        self.set_member(&room, caller, target, content).await
    }

    /// Whether a local user does not want to be invited by the caller.
    pub(super) async fn is_invite_blocked(&self, caller: &Caller, target: &UserId) -> Result<bool, Error> {
        if !self.is_ours(target) {
            return Ok(false);
        }
        let Some(user) = self.core.users.number(target).await? else { return Ok(false) };
        Ok(self.invite_rules(user).await?.judge(&caller.user_id) == Verdict::Block)
    }

    /// An invitation that is not in the room yet: the invited user's server has to sign it.
    pub(crate) async fn invitation(
        &self,
        room: &Room,
        caller: &Caller,
        target: &UserId,
        options: &MembershipOptions,
    ) -> Result<Signed, MembershipError> {
        let user = self.core.users.number_or_new(target).await?;
        let content = self.member_content(Membership::Invite, user, options).await?;
        self.invitation_saying(room, caller, target, content).await
    }

    /// The same with a content of its own.
    pub(crate) async fn invitation_saying(
        &self,
        room: &Room,
        caller: &Caller,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<Signed, MembershipError> {
        let draft = self.draft(caller, "m.room.member", Some(target.as_str()), &Value::Object(content))?;
        Ok(self.candidate(room, draft).await?)
    }

    /// What a local user's member event says: what the client wants in it, but for what others must be able to trust.
    pub(crate) async fn own_member_content(
        &self,
        membership: Membership,
        user: UserNumber,
        mut content: Map<String, Value>,
    ) -> Result<Map<String, Value>, Error> {
        content.remove("third_party_signed");
        content.remove("third_party_invite");
        content.remove("join_authorised_via_users_server");
        content.extend(self.member_content(membership, user, &MembershipOptions::default()).await?);
        Ok(content)
    }

    /// Leaves a room, or rejects an invitation, or takes back a knock.
    pub async fn leave(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        options: &MembershipOptions,
    ) -> Result<(), MembershipError> {
        let room = self.known(room_id).await?;
        let content = plain_content(Membership::Leave, options);
        self.set_member(&room, caller, &caller.user_id, content).await?;
        Ok(())
    }

    /// Leaves every room, and rejects every invitation; for who is about to have no account any more.
    pub async fn leave_all(&self, caller: &Caller) -> Result<(), Error> {
        for (number, membership) in self.memberships_of(caller.user).await? {
            if matches!(membership, Membership::Leave | Membership::Ban) {
                continue;
            }
            let room = self.get(number).await?;
            // A room that does not let its member go is left behind.
            if let Err(
                MembershipError::Storage(error) | MembershipError::Append(AppendError::Storage(error)),
            ) = self.leave(&room.room_id, caller, &MembershipOptions::default()).await
            {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Removes a user from a room.
    pub async fn kick(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        target: &UserId,
        options: &MembershipOptions,
    ) -> Result<(), MembershipError> {
        let room = self.known(room_id).await?;
        match self.membership_of(&room, target).await? {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => {}
            _ => return Err(MembershipError::Forbidden("the user is not in the room")),
        }
        self.moderate(&room, caller, target, plain_content(Membership::Leave, options)).await
    }

    /// Bans a user from a room.
    pub async fn ban(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        target: &UserId,
        options: &MembershipOptions,
    ) -> Result<(), MembershipError> {
        let room = self.known(room_id).await?;
        self.moderate(&room, caller, target, plain_content(Membership::Ban, options)).await
    }

    /// Lifts a ban.
    pub async fn unban(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        target: &UserId,
        options: &MembershipOptions,
    ) -> Result<(), MembershipError> {
        let room = self.known(room_id).await?;
        if self.membership_of(&room, target).await? != Some(Membership::Ban) {
            return Err(MembershipError::Forbidden("the user is not banned from the room"));
        }
        self.moderate(&room, caller, target, plain_content(Membership::Leave, options)).await
    }

    async fn moderate(
        &self,
        room: &Arc<Room>,
        caller: &Caller,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<(), MembershipError> {
        self.set_member(room, caller, target, content).await.map(drop)
    }

    /// Takes a left room out of the caller's sight.
    pub async fn forget(&self, room_id: &RoomId, caller: &Caller) -> Result<(), MembershipError> {
        let room = self.known(room_id).await?;
        let key = (caller.user, room.number);
        loop {
            let row = self.core.database.get::<UserRoom>(&key).await?;
            let Some(row) = row else {
                return Err(MembershipError::Forbidden("you were never in this room"));
            };
            if !matches!(row.value.membership, Membership::Leave | Membership::Ban) {
                return Err(MembershipError::StillIn);
            }
            if row.value.forgotten {
                return Ok(());
            }
            let mut after = row.clone();
            after.value.forgotten = true;
            let mut write = Write::new();
            write.equals::<UserRoom>(&key, &row);
            write.put_unstamped::<UserRoom>(&key, &after);
            write.log(crate::log::Happened::Membership { room: room.number, user: caller.user });
            match self.core.database.commit(write).await {
                Ok(_) => return Ok(()),
                Err(allod_storage::CommitError::Conflict(_)) => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }

    /// Repeats the user's changed profile in the member events of all rooms that they have joined.
    pub async fn profile_changed(&self, caller: &Caller) -> Result<(), Error> {
        let profile = self.core.profiles.member_profile(caller.user).await?;
        for number in self.rooms_of(caller.user, Membership::Join).await? {
            let room = self.get(number).await?;
            let Some(member) = self.member(number, caller.user).await? else { continue };
            let event = self.core.events.load(number, member.event).await?;
            let mut content: Map<String, Value> = event.pdu(&room)?.content_as().unwrap_or_default();
            content.remove("join_authorised_via_users_server");
            content.insert("membership".to_owned(), "join".into());
            set_or_remove(&mut content, "displayname", profile.displayname.clone());
            set_or_remove(&mut content, "avatar_url", profile.avatar_url.clone());
            // A room that forbids it keeps the old name; the others follow.
            if let Err(
                MembershipError::Append(AppendError::Storage(error)) | MembershipError::Storage(error),
            ) = self.set_member(&room, caller, &caller.user_id, content).await
            {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn membership_of(&self, room: &Room, user_id: &UserId) -> Result<Option<Membership>, Error> {
        let Some(user) = self.core.users.number(user_id).await? else { return Ok(None) };
        Ok(self.member(room.number, user).await?.map(|member| member.membership))
    }

    pub(super) async fn member_content(
        &self,
        membership: Membership,
        user: UserNumber,
        options: &MembershipOptions,
    ) -> Result<Map<String, Value>, Error> {
        let profile = self.core.profiles.member_profile(user).await?;
        let mut content = plain_content(membership, options);
        set_or_remove(&mut content, "displayname", profile.displayname);
        set_or_remove(&mut content, "avatar_url", profile.avatar_url);
        Ok(content)
    }

    pub(super) async fn set_member(
        &self,
        room: &Arc<Room>,
        caller: &Caller,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<Appended, MembershipError> {
        let draft = self.draft(caller, "m.room.member", Some(target.as_str()), &Value::Object(content))?;
        let append = Append::new(draft, caller.user);
        Ok(self.append(room, append).await?)
    }

    /// For a room with restricted joins: the local member in whose name the caller may join.
    async fn join_authoriser(&self, room: &Room, caller: &Caller) -> Result<Option<OwnedUserId>, Error> {
        super::access::join_authoriser(self, room, caller).await
    }
}

fn plain_content(membership: Membership, options: &MembershipOptions) -> Map<String, Value> {
    let mut content = Map::new();
    content.insert("membership".to_owned(), membership.as_str().into());
    set_or_remove(&mut content, "reason", options.reason.clone());
    if let Some(is_direct) = options.is_direct {
        content.insert("is_direct".to_owned(), is_direct.into());
    }
    content
}

fn set_or_remove(content: &mut Map<String, Value>, name: &str, value: Option<String>) {
    match value {
        Some(value) => content.insert(name.to_owned(), value.into()),
        None => content.remove(name),
    };
}
