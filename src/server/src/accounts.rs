//! Accounts of this server: made, changed, locked, deactivated; and their passwords.
//!
//! Each change is one write with its audit entry. Who may do it is decided by the caller; what it takes (the account
//! exists, is not deactivated, the password is strong enough) is decided here.

use std::sync::Arc;

use allod_storage::CommitError;
use ruma::{OwnedUserId, UserId};

use crate::{
    audit::{Act, Actor, Audited},
    clock::Clock,
    database::{Database, Error, Write},
    devices::{DeviceError, Devices},
    numbers::{DeviceNumber, UserNumber},
    passwords::{PasswordError, Passwords, WeakPassword},
    tables::accounts::{Account, AccountKind, AccountRow, DeviceSeen, OpenIdToken, Password, PasswordRow},
    users::{Users, names},
};

mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

/// How often a write is tried again that others got in the way of.
const ATTEMPTS_MAX: u32 = 10;

/// Why an account was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is no such account, or it is deactivated.
    #[error("no such account")]
    NotFound,
    /// Another account has the name.
    #[error("the user name is taken")]
    NameTaken,
    /// The password cannot be chosen.
    #[error(transparent)]
    WeakPassword(#[from] WeakPassword),
    /// The password could not be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Devices could not be deleted.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for AccountError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Its user id.
    pub user_id: OwnedUserId,
    /// What it is for.
    pub kind: AccountKind,
    /// A server administrator's.
    pub admin: bool,
    /// The hash of its password, from [`Accounts::hash_password`].
    pub password_hash: Option<String>,
}

/// That someone has given an account's password, as it then was.
#[derive(Clone, Debug)]
pub struct PasswordProof {
    user: UserNumber,
    row: PasswordRow,
}

impl PasswordProof {
    /// Whose password it was.
    pub fn user(&self) -> UserNumber {
        self.user
    }

    /// Requires in a write that the password is still the same. Returns the check's index.
    pub(crate) fn require(&self, write: &mut Write) -> usize {
        write.equals::<Password>(&self.user, &self.row)
    }
}

/// Accounts of this server.
#[derive(Clone, Debug)]
pub struct Accounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    users: Users,
    devices: Devices,
    passwords: Passwords,
    clock: Clock,
}

impl Accounts {
    /// Accounts over these users and devices.
    pub fn new(
        database: Database,
        users: Users,
        devices: Devices,
        passwords: Passwords,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { database, users, devices, passwords, clock }))
    }

    /// The users below.
    pub fn users(&self) -> &Users {
        &self.0.users
    }

    /// Whether an account of this name could be made.
    pub async fn is_free(&self, user_id: &UserId) -> Result<bool, Error> {
        match self.0.users.number(user_id).await? {
            Some(user) => Ok(self.0.users.account(user).await?.is_none()),
            None => Ok(true),
        }
    }

    /// Makes an account.
    pub async fn create(&self, actor: Actor, new: &NewAccount) -> Result<UserNumber, AccountError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            let user = self.create_rows(&mut write, actor, new).await?;
            match self.0.database.commit(write).await {
                Ok(_) => {
                    self.0.users.changed(user);
                    return Ok(user);
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Adds the rows of a new account to a write, which conflicts if someone else takes the name meanwhile.
    pub async fn create_rows(
        &self,
        write: &mut Write,
        actor: Actor,
        new: &NewAccount,
    ) -> Result<UserNumber, AccountError> {
        let user = match self.0.users.number(&new.user_id).await? {
            Some(user) => user,
            None => self.0.users.add(write, &new.user_id),
        };
        if self.0.users.account(user).await?.is_some() {
            return Err(AccountError::NameTaken);
        }
        let now_ms = self.0.clock.now_ms();
        write.absent::<Account>(&user);
        write.put::<Account>(
            &user,
            &AccountRow {
                created_ms: now_ms,
                kind: new.kind,
                admin: new.admin,
                locked: false,
                suspended: false,
                deactivated_ms: None,
                erased: false,
            },
        );
        if let Some(hash) = &new.password_hash {
            write.put::<Password>(&user, &PasswordRow { hash: hash.clone(), changed_ms: now_ms });
        }
        self.audit(write, actor, Act::CreateAccount { user, admin: new.admin });
        Ok(user)
    }

    /// Adds to a write what makes a guest's account a user's.
    pub async fn upgrade_rows(
        &self,
        write: &mut Write,
        guest: UserNumber,
        password_hash: Option<String>,
    ) -> Result<(), AccountError> {
        let account = self.active(guest).await?;
        write.equals::<Account>(&guest, &account);
        write.put::<Account>(&guest, &AccountRow { kind: AccountKind::User, ..account });
        if let Some(hash) = password_hash {
            write.put::<Password>(&guest, &PasswordRow { hash, changed_ms: self.0.clock.now_ms() });
        }
        Ok(())
    }

    /// Whether a password may be chosen.
    pub fn check_strength(&self, password: &str) -> Result<(), WeakPassword> {
        self.0.passwords.check_strength(password)
    }

    /// Checks and hashes a password for an account to be made.
    pub async fn hash_password(&self, password: String) -> Result<String, AccountError> {
        self.check_strength(&password)?;
        Ok(self.0.passwords.hash(password).await?)
    }

    /// Who signs in as `name` with `password`: `None` if there is no such account, or it has another password, none, or
    /// is deactivated. Takes as long in each case, and a refusal is noted in the audit trail.
    pub async fn check_password(
        &self,
        name: &str,
        password: String,
    ) -> Result<Option<PasswordProof>, AccountError> {
        let user = self.who_signs_in(name).await?;
        let row = match user {
            Some(user) => self.0.database.get::<Password>(&user).await?,
            None => None,
        };
        let stored = row.as_ref().map(|row| row.hash.clone());
        let matches = self.0.passwords.matches(stored, password).await?;
        if let (true, Some(user), Some(row)) = (matches, user, row)
            && self.active(user).await.is_ok()
        {
            return Ok(Some(PasswordProof { user, row }));
        }
        let mut write = Write::new();
        self.audit(&mut write, Actor::Nobody, Act::FailSignIn { user });
        // Nobody waits for it: the refusal must not take longer than a success.
        drop(self.0.database.submit(write));
        Ok(None)
    }

    /// The account that someone means who signs in as `name`.
    async fn who_signs_in(&self, name: &str) -> Result<Option<UserNumber>, Error> {
        for user_id in names::sign_in_candidates(name, self.0.users.server_name()) {
            if let Some(user) = self.0.users.number(&user_id).await?
                && self.0.users.account(user).await?.is_some()
            {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }

    /// Whether the account has a password.
    pub async fn has_password(&self, user: UserNumber) -> Result<bool, Error> {
        Ok(self.0.database.get::<Password>(&user).await?.is_some())
    }

    /// Sets a password; with `sign_out` all devices are deleted but `keep`.
    pub async fn set_password(
        &self,
        actor: Actor,
        user: UserNumber,
        password: String,
        sign_out: bool,
        keep: Option<DeviceNumber>,
    ) -> Result<(), AccountError> {
        let hash = self.hash_password(password).await?;
        for _ in 0..ATTEMPTS_MAX {
            let account = self.active(user).await?;
            let mut write = Write::new();
            write.equals::<Account>(&user, &account);
            let row = PasswordRow { hash: hash.clone(), changed_ms: self.0.clock.now_ms() };
            write.put::<Password>(&user, &row);
            self.audit(&mut write, actor, Act::SetPassword { user });
            let others = if sign_out { self.0.devices.others(user, keep).await? } else { Vec::new() };
            let listed = self.0.devices.list(user).await?;
            if !others.is_empty() {
                self.0.devices.delete_rows(&mut write, actor, user, &others);
            }
            match self.commit(user, write).await {
                Ok(()) => {
                    let gone = listed.iter().filter(|device| others.contains(&device.number));
                    let gone: Vec<_> = gone.map(|device| device.id.clone()).collect();
                    return Ok(self.0.devices.delete_settings(user, &gone).await?);
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Deactivates an account for good: devices and credentials go, and with `erase` all that its user has set. Of an
    /// account that is deactivated already, only the wish to be erased is noted.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#account-deactivation>
    pub async fn deactivate(&self, actor: Actor, user: UserNumber, erase: bool) -> Result<(), AccountError> {
        for _ in 0..ATTEMPTS_MAX {
            let account = self.0.users.account(user).await?.ok_or(AccountError::NotFound)?;
            let mut write = Write::new();
            write.equals::<Account>(&user, &account);
            let now_ms = self.0.clock.now_ms();
            let row = AccountRow {
                admin: false,
                deactivated_ms: Some(account.deactivated_ms.unwrap_or(now_ms)),
                erased: account.erased || erase,
                ..account
            };
            write.put::<Account>(&user, &row);
            write.delete::<Password>(&user);
            write.delete_rows_of_devices(user);
            write.delete_prefix::<DeviceSeen>(&user);
            write.erase::<DeviceSeen>(&user);
            write.delete_prefix::<OpenIdToken>(&user);
            if erase {
                write.delete_rows_of_user(user);
            }
            crate::devices::list_changed(&mut write, user);
            self.audit(&mut write, actor, Act::Deactivate { user, erase });
            match self.commit(user, write).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// An account that is there and not deactivated.
    async fn active(&self, user: UserNumber) -> Result<AccountRow, AccountError> {
        let account = self.0.users.account(user).await?.ok_or(AccountError::NotFound)?;
        if account.deactivated_ms.is_some() { Err(AccountError::NotFound) } else { Ok(account) }
    }

    fn audit(&self, write: &mut Write, actor: Actor, act: Act) {
        write.audit(Audited { at_ms: self.0.clock.now_ms(), actor, act }.encode());
    }

    async fn commit(&self, user: UserNumber, write: Write) -> Result<(), CommitError> {
        let outcome = self.0.database.commit(write).await;
        self.0.users.changed(user);
        outcome.map(|_| ())
    }
}
