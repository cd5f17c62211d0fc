//! Sync over a server under test, for tests of what stands on it.

use std::sync::Arc;

use super::{Sync, SyncSources};
use crate::{
    account_data::AccountData,
    filters::Filters,
    keys::Keys,
    presence::Presence,
    push_rules::PushRules,
    random::Random,
    receipts::Receipts,
    rooms::testing::Server,
    thread_subscriptions::ThreadSubscriptions,
    to_device::ToDevice,
    typing::{Sequence, Typing},
    wake::Wakes,
};

/// Starts sync, with all that it reads from.
pub(crate) fn start(server: &Server) -> (SyncSources, Sync) {
    let (database, users, clock, devices) = (
        server.fixture.database.clone(),
        server.fixture.users.clone(),
        server.fixture.clock.clone(),
        server.fixture.devices.clone(),
    );
    let account_data = AccountData::new(database.clone());
    let (wakes, sequence) = (Wakes::new(), Sequence::new());
    let rooms = Arc::new(server.rooms.clone());
    let sources = SyncSources {
        database: database.clone(),
        users: users.clone(),
        rooms: server.rooms.clone(),
        push_rules: PushRules::new(account_data.clone()),
        filters: Filters::new(database.clone()),
        receipts: Receipts::new(database.clone(), account_data.clone(), rooms, clock.clone()),
        typing: Typing::new(clock.clone(), wakes.clone(), sequence.clone()),
        presence: Presence::new(clock.clone(), wakes.clone(), sequence.clone()),
        to_device: ToDevice::new(database.clone(), users.clone(), devices.clone(), clock.clone()),
        keys: Keys::new(database, users, devices),
        account_data,
        thread_subscriptions: ThreadSubscriptions::new(server.fixture.database.clone(), server.rooms.clone()),
        sequence,
        wakes,
        clock,
    };
    let sync = Sync::start(sources.clone(), &Random::seeded(9), &server.tasks);
    (sources, sync)
}
