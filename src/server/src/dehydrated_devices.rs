//! Dehydrated devices: one a user, whose private keys lie here encrypted, and which collects keys of rooms while nobody
//! is signed in. A later device of the user wakes it, reads what it was sent, and replaces it.
//!
//! To others it is a device like any other. It has no token, and nobody acknowledges its messages: they stay until it is
//! replaced or deleted.
//!
//! MSC3814: <https://github.com/matrix-org/matrix-spec-proposals/pull/3814>

use allod_storage::{CommitError, Position};
use ruma::{OwnedDeviceId, UserId};
use serde_json::value::RawValue;

use crate::{
    audit::Actor,
    database::{Database, Error, Range, Write},
    devices::{Device, DeviceError, Devices, WantedDevice},
    keys::{KeyError, Keys, Owner, Upload},
    numbers::{Hash128, UserNumber},
    tables::keys::{DehydratedDevice as Table, DehydratedDeviceRow},
    to_device::{Received, ToDevice},
    users::Users,
};

/// Longest encrypted private part of a device, in bytes as JSON.
pub const DATA_BYTES_MAX: usize = 80 << 10;
/// How often a write is tried again when someone else was faster.
const ATTEMPTS_MAX: usize = 10;

/// Why nothing was done with a dehydrated device.
#[derive(Debug, thiserror::Error)]
pub enum DehydratedError {
    /// The user has none.
    #[error("there is no dehydrated device")]
    NotFound,
    /// The user's dehydrated device has another id.
    #[error("this is not the dehydrated device")]
    Another,
    /// The encrypted part is too long.
    #[error("the data of the device is too long")]
    TooLarge,
    /// Where to go on is not what the last answer said.
    #[error("not a token of an earlier answer")]
    BadToken,
    /// The device could not be made or deleted.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its keys were refused.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<CommitError> for DehydratedError {
    fn from(error: CommitError) -> Self {
        Self::Database(error.into())
    }
}

/// A dehydrated device with all that belongs to it.
#[derive(Debug)]
pub struct NewDehydrated {
    /// Its id, which must be there, and its name.
    pub device: WantedDevice,
    /// Its private part as its client encrypted it.
    pub data: Box<RawValue>,
    /// Its keys.
    pub keys: Upload,
}

/// The messages of a dehydrated device.
#[derive(Debug)]
pub struct Collected {
    /// The events, in order.
    pub events: Vec<Box<RawValue>>,
    /// Where to go on.
    pub next: String,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DehydratedDevices {
    database: Database,
    users: Users,
    devices: Devices,
    keys: Keys,
    to_device: ToDevice,
}

impl DehydratedDevices {
    /// Over the services of devices, of their keys and of their messages.
    pub fn new(database: Database, users: Users, devices: Devices, keys: Keys, to_device: ToDevice) -> Self {
        Self { database, users, devices, keys, to_device }
    }

    /// Makes the user's dehydrated device in the place of an earlier one, with its keys, or nothing of it. The same request
    /// again changes nothing.
    pub async fn put(
        &self,
        user: UserNumber,
        user_id: &UserId,
        new: &NewDehydrated,
    ) -> Result<OwnedDeviceId, DehydratedError> {
        if new.data.get().len() > DATA_BYTES_MAX {
            return Err(DehydratedError::TooLarge);
        }
        let request = self.digest(new);
        for _ in 0..ATTEMPTS_MAX {
            let old = self.find(user).await?;
            if let Some((old, row)) = &old
                && row.request == request
            {
                return Ok(old.id.clone());
            }
            let old = old.map(|(device, _)| device.number);
            let mut write = Write::new();
            let device = self.devices.replacement_rows(&mut write, user, &new.device, old).await?;
            let owner = Owner { user_id, user, device_id: &device.id, device: device.number };
            self.keys.stage_new_device(&mut write, owner, &new.keys).await?;
            let row = DehydratedDeviceRow { json: new.data.get().to_owned(), request };
            write.put::<Table>(&(user, device.number), &row);
            let outcome = self.database.commit(write).await;
            self.users.changed(user);
            match outcome {
                Ok(_) => return Ok(device.id),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Busy.into())
    }

    /// The user's dehydrated device, and its private part as JSON.
    pub async fn get(&self, user: UserNumber) -> Result<(OwnedDeviceId, String), DehydratedError> {
        let (device, row) = self.find(user).await?.ok_or(DehydratedError::NotFound)?;
        Ok((device.id, row.json))
    }

    /// Deletes the user's dehydrated device with its keys and messages.
    pub async fn delete(&self, user: UserNumber) -> Result<OwnedDeviceId, DehydratedError> {
        let (device, _) = self.find(user).await?.ok_or(DehydratedError::NotFound)?;
        self.devices.delete(Actor::User(user), user, &[device.number]).await?;
        Ok(device.id)
    }

    /// What the user's dehydrated device was sent, page by page: `next` of one page asks for the next. The last one is
    /// empty. Nothing is deleted: who is cut off begins anew.
    pub async fn messages(
        &self,
        user: UserNumber,
        device_id: &ruma::DeviceId,
        next: Option<&str>,
    ) -> Result<Collected, DehydratedError> {
        let (device, _) = self.find(user).await?.ok_or(DehydratedError::Another)?;
        if device.id != device_id {
            return Err(DehydratedError::Another);
        }
        let generation = self.database.store().generation();
        let after = match next.map(parse).transpose()? {
            // After a restored backup positions mean something else: everything is told again.
            Some((of, position)) if of == generation => position,
            _ => Position::ZERO,
        };
        let Received { events, upto } = self.to_device.peek(user, device.number, after).await?;
        Ok(Collected { events, next: format!("d{generation}_{upto}") })
    }

    /// Whether a device is a dehydrated one.
    pub async fn is_dehydrated(&self, user: UserNumber, device: &Device) -> Result<bool, Error> {
        Ok(self.database.get::<Table>(&(user, device.number)).await?.is_some())
    }

    async fn find(&self, user: UserNumber) -> Result<Option<(Device, DehydratedDeviceRow)>, Error> {
        let page = self.database.scan(&Range::<Table>::prefix(&user).limit(1)).await?;
        let Some(((_, number), row)) = page.rows.into_iter().next() else { return Ok(None) };
        let devices = self.devices.list(user).await?;
        Ok(devices.iter().find(|device| device.number == number).map(|device| (device.clone(), row)))
    }

    fn digest(&self, new: &NewDehydrated) -> Hash128 {
        let Upload { device_keys, one_time_keys, fallback_keys } = &new.keys;
        let mut text = format!("{:?}", new.device);
        let keys = one_time_keys.iter().chain(fallback_keys).flat_map(|(id, key)| [id.as_str(), key.get()]);
        let parts = device_keys.iter().map(|keys| keys.get()).chain(keys).chain([new.data.get()]);
        parts.for_each(|part| {
            text.push('\0');
            text.push_str(part);
        });
        self.database.hash("dehydrated device", text)
    }
}

/// Generation and position of a token.
fn parse(token: &str) -> Result<(u32, Position), DehydratedError> {
    let parts = token.strip_prefix('d').and_then(|token| token.split_once('_'));
    let (generation, position) = parts.ok_or(DehydratedError::BadToken)?;
    let generation = generation.parse().map_err(|_| DehydratedError::BadToken)?;
    let position = position.parse().map_err(|_| DehydratedError::BadToken)?;
    Ok((generation, Position::new(position)))
}

#[cfg(test)]
mod tests;
