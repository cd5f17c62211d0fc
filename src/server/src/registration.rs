//! Registration: who may make an account, under which name, and the one write that makes it and signs it in.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#account-registration>

use std::sync::Arc;

use allod_storage::CommitError;
use ruma::{OwnedUserId, api::client::uiaa::AuthType};

use crate::{
    accounts::{AccountError, Accounts, NewAccount},
    audit::Actor,
    config::{Accounts as Config, Secret, accounts::Registration as Mode},
    database::{Database, Error, Write},
    devices::{DeviceError, WantedDevice},
    numbers::UserNumber,
    random::Random,
    registration_tokens::RegistrationTokens,
    sessions::{AuthenticateError, Issued, Session, Sessions, WantedSession},
    tables::accounts::AccountKind,
    uiaa::{Operation, Shown},
    users::names::{self, NameError},
};

mod shared_secret;

pub use self::shared_secret::{SharedSecret, SharedSecretError, SharedSecretRequest};

/// How often a write is tried again that others got in the way of.
const ATTEMPTS_MAX: u32 = 10;
/// Letters of a name that the server chooses.
const NAME_LENGTH: usize = 12;
/// Digits of a guest's name.
const GUEST_DIGITS: usize = 12;

/// Why an account was not made.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Nobody can make an account of this kind.
    #[error("registration is disabled")]
    Disabled,
    /// The name cannot be chosen.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The registration token was used up, or expired, since it was shown.
    #[error("the registration token is not valid any more")]
    TokenUsedUp,
    /// The guest's access token is not valid, or not a guest's, or the name is not the guest's.
    #[error("not a guest of this name")]
    NotThisGuest,
    /// There is no password, and none other way to sign in.
    #[error("a password is needed")]
    NoPassword,
    /// The account could not be made.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The device could not be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for RegisterError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// What someone asks for who registers.
#[derive(Clone, Default)]
pub struct Wanted {
    /// The user name.
    pub name: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// Token of a guest whose account is to become a user's.
    pub guest_token: Option<String>,
    /// The session to begin; `None` for no session.
    pub session: Option<WantedSession>,
}

/// A registration that was found possible: not yet made.
#[derive(Debug)]
pub struct Checked {
    user_id: OwnedUserId,
    guest: Option<Session>,
}

/// A new account.
#[derive(Debug)]
pub struct Registered {
    /// Its user id.
    pub user_id: OwnedUserId,
    /// Its number.
    pub user: UserNumber,
    /// Its first session, if one was asked for.
    pub issued: Option<Issued>,
}

/// Making accounts.
#[derive(Clone, Debug)]
pub struct Registration(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    accounts: Accounts,
    sessions: Sessions,
    tokens: RegistrationTokens,
    random: Random,
    mode: Mode,
    guests: bool,
}

impl Registration {
    /// Registration over these accounts and sessions.
    pub fn new(
        database: Database,
        accounts: Accounts,
        sessions: Sessions,
        tokens: RegistrationTokens,
        random: Random,
        config: &Config,
    ) -> Self {
        let (mode, guests) = (config.registration, config.guests);
        Self(Arc::new(Inner { database, accounts, sessions, tokens, random, mode, guests }))
    }

    /// Checks that a name could be chosen now, by someone who may register.
    pub async fn check_name(&self, name: &str) -> Result<OwnedUserId, RegisterError> {
        if self.0.mode == Mode::Closed {
            return Err(RegisterError::Disabled);
        }
        self.check_free_name(name).await
    }

    async fn check_free_name(&self, name: &str) -> Result<OwnedUserId, RegisterError> {
        let user_id = names::new_user_id(name, self.0.accounts.users().server_name())?;
        names::check_unreserved(user_id.localpart())?;
        if !self.0.accounts.is_free(&user_id).await? {
            return Err(AccountError::NameTaken.into());
        }
        Ok(user_id)
    }

    /// Whether a registration token is good for an account now: for who wants to know before filling in a form.
    pub async fn is_token_valid(&self, token: &str) -> Result<bool, RegisterError> {
        if self.0.mode == Mode::Closed {
            return Err(RegisterError::Disabled);
        }
        Ok(self.0.tokens.is_valid(token).await?)
    }

    /// All checks that come before user-interactive authentication.
    pub async fn check(&self, wanted: &Wanted) -> Result<Checked, RegisterError> {
        if self.0.mode == Mode::Closed {
            return Err(RegisterError::Disabled);
        }
        if let Some(password) = &wanted.password {
            self.0.accounts.check_strength(password).map_err(AccountError::from)?;
        }
        if let Some(token) = &wanted.guest_token {
            return self.check_guest(token, wanted.name.as_deref()).await;
        }
        let user_id = match &wanted.name {
            Some(name) => self.check_free_name(name).await?,
            None => self.new_name(NAME_LENGTH).await?,
        };
        Ok(Checked { user_id, guest: None })
    }

    /// A guest keeps the name.
    async fn check_guest(&self, token: &str, name: Option<&str>) -> Result<Checked, RegisterError> {
        let session = match self.0.sessions.authenticate(token).await {
            Ok(session) if session.guest && !session.locked => session,
            Ok(_) | Err(AuthenticateError::Unknown { .. } | AuthenticateError::Deactivated) => {
                return Err(RegisterError::NotThisGuest);
            }
            Err(AuthenticateError::Storage(error)) => return Err(error.into()),
        };
        if name.is_some_and(|name| name != session.user_id.localpart()) {
            return Err(RegisterError::NotThisGuest);
        }
        Ok(Checked { user_id: session.user_id.clone(), guest: Some(session) })
    }

    /// What someone must show who wants an account.
    pub fn operation(&self) -> Operation {
        let stage = match self.0.mode {
            Mode::Token => AuthType::RegistrationToken,
            Mode::Open | Mode::Closed => AuthType::Dummy,
        };
        Operation::new("register", &[], None, vec![vec![stage]])
    }

    /// Makes the account that was [checked](Self::check), for someone who has [shown](Self::operation) what it takes.
    pub async fn register(
        &self,
        checked: Checked,
        wanted: Wanted,
        shown: &Shown,
    ) -> Result<Registered, RegisterError> {
        let password_hash = match wanted.password {
            Some(password) => Some(self.0.accounts.hash_password(password).await?),
            None => return Err(RegisterError::NoPassword),
        };
        let new =
            NewAccount { user_id: checked.user_id, kind: AccountKind::User, admin: false, password_hash };
        let token = shown.registration_token.as_deref();
        self.create(Actor::Nobody, &new, checked.guest.as_ref(), wanted.session.as_ref(), token).await
    }

    /// Makes an account for an application service, which has shown that the name is its own.
    pub async fn register_for_appservice(
        &self,
        localpart: &str,
        session: Option<&WantedSession>,
    ) -> Result<Registered, RegisterError> {
        let user_id = names::new_user_id(localpart, self.0.accounts.users().server_name())?;
        let kind = AccountKind::Appservice;
        let new = NewAccount { user_id, kind, admin: false, password_hash: None };
        self.create(Actor::Nobody, &new, None, session, None).await
    }

    /// Lets a guest in. All that a guest may choose is the name of the device.
    pub async fn register_guest(
        &self,
        device_display_name: Option<String>,
    ) -> Result<Registered, RegisterError> {
        if !self.0.guests {
            return Err(RegisterError::Disabled);
        }
        let user_id = self.new_guest_name().await?;
        let new = NewAccount { user_id, kind: AccountKind::Guest, admin: false, password_hash: None };
        let device = WantedDevice { id: None, display_name: device_display_name };
        let session = WantedSession { device, refresh: false };
        self.create(Actor::Nobody, &new, None, Some(&session), None).await
    }

    /// Makes an account and its first session in one write.
    async fn create(
        &self,
        actor: Actor,
        new: &NewAccount,
        guest: Option<&Session>,
        session: Option<&WantedSession>,
        token: Option<&str>,
    ) -> Result<Registered, RegisterError> {
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            if let Some(token) = token
                && !self.0.tokens.use_rows(&mut write, token).await?
            {
                return Err(RegisterError::TokenUsedUp);
            }
            let user = if let Some(guest) = guest {
                self.0.accounts.upgrade_rows(&mut write, guest.user, new.password_hash.clone()).await?;
                guest.user
            } else {
                self.0.accounts.create_rows(&mut write, actor, new).await?
            };
            let issued = match session {
                Some(session) => Some(self.0.sessions.sign_in_rows(&mut write, user, session).await?),
                None => None,
            };
            let outcome = self.0.database.commit(write).await;
            self.0.accounts.users().changed(user);
            match outcome {
                Ok(_) => return Ok(Registered { user_id: new.user_id.clone(), user, issued }),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// A name that nobody has.
    async fn new_name(&self, length: usize) -> Result<OwnedUserId, RegisterError> {
        loop {
            let name = self.0.random.token(length).to_ascii_lowercase();
            match self.check_free_name(&name).await {
                Err(RegisterError::Account(AccountError::NameTaken) | RegisterError::Name(_)) => {}
                outcome => return outcome,
            }
        }
    }

    /// A number that no guest has.
    async fn new_guest_name(&self) -> Result<OwnedUserId, RegisterError> {
        loop {
            let number = u64::from_be_bytes(self.0.random.bytes());
            let digits: String = number.to_string().chars().take(GUEST_DIGITS).collect();
            let user_id = names::new_user_id(&digits, self.0.accounts.users().server_name())?;
            if self.0.accounts.is_free(&user_id).await? {
                return Ok(user_id);
            }
        }
    }

    /// Registration by programs that hold the shared secret, over the same accounts.
    pub fn with_shared_secret(&self, secret: Secret, clock: crate::clock::Clock) -> SharedSecret {
        SharedSecret::new(self.clone(), secret, clock, self.0.random.clone())
    }
}

#[cfg(test)]
mod tests;
