//! Policy servers (§Policy Servers): another server that a room asks to look at each event before it is sent.
//!
//! This module knows whether a room uses one, and where the question is put: before an event goes to the room's task, which
//! never waits for a network. Who asks is a port; without one nothing is asked.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use allod_matrix::event::build::Draft;
use futures_util::future::BoxFuture;
use ruma::{
    OwnedServerName, SigningKeyAlgorithm, events::room::policy::RoomPolicyEventContent, serde::Base64,
};

use super::{AppendError, Room, Rooms};
use crate::{database::Error, tables::rooms::Membership};

/// The type of the state event that names a policy server.
pub const POLICY_TYPE: &str = "m.room.policy";

/// The policy server of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    /// Its name.
    pub via: OwnedServerName,
    /// The public key of its signatures.
    pub public_key: Vec<u8>,
}

/// What asks policy servers.
pub trait PolicyPort: Send + Sync {
    /// Asks about an event that a local user is about to send; the reason if the server refuses it.
    fn check<'a>(
        &'a self,
        room: &'a Room,
        server: &'a PolicyServer,
        draft: &'a Draft,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// Where the port is put once it is there.
#[derive(Default)]
pub(super) struct Port(OnceLock<Arc<dyn PolicyPort>>);

impl fmt::Debug for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Port").field(&self.0.get().is_some()).finish()
    }
}

impl Rooms {
    /// Has policy servers asked from now on. Only the first port counts.
    pub fn ask_policy_servers(&self, port: Arc<dyn PolicyPort>) {
        // A second one would be a mistake in putting the server together; the first stays in charge.
        drop(self.core.policy.0.set(port));
    }

    /// The room's policy server: one that its state names with a key, and that has a user in the room.
    pub async fn policy_server(&self, room: &Room) -> Result<Option<PolicyServer>, Error> {
        let Some(pdu) = self.current_pdu(room, POLICY_TYPE, "").await? else { return Ok(None) };
        let Some(content) = pdu.content_as::<RoomPolicyEventContent>() else { return Ok(None) };
        let Some(public_key) = content.public_keys.get(&SigningKeyAlgorithm::Ed25519).map(Base64::as_bytes)
        else {
            return Ok(None);
        };
        let joined = self.members(room.number, Membership::Join).await?;
        let ids = self.core.users.ids(&joined).await?;
        let is_in = ids.iter().flatten().any(|user_id| *user_id.server_name() == *content.via);
        Ok(is_in.then(|| PolicyServer { public_key: public_key.to_vec(), via: content.via }))
    }

    /// Asks the room's policy server about an event, if there is one; never about the event that names it.
    pub(super) async fn check_policy(&self, room: &Room, draft: &Draft) -> Result<(), AppendError> {
        let Some(port) = self.core.policy.0.get() else { return Ok(()) };
        if draft.kind == POLICY_TYPE && draft.state_key.as_deref() == Some("") {
            return Ok(());
        }
        let Some(server) = self.policy_server(room).await? else { return Ok(()) };
        port.check(room, &server, draft).await.map_err(AppendError::Forbidden)
    }
}
