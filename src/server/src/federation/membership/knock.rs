//! Knocking: here if somebody of this server is in the room, through another server if not.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>

use std::sync::Arc;

use allod_matrix::stripped;
use ruma::{OwnedServerName, RoomId, RoomOrAliasId, ServerName};
use serde::Deserialize;
use serde_json::{Map, value::RawValue};

use super::{
    RemoteError, RemoteMembership, VERSIONS,
    join::{Made, supported},
    own, path, raw,
    template::{Template, Wanted},
};
use crate::{
    rooms::{
        Room,
        membership::{MembershipError, MembershipOptions},
        outside::OutsideMember,
        send::Caller,
    },
    tables::rooms::Membership,
};

/// The answer to `send_knock`.
#[derive(Deserialize)]
struct Knocked {
    #[serde(default)]
    knock_room_state: Vec<Box<RawValue>>,
}

impl RemoteMembership {
    /// Asks to be let into a room.
    pub async fn knock(
        &self,
        name: &RoomOrAliasId,
        via: Vec<OwnedServerName>,
        caller: &Caller,
        options: &MembershipOptions,
    ) -> Result<Arc<Room>, RemoteError> {
        let (room_id, known_by) = self.resolve(name).await?;
        let rooms = &self.0.sources.rooms;
        rooms.check_entry(&room_id)?;
        let room = rooms.find(&room_id).await?;
        if let Some(room) = &room
            && (self.0.sources.remote.is_none() || rooms.has_local_member(room).await?)
        {
            return Ok(rooms.knock(&room_id, caller, options).await?);
        }
        let mut servers = [via, known_by].concat();
        if let Some(room) = &room {
            servers.extend(self.told_by(room, &caller.user_id).await?);
        }
        servers.extend(room_id.server_name().map(ToOwned::to_owned));
        let servers = self.candidates(servers);
        if servers.is_empty() {
            return Err(MembershipError::UnknownRoom.into());
        }
        let (service, caller, reason) = (self.clone(), caller.clone(), options.reason.clone());
        let work = async move { service.knock_through(&room_id, &servers, &caller, reason).await };
        self.0.sources.tasks.spawn("remote knock", work).await.map_err(|_| RemoteError::Interrupted)?
    }

    async fn knock_through(
        &self,
        room_id: &RoomId,
        servers: &[OwnedServerName],
        caller: &Caller,
        reason: Option<String>,
    ) -> Result<Arc<Room>, RemoteError> {
        let mut best: Option<RemoteError> = None;
        for server in servers {
            match self.knock_through_one(room_id, server, caller, reason.as_deref()).await {
                Ok(room) => return Ok(room),
                Err(error) => {
                    tracing::info!(%room_id, %server, %error, "knocking through a server failed");
                    let is_final = error.is_final();
                    if best.as_ref().is_none_or(|best| best.weight() < error.weight()) {
                        best = Some(error);
                    }
                    if is_final {
                        break;
                    }
                }
            }
        }
        Err(best.unwrap_or(RemoteError::NotFound("No server is known that knows the room")))
    }

    async fn knock_through_one(
        &self,
        room_id: &RoomId,
        server: &ServerName,
        caller: &Caller,
        reason: Option<&str>,
    ) -> Result<Arc<Room>, RemoteError> {
        let (sources, remote) = (&self.0.sources, self.remote()?);
        let wanted = Wanted { room_id, user_id: &caller.user_id, membership: Membership::Knock, server };
        let made: Made =
            remote.get(server, &path::make("make_knock", room_id, &caller.user_id, &VERSIONS)).await?;
        let version = supported(made.room_version)?;
        let rules = version.rules().ok_or_else(|| RemoteError::IncompatibleVersion(version.to_string()))?;
        let template = Template::read(&made.event, wanted)?;
        let mut content = Map::new();
        content.extend(reason.map(|reason| ("reason".to_owned(), reason.into())));
        let content = sources.rooms.own_member_content(Membership::Knock, caller.user, content).await?;
        let signed = template.build(wanted, content, &rules, &sources.identity, sources.clock.now())?;
        let path = path::send("send_knock", 1, room_id, &signed.pdu.event_id);
        let knocked: Knocked = remote.put(server, &path, &raw(&signed.json)?).await?;
        let member = OutsideMember {
            room_id: room_id.to_owned(),
            version,
            user: caller.user_id.clone(),
            event: own(signed),
            stripped: stripped::accept(knocked.knock_room_state.iter().map(|event| &**event)),
            via: server.to_owned(),
        };
        Ok(sources.rooms.set_outside(member).await?)
    }
}
