//! The service of what other servers send and ask.

use std::sync::Arc;

use allod_server::{
    database::Error,
    federation::{Federation, verify::Verifier},
    inbound::{Inbound, InboundSources},
    rooms::Rooms,
    users::Users,
};

use super::{Base, user_data::UserDataServices};

/// None where federation is off.
pub(super) async fn open(
    base: &Base,
    federation: Option<&Federation>,
    users: &Users,
    rooms: &Rooms,
    user_data: &UserDataServices,
) -> Result<Option<Inbound>, Error> {
    let Some(federation) = federation else { return Ok(None) };
    let Base { database, clock, identity, tasks, .. } = base.clone();
    let sources = InboundSources {
        verifier: Verifier::new(federation.keys.clone(), identity.clone()),
        peers: Arc::new(federation.client.clone()),
        database,
        clock,
        identity,
        tasks,
        users: users.clone(),
        rooms: rooms.clone(),
        typing: user_data.typing.clone(),
        receipts: user_data.receipts.clone(),
        presence: user_data.presence.clone(),
        to_device: user_data.to_device.clone(),
        wakes: user_data.wakes.clone(),
    };
    Inbound::open(sources).await.map(Some)
}
