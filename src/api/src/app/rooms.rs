//! The services of rooms and sync, made in the order in which they use each other.

use allod_server::{
    config::{Encrypt, Who},
    database::Error,
    profiles::Profiles,
    push_rules::PushRules,
    rooms::{Encryption, RoomOptions, RoomSources, Rooms},
    search::Search,
    sync::{Sync, SyncSources},
    thread_subscriptions::ThreadSubscriptions,
    users::Users,
};

use super::{Base, user_data::UserDataServices};

/// Profiles, and rooms, which repeat them in member events.
pub(super) async fn open(
    base: &Base,
    users: &Users,
    push_rules: &PushRules,
) -> Result<(Profiles, Rooms), Error> {
    let Base { database, config, clock, random, tasks, identity } = base.clone();
    let now = config.get();
    let options = RoomOptions {
        default_version: now.rooms.default_version.clone(),
        users_may_publish: now.rooms.publish == Who::Everyone,
        encryption: match now.rooms.encrypt {
            Encrypt::Never => Encryption::Never,
            Encrypt::Direct => Encryption::Direct,
            Encrypt::Private => Encryption::Private,
            Encrypt::All => Encryption::Always,
        },
        search: now.rooms.search,
        ..RoomOptions::default()
    };
    let profiles = Profiles::new(database.clone(), users.clone());
    let sources = RoomSources {
        database,
        users: users.clone(),
        profiles: profiles.clone(),
        push_rules: push_rules.clone(),
        identity,
        clock,
        random,
        tasks,
    };
    let rooms = Rooms::open(sources, options).await?;
    Ok((profiles, rooms))
}

/// Sync, which reads from all of them, and search.
pub(super) fn start_sync(
    base: &Base,
    users: &Users,
    rooms: &Rooms,
    user_data: &UserDataServices,
) -> (Sync, Search) {
    let sources = SyncSources {
        database: base.database.clone(),
        users: users.clone(),
        rooms: rooms.clone(),
        account_data: user_data.account_data.clone(),
        push_rules: user_data.push_rules.clone(),
        filters: user_data.filters.clone(),
        receipts: user_data.receipts.clone(),
        typing: user_data.typing.clone(),
        presence: user_data.presence.clone(),
        to_device: user_data.to_device.clone(),
        keys: user_data.keys.clone(),
        thread_subscriptions: ThreadSubscriptions::new(base.database.clone(), rooms.clone()),
        sequence: user_data.ephemeral.clone(),
        wakes: user_data.wakes.clone(),
        clock: base.clock.clone(),
    };
    let sync = Sync::start(sources, &base.random, &base.tasks);
    let search = Search::new(base.database.clone(), rooms.clone(), sync.clone());
    (sync, search)
}
