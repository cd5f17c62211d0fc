//! The services that tell others what happens: push gateways, application services.

use allod_server::{
    addresses::Addresses,
    appservices::{AppserviceSources, Appservices, transport::HttpTransport},
    bridges::Bridges,
    egress::Egress,
    mail::SmtpMailer,
    notifications::Notifications,
    pushers::{PusherSources, Pushers, gateway::HttpGateway},
    rooms::Rooms,
    sync::Sync,
    users::Users,
};

use super::{Base, OpenError, user_data::UserDataServices};

/// Starts sending notifications, and what application services are to know.
pub(super) async fn start(
    base: &Base,
    users: &Users,
    (rooms, sync): (&Rooms, &Sync),
    user_data: &UserDataServices,
    egress: &Egress,
) -> Result<((Pushers, Notifications), (Bridges, Appservices)), OpenError> {
    let Base { database, config, clock, random, tasks, identity: _ } = base.clone();
    let notifications = Notifications::new(database.clone(), rooms.clone(), sync.clone());
    let pushers = Pushers::start(PusherSources {
        database: database.clone(),
        config: config.clone(),
        users: users.clone(),
        rooms: rooms.clone(),
        sync: sync.clone(),
        gateway: HttpGateway::new(egress.clone()),
        addresses: Addresses::new(database.clone(), clock.clone()),
        mailer: SmtpMailer::open(egress.clone(), config.clone(), clock.clone())?,
        clock: clock.clone(),
        random: random.clone(),
        tasks: tasks.clone(),
    });
    let now = config.get();
    let bridges = Bridges::load(&now.appservices.registrations, &now.server.name)?;
    let appservices = Appservices::start(AppserviceSources {
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
    });
    Ok(((pushers.await?, notifications), (bridges, appservices.await?)))
}
