//! Sessions of application services: they act for users with one token, with or without one of the user's devices.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#identity-assertion>

use allod_storage::CommitError;
use ruma::{DeviceId, UserId};

use super::{ATTEMPTS_MAX, Session, Sessions};
use crate::{
    bridges::BridgeIndex,
    database::{Error, Write},
    numbers::{DeviceNumber, UserNumber},
    tables::{
        accounts::{Account, AccountKind, AccountRow},
        appservices::ActingDevice,
    },
};

/// Why an application service may not act for a user.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such account.
    #[error("the user is not registered")]
    UnknownUser,
    /// The account is deactivated.
    #[error("the account is deactivated")]
    Deactivated,
    /// The user has no such device.
    #[error("the user has no such device")]
    UnknownDevice,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Sessions {
    /// The session of a user for whom an application service acts. The user that it is itself gets an account when it is
    /// first needed (`is_sender`).
    pub async fn act_as(
        &self,
        bridge: BridgeIndex,
        user_id: &UserId,
        is_sender: bool,
        device: Option<&DeviceId>,
    ) -> Result<Session, ActError> {
        let users = &self.0.users;
        let user = match users.number(user_id).await? {
            Some(user) => user,
            None if is_sender => users.number_or_new(user_id).await?,
            None => return Err(ActError::UnknownUser),
        };
        let account = match users.account(user).await? {
            Some(account) => account,
            None if is_sender => self.make_sender(user).await?,
            None => return Err(ActError::UnknownUser),
        };
        if account.deactivated_ms.is_some() {
            return Err(ActError::Deactivated);
        }
        let (device, device_id) = match device {
            Some(id) => {
                let device = self.0.devices.find(user, id).await?.ok_or(ActError::UnknownDevice)?;
                (device.number, Some(device.id))
            }
            None => (self.acting_device(user).await?, None),
        };
        Ok(Session {
            user_id: user_id.to_owned(),
            user,
            bare: device_id.is_none(),
            device_id: device_id.unwrap_or_else(|| "".into()),
            device,
            guest: false,
            admin: account.admin,
            locked: account.locked,
            suspended: account.suspended,
            bridge: Some(bridge),
        })
    }

    /// Makes the account of the user that an application service is itself.
    async fn make_sender(&self, user: UserNumber) -> Result<AccountRow, Error> {
        let account = AccountRow {
            created_ms: self.0.clock.now_ms(),
            kind: AccountKind::Appservice,
            admin: false,
            locked: false,
            suspended: false,
            deactivated_ms: None,
            erased: false,
        };
        let mut write = Write::new();
        write.absent::<Account>(&user);
        write.put::<Account>(&user, &account);
        let outcome = self.0.database.commit(write).await;
        self.0.users.changed(user);
        match outcome {
            Ok(_) => Ok(account),
            Err(CommitError::Conflict(_)) => Ok(self.0.users.account(user).await?.unwrap_or(account)),
            Err(error) => Err(error.into()),
        }
    }

    /// The number that stands for a device of the user where there is none: it tells the user's transactions apart from
    /// those of others.
    async fn acting_device(&self, user: UserNumber) -> Result<DeviceNumber, Error> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(device) = self.0.database.get::<ActingDevice>(&user).await? {
                return Ok(device);
            }
            let device = self.0.devices.new_number().await?;
            let mut write = Write::new();
            write.absent::<ActingDevice>(&user);
            write.put::<ActingDevice>(&user, &device);
            match self.0.database.commit(write).await {
                Ok(_) => return Ok(device),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }
}
