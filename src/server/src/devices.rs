//! Devices of local users: their ids and names, and their end.
//!
//! Deleting a device deletes the rows of every table whose lifetime is a device's, whoever owns the table: tokens, keys,
//! messages that wait for it. Nothing needs to be registered here for that.

use std::{collections::HashMap, sync::Arc};

use allod_storage::{CommitError, Position};
use quick_cache::sync::Cache;
use ruma::{DeviceId, OwnedDeviceId};

use self::numbers::DeviceNumbers;
use crate::{
    account_data::{AccountData, AccountDataError},
    audit::{Act, Actor, Audited},
    clock::Clock,
    config::Accounts as Config,
    database::{Database, Error, Range, Write},
    log::Happened,
    numbers::{DeviceNumber, UserNumber},
    random::Random,
    tables::{
        Stamped,
        accounts::{Device as DeviceTable, DeviceCount, DeviceCountRow, DeviceRow, DeviceSeen},
        keys::{CrossSigningKey, DeviceListChange, DeviceListHead, DeviceListRow},
    },
    users::Users,
};

mod numbers;
mod seen;

/// Longest device id and device name, in bytes.
pub const DEVICE_TEXT_BYTES_MAX: usize = 255;
/// Types of account data that speak of one device, whose id follows (MSC3890).
const LOCAL_SETTINGS: [&str; 2] =
    ["m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."];
/// Letters of a device id that the server chooses.
const DEVICE_ID_LENGTH: usize = 10;
/// Users whose devices are kept in memory.
const CACHED_LISTS_MAX: usize = 10_000;
/// Devices of which it is remembered in which hour they were last seen.
const CACHED_SEEN_MAX: usize = 100_000;
/// Users whose devices are read together, and devices of each; whoever has more is read apart.
const READ_TOGETHER: usize = 250;
const PAGE_DEVICES: usize = 32;
/// How often a write is tried again that others got in the way of.
const ATTEMPTS_MAX: u32 = 10;

/// Why something about a device was not done.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The user has no such device.
    #[error("no such device")]
    NotFound,
    /// The id or name is empty or too long.
    #[error("a device's id and name may have up to {DEVICE_TEXT_BYTES_MAX} bytes, and its id at least one")]
    BadText,
    /// The id is one of the user's cross-signing keys: devices and keys share one namespace.
    #[error("a cross-signing key has this id")]
    IdOfKey,
    /// Another device of the user has this id.
    #[error("another device has this id")]
    InUse,
    /// The user has as many devices as a user may.
    #[error("the account has too many devices")]
    TooMany,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for DeviceError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub number: DeviceNumber,
    /// Its id.
    pub id: OwnedDeviceId,
    /// What is stored of it.
    pub row: DeviceRow,
}

/// The device that a sign-in asks for.
#[derive(Clone, Debug, Default)]
pub struct WantedDevice {
    /// Its id; without, one is chosen.
    pub id: Option<OwnedDeviceId>,
    /// Its name, if it is a new one.
    pub display_name: Option<String>,
}

/// Devices of local users.
#[derive(Clone, Debug)]
pub struct Devices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    users: Users,
    clock: Clock,
    random: Random,
    numbers: DeviceNumbers,
    devices_max: usize,
    last_seen: bool,
    lists: Cache<UserNumber, (u64, Arc<[Device]>)>,
    seen_hours: Cache<DeviceNumber, u64>,
}

impl Devices {
    /// Reads where the numbers stand.
    pub async fn open(
        database: Database,
        users: Users,
        clock: Clock,
        random: Random,
        config: &Config,
    ) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            numbers: DeviceNumbers::open(database.clone()).await?,
            database,
            users,
            clock,
            random,
            devices_max: usize::try_from(config.devices).unwrap_or(usize::MAX),
            last_seen: config.last_seen,
            lists: Cache::new(CACHED_LISTS_MAX),
            seen_hours: Cache::new(CACHED_SEEN_MAX),
        })))
    }

    /// The time, for what is noted of devices.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// The devices of a user, oldest first.
    pub async fn list(&self, user: UserNumber) -> Result<Arc<[Device]>, Error> {
        let epoch = self.0.users.epoch(user);
        if let Some((cached, devices)) = self.0.lists.get(&user)
            && cached == epoch
        {
            return Ok(devices);
        }
        let rows = self.0.database.scan_all(Range::<DeviceTable>::prefix(&user)).await?;
        let devices = devices(rows);
        self.0.lists.insert(user, (epoch, devices.clone()));
        Ok(devices)
    }

    /// The devices of many users, in their order, each oldest first. Those that are not in memory are read together.
    pub async fn lists(&self, users: &[UserNumber]) -> Result<Vec<Arc<[Device]>>, Error> {
        let mut missing = Vec::new();
        let mut found = Vec::with_capacity(users.len());
        for user in users {
            let epoch = self.0.users.epoch(*user);
            let cached = self.0.lists.get(user).filter(|(cached, _)| *cached == epoch);
            if cached.is_none() {
                missing.push((*user, epoch));
            }
            found.push(cached.map(|(_, devices)| devices));
        }
        let mut read = HashMap::new();
        for chunk in missing.chunks(READ_TOGETHER) {
            let ranges: Vec<_> = chunk
                .iter()
                .map(|(user, _)| Range::<DeviceTable>::prefix(user).limit(PAGE_DEVICES))
                .collect();
            for ((user, epoch), page) in chunk.iter().zip(self.0.database.scan_many(&ranges).await?) {
                // A user with more devices than a page holds has their list read page by page.
                let devices = if page.more { self.list(*user).await? } else { devices(page.rows) };
                self.0.lists.insert(*user, (*epoch, devices.clone()));
                read.insert(*user, devices);
            }
        }
        let found = users.iter().zip(found);
        Ok(found.map(|(user, list)| list.or_else(|| read.get(user).cloned()).unwrap_or_default()).collect())
    }

    /// The device of a user with this id.
    pub async fn find(&self, user: UserNumber, id: &DeviceId) -> Result<Option<Device>, Error> {
        Ok(self.list(user).await?.iter().find(|device| device.id == id).cloned())
    }

    /// Names a device; other users whose client shows names are told.
    pub async fn rename(
        &self,
        user: UserNumber,
        id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<(), DeviceError> {
        if display_name.as_ref().is_some_and(|name| name.len() > DEVICE_TEXT_BYTES_MAX) {
            return Err(DeviceError::BadText);
        }
        for _ in 0..ATTEMPTS_MAX {
            let device = self.find(user, id).await?.ok_or(DeviceError::NotFound)?;
            if device.row.display_name == display_name {
                return Ok(());
            }
            let key = (user, device.number);
            let mut write = Write::new();
            write.equals::<DeviceTable>(&key, &device.row);
            let row = DeviceRow { display_name: display_name.clone(), ..device.row };
            write.put::<DeviceTable>(&key, &row);
            list_changed(&mut write, user);
            match self.commit(user, write).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Signs devices out and deletes all that goes with them. Those that are gone already are no error.
    pub async fn delete(
        &self,
        actor: Actor,
        user: UserNumber,
        devices: &[DeviceNumber],
    ) -> Result<(), DeviceError> {
        if devices.is_empty() {
            return Ok(());
        }
        let listed = self.list(user).await?;
        let gone = listed.iter().filter(|device| devices.contains(&device.number));
        let gone: Vec<OwnedDeviceId> = gone.map(|device| device.id.clone()).collect();
        let mut write = Write::new();
        self.delete_rows(&mut write, actor, user, devices);
        self.commit(user, write).await?;
        Ok(self.delete_settings(user, &gone).await?)
    }

    /// Deletes what the user's account data says about devices that are gone (MSC3890).
    pub async fn delete_settings(&self, user: UserNumber, gone: &[OwnedDeviceId]) -> Result<(), Error> {
        let account_data = AccountData::new(self.0.database.clone());
        for device in gone {
            for prefix in LOCAL_SETTINGS {
                match account_data.delete(user, None, &format!("{prefix}{device}")).await {
                    Ok(()) => {}
                    Err(AccountDataError::Database(error)) => return Err(error),
                    // Left behind, it does no harm.
                    Err(error) => tracing::debug!(%error, "settings of a deleted device were kept"),
                }
            }
        }
        Ok(())
    }

    /// As [`Devices::delete`], for devices known by their ids.
    pub async fn delete_by_id(
        &self,
        actor: Actor,
        user: UserNumber,
        ids: &[OwnedDeviceId],
    ) -> Result<(), DeviceError> {
        let devices = self.list(user).await?;
        let known = devices.iter().filter(|device| ids.contains(&device.id));
        let numbers: Vec<DeviceNumber> = known.map(|device| device.number).collect();
        self.delete(actor, user, &numbers).await
    }

    /// As [`Devices::delete`], for all devices of a user, or all but one.
    pub async fn delete_all(
        &self,
        actor: Actor,
        user: UserNumber,
        except: Option<DeviceNumber>,
    ) -> Result<(), DeviceError> {
        let devices = self.others(user, except).await?;
        self.delete(actor, user, &devices).await
    }

    /// The numbers of a user's devices, but for one.
    pub async fn others(
        &self,
        user: UserNumber,
        except: Option<DeviceNumber>,
    ) -> Result<Vec<DeviceNumber>, Error> {
        let devices = self.list(user).await?;
        Ok(devices.iter().map(|device| device.number).filter(|number| Some(*number) != except).collect())
    }

    /// Adds what deletes devices to a write. Call [`Users::changed`] after its commit.
    pub fn delete_rows(&self, write: &mut Write, actor: Actor, user: UserNumber, devices: &[DeviceNumber]) {
        for device in devices {
            write.delete_rows_of_device(user, *device);
            write.delete::<DeviceSeen>(&(user, *device));
        }
        list_changed(write, user);
        let act = Act::DeleteDevices { user, devices: devices.to_vec() };
        write.audit(Audited { at_ms: self.0.clock.now_ms(), actor, act }.encode());
    }

    /// Adds the rows of a sign-in to a write: of the user's device with the wanted id, whose earlier tokens are
    /// invalid from then on, or of a new one. The write conflicts if another sign-in came first.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#relationship-between-access-tokens-and-devices>
    pub async fn sign_in_rows(
        &self,
        write: &mut Write,
        user: UserNumber,
        wanted: &WantedDevice,
    ) -> Result<Device, DeviceError> {
        check_text(wanted)?;
        // The count is read first: a device made after the list was read is noticed by it.
        let count = self.0.database.get::<DeviceCount>(&user).await?;
        let devices = self.list(user).await?;
        let known = wanted.id.as_ref().and_then(|id| devices.iter().find(|device| device.id == *id));
        if let Some(device) = known {
            let key = (user, device.number);
            write.equals::<DeviceTable>(&key, &device.row);
            let row = DeviceRow { login: device.row.login.saturating_add(1), ..device.row.clone() };
            write.put::<DeviceTable>(&key, &row);
            return Ok(Device { row, ..device.clone() });
        }
        if devices.len() >= self.0.devices_max {
            return Err(DeviceError::TooMany);
        }
        self.new_device_rows(write, user, wanted, count).await
    }

    /// Adds the rows of a new device to a write that nobody signs in to, and the end of the one that it stands in for.
    /// The write conflicts if another device was made meanwhile. Call [`Users::changed`] after its commit.
    pub(crate) async fn replacement_rows(
        &self,
        write: &mut Write,
        user: UserNumber,
        wanted: &WantedDevice,
        replaced: Option<DeviceNumber>,
    ) -> Result<Device, DeviceError> {
        check_text(wanted)?;
        let count = self.0.database.get::<DeviceCount>(&user).await?;
        let others = self.list(user).await?;
        let others: Vec<&Device> = others.iter().filter(|device| Some(device.number) != replaced).collect();
        if others.iter().any(|device| Some(&device.id) == wanted.id.as_ref()) {
            return Err(DeviceError::InUse);
        }
        if others.len() >= self.0.devices_max {
            return Err(DeviceError::TooMany);
        }
        if let Some(replaced) = replaced {
            self.delete_rows(write, Actor::User(user), user, &[replaced]);
        }
        self.new_device_rows(write, user, wanted, count).await
    }

    async fn new_device_rows(
        &self,
        write: &mut Write,
        user: UserNumber,
        wanted: &WantedDevice,
        count: Option<DeviceCountRow>,
    ) -> Result<Device, DeviceError> {
        if let Some(id) = &wanted.id
            && self.is_cross_signing_key(user, id).await?
        {
            return Err(DeviceError::IdOfKey);
        }
        match count {
            Some(count) => write.equals::<DeviceCount>(&user, &count),
            None => write.absent::<DeviceCount>(&user),
        };
        let made = count.unwrap_or_default().made.saturating_add(1);
        write.put::<DeviceCount>(&user, &DeviceCountRow { made });
        let number = self.0.numbers.next().await?;
        let id = wanted.id.clone().unwrap_or_else(|| self.new_id());
        let row = DeviceRow {
            id: id.as_str().to_owned(),
            display_name: wanted.display_name.clone(),
            created_ms: self.0.clock.now_ms(),
            login: 1,
        };
        write.put::<DeviceTable>(&(user, number), &row);
        list_changed(write, user);
        Ok(Device { number, id, row })
    }

    /// Whether one of the user's cross-signing keys has this id.
    async fn is_cross_signing_key(&self, user: UserNumber, id: &DeviceId) -> Result<bool, Error> {
        let keys = self.0.database.scan(&Range::<CrossSigningKey>::prefix(&user)).await?;
        let name = format!("ed25519:{id}");
        Ok(keys.rows.iter().any(|(_, row)| {
            let key: serde_json::Value = serde_json::from_str(&row.value.json).unwrap_or_default();
            key.get("keys").is_some_and(|keys| keys.get(&name).is_some())
        }))
    }

    /// A number that no device has had.
    pub async fn new_number(&self) -> Result<DeviceNumber, Error> {
        self.0.numbers.next().await
    }

    /// Makes a device that nobody is signed in to, as application services do; whether there was none of this id.
    pub async fn make(&self, user: UserNumber, wanted: &WantedDevice) -> Result<bool, DeviceError> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(id) = &wanted.id
                && self.find(user, id).await?.is_some()
            {
                return Ok(false);
            }
            let mut write = Write::new();
            self.sign_in_rows(&mut write, user, wanted).await?;
            match self.commit(user, write).await {
                Ok(()) => return Ok(true),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    fn new_id(&self) -> OwnedDeviceId {
        self.0.random.token(DEVICE_ID_LENGTH).to_ascii_uppercase().into()
    }

    async fn commit(&self, user: UserNumber, write: Write) -> Result<(), CommitError> {
        let outcome = self.0.database.commit(write).await;
        self.0.users.changed(user);
        outcome.map(|_| ())
    }
}

fn devices(rows: Vec<((UserNumber, DeviceNumber), DeviceRow)>) -> Arc<[Device]> {
    let rows = rows.into_iter();
    rows.map(|((_, number), row)| Device { number, id: row.id.as_str().into(), row }).collect()
}

fn check_text(wanted: &WantedDevice) -> Result<(), DeviceError> {
    let id_fits =
        wanted.id.as_ref().is_none_or(|id| (1..=DEVICE_TEXT_BYTES_MAX).contains(&id.as_str().len()));
    let name_fits = wanted.display_name.as_ref().is_none_or(|name| name.len() <= DEVICE_TEXT_BYTES_MAX);
    if id_fits && name_fits { Ok(()) } else { Err(DeviceError::BadText) }
}

/// Notes in a write that a user's devices or keys are others from then on: the one place that says it.
pub fn list_changed(write: &mut Write, user: UserNumber) {
    write.put::<DeviceListHead>(&user, &Stamped::pending(DeviceListRow {}));
    write.put::<DeviceListChange>(&(Position::PENDING, user), &());
    write.log(Happened::DeviceList { user });
}

#[cfg(test)]
mod tests;
