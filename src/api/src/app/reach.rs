//! The services that reach beyond this server: other servers, push gateways, application services.

use allod_server::{
    appservices::Appservices,
    bridges::Bridges,
    devices::Devices,
    egress::{Egress, Names},
    federation::{Federation, FederationSources, membership::RemoteMembership},
    inbound::Inbound,
    notifications::Notifications,
    outbox::Outbox,
    pushers::Pushers,
    room_deletion::{RoomDeletionSources, RoomDeletions},
    rooms::Rooms,
    sync::Sync,
    users::Users,
};

use super::{
    Base, OpenError, inbound,
    outbound::{self, Outbound},
    tidings,
    user_data::UserDataServices,
};

/// The services.
pub(super) struct Reach {
    pub(super) federation: Option<Federation>,
    pub(super) egress: Egress,
    pub(super) outbox: Option<Outbox>,
    pub(super) memberships: RemoteMembership,
    pub(super) inbound: Option<Inbound>,
    pub(super) pushers: Pushers,
    pub(super) notifications: Notifications,
    pub(super) bridges: Bridges,
    pub(super) appservices: Appservices,
    pub(super) room_deletions: RoomDeletions,
}

impl Reach {
    /// Opens them, in the order in which they use each other.
    pub(super) async fn open(
        base: &Base,
        (users, devices): (&Users, &Devices),
        (rooms, sync): (&Rooms, &Sync),
        user_data: &UserDataServices,
    ) -> Result<Self, OpenError> {
        let federation = open_federation(base)?;
        let egress = open_egress(base, federation.as_ref());
        egress.register().keep(base.database.clone(), &base.tasks).await?;
        let Outbound { outbox, memberships } =
            outbound::open(base.clone(), federation.as_ref(), users, devices, (rooms, user_data)).await?;
        let (push, bridged) = tidings::start(base, users, (rooms, sync), user_data, &egress).await?;
        let (pushers, notifications) = push;
        let (bridges, appservices) = bridged;
        let inbound = inbound::open(base, federation.as_ref(), users, rooms, user_data).await?;
        let room_deletions = start_deletions(base, rooms, &memberships, outbox.as_ref());
        Ok(Self {
            federation,
            egress,
            outbox,
            memberships,
            inbound,
            pushers,
            notifications,
            bridges,
            appservices,
            room_deletions,
        })
    }
}

/// The task that deletes rooms, whose members leave on other servers too.
fn start_deletions(
    base: &Base,
    rooms: &Rooms,
    memberships: &RemoteMembership,
    outbox: Option<&Outbox>,
) -> RoomDeletions {
    let Base { database, clock, random, tasks, .. } = base.clone();
    let (rooms, memberships, outbox) = (rooms.clone(), memberships.clone(), outbox.cloned());
    RoomDeletions::start(RoomDeletionSources { database, rooms, memberships, outbox, clock, random, tasks })
}

fn open_federation(base: &Base) -> Result<Option<Federation>, OpenError> {
    let Base { database, config, clock, identity, tasks, .. } = base.clone();
    let names = Names::system();
    Ok(Federation::open(FederationSources { database, config, clock, identity, tasks, names })?)
}

/// The gate of all requests to other machines.
fn open_egress(base: &Base, federation: Option<&Federation>) -> Egress {
    let new = || Egress::new(base.config.clone(), base.clock.clone(), Names::system());
    federation.map_or_else(new, |federation| federation.egress.clone())
}
