//! The service of what other servers send and ask.

use std::sync::Arc;

use allod_server::{
    clock::Clock,
    database::{Database, Error},
    federation::{Federation, verify::Verifier},
    identity::Identity,
    inbound::{Inbound, InboundSources},
    rooms::Rooms,
    tasks::Tasks,
    users::Users,
};

use super::user_data::UserDataServices;

/// What it is made from besides other services.
pub(super) struct InboundBase {
    pub(super) database: Database,
    pub(super) clock: Clock,
    pub(super) identity: Identity,
    pub(super) tasks: Tasks,
}

/// None where federation is off.
pub(super) async fn open(
    base: InboundBase,
    federation: Option<&Federation>,
    users: &Users,
    rooms: &Rooms,
    user_data: &UserDataServices,
) -> Result<Option<Inbound>, Error> {
    let Some(federation) = federation else { return Ok(None) };
    let InboundBase { database, clock, identity, tasks } = base;
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
