//! What handlers are given: the services that they call, each made from those that it uses.

use std::{ops::Deref, sync::Arc};

use allod_server::{
    account_data::AccountData,
    accounts::Accounts,
    addresses::Addresses,
    appservices::Appservices,
    backups::{self, Checkpoints},
    bridges::{BridgeError, Bridges},
    calls::Calls,
    clock::Clock,
    config::{Live, SecretError},
    database::{Database, Error},
    dehydrated_devices::DehydratedDevices,
    delayed_events::DelayedEvents,
    devices::Devices,
    egress::{Egress, EgressError},
    federation::{Federation, membership::RemoteMembership},
    filters::Filters,
    identity::Identity,
    inbound::Inbound,
    key_backup::KeyBackup,
    keys::Keys,
    media::{self, Media, Previews},
    metrics::{Metrics, Observed},
    notifications::Notifications,
    outbox::{Outbox, ledger::Ledger},
    passwords::PasswordError,
    presence::Presence,
    profiles::Profiles,
    push_rules::PushRules,
    pushers::Pushers,
    random::Random,
    receipts::Receipts,
    registration::{Registration, SharedSecret},
    registration_tokens::RegistrationTokens,
    remote_keys::RemoteKeys,
    room_deletion::RoomDeletions,
    room_lookup::RoomLookup,
    rooms::Rooms,
    search::Search,
    server_notices::ServerNotices,
    sessions::Sessions,
    spaces::Spaces,
    succession::Succession,
    sync::Sync,
    tags::Tags,
    tasks::Tasks,
    thread_subscriptions::ThreadSubscriptions,
    to_device::ToDevice,
    typing::{Sequence, Typing},
    uiaa::Uiaa,
    user_directory::UserDirectory,
    users::Users,
    wake::Wakes,
};
use tokio_util::sync::CancellationToken;

use self::{accounts::AccountServices, amenities::Amenities, reach::Reach, user_data::UserDataServices};
use crate::limits::Limits;

mod accounts;
mod amenities;
mod inbound;
mod outbound;
mod reach;
mod rooms;
mod tidings;
mod upkeep;
mod user_data;

/// The services, cheap to clone. Handlers read its fields: `app.sessions`.
#[derive(Clone, Debug)]
pub struct App(Arc<Services>);

/// What the services are made from.
#[derive(Clone, Debug)]
pub struct Base {
    /// The rows.
    pub database: Database,
    /// The configuration.
    pub config: Live,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where background tasks are started.
    pub tasks: Tasks,
    /// The server's name and signing key.
    pub identity: Identity,
}

/// The fields of [`App`]. A service that handlers call is added here and in [`App::open`].
#[derive(Debug)]
pub struct Services {
    /// The time.
    pub clock: Clock,
    /// The configuration, as it is now.
    pub config: Live,
    /// Rate limits.
    pub limits: Limits,
    /// Local and remote users, and local accounts.
    pub users: Users,
    /// Local users' devices.
    pub devices: Devices,
    /// Access tokens and the sessions that they stand for.
    pub sessions: Sessions,
    /// Local accounts and their passwords.
    pub accounts: Accounts,
    /// Mail addresses of accounts.
    pub addresses: Addresses,
    /// Tokens that allow registration.
    pub registration_tokens: RegistrationTokens,
    /// User-interactive authentication.
    pub uiaa: Uiaa,
    /// Making accounts.
    pub registration: Registration,
    /// Making accounts by programs that hold a secret, if one is configured.
    pub shared_secret: Option<SharedSecret>,
    /// Profiles of local users.
    pub profiles: Profiles,
    /// Rooms.
    pub rooms: Rooms,
    /// Deleting rooms.
    pub room_deletions: RoomDeletions,
    /// Events that are sent later.
    pub delayed_events: DelayedEvents,
    /// Which threads users follow.
    pub thread_subscriptions: ThreadSubscriptions,
    /// What users keep of rooms that are replaced.
    pub succession: Succession,
    /// Notices of the server to its users.
    pub server_notices: ServerNotices,
    /// The trees of spaces.
    pub spaces: Spaces,
    /// Searching rooms.
    pub search: Search,
    /// Finding users.
    pub user_directory: UserDirectory,
    /// What changed since a client last asked.
    pub sync: Sync,
    /// What user data asks of rooms.
    pub room_lookup: Arc<dyn RoomLookup>,
    /// Wakes long polls.
    pub wakes: Wakes,
    /// Numbers of changes that are in memory only.
    pub ephemeral: Sequence,
    /// Account data.
    pub account_data: AccountData,
    /// Room tags.
    pub tags: Tags,
    /// Filters.
    pub filters: Filters,
    /// Push rules.
    pub push_rules: PushRules,
    /// Where notifications are sent.
    pub pushers: Pushers,
    /// Lists of what users were notified of.
    pub notifications: Notifications,
    /// Receipts and read markers.
    pub receipts: Receipts,
    /// Who is typing.
    pub typing: Typing,
    /// Who is online.
    pub presence: Presence,
    /// Messages to devices.
    pub to_device: ToDevice,
    /// Keys of devices and users.
    pub keys: Keys,
    /// Devices that wait encrypted for their users.
    pub dehydrated_devices: DehydratedDevices,
    /// Backups of room keys.
    pub key_backup: KeyBackup,
    /// Other servers; none where federation is off.
    pub federation: Option<Federation>,
    /// Keys of users of other servers; none where federation is off.
    pub remote_keys: Option<RemoteKeys>,
    /// Application services, as their registrations tell of them.
    pub bridges: Bridges,
    /// Where calls go.
    pub calls: Calls,
    /// What application services are sent and asked.
    pub appservices: Appservices,
    /// Files that people upload, and those of other servers.
    pub media: Media,
    /// Previews of links.
    pub previews: Previews,
    /// What is sent to other servers; none where federation is off.
    pub outbox: Option<Outbox>,
    /// Memberships that may need other servers.
    pub memberships: RemoteMembership,
    /// What other servers send and ask; none where federation is off.
    pub inbound: Option<Inbound>,
    /// Copies of the database, for backups.
    pub checkpoints: Checkpoints,
    /// Whom this server has spoken to.
    pub egress: Egress,
    /// What other servers were given.
    pub ledger: Ledger,
    /// What the server counts about itself.
    pub metrics: Metrics,
    /// Where background tasks are started.
    pub tasks: Tasks,
    /// Cancelled when the server begins to stop: long polls return at once.
    pub stopping: CancellationToken,
    /// Differs in every run of the server; the first part of request ids.
    pub(crate) boot: String,
}

/// Why the services could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
    /// Passwords cannot be hashed as configured.
    #[error(transparent)]
    Passwords(#[from] PasswordError),
    /// Media cannot be kept.
    #[error(transparent)]
    Media(#[from] media::OpenError),
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Registrations of application services cannot be used.
    #[error(transparent)]
    Bridges(#[from] BridgeError),
    /// Requests to other servers cannot be made as configured.
    #[error(transparent)]
    Egress(#[from] EgressError),
}

impl App {
    /// Makes all services. The configuration is read as it is now, except where a service takes it live.
    pub async fn open(base: Base) -> Result<Self, OpenError> {
        backups::settle(&base.database, &base.config.get()).await?;
        let own = AccountServices::open(&base).await?;
        let settings = open_settings(&base);
        let (profiles, rooms) = rooms::open(&base, &own.users, &settings.1).await?;
        let room_lookup: Arc<dyn RoomLookup> = Arc::new(rooms.clone());
        let user_data = UserDataServices::open(&base, &own.users, &own.devices, &room_lookup, settings);
        let (sync, search) = rooms::start_sync(&base, &own.users, &rooms, &user_data);
        let reach = Reach::open(&base, (&own.users, &own.devices), (&rooms, &sync), &user_data).await?;
        let (outside, of_users) = ((reach.federation.as_ref(), &reach.egress), (&rooms, &own.accounts));
        let amenities = Amenities::open(&base, outside, of_users, (&profiles, &user_data)).await?;
        Ok(Self(Arc::new(Services {
            metrics: open_metrics(&base, &user_data.wakes, &reach),
            delayed_events: upkeep::start(&base, &own.users, &rooms),
            limits: Limits::new(base.config.clone(), base.clock.clone()),
            clock: base.clock,
            config: base.config,
            users: own.users,
            devices: own.devices,
            sessions: own.sessions,
            accounts: own.accounts,
            addresses: own.addresses,
            registration_tokens: own.registration_tokens,
            uiaa: own.uiaa,
            registration: own.registration,
            shared_secret: own.shared_secret,
            profiles,
            rooms,
            thread_subscriptions: amenities.thread_subscriptions,
            server_notices: amenities.server_notices,
            spaces: amenities.spaces,
            succession: amenities.succession,
            search,
            user_directory: amenities.user_directory,
            sync,
            room_lookup,
            wakes: user_data.wakes,
            ephemeral: user_data.ephemeral,
            account_data: user_data.account_data,
            tags: user_data.tags,
            filters: user_data.filters,
            push_rules: user_data.push_rules,
            pushers: reach.pushers,
            notifications: reach.notifications,
            receipts: user_data.receipts,
            typing: user_data.typing,
            presence: user_data.presence,
            to_device: user_data.to_device,
            keys: user_data.keys,
            dehydrated_devices: user_data.dehydrated_devices,
            key_backup: user_data.key_backup,
            federation: reach.federation,
            bridges: reach.bridges,
            calls: amenities.calls,
            appservices: reach.appservices,
            media: amenities.media,
            previews: amenities.previews,
            remote_keys: amenities.remote_keys,
            outbox: reach.outbox,
            room_deletions: reach.room_deletions,
            memberships: reach.memberships,
            inbound: reach.inbound,
            checkpoints: amenities.checkpoints,
            egress: reach.egress,
            ledger: Ledger::new(base.database),
            stopping: base.tasks.stopping().clone(),
            tasks: base.tasks,
            boot: base.random.token(6),
        })))
    }
}

fn open_metrics(base: &Base, wakes: &Wakes, reach: &Reach) -> Metrics {
    let observed = Observed {
        store: base.database.store().clone(),
        config: base.config.clone(),
        tasks: base.tasks.clone(),
        wakes: wakes.clone(),
        egress: reach.egress.clone(),
        outbox: reach.outbox.clone(),
        inbound: reach.inbound.clone(),
        started_ms: base.clock.now_ms(),
    };
    Metrics::new(env!("CARGO_PKG_VERSION"), observed)
}

fn open_settings(base: &Base) -> (AccountData, PushRules) {
    let account_data = AccountData::new(base.database.clone());
    (account_data.clone(), PushRules::new(account_data))
}

impl Deref for App {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}
