//! Registration by programs that hold a secret: `/_synapse/admin/v1/register`, as Synapse defines it.
//!
//! The program fetches a nonce, good once and for a minute, and signs with it what it wants by HMAC-SHA1 under the secret.

use std::sync::Arc;

use hmac::{Hmac, Mac};
use quick_cache::sync::Cache;
use sha1::Sha1;

use super::{RegisterError, Registered, Registration};
use crate::{
    accounts::{AccountError, NewAccount},
    audit::Actor,
    clock::Clock,
    config::Secret,
    random::Random,
    sessions::WantedSession,
    tables::accounts::AccountKind,
    users::names,
};

/// How long a nonce is valid, in milliseconds.
const NONCE_LIFETIME_MS: u64 = 60_000;
/// Nonces kept; the least used goes first.
const NONCES_MAX: usize = 1000;
/// Letters of a nonce.
const NONCE_LENGTH: usize = 64;

/// What a program asks for.
#[derive(Clone)]
pub struct SharedSecretRequest {
    /// The nonce it was given.
    pub nonce: String,
    /// The user name.
    pub name: String,
    /// The password.
    pub password: String,
    /// Whether the account is to be an administrator's.
    pub admin: bool,
    /// A type of user, which is part of what is signed.
    pub user_type: Option<String>,
    /// The signature, in hexadecimal.
    pub mac: String,
}

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum SharedSecretError {
    /// The nonce was not given out, was used, or has expired.
    #[error("unrecognised nonce")]
    BadNonce,
    /// The signature is wrong: the secrets differ.
    #[error("HMAC incorrect")]
    BadMac,
    /// A name or password with a NUL could be signed as something else.
    #[error("NUL in the user name or password")]
    Nul,
    /// The account could not be made.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

/// Registration by programs that hold the shared secret.
#[derive(Clone, Debug)]
pub struct SharedSecret(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registration: Registration,
    secret: Secret,
    clock: Clock,
    random: Random,
    nonces: Cache<String, u64>,
}

impl SharedSecret {
    pub(super) fn new(registration: Registration, secret: Secret, clock: Clock, random: Random) -> Self {
        Self(Arc::new(Inner { registration, secret, clock, random, nonces: Cache::new(NONCES_MAX) }))
    }

    /// A new nonce.
    pub fn nonce(&self) -> String {
        let nonce = self.0.random.token(NONCE_LENGTH);
        self.0.nonces.insert(nonce.clone(), self.0.clock.now_ms().saturating_add(NONCE_LIFETIME_MS));
        nonce
    }

    /// Makes an account and signs it in.
    pub async fn register(&self, request: SharedSecretRequest) -> Result<Registered, SharedSecretError> {
        let (_, expires_ms) = self.0.nonces.remove(&request.nonce).ok_or(SharedSecretError::BadNonce)?;
        if expires_ms <= self.0.clock.now_ms() {
            return Err(SharedSecretError::BadNonce);
        }
        if request.name.contains('\0') || request.password.contains('\0') {
            return Err(SharedSecretError::Nul);
        }
        if !self.is_signed(&request) {
            return Err(SharedSecretError::BadMac);
        }
        Ok(self.create(request).await?)
    }

    async fn create(&self, request: SharedSecretRequest) -> Result<Registered, RegisterError> {
        let accounts = &self.0.registration.0.accounts;
        let user_id = names::new_user_id(&request.name, accounts.users().server_name())?;
        if !accounts.is_free(&user_id).await? {
            return Err(AccountError::NameTaken.into());
        }
        let new = NewAccount {
            user_id,
            kind: AccountKind::User,
            admin: request.admin,
            password_hash: Some(accounts.hash_password(request.password).await?),
        };
        let session = WantedSession::default();
        self.0.registration.create(Actor::Operator, &new, None, Some(&session), None).await
    }

    /// Whether the secret's holder asked for exactly this; compared in constant time.
    fn is_signed(&self, request: &SharedSecretRequest) -> bool {
        let Ok(mac) = hex::decode(&request.mac) else { return false };
        let Ok(mut expected) = Hmac::<Sha1>::new_from_slice(self.0.secret.expose().as_bytes()) else {
            return false;
        };
        let admin = if request.admin { "admin" } else { "notadmin" };
        let mut parts = vec![&*request.nonce, &*request.name, &*request.password, admin];
        parts.extend(request.user_type.as_deref());
        expected.update(parts.join("\0").as_bytes());
        expected.verify_slice(&mac).is_ok()
    }
}
