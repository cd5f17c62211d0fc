//! Leaving: here if somebody of this server is in the room; otherwise an invitation is rejected, or a knock taken back,
//! through a server that is.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>

use std::sync::Arc;

use allod_matrix::event::build::{Place, build};
use ruma::{OwnedServerName, RoomId, ServerName};
use serde_json::{Map, Value};

use super::{
    RemoteError, RemoteMembership,
    join::Made,
    own, path, raw,
    template::{Template, Wanted, draft},
};
use crate::{
    rooms::{Room, membership::MembershipOptions, outside::OutsideMember, send::Caller},
    tables::rooms::{EventStatus, Membership},
};

impl RemoteMembership {
    /// Leaves a room, or rejects an invitation, or takes back a knock.
    pub async fn leave(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        options: &MembershipOptions,
    ) -> Result<(), RemoteError> {
        let rooms = &self.0.sources.rooms;
        let room = rooms.known(room_id).await?;
        if !self.is_outside(&room, caller).await? {
            return Ok(rooms.leave(room_id, caller, options).await?);
        }
        let (service, caller, reason) = (self.clone(), caller.clone(), options.reason.clone());
        let work = async move { service.leave_outside(&room, &caller, reason).await };
        self.0.sources.tasks.spawn("remote leave", work).await.map_err(|_| RemoteError::Interrupted)?
    }

    /// Whether what the user is in the room is known from outside only.
    async fn is_outside(&self, room: &Arc<Room>, caller: &Caller) -> Result<bool, RemoteError> {
        let rooms = &self.0.sources.rooms;
        let Some(member) = rooms.member(room.number, caller.user).await? else { return Ok(false) };
        if !matches!(member.membership, Membership::Invite | Membership::Knock) {
            return Ok(false);
        }
        let event = rooms.events().load(room.number, member.event).await?;
        Ok(event.record.status == EventStatus::Outlier || !rooms.has_local_member(room).await?)
    }

    async fn leave_outside(
        &self,
        room: &Arc<Room>,
        caller: &Caller,
        reason: Option<String>,
    ) -> Result<(), RemoteError> {
        let sources = &self.0.sources;
        let mut content = Map::new();
        content.extend(reason.map(|reason| ("reason".to_owned(), reason.into())));
        let told_by = self.told_by(room, &caller.user_id).await?;
        let own_name = sources.identity.server_name().to_owned();
        let via = told_by.iter().find(|server| **server != own_name).cloned().unwrap_or(own_name);
        let mut left = None;
        for server in self.candidates(told_by) {
            match self.leave_through(room, &server, caller, &content).await {
                Ok(event) => {
                    left = Some(event);
                    break;
                }
                Err(error @ RemoteError::Storage(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(room_id = %room.room_id, %server, %error, "leaving through a server failed");
                }
            }
        }
        // The other server may be gone for good: nobody is kept in a room by that.
        let event = match left {
            Some(event) => event,
            None => self.leave_alone(room, caller, content).await?,
        };
        let member = OutsideMember {
            room_id: room.room_id.clone(),
            version: room.version.clone(),
            user: caller.user_id.clone(),
            event,
            stripped: Vec::new(),
            via,
        };
        sources.rooms.set_outside(member).await?;
        Ok(())
    }

    async fn leave_through(
        &self,
        room: &Room,
        server: &ServerName,
        caller: &Caller,
        content: &Map<String, Value>,
    ) -> Result<crate::rooms::ingest::Verified, RemoteError> {
        let (sources, remote) = (&self.0.sources, self.remote()?);
        let wanted = Wanted {
            room_id: &room.room_id,
            user_id: &caller.user_id,
            membership: Membership::Leave,
            server,
        };
        let path = path::make("make_leave", &room.room_id, &caller.user_id, &[]);
        let made: Made = remote.get(server, &path).await?;
        let template = Template::read(&made.event, wanted)?;
        let signed =
            template.build(wanted, content.clone(), &room.rules, &sources.identity, sources.clock.now())?;
        let path = path::send("send_leave", 2, &room.room_id, &signed.pdu.event_id);
        let _: Value = remote.put(server, &path, &raw(&signed.json)?).await?;
        Ok(own(signed))
    }

    /// A leave that no other server hears of.
    async fn leave_alone(
        &self,
        room: &Room,
        caller: &Caller,
        content: Map<String, Value>,
    ) -> Result<crate::rooms::ingest::Verified, RemoteError> {
        let sources = &self.0.sources;
        let mut place = Place {
            room_id: Some(room.room_id.clone()),
            prev_events: Vec::new(),
            auth_events: Vec::new(),
            depth: 1,
        };
        if let Some(member) = sources.rooms.member(room.number, caller.user).await? {
            let before = sources.rooms.events().load(room.number, member.event).await?.pdu(room)?;
            place.prev_events.push(before.event_id.clone());
            place.auth_events.push(before.event_id.clone());
            place.depth = before.depth.saturating_add(1);
        }
        let wanted = Wanted {
            room_id: &room.room_id,
            user_id: &caller.user_id,
            membership: Membership::Leave,
            server: sources.identity.server_name(),
        };
        let draft = draft(wanted, content, None, sources.clock.now())?;
        let signed = build(draft, place, &room.rules, sources.identity.key());
        Ok(own(signed.map_err(super::TemplateError::from)?))
    }

    /// Undoes a join of which it is not known whether it got through.
    pub(super) async fn withdraw(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
        caller: &Caller,
    ) -> Result<(), RemoteError> {
        let remote = self.remote()?;
        for server in servers {
            let wanted = Wanted { room_id, user_id: &caller.user_id, membership: Membership::Leave, server };
            let path = path::make("make_leave", room_id, &caller.user_id, &[]);
            let Ok(made) = remote.get::<Made>(server, &path).await else { continue };
            let version = super::join::supported(made.room_version.clone())?;
            let Some(rules) = version.rules() else { continue };
            let Ok(template) = Template::read(&made.event, wanted) else { continue };
            let (identity, now) = (&self.0.sources.identity, self.0.sources.clock.now());
            let Ok(signed) = template.build(wanted, Map::new(), &rules, identity, now) else { continue };
            let path = path::send("send_leave", 2, room_id, &signed.pdu.event_id);
            if remote.put::<Value>(server, &path, &raw(&signed.json)?).await.is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }
}
