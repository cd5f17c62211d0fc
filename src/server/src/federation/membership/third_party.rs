//! Invitations by address: an identity server says who has the address now, and whose server made the invitation turns it
//! into an ordinary one.
//!
//! What the identity server signed is checked by the rules of the room, against the keys that the pending invitation
//! names; nothing else of what is asked goes into an event.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#third-party-invites>

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Map, Value, json};

use super::{RemoteError, RemoteMembership, path};
use crate::{
    federation::policy::Direction, rooms::membership::MembershipError, rooms::send::Caller,
    tables::rooms::Membership,
};

/// Invitations that are looked at when an address is bound.
const BOUND_MAX: usize = 50;

/// An invitation that an address had got.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who invited.
    pub sender: OwnedUserId,
    /// What the identity server signed.
    pub signed: Map<String, Value>,
}

impl RemoteMembership {
    /// Invites a user of another server, in the name of the user of this one who invited their address.
    pub async fn exchange(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        target: &UserId,
        signed: &Map<String, Value>,
    ) -> Result<(), RemoteError> {
        if target.server_name() != origin {
            return Err(MembershipError::Forbidden("the user is not of your server").into());
        }
        let remote = self.remote()?;
        let asked = remote.policy.may_talk_to(origin, Direction::Outbound);
        asked.map_err(|_| RemoteError::Refused)?;
        let rooms = &self.0.sources.rooms;
        let room = rooms.known(room_id).await?;
        if !rooms.allows_server(&room, origin).await? {
            let why = "the room's access control list keeps your server out";
            return Err(MembershipError::Forbidden(why).into());
        }
        let user = self.0.sources.users.number_or_new(target).await?;
        let member = rooms.member(room.number, user).await?.map(|member| member.membership);
        if matches!(member, Some(Membership::Join | Membership::Invite)) {
            return Ok(());
        }
        let (inviter, content) = rooms.third_party_invitation(&room, target, user, signed).await?;
        let invitation = rooms.invitation_saying(&room, &inviter, target, content).await?;
        let (service, room, target) = (self.clone(), Arc::clone(&room), target.to_owned());
        let work = async move { service.send_invitation(&room, &target, invitation).await };
        let work = self.0.sources.tasks.spawn("third-party invite", work);
        work.await.map_err(|_| RemoteError::Interrupted)?
    }

    /// An identity server says that a user of this one has an address now, and which invitations it had got. Each is
    /// turned into an ordinary one, by this server or by the inviter's.
    pub async fn on_bind(&self, user_id: &UserId, invitations: Vec<Bound>) -> Result<(), RemoteError> {
        let sources = &self.0.sources;
        let unknown = RemoteError::NotFound("There is no such user");
        if !sources.rooms.is_ours(user_id) {
            return Err(unknown);
        }
        let Some(user) = sources.users.number(user_id).await? else { return Err(unknown) };
        let account = sources.users.account(user).await?;
        if account.is_none_or(|account| account.deactivated_ms.is_some()) {
            return Err(unknown);
        }
        let caller = Caller { user_id: user_id.to_owned(), user, device: None };
        for bound in invitations.into_iter().take(BOUND_MAX) {
            if let Err(error) = self.redeem_bound(&caller, &bound).await {
                tracing::info!(room_id = %bound.room_id, %error, "an invitation by address came to nothing");
            }
        }
        Ok(())
    }

    async fn redeem_bound(&self, caller: &Caller, bound: &Bound) -> Result<(), RemoteError> {
        let rooms = &self.0.sources.rooms;
        if rooms.is_ours(&bound.sender) {
            let room = rooms.known(&bound.room_id).await?;
            return Ok(rooms.redeem(&room, caller, &bound.signed).await?);
        }
        let remote = self.remote()?;
        let content = json!({ "membership": "invite", "third_party_invite": { "signed": bound.signed } });
        let body = json!({
            "type": "m.room.member", "room_id": bound.room_id, "sender": bound.sender,
            "state_key": caller.user_id, "content": content,
        });
        let body = serde_json::value::to_raw_value(&body)
            .map_err(|error| RemoteError::BadAnswer(error.to_string()))?;
        let path = path::exchange(&bound.room_id);
        let _: Map<String, Value> = remote.put(bound.sender.server_name(), &path, &body).await?;
        Ok(())
    }
}
