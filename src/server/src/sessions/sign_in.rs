//! Signing in: a device and its tokens, in one write.

use std::time::Duration;

use allod_storage::CommitError;
use ruma::OwnedDeviceId;

use super::{
    ATTEMPTS_MAX, Lifetimes, Sessions,
    token::{TokenKind, new_token},
};
use crate::{
    accounts::PasswordProof,
    audit::{Act, Actor, Audited},
    config::Interval,
    database::{Error, Range, Write},
    devices::{Device, DeviceError, WantedDevice},
    numbers::{DeviceNumber, Hash128, UserNumber},
    tables::accounts::{AccessToken, AccessTokenRow, Account, RefreshToken, RefreshTokenRow},
};

/// The session that a sign-in asks for.
#[derive(Clone, Debug, Default)]
pub struct WantedSession {
    /// The device.
    pub device: WantedDevice,
    /// Whether the client can refresh tokens.
    pub refresh: bool,
}

/// What a sign-in or refresh gives to the client.
#[derive(Clone)]
pub struct Issued {
    /// The device's id.
    pub device_id: OwnedDeviceId,
    /// The device's number.
    pub device: DeviceNumber,
    /// The access token.
    pub access_token: String,
    /// The refresh token, if the client can use one.
    pub refresh_token: Option<String>,
    /// How long the access token is valid; for ever if `None`.
    pub expires_in: Option<Duration>,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Issued").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}

/// Why a sign-in failed after it was allowed.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The account is locked.
    #[error("the account is locked")]
    Locked,
    /// The account is deactivated, or there is none.
    #[error("the account is deactivated")]
    Deactivated,
    /// The password was changed at the same moment.
    #[error("the password was changed")]
    PasswordChanged,
    /// The device is not possible.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for SignInError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

impl Sessions {
    /// Signs a user in whose identity is proven.
    pub async fn sign_in(&self, user: UserNumber, wanted: &WantedSession) -> Result<Issued, SignInError> {
        self.sign_in_if(user, None, wanted).await
    }

    /// Signs a user in who knows the password: not if it was changed since it was checked.
    pub async fn sign_in_by_password(
        &self,
        proof: &PasswordProof,
        wanted: &WantedSession,
    ) -> Result<Issued, SignInError> {
        self.sign_in_if(proof.user(), Some(proof), wanted).await
    }

    async fn sign_in_if(
        &self,
        user: UserNumber,
        proof: Option<&PasswordProof>,
        wanted: &WantedSession,
    ) -> Result<Issued, SignInError> {
        for _ in 0..ATTEMPTS_MAX {
            let account = self.0.users.account(user).await?.ok_or(SignInError::Deactivated)?;
            if account.deactivated_ms.is_some() {
                return Err(SignInError::Deactivated);
            }
            if account.locked {
                return Err(SignInError::Locked);
            }
            let mut write = Write::new();
            let proven = proof.map(|proof| proof.require(&mut write));
            // Nobody signs in to an account that is deactivated or locked at the same moment.
            write.equals::<Account>(&user, &account);
            let issued = self.sign_in_rows(&mut write, user, wanted).await?;
            match self.commit(user, write).await {
                Ok(()) => return Ok(issued),
                Err(CommitError::Conflict(check)) if Some(check) == proven => {
                    return Err(SignInError::PasswordChanged);
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Adds the rows of a sign-in to a write, which conflicts if another one came first. Call
    /// [`Users::changed`](crate::users::Users::changed) after its commit.
    pub async fn sign_in_rows(
        &self,
        write: &mut Write,
        user: UserNumber,
        wanted: &WantedSession,
    ) -> Result<Issued, DeviceError> {
        let device = self.0.devices.sign_in_rows(write, user, &wanted.device).await?;
        if device.row.login > 1 {
            // They are invalid by their number; this frees the space. Row by row: there are few, and bots sign in often.
            let of_device = (user, device.number);
            let access = self.0.database.scan(&Range::<AccessToken>::prefix(&of_device)).await?;
            access.rows.iter().for_each(|(key, _)| write.delete::<AccessToken>(key));
            let refresh = self.0.database.scan(&Range::<RefreshToken>::prefix(&of_device)).await?;
            refresh.rows.iter().for_each(|(key, _)| write.delete::<RefreshToken>(key));
        }
        let tokens = self.new_tokens(write, user, &device, wanted.refresh, None);
        let act = Act::SignIn { user, device: device.number };
        write.audit(Audited { at_ms: self.0.clock.now_ms(), actor: Actor::User(user), act }.encode());
        Ok(tokens.issued)
    }

    /// Adds new tokens of a device to a write.
    pub(super) fn new_tokens(
        &self,
        write: &mut Write,
        user: UserNumber,
        device: &Device,
        refresh: bool,
        replaces: Option<Hash128>,
    ) -> NewTokens {
        let Lifetimes { access, lasting_access, refresh: refresh_lifetime } = self.0.lifetimes;
        let lifetime = if refresh { Some(access) } else { lasting_access };
        let at = |lifetime: Interval| self.0.clock.now_ms().saturating_add(lifetime.as_ms());
        let (login, number) = (device.row.login, device.number);
        let new = |kind| new_token(kind, user, number, &self.0.random, &self.0.database);

        let (access_token, access) = new(TokenKind::Access);
        let row = AccessTokenRow { login, expires_ms: lifetime.map(at), replaces };
        write.put::<AccessToken>(&(user, number, access), &row);
        let refresh = refresh.then(|| {
            let (token, hash) = new(TokenKind::Refresh);
            let expires_ms = refresh_lifetime.map(at);
            let row = RefreshTokenRow { login, expires_ms, access, next: None, replaces };
            write.put::<RefreshToken>(&(user, number, hash), &row);
            (token, hash)
        });
        let (refresh_token, refresh) = refresh.unzip();
        let issued = Issued {
            device_id: device.id.clone(),
            device: number,
            access_token,
            refresh_token,
            expires_in: lifetime.map(|lifetime| lifetime.0),
        };
        NewTokens { issued, access, refresh }
    }
}

/// New tokens with their hashes.
pub(super) struct NewTokens {
    pub(super) issued: Issued,
    pub(super) access: Hash128,
    pub(super) refresh: Option<Hash128>,
}
