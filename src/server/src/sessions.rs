//! Sessions: access tokens, refresh tokens, and what they say about who is calling.
//!
//! A session is a device that is signed in. Its tokens are rows that go with the device; each names the sign-in that it
//! belongs to, and only those of the device's last sign-in are valid.
//!
//! **Invariant:** a session in memory is used only while nothing was committed about its user since its rows were read
//! ([`Users::epoch`]): after a sign-out, lock or deactivation was answered, the old answer is given nowhere.

use std::sync::Arc;

use allod_storage::CommitError;
use quick_cache::sync::Cache;
use ruma::{OwnedDeviceId, OwnedUserId};

use self::token::{TokenKind, TokenPlace, parse_token};
use crate::{
    bridges::BridgeIndex,
    clock::Clock,
    config::{Accounts as Config, Interval},
    database::{Database, Error, Write},
    devices::Devices,
    numbers::{DeviceNumber, Hash128, UserNumber},
    random::Random,
    tables::accounts::{
        AccessToken, Account, AccountKind, AccountRow, Device, DeviceRow, RefreshToken, RefreshTokenRow,
    },
    users::Users,
};

mod acting;
mod openid;
mod refresh;
mod sign_in;
mod token;

pub use self::{
    acting::ActError,
    openid::{OpenIdError, OpenIdToken},
    refresh::RefreshError,
    sign_in::{Issued, SignInError, WantedSession},
};

/// Sessions kept in memory.
const CACHED_SESSIONS_MAX: usize = 50_000;
/// How often a write is tried again that others got in the way of.
const ATTEMPTS_MAX: u32 = 10;

/// Who is calling, and with which device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about an account")]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The user's number.
    pub user: UserNumber,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The device's number.
    pub device: DeviceNumber,
    /// A guest account.
    pub guest: bool,
    /// A server administrator.
    pub admin: bool,
    /// A locked account: may only sign out.
    pub locked: bool,
    /// A suspended account: may read, not write.
    pub suspended: bool,
    /// The application service that acts for the user.
    pub bridge: Option<BridgeIndex>,
    /// Whether it does so without a device: the device's number tells transactions apart then, and its id is empty.
    pub bare: bool,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticateError {
    /// It is not known, or has expired.
    #[error("unknown token")]
    Unknown {
        /// Whether the client keeps its device and keys and signs in again.
        soft_logout: bool,
    },
    /// The account was deactivated.
    #[error("the account is deactivated")]
    Deactivated,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A session in memory.
#[derive(Debug)]
struct Cached {
    session: Session,
    expires_ms: Option<u64>,
    epoch: u64,
}

/// The sessions of local users.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    users: Users,
    devices: Devices,
    clock: Clock,
    random: Random,
    lifetimes: Lifetimes,
    cache: Cache<Hash128, Arc<Cached>>,
}

/// How long tokens are valid; `None` is for ever.
#[derive(Clone, Copy, Debug)]
struct Lifetimes {
    access: Interval,
    lasting_access: Option<Interval>,
    refresh: Option<Interval>,
}

impl Sessions {
    /// Sessions over these users and devices.
    pub fn new(
        database: Database,
        users: Users,
        devices: Devices,
        clock: Clock,
        random: Random,
        config: &Config,
    ) -> Self {
        let lifetimes = Lifetimes {
            access: config.access_token,
            lasting_access: config.lasting_access_token,
            refresh: config.refresh_token,
        };
        let cache = Cache::new(CACHED_SESSIONS_MAX);
        Self(Arc::new(Inner { database, users, devices, clock, random, lifetimes, cache }))
    }

    /// The session of an access token.
    pub async fn authenticate(&self, token: &str) -> Result<Session, AuthenticateError> {
        let unknown = AuthenticateError::Unknown { soft_logout: false };
        let place = parse_token(TokenKind::Access, token, &self.0.database).ok_or(unknown)?;
        if let Some(cached) = self.0.cache.get(&place.hash)
            && cached.epoch == self.0.users.epoch(place.user)
        {
            return self.unexpired(&cached);
        }
        let cached = Arc::new(self.load(&place).await?);
        self.0.cache.insert(place.hash, cached.clone());
        self.unexpired(&cached)
    }

    fn unexpired(&self, cached: &Cached) -> Result<Session, AuthenticateError> {
        if self.expired(cached.expires_ms) {
            // The device is still there: the client keeps its keys.
            return Err(AuthenticateError::Unknown { soft_logout: true });
        }
        Ok(cached.session.clone())
    }

    /// Reads a session. The first use of a token from a refresh revokes what the token replaces.
    async fn load(&self, place: &TokenPlace) -> Result<Cached, AuthenticateError> {
        let unknown = || AuthenticateError::Unknown { soft_logout: false };
        for _ in 0..ATTEMPTS_MAX {
            let epoch = self.0.users.epoch(place.user);
            let key = (place.user, place.device, place.hash);
            let row = self.0.database.get::<AccessToken>(&key).await?.ok_or_else(unknown)?;
            let (device, account) = self.owner(place).await?.ok_or_else(unknown)?;
            if device.login != row.login {
                return Err(unknown());
            }
            if account.deactivated_ms.is_some() {
                return Err(AuthenticateError::Deactivated);
            }
            if let Some(replaced) = row.replaces
                && !self.expired(row.expires_ms)
            {
                match self.confirm_access(place, &row, replaced).await {
                    Err(CommitError::Conflict(_)) => continue,
                    outcome => outcome.map_err(Error::from)?,
                }
                continue;
            }
            let user_id = self.0.users.id(place.user).await?.ok_or_else(unknown)?;
            let session = session(user_id, place, &device, &account);
            return Ok(Cached { session, expires_ms: row.expires_ms, epoch });
        }
        Err(Error::from(CommitError::Conflict(0)).into())
    }

    /// The device and account that a token belongs to; `None` if one of them is gone.
    async fn owner(&self, place: &TokenPlace) -> Result<Option<(DeviceRow, AccountRow)>, Error> {
        let device = self.0.database.get::<Device>(&(place.user, place.device)).await?;
        let account = self.0.database.get::<Account>(&place.user).await?;
        Ok(device.zip(account))
    }

    fn expired(&self, expires_ms: Option<u64>) -> bool {
        expires_ms.is_some_and(|expires_ms| expires_ms <= self.0.clock.now_ms())
    }

    /// Commits what concerns a user's sessions.
    async fn commit(&self, user: UserNumber, write: Write) -> Result<(), CommitError> {
        let outcome = self.0.database.commit(write).await;
        self.0.users.changed(user);
        outcome.map(|_| ())
    }
}

fn session(user_id: OwnedUserId, place: &TokenPlace, device: &DeviceRow, account: &AccountRow) -> Session {
    Session {
        user_id,
        user: place.user,
        device_id: device.id.as_str().into(),
        device: place.device,
        guest: account.kind == AccountKind::Guest,
        admin: account.admin,
        locked: account.locked,
        suspended: account.suspended,
        bridge: None,
        bare: false,
    }
}

/// The keys of the tables of tokens.
type TokenKey = (UserNumber, DeviceNumber, Hash128);

/// Removes a refresh token and the access token that it was given out with.
fn revoke_pair(write: &mut Write, key: TokenKey, row: &RefreshTokenRow) {
    write.delete::<RefreshToken>(&key);
    write.delete::<AccessToken>(&(key.0, key.1, row.access));
}

#[cfg(test)]
mod tests;
