//! Transactions: what a server sends, answered once it is safe.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#transactions>

use std::collections::BTreeMap;

use allod_matrix::auth::References;
use futures_util::{FutureExt, StreamExt, stream};
use ruma::{OwnedEventId, OwnedRoomId, ServerName, api::federation::transactions::edu::Edu, serde::Raw};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Inbound, staging::Staging, standing::Standing, unverified::Unseen};
use crate::{
    database::{Error, Write},
    federation::verify::{Verifier, VerifyError},
    numbers::{Hash128, RoomNumber},
    rooms::{Room, ingest::Verified},
    tables::inbound::{AnswerRecord, InboundTransaction, StagedRecord},
};

/// Events of one transaction.
pub const PDUS_MAX: usize = 50;
/// Ephemeral data units of one transaction.
pub const EDUS_MAX: usize = 100;
/// Rooms of one transaction whose events are checked side by side.
const ROOMS_AT_ONCE: usize = 8;
/// Bytes of events in one commit.
const COMMIT_BYTES_MAX: usize = 700 * 1024;

/// Why a transaction was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// More events or EDUs than one transaction may have.
    #[error("too many events or EDUs in one transaction")]
    TooMany,
    /// Too much waits for one of its rooms; to be sent again later.
    #[error("too much waits for this room")]
    Busy,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// What a server sends at once.
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// The transaction's id, by which a repetition is recognised.
    pub id: &'a str,
    /// Events.
    pub pdus: Vec<Box<RawValue>>,
    /// Ephemeral data and messages.
    pub edus: Vec<Raw<Edu>>,
}

/// The events by their ids, and what was wrong with them.
pub type Answer = BTreeMap<OwnedEventId, Result<(), String>>;

/// The events of one room, checked.
#[derive(Default)]
struct Screened {
    answer: Vec<(OwnedEventId, Result<(), String>)>,
    staged: Vec<(RoomNumber, Verified)>,
    /// Those whose keys are not to be had at present.
    unseen: Vec<(RoomNumber, Unseen)>,
}

impl Inbound {
    /// Takes a transaction. What is answered is safe: the events are in their rooms' queues, the rest is done. The same
    /// transaction again gets the same answer.
    pub async fn receive(&self, origin: &ServerName, received: Received<'_>) -> Result<Answer, ReceiveError> {
        if received.pdus.len() > PDUS_MAX || received.edus.len() > EDUS_MAX {
            return Err(ReceiveError::TooMany);
        }
        let turn = self.turn(origin);
        let _turn = turn.lock().await;
        let database = &self.0.database;
        let key = (database.hash("server", origin.as_str()), database.hash("transaction", received.id));
        if let Some(done) = database.get::<InboundTransaction>(&key).await? {
            return Ok(answer_of(done));
        }
        self.0.unverified.wake();
        let screened = self.screen_all(origin, received.pdus).await?;
        if screened.staged.iter().any(|(room, _)| !self.0.staging.has_space(*room)) {
            return Err(ReceiveError::Busy);
        }
        let receipts = self.hear(origin, &received.edus).await?;
        let answer = self.stage(origin, key, screened).await?;
        // After the events that they may be for.
        self.hear_receipts(origin, receipts).await?;
        Ok(answer)
    }

    /// Commits events to their rooms' queues, the last of them with the answer.
    async fn stage(
        &self,
        origin: &ServerName,
        key: (Hash128, Hash128),
        screened: Screened,
    ) -> Result<Answer, ReceiveError> {
        let database = &self.0.database;
        let (mut write, mut bytes) = (Write::new(), 0_usize);
        let mut added: BTreeMap<RoomNumber, usize> = BTreeMap::new();
        for (index, (room, event)) in (0_u32..).zip(screened.staged) {
            let size = event.json().len();
            if bytes.saturating_add(size) > COMMIT_BYTES_MAX {
                let full = std::mem::take(&mut write);
                database.commit(full).await.map_err(Error::from)?;
                bytes = 0;
            }
            bytes = bytes.saturating_add(size);
            let staged = StagedRecord {
                origin: origin.to_string(),
                event_id: event.pdu().event_id.to_string(),
                json: event.json().to_vec(),
            };
            Staging::put(&mut write, room, index, &staged);
            let count = added.entry(room).or_default();
            *count = count.saturating_add(1);
        }
        let unseen = screened.unseen.len();
        for (room, event) in screened.unseen {
            bytes = bytes.saturating_add(event.json.len());
            self.0.unverified.put(&mut write, room, event);
            if bytes > COMMIT_BYTES_MAX {
                let full = std::mem::take(&mut write);
                database.commit(full).await.map_err(Error::from)?;
                bytes = 0;
            }
        }
        let pdus =
            screened.answer.iter().map(|(event_id, result)| (event_id.to_string(), result.clone().err()));
        let record = AnswerRecord { pdus: pdus.collect(), at_ms: self.0.clock.now_ms() };
        write.put::<InboundTransaction>(&key, &record);
        let committed = database.commit(write).await;
        for (room, count) in added {
            self.0.staging.wake(room, count);
        }
        self.0.unverified.more(unseen);
        committed.map_err(Error::from)?;
        Ok(screened.answer.into_iter().collect())
    }

    /// Checks events as far as that needs no room's task, each room's beside the others'.
    async fn screen_all(&self, origin: &ServerName, pdus: Vec<Box<RawValue>>) -> Result<Screened, Error> {
        let mut by_room: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>> = BTreeMap::new();
        for pdu in pdus {
            // What names no room cannot be answered for: without its room's version it has no id.
            if let Some(room_id) = room_id_of(&pdu) {
                by_room.entry(room_id).or_default().push(pdu);
            }
        }
        let mut rooms = Vec::with_capacity(by_room.len());
        for (room_id, events) in by_room {
            rooms.push(self.screen(origin, room_id, events).boxed());
        }
        let mut rooms = stream::iter(rooms).buffer_unordered(ROOMS_AT_ONCE);
        let mut all = Screened::default();
        while let Some(screened) = rooms.next().await {
            let screened = screened?;
            all.answer.extend(screened.answer);
            all.staged.extend(screened.staged);
            all.unseen.extend(screened.unseen);
        }
        Ok(all)
    }

    async fn screen(
        &self,
        origin: &ServerName,
        room_id: OwnedRoomId,
        events: Vec<Box<RawValue>>,
    ) -> Result<Screened, Error> {
        let (room, in_room) = match self.standing(origin, &room_id).await? {
            Standing::Allowed(room) => (room, true),
            Standing::Outside(room) => (room, false),
            Standing::Denied => {
                return self
                    .refuse(&room_id, &events, "the room's access control list keeps your server out")
                    .await;
            }
            Standing::Unknown => {
                self.hear_from_outside(origin, &room_id, &events).await?;
                return self.refuse(&room_id, &events, "this server is not in the room").await;
            }
        };
        let checked = self.0.verifier.check(&room_id, &room.rules, &events, References::Limited).await?;
        let mut screened = Screened::default();
        for (raw, event) in events.iter().zip(checked) {
            let event = match event {
                // Who is not in a room brings only what its own users did, which the room's rules judge.
                Ok(event) if !in_room && event.pdu().sender.server_name() != origin => {
                    Err((event.pdu().event_id.clone(), "your server is not in the room".to_owned()))
                }
                Ok(event) => Ok(event),
                // What its users did is no less true for that nobody can say so at present.
                Err(VerifyError::NoKey(_))
                    if in_room && self.waits(&room, origin, raw, &mut screened).await? =>
                {
                    continue;
                }
                Err(error) => match Verifier::event_id(raw, &room.rules) {
                    Some(event_id) => Err((event_id, error.to_string())),
                    None => continue,
                },
            };
            match event {
                Ok(event) => {
                    screened.answer.push((event.pdu().event_id.clone(), Ok(())));
                    screened.staged.push((room.number, event));
                }
                Err((event_id, why)) => {
                    tracing::info!(%room_id, %origin, %event_id, why, "a received event is dropped");
                    screened.answer.push((event_id, Err(why)));
                }
            }
        }
        Ok(screened)
    }

    /// Lets an event wait for the key to verify it with, if there is space; whether it does.
    async fn waits(
        &self,
        room: &Room,
        origin: &ServerName,
        event: &RawValue,
        screened: &mut Screened,
    ) -> Result<bool, Error> {
        let Some(event_id) = Verifier::event_id(event, &room.rules) else { return Ok(false) };
        if !self.0.unverified.has_space(room.number, screened.unseen.len()).await? {
            return Ok(false);
        }
        tracing::info!(room_id = %room.room_id, %origin, %event_id, "a received event waits for the key to verify it with");
        screened.answer.push((event_id, Ok(())));
        let json = event.get().as_bytes().to_vec();
        screened.unseen.push((room.number, Unseen { origin: origin.to_string(), json }));
        Ok(true)
    }

    /// The same answer for all events of a room.
    async fn refuse(
        &self,
        room_id: &OwnedRoomId,
        events: &[Box<RawValue>],
        why: &str,
    ) -> Result<Screened, Error> {
        let Some(room) = self.0.rooms.find(room_id).await? else { return Ok(Screened::default()) };
        let ids = events.iter().filter_map(|event| Verifier::event_id(event, &room.rules));
        let answer = ids.map(|event_id| (event_id, Err(why.to_owned()))).collect();
        Ok(Screened { answer, ..Screened::default() })
    }
}

fn room_id_of(pdu: &RawValue) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct Fields {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<Fields>(pdu.get()).ok().map(|fields| fields.room_id)
}

fn answer_of(record: AnswerRecord) -> Answer {
    let parsed = record.pdus.into_iter().filter_map(|(event_id, error)| {
        Some((OwnedEventId::try_from(event_id).ok()?, error.map_or(Ok(()), Err)))
    });
    parsed.collect()
}
