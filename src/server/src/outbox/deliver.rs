//! Sending to one server: a task that lives while there is something for it.

use std::{collections::VecDeque, sync::Arc};

use allod_storage::Position;
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Inner, SendFailure,
    destination::{Edu, EduSubject, Next, TRANSACTION_EDUS_MAX, Waiting},
    ledger::{LedgerKind, LedgerSubject},
    recipients::Loaded,
};
use crate::{
    database::{Error, Range, Write},
    numbers::{Hash128, RoomNumber},
    tables::outbox::{QueuedEdu, QueuedRecord},
};

/// A key of [`QueuedEdu`].
type RowKey = (Hash128, Position, u32);

/// What was taken to be sent, and what follows when it has arrived.
#[derive(Default)]
struct Load {
    events: Vec<Loaded>,
    taken: Vec<Waiting>,
    caught_up: Option<(RoomNumber, u64)>,
    rows: Vec<(RowKey, QueuedRecord)>,
    edus: Vec<Edu>,
}

/// One thing in a transaction.
#[derive(Clone)]
enum Item {
    Event(Box<RawValue>),
    Edu(Box<RawValue>),
}

#[derive(Serialize)]
struct Transaction<'a> {
    origin: &'a ServerName,
    origin_server_ts: u64,
    pdus: Vec<&'a RawValue>,
    edus: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct EduBody<'a> {
    edu_type: &'a str,
    content: &'a RawValue,
}

/// How sending went.
enum Sent {
    /// It arrived, or was left out because the server will never take it.
    Done,
    /// The server was not reached.
    Failed(SendFailure),
}

impl Inner {
    /// Starts the task of a server, if there is something for it and none is under way.
    pub(super) fn start_delivery(self: &Arc<Self>, server: &ServerName) {
        if !self.book().must_start(server) {
            return;
        }
        let (inner, server) = (Arc::clone(self), server.to_owned());
        self.sources.tasks.spawn("outbox delivery", async move { inner.deliver(server).await });
    }

    async fn deliver(self: Arc<Self>, server: OwnedServerName) {
        let stopping = self.sources.tasks.stopping().clone();
        loop {
            let now = self.sources.clock.now_ms();
            let Some((wait, woken)) = self
                .book()
                .get(&server)
                .map(|destination| (destination.backoff.wait(now), Arc::clone(&destination.woken)))
            else {
                return;
            };
            if !wait.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = woken.notified() => {}
                    () = stopping.cancelled() => return,
                }
            }
            let step = tokio::select! {
                step = self.deliver_once(&server) => step,
                () = stopping.cancelled() => return,
            };
            match step {
                Ok(false) if self.book().may_end(&server) => return,
                Ok(_) => {}
                Err(error) if self.pause(&error).await => {}
                Err(_) => return,
            }
        }
    }

    /// Sends one transaction; whether there was anything to send.
    async fn deliver_once(&self, server: &ServerName) -> Result<bool, Error> {
        let load = self.load(server).await?;
        let items = items(&load);
        if items.is_empty() {
            let idle = load.taken.is_empty() && load.caught_up.is_none() && load.rows.is_empty();
            self.arrived(server, &load).await?;
            return Ok(!idle);
        }
        match self.send_all(server, items).await {
            Sent::Done => {
                self.book().reached(server);
                self.note(server, &load);
                self.arrived(server, &load).await?;
            }
            Sent::Failed(SendFailure::Refused) => self.give_up(server).await?,
            Sent::Failed(failure) => self.failed(server, &failure),
        }
        Ok(true)
    }

    /// Takes what is next.
    async fn load(&self, server: &ServerName) -> Result<Load, Error> {
        let (next, hash, has_rows, told) = {
            let mut book = self.book();
            let Some(destination) = book.get(server) else { return Ok(Load::default()) };
            (destination.next(), destination.hash, destination.has_rows, destination.rows_told)
        };
        let mut load = Load::default();
        if has_rows {
            let page = Range::<QueuedEdu>::prefix(&hash).limit(TRANSACTION_EDUS_MAX);
            load.rows = self.sources.database.scan(&page).await?.rows;
            if load.rows.is_empty()
                && let Some(destination) = self.book().get(server)
                && destination.rows_told == told
            {
                destination.has_rows = false;
            }
        }
        match next {
            Next::Events(taken) => {
                for waiting in &taken {
                    if let Some(event) = self.sources.rooms.events().get(waiting.room, waiting.event).await? {
                        load.events.push((self.sources.rooms.get(waiting.room).await?, event));
                    }
                }
                load.taken = taken;
            }
            Next::CatchUp(room, lag) => {
                let missed = self.missed(server, room, lag).await?;
                load.events = missed.events;
                load.caught_up = Some((room, missed.upto));
            }
            Next::Nothing => {}
        }
        let room_left = TRANSACTION_EDUS_MAX.saturating_sub(load.rows.len());
        if let Some(destination) = self.book().get(server) {
            load.edus = destination.take_edus(room_left);
        }
        Ok(load)
    }

    /// Sends everything in one transaction. If the server says that it is wrong, its halves are sent, until what is wrong
    /// stands alone and is left out: one bad event stops nothing else (CVE-2025-30355).
    async fn send_all(&self, server: &ServerName, items: Vec<Item>) -> Sent {
        let mut parts = VecDeque::from([items]);
        while let Some(mut part) = parts.pop_front() {
            match self.send(server, &part).await {
                Ok(()) => {}
                Err(SendFailure::Rejected(reason)) if part.len() > 1 => {
                    tracing::debug!(%server, %reason, items = part.len(), "a transaction was rejected; halving it");
                    let rest = part.split_off(part.len() / 2);
                    parts.push_front(rest);
                    parts.push_front(part);
                }
                Err(SendFailure::Rejected(reason)) => {
                    tracing::warn!(%server, %reason, "a server does not take something; it is left out");
                }
                Err(failure) => return Sent::Failed(failure),
            }
        }
        Sent::Done
    }

    async fn send(&self, server: &ServerName, items: &[Item]) -> Result<(), SendFailure> {
        let pdus = items.iter().filter_map(|item| match item {
            Item::Event(json) => Some(&**json),
            Item::Edu(_) => None,
        });
        let edus = items.iter().filter_map(|item| match item {
            Item::Edu(json) => Some(&**json),
            Item::Event(_) => None,
        });
        let body = Transaction {
            origin: self.sources.identity.server_name(),
            origin_server_ts: self.sources.clock.now_ms(),
            pdus: pdus.collect(),
            edus: edus.collect(),
        };
        let body = serde_json::value::to_raw_value(&body)
            .map_err(|error| SendFailure::Rejected(error.to_string()))?;
        let transaction_id = self.next_transaction_id();
        self.sources.transport.send(server, &transaction_id, &body).await
    }

    /// Everything has arrived.
    async fn arrived(&self, server: &ServerName, load: &Load) -> Result<(), Error> {
        if !load.rows.is_empty() {
            let mut write = Write::new();
            for (key, _) in &load.rows {
                write.delete::<QueuedEdu>(key);
            }
            self.sources.database.commit(write).await?;
        }
        let mut book = self.book();
        if let Some(destination) = book.get(server) {
            destination.delivered(&load.taken);
            if let Some((room, upto)) = load.caught_up {
                destination.caught_up(room, upto);
                book.dirty.rooms.insert((server.to_owned(), room));
            }
        }
        drop(book);
        if !load.taken.is_empty() || load.caught_up.is_some() {
            self.checkpoint_due.notify_one();
        }
        Ok(())
    }

    fn failed(&self, server: &ServerName, failure: &SendFailure) {
        let now = self.sources.clock.now_ms();
        let mut book = self.book();
        let Some(mut backoff) = book.get(server).map(|destination| destination.backoff) else { return };
        if backoff.is_well() {
            tracing::info!(%server, %failure, "a server cannot be reached; trying again later");
        }
        backoff.failed(now, &self.sources.random);
        book.failed(server, backoff);
        drop(book);
        self.checkpoint_due.notify_one();
    }

    /// The server may not be spoken to any more.
    async fn give_up(&self, server: &ServerName) -> Result<(), Error> {
        let hash = {
            let mut book = self.book();
            book.give_up(server);
            book.get(server).map(|destination| {
                destination.has_rows = false;
                destination.hash
            })
        };
        if let Some(hash) = hash {
            let mut write = Write::new();
            write.delete_prefix::<QueuedEdu>(&hash);
            self.sources.database.commit(write).await?;
        }
        self.checkpoint_due.notify_one();
        Ok(())
    }

    /// Books what was given away.
    fn note(&self, server: &ServerName, load: &Load) {
        let now = self.sources.clock.now_ms();
        let mut book = self.book();
        let Some(hash) = book.get(server).map(|destination| destination.hash) else { return };
        let ledger = &mut book.dirty.ledger;
        for (room, event) in &load.events {
            let kind = LedgerKind::of_event(&event.record.kind, event.record.state_key.is_some());
            let subject = LedgerSubject::Room(room.number);
            ledger.note((hash, server), subject, kind, event.json.len(), now);
        }
        for (_, row) in &load.rows {
            let kind = LedgerKind::of_edu(&row.kind);
            ledger.note((hash, server), LedgerSubject::User(row.user), kind, row.content.len(), now);
        }
        for edu in &load.edus {
            let subject = match edu.subject {
                EduSubject::Typing(room, _) | EduSubject::Receipt(room, ..) => LedgerSubject::Room(room),
                EduSubject::Presence(user) => LedgerSubject::User(user),
            };
            ledger.note((hash, server), subject, LedgerKind::of_edu(edu.kind), edu.content.len(), now);
        }
    }
}

/// The parts of a transaction. What is no JSON is damaged here, and left out.
fn items(load: &Load) -> Vec<Item> {
    let events = load
        .events
        .iter()
        .filter_map(|(_, event)| serde_json::from_slice::<Box<RawValue>>(&event.json).ok().map(Item::Event));
    let rows = load.rows.iter().map(|(_, row)| (row.kind.as_str(), row.content.as_str()));
    let edus = rows.chain(load.edus.iter().map(|edu| (edu.kind, &*edu.content)));
    let edus = edus.filter_map(|(edu_type, content)| {
        let content = serde_json::from_str::<&RawValue>(content).ok()?;
        serde_json::value::to_raw_value(&EduBody { edu_type, content }).ok().map(Item::Edu)
    });
    events.chain(edus).collect()
}
