//! The services of application services.

use allod_server::{
    appservices::{AppserviceSources, Appservices, transport::HttpTransport},
    bridges::Bridges,
    egress::Egress,
    rooms::Rooms,
    sync::Sync,
    users::Users,
};

use super::{Base, OpenError, user_data::UserDataServices};

/// Reads the registrations, and starts sending.
pub(super) async fn start(
    base: &Base,
    users: &Users,
    (rooms, sync): (&Rooms, &Sync),
    user_data: &UserDataServices,
    egress: &Egress,
) -> Result<(Bridges, Appservices), OpenError> {
    let Base { database, config, clock, random, tasks, identity: _ } = base.clone();
    let now = config.get();
    let bridges = Bridges::load(&now.appservices.registrations, &now.server.name)?;
    let sources = AppserviceSources {
        database,
        bridges: bridges.clone(),
        users: users.clone(),
        rooms: rooms.clone(),
        sync: sync.clone(),
        keys: user_data.keys.clone(),
        typing: user_data.typing.clone(),
        transport: HttpTransport::new(egress.clone()),
        clock,
        random,
        tasks,
    };
    Ok((bridges, Appservices::start(sources).await?))
}
