//! What a room elsewhere shows of itself, before a user joins or knocks.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1hierarchyroomid>

use ruma::{OwnedServerName, RoomId, api::federation::space::get_hierarchy::v1::Request, room::RoomSummary};

use super::{RemoteError, RemoteMembership};
use crate::rooms::send::Caller;

/// Servers that are asked for a summary.
const ASKED_MAX: usize = 5;

impl RemoteMembership {
    /// The summary of a room that nobody here is in, if the caller may see it.
    pub async fn summary(
        &self,
        room_id: &RoomId,
        mut via: Vec<OwnedServerName>,
        caller: &Caller,
    ) -> Result<Option<RoomSummary>, RemoteError> {
        let Some(remote) = &self.0.sources.remote else { return Ok(None) };
        if let Some(room) = self.0.sources.rooms.find(room_id).await? {
            via.extend(self.told_by(&room, &caller.user_id).await?);
        }
        via.extend(room_id.server_name().map(ToOwned::to_owned));
        for server in self.candidates(via).into_iter().take(ASKED_MAX) {
            match remote.client.send(&server, Request::new(room_id.to_owned())).await {
                Ok(answer) if answer.room.summary.room_id == room_id => {
                    let summary = answer.room.summary;
                    return Ok(self.0.sources.rooms.may_see(&summary, caller).await?.then_some(summary));
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%room_id, %server, %error, "a server shows no summary"),
            }
        }
        Ok(None)
    }
}
