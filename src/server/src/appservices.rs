//! What application services are sent: events of rooms that are their business, in order and each until it is taken.
//!
//! What concerns one becomes a row when the log tells of it, in the commit that moves the cursor. Rows go out in
//! transactions, one at a time; which rows a transaction holds is written before it is sent the first time, so that its
//! id means the same over a restart, and the rows go when it was taken. Who is typing is told with the next transaction
//! and not kept.
//!
//! <https://spec.matrix.org/v1.19/application-service-api/>

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use allod_storage::Position;
use tokio::sync::Notify;

use crate::{
    bridges::{Bridge, BridgeIndex, Bridges},
    clock::Clock,
    consumer,
    database::{Database, Error, Write},
    keys::Keys,
    numbers::{Hash128, RoomNumber},
    random::Random,
    rooms::Rooms,
    sync::Sync,
    tables::push::LogCursor,
    tasks::Tasks,
    typing::Typing,
    users::Users,
};

use self::{interest::Known, queue::Queue};

mod ask;
mod deliver;
mod interest;
mod queue;
mod transaction;
pub mod transport;

pub use self::{
    ask::{PingError, ThirdParty},
    transport::{Called, Transport},
};

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct AppserviceSources {
    /// The rows, and the log.
    pub database: Database,
    /// Who the application services are.
    pub bridges: Bridges,
    /// Users.
    pub users: Users,
    /// Rooms.
    pub rooms: Rooms,
    /// Who is in rooms.
    pub sync: Sync,
    /// Keys of devices.
    pub keys: Keys,
    /// Who is typing.
    pub typing: Typing,
    /// How requests get there.
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
pub struct Appservices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: AppserviceSources,
    /// What goes on with each, in the order of the registrations.
    states: Vec<State>,
    queued_upto: Mutex<Position>,
}

/// What goes on with an application service.
#[derive(Debug)]
struct State {
    index: BridgeIndex,
    /// What stands for it in keys.
    hash: Hash128,
    /// Which local users are its own, as far as anybody wanted to know.
    known: Mutex<Known>,
    /// Rooms where somebody started or stopped typing.
    typing: Mutex<BTreeSet<RoomNumber>>,
    /// There is something to send.
    woken: Notify,
    /// It spoke, so it can be reached.
    spoke: Notify,
    /// Whether all is sent, or waits for it to answer again.
    idle: AtomicBool,
}

impl Appservices {
    /// Starts sending where it was left.
    pub async fn start(sources: AppserviceSources) -> Result<Self, Error> {
        let database = sources.database.clone();
        let states = sources.bridges.iter().map(|(index, bridge)| State {
            index,
            hash: database.hash("appservice", &bridge.registration.id),
            known: Mutex::default(),
            typing: Mutex::default(),
            woken: Notify::new(),
            spoke: Notify::new(),
            idle: AtomicBool::new(false),
        });
        let states: Vec<State> = states.collect();
        let inner = Arc::new(Inner { states, queued_upto: Mutex::default(), sources });
        if inner.states.is_empty() {
            // One that is added later begins there, and not where another one ended.
            let mut write = Write::new();
            write.delete::<LogCursor>(&<Queue as consumer::Consumer>::ID);
            if consumer::cursor::<Queue>(&database).await?.is_some() {
                database.commit(write).await?;
            }
            return Ok(Self(inner));
        }
        for place in 0..inner.states.len() {
            inner.start_deliveries(place);
        }
        inner.start_typing();
        consumer::start(Queue::new(Arc::clone(&inner)), database, &inner.sources.tasks).await?;
        Ok(Self(inner))
    }

    /// Whether all that happened up to now was taken, or waits for those that do not answer; for tests.
    pub fn is_settled(&self) -> bool {
        let queued = *self.0.queued_upto.lock().unwrap_or_else(PoisonError::into_inner);
        queued >= self.0.sources.database.store().head()
            && self.0.states.iter().all(|state| state.idle.load(Ordering::Acquire))
    }

    /// An application service spoke: what waits for it is sent at once.
    pub fn wake(&self, index: BridgeIndex) {
        if let Some(state) = self.0.states.iter().find(|state| state.index == index) {
            state.spoke.notify_one();
        }
    }
}

impl State {
    fn tell(&self) {
        self.idle.store(false, Ordering::Release);
        self.woken.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn typing(&self) -> MutexGuard<'_, BTreeSet<RoomNumber>> {
        self.typing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Application services with what goes on with them.
    fn all(&self) -> impl Iterator<Item = (&State, &Bridge)> {
        self.states.iter().filter_map(|state| Some((state, self.sources.bridges.get(state.index)?)))
    }

    fn one(&self, place: usize) -> Option<(&State, &Bridge)> {
        let state = self.states.get(place)?;
        Some((state, self.sources.bridges.get(state.index)?))
    }
}

#[cfg(test)]
mod tests;
