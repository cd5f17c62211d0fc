//! The consumer of the log: what concerns application services becomes rows.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use allod_storage::Position;
use tokio::sync::broadcast::error::RecvError;

use super::{Inner, State};
use crate::{
    bridges::Bridge,
    consumer::Consumer,
    database::{Error, Write},
    log::Happened,
    numbers::{EventNumber, RoomNumber, UserNumber},
    tables::{
        appservices::{AppserviceQueue, QueuedItem},
        rooms::{Membership, UserRoom},
    },
};

/// The consumer.
pub(super) struct Queue {
    inner: Arc<Inner>,
    /// Those to be told once what was found for them is durable, by their place.
    told: BTreeSet<usize>,
}

impl Queue {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, told: BTreeSet::new() }
    }
}

impl Consumer for Queue {
    const NAME: &'static str = "application services";
    const ID: u8 = 2;

    async fn take(&mut self, at: Position, happened: &[Happened], write: &mut Write) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        // Who is in rooms is known up to there.
        inner.sources.sync.activity().reach(at).await;
        for (place, (state, bridge)) in inner.all().enumerate() {
            if bridge.registration.url.is_none() {
                continue;
            }
            let mut index = 0_u32;
            for entry in happened {
                let Some(item) = inner.item(state, bridge, *entry, at).await? else { continue };
                write.put::<AppserviceQueue>(&(state.hash, at, index), &item);
                index = index.saturating_add(1);
                self.told.insert(place);
            }
        }
        Ok(())
    }

    fn committed(&mut self, upto: Position) {
        for place in std::mem::take(&mut self.told) {
            if let Some(state) = self.inner.states.get(place) {
                state.tell();
            }
        }
        *self.inner.queued_upto.lock().unwrap_or_else(PoisonError::into_inner) = upto;
    }

    async fn missed(&mut self, _upto: Position) -> Result<(), Error> {
        Ok(())
    }
}

impl Inner {
    /// What an application service is to be told of something that happened.
    async fn item(
        &self,
        state: &State,
        bridge: &Bridge,
        happened: Happened,
        at: Position,
    ) -> Result<Option<QueuedItem>, Error> {
        Ok(match happened {
            Happened::Event { room, event } => self.event(state, bridge, room, event).await?,
            Happened::Membership { room, user } => self.invite(state, bridge, room, user, at).await?,
            Happened::Receipt { room } if bridge.wants_ephemeral() => {
                self.has_business(state, bridge, room).await?.then_some(QueuedItem::Receipts { room })
            }
            Happened::ToDevice { user, device } if bridge.wants_ephemeral() => {
                self.is_own(state, bridge, user).await?.then_some(QueuedItem::ToDevice { user, device })
            }
            Happened::DeviceList { user } if bridge.registration.encryption => {
                self.knows(state, bridge, user).await?.then_some(QueuedItem::DeviceList { user })
            }
            _ => None,
        })
    }

    async fn event(
        &self,
        state: &State,
        bridge: &Bridge,
        room: RoomNumber,
        event: EventNumber,
    ) -> Result<Option<QueuedItem>, Error> {
        let Some(stored) = self.sources.rooms.events().get(room, event).await? else { return Ok(None) };
        let known = self.sources.rooms.get(room).await?;
        let concerns = self.concerns(state, bridge, &known, &stored).await?;
        Ok(concerns.then_some(QueuedItem::Event { room, event }))
    }

    /// Whether a user is an application service's own, or shares a room with one.
    async fn knows(&self, state: &State, bridge: &Bridge, user: UserNumber) -> Result<bool, Error> {
        if self.is_own(state, bridge, user).await? {
            return Ok(true);
        }
        let rooms = self.sources.sync.memberships().current(user).await?;
        for room in rooms.joined.iter().map(RoomNumber) {
            if self.has_business(state, bridge, room).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An invitation to a room that nobody here is in, which no event of the room tells of.
    async fn invite(
        &self,
        state: &State,
        bridge: &Bridge,
        room: RoomNumber,
        user: UserNumber,
        at: Position,
    ) -> Result<Option<QueuedItem>, Error> {
        if !self.is_own(state, bridge, user).await? {
            return Ok(None);
        }
        let row = self.sources.database.get::<UserRoom>(&(user, room)).await?;
        let Some(row) = row.filter(|row| row.position == at && row.value.membership == Membership::Invite)
        else {
            return Ok(None);
        };
        let event = row.value.event;
        let stored = self.sources.rooms.events().get(room, event).await?;
        let outside = stored.is_some_and(|stored| !stored.is_shown());
        Ok(outside.then_some(QueuedItem::Invite { room, event, user }))
    }

    /// Starts noting who is typing where.
    pub(super) fn start_typing(self: &Arc<Self>) {
        let (inner, mut changes) = (Arc::clone(self), self.sources.typing.follow());
        let stopping = self.sources.tasks.stopping().clone();
        self.sources.tasks.spawn("application services typing", async move {
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stopping.cancelled() => return,
                };
                match change {
                    Ok(typed) => {
                        if let Err(error) = inner.note_typing(typed.room).await {
                            tracing::debug!(%error, "application services are not told who is typing");
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    async fn note_typing(&self, room: RoomNumber) -> Result<(), Error> {
        for (state, bridge) in self.all() {
            if bridge.wants_ephemeral()
                && bridge.registration.url.is_some()
                && self.has_business(state, bridge, room).await?
            {
                state.typing().insert(room);
                state.tell();
            }
        }
        Ok(())
    }
}
