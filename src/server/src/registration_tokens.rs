//! Registration tokens: whoever is given one may make an account, as often and as long as it says.

use std::sync::Arc;

use allod_storage::CommitError;

use crate::{
    audit::{Act, Actor, Audited},
    clock::Clock,
    database::{Database, Error, Range, Write},
    numbers::Hash128,
    random::Random,
    tables::accounts::{RegistrationToken, RegistrationTokenRow},
};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 64;
/// Letters of a token that the server chooses.
const TOKEN_LENGTH: usize = 24;
/// How often a write is tried again that others got in the way of.
const ATTEMPTS_MAX: u32 = 10;

/// Why a token was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationTokenError {
    /// There is no such token.
    #[error("no such registration token")]
    NotFound,
    /// There is such a token already.
    #[error("the registration token exists already")]
    Taken,
    /// It is empty, too long, or has other letters than the spec allows.
    #[error("a registration token has 1 to {TOKEN_BYTES_MAX} of the letters A-Z, a-z, 0-9 and . _ ~ -")]
    BadText,
    /// It would have expired already.
    #[error("the registration token would have expired already")]
    Expired,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for RegistrationTokenError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// How often and how long a token can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many accounts may be made with it; without, any number.
    pub uses_allowed: Option<u32>,
    /// When it expires, in milliseconds since the epoch; without, never.
    pub expires_ms: Option<u64>,
}

/// The registration tokens of this server.
#[derive(Clone, Debug)]
pub struct RegistrationTokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    clock: Clock,
    random: Random,
}

impl RegistrationTokens {
    /// The tokens in this database.
    pub fn new(database: Database, clock: Clock, random: Random) -> Self {
        Self(Arc::new(Inner { database, clock, random }))
    }

    /// Whether an account may be made with a token now.
    pub async fn is_valid(&self, token: &str) -> Result<bool, Error> {
        Ok(self.get(token).await?.is_some_and(|row| self.is_usable(&row)))
    }

    /// Whether a token has neither expired nor been used up.
    pub fn is_usable(&self, row: &RegistrationTokenRow) -> bool {
        row.uses_allowed.is_none_or(|allowed| row.uses < allowed)
            && row.expires_ms.is_none_or(|expires_ms| expires_ms > self.0.clock.now_ms())
    }

    /// Adds the use of a token to a write, which conflicts if someone else uses it meanwhile. Returns whether it may be
    /// used.
    pub async fn use_rows(&self, write: &mut Write, token: &str) -> Result<bool, Error> {
        let Some(row) = self.get(token).await?.filter(|row| self.is_usable(row)) else {
            return Ok(false);
        };
        let key = self.key(token);
        write.equals::<RegistrationToken>(&key, &row);
        let uses = row.uses.saturating_add(1);
        write.put::<RegistrationToken>(&key, &RegistrationTokenRow { uses, ..row });
        Ok(true)
    }

    /// What is known of a token.
    pub async fn get(&self, token: &str) -> Result<Option<RegistrationTokenRow>, Error> {
        self.0.database.get::<RegistrationToken>(&self.key(token)).await
    }

    /// All tokens: administrators make them one by one, so there are few.
    pub async fn list(&self) -> Result<Vec<RegistrationTokenRow>, Error> {
        let rows = self.0.database.scan_all(Range::<RegistrationToken>::whole()).await?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Makes a token; without a text, one is chosen.
    pub async fn create(
        &self,
        actor: Actor,
        token: Option<String>,
        limits: Limits,
    ) -> Result<RegistrationTokenRow, RegistrationTokenError> {
        let token = token.unwrap_or_else(|| self.0.random.token(TOKEN_LENGTH));
        let allowed =
            |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'.' | b'_' | b'~' | b'-');
        if !(1..=TOKEN_BYTES_MAX).contains(&token.len()) || !token.bytes().all(allowed) {
            return Err(RegistrationTokenError::BadText);
        }
        self.check_future(limits)?;
        let key = self.key(&token);
        let Limits { uses_allowed, expires_ms } = limits;
        let row = RegistrationTokenRow { token, uses_allowed, uses: 0, expires_ms };
        let mut write = Write::new();
        write.absent::<RegistrationToken>(&key);
        write.put::<RegistrationToken>(&key, &row);
        self.audit(&mut write, actor, Act::PutRegistrationToken);
        match self.0.database.commit(write).await {
            Ok(_) => Ok(row),
            Err(CommitError::Conflict(_)) => Err(RegistrationTokenError::Taken),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes how often and how long a token can be used; `None` leaves a limit as it is.
    pub async fn update(
        &self,
        actor: Actor,
        token: &str,
        uses_allowed: Option<Option<u32>>,
        expires_ms: Option<Option<u64>>,
    ) -> Result<RegistrationTokenRow, RegistrationTokenError> {
        self.check_future(Limits { uses_allowed: None, expires_ms: expires_ms.flatten() })?;
        let key = self.key(token);
        for _ in 0..ATTEMPTS_MAX {
            let old = self.get(token).await?.ok_or(RegistrationTokenError::NotFound)?;
            let row = RegistrationTokenRow {
                uses_allowed: uses_allowed.unwrap_or(old.uses_allowed),
                expires_ms: expires_ms.unwrap_or(old.expires_ms),
                ..old.clone()
            };
            let mut write = Write::new();
            write.equals::<RegistrationToken>(&key, &old);
            write.put::<RegistrationToken>(&key, &row);
            self.audit(&mut write, actor, Act::PutRegistrationToken);
            match self.0.database.commit(write).await {
                Ok(_) => return Ok(row),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Deletes a token.
    pub async fn delete(&self, actor: Actor, token: &str) -> Result<(), RegistrationTokenError> {
        let key = self.key(token);
        let mut write = Write::new();
        write.exists::<RegistrationToken>(&key);
        write.delete::<RegistrationToken>(&key);
        self.audit(&mut write, actor, Act::DeleteRegistrationToken);
        match self.0.database.commit(write).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict(_)) => Err(RegistrationTokenError::NotFound),
            Err(error) => Err(error.into()),
        }
    }

    fn check_future(&self, limits: Limits) -> Result<(), RegistrationTokenError> {
        let expired = limits.expires_ms.is_some_and(|expires_ms| expires_ms <= self.0.clock.now_ms());
        if expired { Err(RegistrationTokenError::Expired) } else { Ok(()) }
    }

    fn key(&self, token: &str) -> Hash128 {
        self.0.database.hash("registration token", token)
    }

    fn audit(&self, write: &mut Write, actor: Actor, act: Act) {
        write.audit(Audited { at_ms: self.0.clock.now_ms(), actor, act }.encode());
    }
}
