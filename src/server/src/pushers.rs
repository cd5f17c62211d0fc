//! Pushers: where users want their notifications sent, and sending them there.
//!
//! A pusher goes with the device that set it. What notifies its user becomes a row when the log tells of it, in the commit
//! that moves the cursor; the row goes when the gateway has taken the notification. So none is lost, and none is sent
//! twice that was known to be taken. How many notifications are unread is told besides, and not kept.
//!
//! <https://spec.matrix.org/v1.19/push-gateway-api/>

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use allod_storage::{CommitError, Position};
use quick_cache::sync::Cache;
use tokio::sync::Notify;

use crate::{
    addresses::Addresses,
    clock::Clock,
    config::{Config, Live},
    consumer,
    database::{Database, Error, Range, Write},
    mail::Mailer,
    numbers::{DeviceNumber, Hash128, UserNumber},
    random::Random,
    rooms::Rooms,
    sync::Sync,
    tables::push::{MailDigest, Pusher, PusherKey, PusherRow, QueuedPush},
    tasks::Tasks,
    users::Users,
};

use self::{book::Book, queue::Queue, register::Register};

mod book;
mod deliver;
mod digest;
pub mod gateway;
mod mail;
mod notification;
mod queue;
mod register;

pub use self::gateway::{Gateway, PushFailure};

/// Pushers of one user.
pub const PUSHERS_PER_USER_MAX: usize = 100;
/// Longest application id, in bytes.
pub const APP_ID_BYTES_MAX: usize = 64;
/// Longest push key, in bytes.
pub const PUSHKEY_BYTES_MAX: usize = 512;
/// Longest of the other texts, in bytes.
const TEXT_BYTES_MAX: usize = 512;
/// Longest additional data, in bytes.
const DATA_BYTES_MAX: usize = 8 * 1024;
/// Pushers of which it is remembered what count they were told last.
const COUNTS_KEPT_MAX: usize = 20_000;
/// How often a write is tried again that others got in the way of.
const ATTEMPTS_MAX: u32 = 10;

/// Why a pusher was not set.
#[derive(Debug, thiserror::Error)]
pub enum PusherError {
    /// A text is empty or too long.
    #[error("{0} is empty or too long")]
    BadText(&'static str),
    /// The address is none of a push gateway.
    #[error("{0}")]
    BadUrl(&'static str),
    /// The configuration does not let notifications go there.
    #[error("this server sends no notifications to that gateway")]
    GatewayNotAllowed,
    /// The configuration names no mail server.
    #[error("this server sends no mail")]
    NoMail,
    /// Mail goes to addresses of the account only.
    #[error("this is no address of your account; an administrator can add it")]
    NotYourAddress,
    /// The user has as many as a user may have.
    #[error("too many pushers")]
    TooMany,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for PusherError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// What pushers are made from.
#[derive(Clone, Debug)]
pub struct PusherSources {
    /// The rows, and the log.
    pub database: Database,
    /// The configuration.
    pub config: Live,
    /// Users.
    pub users: Users,
    /// Rooms.
    pub rooms: Rooms,
    /// Who is in rooms, and what is unread.
    pub sync: Sync,
    /// How notifications get to gateways.
    pub gateway: Arc<dyn Gateway>,
    /// Mail addresses of users.
    pub addresses: Addresses,
    /// How mail is sent.
    pub mailer: Arc<dyn Mailer>,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where background tasks are started.
    pub tasks: Tasks,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pushers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: PusherSources,
    register: Register,
    book: Mutex<Book>,
    /// There is something to do.
    woken: Notify,
    /// The count that a pusher was told last.
    told: Cache<PusherKey, u64>,
    /// Up to where everything has been queued.
    queued_upto: Mutex<Position>,
    /// Deliveries under way.
    delivering: AtomicUsize,
}

impl Pushers {
    /// Starts sending where it was left.
    pub async fn start(sources: PusherSources) -> Result<Self, Error> {
        let database = sources.database.clone();
        let pushers = Self(Arc::new(Inner {
            register: Register::load(&database).await?,
            book: Mutex::default(),
            woken: Notify::new(),
            told: Cache::new(COUNTS_KEPT_MAX),
            queued_upto: Mutex::default(),
            delivering: AtomicUsize::new(0),
            sources,
        }));
        for key in queued(&database).await? {
            pushers.0.book().tell(key);
        }
        pushers.0.start_deliveries();
        consumer::start(Queue::new(Arc::clone(&pushers.0)), database, &pushers.0.sources.tasks).await?;
        Ok(pushers)
    }

    /// The pushers of a user.
    pub async fn list(&self, user: UserNumber) -> Result<Vec<PusherRow>, Error> {
        let rows = self.0.sources.database.scan_all(Range::<Pusher>::prefix(&user)).await?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Sets a pusher for a device, in place of the one that its user has for the same application and push key. Unless
    /// it is to be added to them, those of other users go: it is another person's device now.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3pushersset>
    pub async fn set(
        &self,
        user: UserNumber,
        device: DeviceNumber,
        mut row: PusherRow,
        append: bool,
    ) -> Result<(), PusherError> {
        check(&row)?;
        let config = self.0.sources.config.get();
        match row.mail_address() {
            Some(address) => self.check_address(user, address, &config).await?,
            None => gateway::check_url(&row.url, &config.push)?,
        }
        row.set_ms = self.0.sources.clock.now_ms();
        let hash = self.hash(&row.app_id, &row.pushkey);
        for _ in 0..ATTEMPTS_MAX {
            let known = self.0.register.of_user(user);
            if known.len() >= PUSHERS_PER_USER_MAX && !known.iter().any(|key| key.2 == hash) {
                return Err(PusherError::TooMany);
            }
            let mut write = Write::new();
            // The device may be signed out at the same moment.
            write.exists::<crate::tables::accounts::Device>(&(user, device));
            let mut gone: Vec<PusherKey> = known.into_iter().filter(|key| key.2 == hash).collect();
            if !append {
                gone.extend(self.0.register.with_hash(hash).into_iter().filter(|key| key.0 != user));
            }
            gone.retain(|key| key.1 != device);
            for key in &gone {
                delete(&mut write, key);
            }
            let key = (user, device, hash);
            write.put::<Pusher>(&key, &row);
            match self.0.sources.database.commit(write).await {
                Ok(_) => {
                    self.0.register.insert(key);
                    for key in &gone {
                        self.0.forget(key);
                    }
                    return Ok(());
                }
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Removes a user's pusher; one that is not there is no error.
    pub async fn remove(&self, user: UserNumber, app_id: &str, pushkey: &str) -> Result<(), PusherError> {
        let hash = self.hash(app_id, pushkey);
        for key in self.0.register.of_user(user).into_iter().filter(|key| key.2 == hash) {
            self.0.remove(&key).await?;
        }
        Ok(())
    }

    /// Looks at what is due again; for tests, after they have moved the clock.
    pub fn look_again(&self) {
        self.0.woken.notify_one();
    }

    /// Whether all that happened up to now has been taken by gateways, or waits for those that did not take it.
    pub fn is_settled(&self) -> bool {
        let queued = *self.0.queued_upto.lock().unwrap_or_else(PoisonError::into_inner);
        queued >= self.0.sources.database.store().head()
            && self.0.delivering.load(Ordering::Acquire) == 0
            && !self.0.book().has_ready(self.0.sources.clock.now_ms())
    }

    /// Whether a user may have mail sent to an address.
    async fn check_address(
        &self,
        user: UserNumber,
        address: &str,
        config: &Config,
    ) -> Result<(), PusherError> {
        if config.mail.host.is_none() || !config.push.enabled {
            return Err(PusherError::NoMail);
        }
        if self.0.sources.addresses.has(user, address).await? {
            Ok(())
        } else {
            Err(PusherError::NotYourAddress)
        }
    }

    fn hash(&self, app_id: &str, pushkey: &str) -> Hash128 {
        self.0.sources.database.hash("pusher", format!("{app_id}\0{pushkey}"))
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a pusher, and what waits for it.
    async fn remove(&self, key: &PusherKey) -> Result<(), Error> {
        let mut write = Write::new();
        delete(&mut write, key);
        self.sources.database.commit(write).await?;
        self.forget(key);
        Ok(())
    }

    fn forget(&self, key: &PusherKey) {
        self.register.remove(key);
        self.told.remove(key);
    }
}

/// Adds to a write what removes a pusher.
fn delete(write: &mut Write, key: &PusherKey) {
    write.delete::<Pusher>(key);
    write.delete_prefix::<QueuedPush>(key);
    write.delete::<MailDigest>(key);
    write.erase::<Pusher>(key);
    write.erase::<QueuedPush>(key);
}

fn check(row: &PusherRow) -> Result<(), PusherError> {
    let texts = [
        ("app_id", Some(&row.app_id), 1, APP_ID_BYTES_MAX),
        ("pushkey", Some(&row.pushkey), 1, PUSHKEY_BYTES_MAX),
        ("app_display_name", Some(&row.app_display_name), 0, TEXT_BYTES_MAX),
        ("device_display_name", Some(&row.device_display_name), 0, TEXT_BYTES_MAX),
        ("profile_tag", row.profile_tag.as_ref(), 0, TEXT_BYTES_MAX),
        ("lang", Some(&row.lang), 0, TEXT_BYTES_MAX),
        ("url", Some(&row.url), 1, TEXT_BYTES_MAX),
        ("format", row.format.as_ref(), 0, TEXT_BYTES_MAX),
        ("data", Some(&row.data), 0, DATA_BYTES_MAX),
    ];
    for (name, text, least, most) in texts {
        if text.is_some_and(|text| !(least..=most).contains(&text.len())) {
            return Err(PusherError::BadText(name));
        }
    }
    Ok(())
}

/// The pushers that something waits for, one look for each.
async fn queued(database: &Database) -> Result<Vec<PusherKey>, Error> {
    let mut keys = Vec::new();
    let mut range = Range::<QueuedPush>::whole().limit(1);
    loop {
        let page = database.scan(&range).await?;
        let Some(((user, device, hash, _), _)) = page.rows.first() else { return Ok(keys) };
        keys.push((*user, *device, *hash));
        range = Range::<QueuedPush>::after(&(), &(*user, *device, *hash)).limit(1);
    }
}

#[cfg(test)]
mod tests;
