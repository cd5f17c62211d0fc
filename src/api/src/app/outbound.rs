//! The services that act on other servers: the outbox, and memberships of rooms elsewhere.

use std::sync::Arc;

use allod_server::{
    database::Error,
    devices::Devices,
    federation::{
        Federation,
        membership::{Remote, RemoteMembership, RemoteMembershipSources},
        verify::Verifier,
    },
    outbox::{Outbox, OutboxSources},
    rooms::Rooms,
    users::Users,
};

use super::{Base, user_data::UserDataServices};

/// What acts on other servers.
pub(super) struct Outbound {
    pub(super) outbox: Option<Outbox>,
    pub(super) memberships: RemoteMembership,
}

/// Starts both. Without federation nothing is sent, and only rooms of this server can be joined.
pub(super) async fn open(
    base: Base,
    federation: Option<&Federation>,
    users: &Users,
    devices: &Devices,
    (rooms, user_data): (&Rooms, &UserDataServices),
) -> Result<Outbound, Error> {
    let Base { database, clock, random, tasks, identity, config: _ } = base;
    let memberships = RemoteMembership::start(RemoteMembershipSources {
        database: database.clone(),
        rooms: rooms.clone(),
        users: users.clone(),
        identity: identity.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        remote: federation.map(|federation| Remote {
            client: federation.client.clone(),
            verifier: Verifier::new(federation.keys.clone(), identity.clone()),
            policy: federation.policy.clone(),
        }),
    });
    let Some(federation) = federation else { return Ok(Outbound { outbox: None, memberships }) };
    user_data.to_device.reach_out(federation.policy.clone());
    let sources = OutboxSources {
        database,
        rooms: rooms.clone(),
        users: users.clone(),
        devices: devices.clone(),
        keys: user_data.keys.clone(),
        typing: user_data.typing.clone(),
        presence: user_data.presence.clone(),
        policy: federation.policy.clone(),
        identity,
        transport: Arc::new(federation.client.clone()),
        clock,
        random,
        tasks,
    };
    Ok(Outbound { outbox: Some(Outbox::start(sources).await?), memberships })
}
