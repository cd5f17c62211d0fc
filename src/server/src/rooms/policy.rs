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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use futures_util::FutureExt;
    use ruma::RoomVersionId;
    use serde_json::{json, value::to_raw_value};

    use super::*;
    use crate::rooms::{
        send::{SendError, TransactionName},
        testing::{Remote, Server},
    };

    const BOB: &str = "@bob:remote.test";

    /// Refuses everything, and remembers about what it was asked.
    #[derive(Default)]
    struct Censor(Mutex<Vec<String>>);

    impl PolicyPort for Censor {
        fn check<'a>(
            &'a self,
            _: &'a Room,
            _: &'a PolicyServer,
            draft: &'a Draft,
        ) -> BoxFuture<'a, Result<(), String>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(draft.kind.clone());
            async { Err("not here".to_owned()) }.boxed()
        }
    }

    #[tokio::test]
    async fn a_rooms_policy_server_may_refuse_what_is_sent() {
        let server = Server::new().await;
        let censor = Arc::new(Censor::default());
        let port: Arc<dyn PolicyPort> = censor.clone();
        server.rooms.ask_policy_servers(port);
        let (mut remote, events) = Remote::new(RoomVersionId::V11);
        let (room, join) = server.adopt(&mut remote, &[events.last().unwrap()]).await;
        let key = "A".repeat(43);
        // Without a key, or of a server without a user in the room, it is none.
        for (content, expected) in [
            (json!({ "via": "remote.test" }), None),
            (json!({ "via": "absent.test", "public_keys": { "ed25519": key } }), None),
            (json!({ "via": "remote.test", "public_keys": { "ed25519": key } }), Some("remote.test")),
        ] {
            let tip = server.rooms.forward_extremities(&room).await.unwrap().remove(0);
            let tip = if remote.nodes.contains_key(&tip) { tip } else { join.clone() };
            let policy = remote.event(BOB, &[&tip], POLICY_TYPE, Some(""), &content);
            server.live(&room, &remote, &policy).await;
            let found = server.rooms.policy_server(&room).await.unwrap();
            assert_eq!(found.map(|found| found.via.to_string()).as_deref(), expected, "{content}");
        }
        let alice = server.caller("alice").await;
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": "hello" })).unwrap();
        let name = TransactionName { path: "/send", id: "1" };
        let sent = server.rooms.send(&room.room_id, &alice, "m.room.message", &content, name).await;
        assert!(
            matches!(sent, Err(SendError::Append(AppendError::Forbidden(reason))) if reason == "not here")
        );
        assert_eq!(*censor.0.lock().unwrap(), ["m.room.message"]);
    }
}
