//! The services of notifications that leave the server, and of lists of them.

use allod_server::{
    database::Error,
    egress::Egress,
    notifications::Notifications,
    pushers::{PusherSources, Pushers, gateway::HttpGateway},
    rooms::Rooms,
    sync::Sync,
    users::Users,
};

use super::Base;

/// Starts sending notifications.
pub(super) async fn start(
    base: &Base,
    users: &Users,
    rooms: &Rooms,
    sync: &Sync,
    egress: &Egress,
) -> Result<(Pushers, Notifications), Error> {
    let Base { database, config, clock, random, tasks, identity: _ } = base.clone();
    let notifications = Notifications::new(database.clone(), rooms.clone(), sync.clone());
    let sources = PusherSources {
        database,
        config,
        users: users.clone(),
        rooms: rooms.clone(),
        sync: sync.clone(),
        gateway: HttpGateway::new(egress.clone()),
        clock,
        random,
        tasks,
    };
    Ok((Pushers::start(sources).await?, notifications))
}
