//! What a room shows of itself to those who are not in it, and who those may be (§Room Summaries, §Spaces).

use ruma::{
    OwnedRoomId, RoomAliasId, RoomId, ServerName, UInt,
    events::room::encryption::RoomEncryptionEventContent,
    room::{JoinRuleSummary, RestrictedSummary, RoomSummary, RoomType},
};
use serde_json::Value;

use super::{Room, Rooms, send::Caller, shown::Shown};
use crate::{database::Error, tables::rooms::Membership};

/// Most rooms that restricted join rules may name; those behind them count as not there.
const ALLOWED_ROOMS_MAX: usize = 100;

/// A room's summary, as one user sees it.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What the room shows.
    pub room: RoomSummary,
    /// The user's own membership, if they have, or had, to do with the room.
    pub membership: Option<Membership>,
}

impl Shown {
    pub(crate) fn is_space(&self) -> bool {
        self.text("m.room.create", "type") == Some("m.space")
    }

    pub(crate) fn is_world_readable(&self) -> bool {
        self.text("m.room.history_visibility", "history_visibility") == Some("world_readable")
    }

    /// The join rule; rooms without one are by invitation.
    pub(crate) fn join_rule(&self) -> &str {
        self.text("m.room.join_rules", "join_rule").unwrap_or("invite")
    }

    /// Whether anybody may know of the room: it can be read, joined or knocked at by all.
    fn is_open(&self) -> bool {
        self.is_world_readable() || matches!(self.join_rule(), "public" | "knock" | "knock_restricted")
    }

    /// The rooms whose members may join; none unless joining is restricted to them.
    fn allowed_rooms(&self) -> Vec<OwnedRoomId> {
        if !matches!(self.join_rule(), "restricted" | "knock_restricted") {
            return Vec::new();
        }
        let allow = self.content("m.room.join_rules").and_then(|content| content.get("allow")?.as_array());
        let conditions = allow.into_iter().flatten();
        let of_rooms = conditions
            .filter(|condition| condition.get("type").and_then(Value::as_str) == Some("m.room_membership"));
        let room_ids =
            of_rooms.filter_map(|condition| RoomId::parse(condition.get("room_id")?.as_str()?).ok());
        room_ids.take(ALLOWED_ROOMS_MAX).collect()
    }

    fn join_rule_summary(&self) -> JoinRuleSummary {
        match self.join_rule() {
            "public" => JoinRuleSummary::Public,
            "knock" => JoinRuleSummary::Knock,
            "private" => JoinRuleSummary::Private,
            "restricted" => JoinRuleSummary::Restricted(RestrictedSummary::new(self.allowed_rooms())),
            "knock_restricted" => {
                JoinRuleSummary::KnockRestricted(RestrictedSummary::new(self.allowed_rooms()))
            }
            // Nobody can join by a rule that is not known.
            _ => JoinRuleSummary::Invite,
        }
    }

    /// The summary.
    pub(crate) fn summary(&self, room: &Room) -> RoomSummary {
        let guest_can_join = self.text("m.room.guest_access", "guest_access") == Some("can_join");
        let mut summary = RoomSummary::new(
            room.room_id.clone(),
            self.join_rule_summary(),
            guest_can_join,
            UInt::from(self.head.joined),
            self.is_world_readable(),
        );
        let alias = self.text("m.room.canonical_alias", "alias");
        summary.canonical_alias = alias.and_then(|alias| RoomAliasId::parse(alias).ok());
        summary.name = self.text("m.room.name", "name").map(str::to_owned);
        summary.topic = self.text("m.room.topic", "topic").map(str::to_owned);
        summary.avatar_url = self.text("m.room.avatar", "url").map(Into::into);
        summary.room_type = self.text("m.room.create", "type").map(RoomType::from);
        let encryption = self.content("m.room.encryption").cloned().map(Value::Object);
        let encryption = encryption.and_then(|content| serde_json::from_value(content).ok());
        summary.encryption = encryption.map(|content: RoomEncryptionEventContent| content.algorithm);
        summary.room_version = Some(room.version.clone());
        summary
    }
}

impl Rooms {
    /// The summary of a room. `None` if the server does not know it, or if the caller may not know of it: told alike.
    pub async fn summary(&self, room_id: &RoomId, caller: Option<&Caller>) -> Result<Option<Summary>, Error> {
        let Some(room) = self.find(room_id).await? else { return Ok(None) };
        let shown = self.shown_state(&room).await?;
        if !self.is_accessible(&room, &shown, caller).await? {
            return Ok(None);
        }
        let membership = match caller {
            Some(caller) => self.member(room.number, caller.user).await?.map(|member| member.membership),
            None => None,
        };
        Ok(Some(Summary { room: shown.summary(&room), membership }))
    }

    /// Whether someone may know what a room shows: everybody if it is open, else those who are in it, invited, knocking,
    /// or may join without an invitation. `None` is somebody without an account.
    pub(crate) async fn is_accessible(
        &self,
        room: &Room,
        shown: &Shown,
        caller: Option<&Caller>,
    ) -> Result<bool, Error> {
        if shown.is_open() {
            return Ok(true);
        }
        let Some(caller) = caller else { return Ok(false) };
        let membership = self.member(room.number, caller.user).await?.map(|member| member.membership);
        if matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Knock)) {
            return Ok(true);
        }
        for allowed in shown.allowed_rooms() {
            if let Some(allowed) = self.find(&allowed).await?
                && self.is_joined(allowed.number, caller.user).await?
            {
                return Ok(membership != Some(Membership::Ban));
            }
        }
        Ok(false)
    }

    /// Whether some user of a server may know what a room shows.
    pub(crate) async fn is_accessible_to(
        &self,
        room: &Room,
        shown: &Shown,
        server: &ServerName,
    ) -> Result<bool, Error> {
        if !self.allows_server(room, server).await? {
            return Ok(false);
        }
        if shown.is_open() || self.has_user_of(room, server, &[Membership::Join, Membership::Invite]).await? {
            return Ok(true);
        }
        for allowed in shown.allowed_rooms() {
            if let Some(allowed) = self.find(&allowed).await?
                && self.has_user_of(&allowed, server, &[Membership::Join]).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the caller may see a room that another server has summed up, which knows only that this one asks.
    pub(crate) async fn may_see(&self, summary: &RoomSummary, caller: &Caller) -> Result<bool, Error> {
        if summary.world_readable {
            return Ok(true);
        }
        let allowed = match &summary.join_rule {
            JoinRuleSummary::Public | JoinRuleSummary::Knock | JoinRuleSummary::KnockRestricted(_) => {
                return Ok(true);
            }
            JoinRuleSummary::Restricted(restricted) => &restricted.allowed_room_ids[..],
            _ => &[],
        };
        for room_id in allowed {
            if let Some(room) = self.find(room_id).await?
                && self.is_joined(room.number, caller.user).await?
            {
                return Ok(true);
            }
        }
        let room = self.find(&summary.room_id).await?;
        let Some(room) = room else { return Ok(false) };
        let member = self.member(room.number, caller.user).await?;
        Ok(member.is_some_and(|member| member.membership == Membership::Invite))
    }

    async fn has_user_of(
        &self,
        room: &Room,
        server: &ServerName,
        memberships: &[Membership],
    ) -> Result<bool, Error> {
        for membership in memberships {
            if self.servers_with(room, *membership).await?.contains(server) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
