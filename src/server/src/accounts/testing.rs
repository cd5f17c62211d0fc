//! What the tests of accounts, sessions and registration stand on: all these services over a store in memory.

use allod_storage::Store;
use ruma::{OwnedUserId, UserId, server_name};

use super::{Accounts, NewAccount};
use crate::{
    audit::{Actor, Audited},
    clock::Clock,
    config::{Accounts as Config, accounts::Registration as Mode},
    database::Database,
    devices::{Devices, WantedDevice},
    numbers::UserNumber,
    passwords::Passwords,
    random::Random,
    registration::Registration,
    registration_tokens::RegistrationTokens,
    sessions::{Issued, Sessions, WantedSession},
    tables::{SPACES, accounts::AccountKind},
    tasks::Tasks,
    uiaa::Uiaa,
    users::Users,
};

/// The services, at `example.org`, registration open.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    pub(crate) users: Users,
    pub(crate) devices: Devices,
    pub(crate) sessions: Sessions,
    pub(crate) accounts: Accounts,
    pub(crate) tokens: RegistrationTokens,
    pub(crate) uiaa: Uiaa,
    pub(crate) registration: Registration,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(Store::memory(SPACES), change).await
    }

    /// Over a store that may hold what an earlier run left.
    pub(crate) async fn over(store: Store, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { registration: Mode::Open, guests: true, ..Config::default() };
        config = config.with_cheap_passwords();
        change(&mut config);
        let (clock, random, tasks) = (Clock::manual(1_700_000_000_000), Random::seeded(1), Tasks::new());
        let database = Database::open(store.clone(), &random).await.unwrap();
        let users = Users::open(database.clone(), server_name!("example.org").to_owned()).await.unwrap();
        let devices = Devices::open(database.clone(), users.clone(), clock.clone(), random.clone(), &config);
        let devices = devices.await.unwrap();
        let sessions = Sessions::new(
            database.clone(),
            users.clone(),
            devices.clone(),
            clock.clone(),
            random.clone(),
            &config,
        );
        let passwords = Passwords::new(&config, random.clone(), tasks).await.unwrap();
        let accounts =
            Accounts::new(database.clone(), users.clone(), devices.clone(), passwords, clock.clone());
        let tokens = RegistrationTokens::new(database.clone(), clock.clone(), random.clone());
        let uiaa = Uiaa::new(accounts.clone(), tokens.clone(), clock.clone(), random.clone());
        let registration = Registration::new(
            database.clone(),
            accounts.clone(),
            sessions.clone(),
            tokens.clone(),
            random,
            &config,
        );
        Self { store, database, clock, users, devices, sessions, accounts, tokens, uiaa, registration }
    }

    /// An account with the password "correct horse".
    pub(crate) async fn account(&self, name: &str) -> UserNumber {
        let password_hash = Some(self.accounts.hash_password(PASSWORD.to_owned()).await.unwrap());
        let new = NewAccount { user_id: id(name), kind: AccountKind::User, admin: false, password_hash };
        self.accounts.create(Actor::Operator, &new).await.unwrap()
    }

    /// A session that can be refreshed or not, of a device with this id or a new one.
    pub(crate) async fn sign_in(&self, user: UserNumber, device: Option<&str>, refresh: bool) -> Issued {
        let device = WantedDevice { id: device.map(Into::into), display_name: None };
        self.sessions.sign_in(user, &WantedSession { device, refresh }).await.unwrap()
    }

    /// The audit trail.
    pub(crate) async fn audit(&self) -> Vec<Audited> {
        let records = self.store.read_audit((allod_storage::Position::ZERO, 0), 1000).await.unwrap();
        records.iter().filter_map(|record| Audited::decode(&record.entry)).collect()
    }
}

/// The password of all test accounts.
pub(crate) const PASSWORD: &str = "correct horse";

/// The id of a test account.
pub(crate) fn id(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:example.org")).unwrap()
}
