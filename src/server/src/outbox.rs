//! What goes to other servers: events of this server's users, and what else they are told.
//!
//! One consumer reads the commit log and hands every event to the servers that were in the room when it happened. A server
//! that is reached has a queue in memory, which holds the cursor back; for one that is not, rows say from where on it is
//! behind in which room. What must not be lost besides events is a row written with its cause. Each server has at most
//! one transaction under way.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ruma::{OwnedServerName, ServerName};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    database::{Database, Error},
    devices::Devices,
    federation::policy::{Direction, Policy},
    identity::Identity,
    keys::Keys,
    numbers::{Hash128, RoomNumber, UserNumber},
    presence::Presence,
    random::Random,
    rooms::Rooms,
    tasks::Tasks,
    typing::Typing,
    users::Users,
};

use self::{book::Book, destination::Edu, recipients::Recipients, servers::RoomServers};

mod backoff;
mod book;
mod catch_up;
mod checkpoint;
mod deliver;
mod destination;
mod devices;
mod edus;
mod fan_out;
pub mod ledger;
mod presence;
pub mod queue;
mod recipients;
pub mod servers;
mod start;
mod state;
pub mod transport;

pub use state::ServerState;
pub use transport::{SendFailure, Transport};

/// What the outbox is made from.
#[derive(Clone, Debug)]
pub struct OutboxSources {
    /// The rows, and the log.
    pub database: Database,
    /// Rooms.
    pub rooms: Rooms,
    /// Users.
    pub users: Users,
    /// Local users' devices.
    pub devices: Devices,
    /// Their keys.
    pub keys: Keys,
    /// Who is typing.
    pub typing: Typing,
    /// Who is online.
    pub presence: Presence,
    /// Whom this server speaks to.
    pub policy: Policy,
    /// The server's name.
    pub identity: Identity,
    /// How transactions get there.
    pub transport: Arc<dyn Transport>,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where background tasks are started.
    pub tasks: Tasks,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: OutboxSources,
    recipients: Recipients,
    book: Mutex<Book>,
    /// Something is to be made durable.
    checkpoint_due: Notify,
    /// Begins the ids of transactions: differs in every run.
    boot: String,
    transactions: AtomicU64,
}

impl Outbox {
    /// Starts sending where it was left.
    pub async fn start(sources: OutboxSources) -> Result<Self, Error> {
        let recipients = Recipients {
            servers: RoomServers::new(sources.rooms.clone()),
            rooms: sources.rooms.clone(),
            policy: sources.policy.clone(),
            identity: sources.identity.clone(),
        };
        let outbox = Self(Arc::new(Inner {
            boot: sources.random.token(10),
            sources,
            recipients,
            book: Mutex::default(),
            checkpoint_due: Notify::new(),
            transactions: AtomicU64::new(0),
        }));
        outbox.resume().await?;
        Ok(outbox)
    }

    /// A server spoke to this one, so it can be reached: a pause ends.
    pub fn wake(&self, server: &ServerName) {
        let mut book = self.0.book();
        let Some(destination) = book.get(server) else { return };
        if !destination.backoff.is_well() {
            destination.backoff.woken();
            destination.woken.notify_one();
        }
    }

    /// The servers with joined members in a room now, this one among them.
    pub async fn servers_of(&self, room: RoomNumber) -> Result<Arc<BTreeSet<OwnedServerName>>, Error> {
        let room = self.0.sources.rooms.get(room).await?;
        self.0.recipients.servers.now(&room).await
    }

    /// The number of the last change of a local user's devices and keys that other servers were told.
    pub async fn device_stream(&self, user: UserNumber) -> Result<u64, Error> {
        Ok(self.0.announced(user).await?.stream)
    }

    /// Up to which position everything has reached its server, or waits for one that is not reached.
    pub fn told_up_to(&self) -> u64 {
        self.0.book().safe()
    }

    /// Whether everything that happened up to now has been handed out and has arrived, or waits for servers that are not
    /// reached; for tests.
    pub fn is_settled(&self) -> bool {
        let book = self.0.book();
        book.handed_out >= self.0.sources.database.store().head().get() && book.with_work().is_empty()
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, server: &ServerName) -> Hash128 {
        server_hash(&self.sources.database, server)
    }

    /// Sends ephemeral data that may be lost.
    fn send_edu(self: &Arc<Self>, servers: &BTreeSet<OwnedServerName>, edu: &Edu) {
        for server in servers.iter().filter(|server| *server != self.sources.identity.server_name()) {
            if !self.sources.policy.permits_edu(server, edu.kind, Direction::Outbound) {
                continue;
            }
            let hash = self.hash(server);
            self.book().push_edu(server, hash, edu.clone());
            self.start_delivery(server);
        }
    }

    fn next_transaction_id(&self) -> String {
        format!("{}{}", self.boot, self.transactions.fetch_add(1, Ordering::Relaxed))
    }
}

/// What stands for a server in keys.
pub(crate) fn server_hash(database: &Database, server: &ServerName) -> Hash128 {
    database.hash("server", server.as_str().to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
