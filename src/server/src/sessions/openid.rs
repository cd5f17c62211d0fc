//! OpenID tokens: by one of these another service asks this server who a user is.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#openid>

use std::time::Duration;

use ruma::OwnedUserId;

use super::{
    Sessions,
    token::{TokenKind, new_token, parse_token},
};
use crate::{
    database::{Error, Range, Write},
    numbers::{DeviceNumber, UserNumber},
    tables::accounts::{OPENID_SECONDS, OpenIdToken as OpenIdTable, OpenIdTokenRow},
};

/// A token for another service.
#[derive(Clone)]
pub struct OpenIdToken {
    /// The token.
    pub token: String,
    /// How long it is valid.
    pub expires_in: Duration,
}

impl std::fmt::Debug for OpenIdToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpenIdToken").finish_non_exhaustive()
    }
}

/// Why it is not said whose a token is.
#[derive(Debug, thiserror::Error)]
pub enum OpenIdError {
    /// The token is not known, has expired, or its user's account is not in use any more.
    #[error("unknown OpenID token")]
    Unknown,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Sessions {
    /// Makes a token by which another service can ask who the user is. Those of the user that have expired go.
    pub async fn new_openid_token(&self, user: UserNumber) -> Result<OpenIdToken, Error> {
        let now_ms = self.0.clock.now_ms();
        let expires_in = Duration::from_secs(OPENID_SECONDS);
        let (token, hash) =
            new_token(TokenKind::OpenId, user, DeviceNumber(0), &self.0.random, &self.0.database);
        let mut write = Write::new();
        let earlier = self.0.database.scan(&Range::<OpenIdTable>::prefix(&user)).await?;
        for (key, _) in earlier.rows.iter().filter(|(_, row)| row.expires_ms <= now_ms) {
            write.delete::<OpenIdTable>(key);
        }
        let expires_ms = now_ms.saturating_add(OPENID_SECONDS.saturating_mul(1000));
        write.put::<OpenIdTable>(&(user, hash), &OpenIdTokenRow { expires_ms });
        self.0.database.commit(write).await?;
        Ok(OpenIdToken { token, expires_in })
    }

    /// Whose a token is.
    pub async fn openid_user(&self, token: &str) -> Result<OwnedUserId, OpenIdError> {
        let place = parse_token(TokenKind::OpenId, token, &self.0.database).ok_or(OpenIdError::Unknown)?;
        let row = self.0.database.get::<OpenIdTable>(&(place.user, place.hash)).await?;
        let account = self.0.users.account(place.user).await?;
        let valid = row.is_some_and(|row| !self.expired(Some(row.expires_ms)))
            && account.is_some_and(|account| account.deactivated_ms.is_none() && !account.locked);
        if !valid {
            return Err(OpenIdError::Unknown);
        }
        self.0.users.id(place.user).await?.ok_or(OpenIdError::Unknown)
    }
}
