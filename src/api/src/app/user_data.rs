//! The services of what users keep, read and type, and of their keys, made in the order in which they use each other.

use std::sync::Arc;

use allod_server::{
    account_data::AccountData,
    dehydrated_devices::DehydratedDevices,
    devices::Devices,
    filters::Filters,
    key_backup::KeyBackup,
    keys::Keys,
    presence::Presence,
    push_rules::PushRules,
    receipts::Receipts,
    room_lookup::RoomLookup,
    tags::Tags,
    to_device::ToDevice,
    typing::{Sequence, Typing},
    users::Users,
    wake::Wakes,
};

use super::Base;

/// The services of user data.
pub(super) struct UserDataServices {
    pub(super) wakes: Wakes,
    pub(super) ephemeral: Sequence,
    pub(super) account_data: AccountData,
    pub(super) tags: Tags,
    pub(super) filters: Filters,
    pub(super) push_rules: PushRules,
    pub(super) receipts: Receipts,
    pub(super) typing: Typing,
    pub(super) presence: Presence,
    pub(super) to_device: ToDevice,
    pub(super) keys: Keys,
    pub(super) dehydrated_devices: DehydratedDevices,
    pub(super) key_backup: KeyBackup,
}

impl UserDataServices {
    pub(super) fn open(
        base: &Base,
        users: &Users,
        devices: &Devices,
        rooms: &Arc<dyn RoomLookup>,
        (account_data, push_rules): (AccountData, PushRules),
    ) -> Self {
        let Base { database, config, clock, tasks, .. } = base;
        let (wakes, ephemeral) = (Wakes::new(), Sequence::new());
        let typing = Typing::new(clock.clone(), wakes.clone(), ephemeral.clone());
        typing.run_expiry(tasks);
        let presence = Presence::new(clock.clone(), wakes.clone(), ephemeral.clone());
        presence.set_enabled(config.get().ephemeral.presence);
        presence.run_expiry(tasks);
        let receipts =
            Receipts::new(database.clone(), account_data.clone(), Arc::clone(rooms), clock.clone());
        receipts.set_shared(config.get().ephemeral.receipts);
        let keys = Keys::new(database.clone(), users.clone(), devices.clone());
        let to_device = ToDevice::new(database.clone(), users.clone(), devices.clone(), clock.clone());
        Self {
            dehydrated_devices: DehydratedDevices::new(
                database.clone(),
                users.clone(),
                devices.clone(),
                keys.clone(),
                to_device.clone(),
            ),
            tags: Tags::new(account_data.clone()),
            filters: Filters::new(database.clone()),
            push_rules,
            receipts,
            to_device,
            keys,
            key_backup: KeyBackup::new(database.clone()),
            wakes,
            ephemeral,
            account_data,
            typing,
            presence,
        }
    }
}
