//! Refreshing: tokens are exchanged for new ones, and a client whose answer was lost may ask again.
//!
//! A refresh token stays valid until a token that it was exchanged for is first used; then it goes, with the access token
//! that it was given out with. Exchanged again before that, it takes back what it was exchanged for.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#refreshing-access-tokens>

use allod_storage::CommitError;

use super::{
    ATTEMPTS_MAX, Issued, Sessions, TokenKey, revoke_pair,
    token::{TokenKind, TokenPlace, parse_token},
};
use crate::{
    database::{Error, Write},
    devices::Device,
    numbers::Hash128,
    tables::accounts::{AccessToken, AccessTokenRow, Device as DeviceTable, RefreshToken, RefreshTokenRow},
};

/// Why a token was not refreshed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The token is not known, was used up, or has expired.
    #[error("unknown refresh token")]
    Unknown {
        /// Whether the client keeps its device and keys and signs in again.
        soft_logout: bool,
    },
    /// The account is locked.
    #[error("the account is locked")]
    Locked,
    /// The account was deactivated.
    #[error("the account is deactivated")]
    Deactivated,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for RefreshError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

impl Sessions {
    /// Exchanges a refresh token for new tokens.
    pub async fn refresh(&self, token: &str) -> Result<Issued, RefreshError> {
        let unknown = || RefreshError::Unknown { soft_logout: false };
        let place = parse_token(TokenKind::Refresh, token, &self.0.database).ok_or_else(unknown)?;
        let key = (place.user, place.device, place.hash);
        for _ in 0..ATTEMPTS_MAX {
            let row = self.0.database.get::<RefreshToken>(&key).await?.ok_or_else(unknown)?;
            let (device_row, account) = self.owner(&place).await?.ok_or_else(unknown)?;
            if device_row.login != row.login {
                return Err(unknown());
            }
            if account.deactivated_ms.is_some() {
                return Err(RefreshError::Deactivated);
            }
            if account.locked {
                return Err(RefreshError::Locked);
            }
            if self.expired(row.expires_ms) {
                return Err(RefreshError::Unknown { soft_logout: true });
            }
            let mut write = Write::new();
            write.equals::<DeviceTable>(&(place.user, place.device), &device_row);
            let device = Device { number: place.device, id: device_row.id.as_str().into(), row: device_row };
            let issued = self.exchange(&mut write, key, row, &device).await?;
            match self.commit(place.user, write).await {
                Ok(()) => return Ok(issued),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Adds to a write what an exchange changes.
    async fn exchange(
        &self,
        write: &mut Write,
        key: TokenKey,
        row: RefreshTokenRow,
        device: &Device,
    ) -> Result<Issued, Error> {
        write.equals::<RefreshToken>(&key, &row);
        if let Some(replaced) = row.replaces {
            self.revoke(write, (key.0, key.1, replaced)).await?;
        }
        if let Some((access, refresh)) = row.next {
            write.delete::<AccessToken>(&(key.0, key.1, access));
            write.delete::<RefreshToken>(&(key.0, key.1, refresh));
        }
        let tokens = self.new_tokens(write, key.0, device, true, Some(key.2));
        let next = tokens.refresh.map(|refresh| (tokens.access, refresh));
        write.put::<RefreshToken>(&key, &RefreshTokenRow { next, replaces: None, ..row });
        Ok(tokens.issued)
    }

    /// Notes the first use of an access token: what it replaces goes.
    pub(super) async fn confirm_access(
        &self,
        place: &TokenPlace,
        row: &AccessTokenRow,
        replaced: Hash128,
    ) -> Result<(), CommitError> {
        let key = (place.user, place.device, place.hash);
        let mut write = Write::new();
        write.equals::<AccessToken>(&key, row);
        write.put::<AccessToken>(&key, &AccessTokenRow { replaces: None, ..row.clone() });
        self.revoke(&mut write, (key.0, key.1, replaced)).await.map_err(|error| match error {
            Error::Commit(error) => error,
            Error::Storage(_) | Error::Corrupt(..) => CommitError::Unavailable,
        })?;
        self.commit(place.user, write).await
    }

    /// Adds to a write what revokes a refresh token and its access token, if they are still there, exactly as they are.
    async fn revoke(&self, write: &mut Write, key: TokenKey) -> Result<(), Error> {
        let Some(row) = self.0.database.get::<RefreshToken>(&key).await? else {
            return Ok(());
        };
        // Exchanged once more at this moment, it would have taken back what is being confirmed.
        write.equals::<RefreshToken>(&key, &row);
        revoke_pair(write, key, &row);
        Ok(())
    }
}
