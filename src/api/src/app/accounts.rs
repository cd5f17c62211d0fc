//! The services of accounts, made in the order in which they use each other.

use allod_server::{
    accounts::Accounts,
    addresses::Addresses,
    config::SecretFile,
    devices::Devices,
    passwords::Passwords,
    registration::{Registration, SharedSecret},
    registration_tokens::RegistrationTokens,
    sessions::Sessions,
    uiaa::Uiaa,
    users::Users,
};

use super::{Base, OpenError};

/// The services of accounts.
pub(super) struct AccountServices {
    pub(super) users: Users,
    pub(super) devices: Devices,
    pub(super) sessions: Sessions,
    pub(super) accounts: Accounts,
    pub(super) addresses: Addresses,
    pub(super) registration_tokens: RegistrationTokens,
    pub(super) uiaa: Uiaa,
    pub(super) registration: Registration,
    pub(super) shared_secret: Option<SharedSecret>,
}

impl AccountServices {
    pub(super) async fn open(base: &Base) -> Result<Self, OpenError> {
        let Base { database, config, clock, random, tasks, .. } = base.clone();
        let now = config.get();
        let options = &now.accounts;
        let users = Users::open(database.clone(), now.server.name.clone()).await?;
        let devices =
            Devices::open(database.clone(), users.clone(), clock.clone(), random.clone(), options).await?;
        let sessions = Sessions::new(
            database.clone(),
            users.clone(),
            devices.clone(),
            clock.clone(),
            random.clone(),
            options,
        );
        let passwords = Passwords::new(options, random.clone(), tasks).await?;
        let accounts =
            Accounts::new(database.clone(), users.clone(), devices.clone(), passwords, clock.clone());
        let registration_tokens = RegistrationTokens::new(database.clone(), clock.clone(), random.clone());
        let uiaa = Uiaa::new(accounts.clone(), registration_tokens.clone(), clock.clone(), random.clone());
        let registration = Registration::new(
            database,
            accounts.clone(),
            sessions.clone(),
            registration_tokens.clone(),
            random,
            options,
        );
        let addresses = Addresses::new(base.database.clone(), clock.clone());
        let secret = options.registration_secret.as_ref().map(SecretFile::read).transpose()?;
        let shared_secret = secret.map(|secret| registration.with_shared_secret(secret, clock));
        Ok(Self {
            users,
            devices,
            sessions,
            accounts,
            addresses,
            registration_tokens,
            uiaa,
            registration,
            shared_secret,
        })
    }
}
