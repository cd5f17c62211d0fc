//! Invitations of people by address, as far as they reach a room: what an identity server signed turns a pending one into
//! an ordinary one (§Third-party invites).
//!
//! This server asks no identity server itself, so that it makes none; it honours those that stand in a room's state.

use std::sync::Arc;

use ruma::UserId;
use serde_json::{Map, Value};

use super::{
    Room, Rooms,
    membership::{MembershipError, MembershipOptions},
    send::Caller,
};
use crate::{numbers::UserNumber, tables::rooms::Membership};

impl Rooms {
    /// Invites the caller in the name of whoever invited their address, if `signed` proves that it is theirs. The rules of
    /// the room check the signature against the keys that the pending invitation names.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#third-party-invites>
    pub(crate) async fn redeem(
        &self,
        room: &Arc<Room>,
        caller: &Caller,
        signed: &Map<String, Value>,
    ) -> Result<(), MembershipError> {
        let member = self.member(room.number, caller.user).await?;
        if matches!(member.map(|member| member.membership), Some(Membership::Join | Membership::Invite)) {
            return Ok(());
        }
        let (inviter, content) =
            self.third_party_invitation(room, &caller.user_id, caller.user, signed).await?;
        self.set_member(room, &inviter, &caller.user_id, content).await?;
        Ok(())
    }

    /// Who of this server invited an address, and what the invitation of the user says who has it now. The rules of the
    /// room check the signature.
    pub(crate) async fn third_party_invitation(
        &self,
        room: &Room,
        target: &UserId,
        user: UserNumber,
        signed: &Map<String, Value>,
    ) -> Result<(Caller, Map<String, Value>), MembershipError> {
        let text = |field: &str| signed.get(field).and_then(Value::as_str);
        if text("mxid") != Some(target.as_str()) {
            return Err(MembershipError::Forbidden("the invitation was signed for somebody else"));
        }
        let missing = MembershipError::Forbidden("the room has no such pending invitation");
        let Some(token) = text("token") else { return Err(missing) };
        let pending = self.current_pdu(room, "m.room.third_party_invite", token).await?;
        let Some(pending) = pending else { return Err(missing) };
        if !self.is_ours(&pending.sender) {
            return Err(MembershipError::Forbidden("the invitation is one of another server"));
        }
        let inviter = Caller {
            user_id: pending.sender.clone(),
            user: self.core.users.number_or_new(&pending.sender).await?,
            device: None,
        };
        let pending: Map<String, Value> = pending.content_as().unwrap_or_default();
        let display_name = pending.get("display_name").cloned().unwrap_or_default();
        let mut content =
            self.member_content(Membership::Invite, user, &MembershipOptions::default()).await?;
        let proof = serde_json::json!({ "display_name": display_name, "signed": signed });
        content.insert("third_party_invite".to_owned(), proof);
        Ok((inviter, content))
    }
}
