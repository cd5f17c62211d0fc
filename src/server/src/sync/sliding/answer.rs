//! One answer: what a client lacks of what it has in view, written down.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use allod_matrix::filter::EventFilter;
use allod_storage::Position;
use roaring::RoaringBitmap;

use super::{
    SlidingRequest,
    connection::{Pos, State, Step, Told, Turn},
    news::News,
    view::InView,
};
use crate::{
    database::Error,
    numbers::RoomNumber,
    sync::{IgnoreList, Inner, json::Json, memberships::UserRooms, prefetch::Prefetched},
    tables::{
        Stamped,
        rooms::{HeadRecord, Membership, RoomHead},
    },
};

/// Rooms whose rows are read together.
const PREFETCHED_ROOMS: usize = 50;

/// A finished answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// As JSON.
    pub(super) body: Vec<u8>,
    /// Whether it says anything.
    pub(super) tells: bool,
    /// What the client knows with it.
    pub(super) step: Step,
    /// The user's rooms.
    pub(super) rooms: Arc<UserRooms>,
}

/// What an answer is made from.
pub(super) struct Answering<'a> {
    pub(super) inner: &'a Inner,
    pub(super) request: &'a SlidingRequest,
    pub(super) turn: &'a Turn,
    /// The position that the answer is as of.
    pub(super) position: Position,
    pub(super) ephemeral: u64,
    pub(super) rooms: Arc<UserRooms>,
    pub(super) ignored: Arc<IgnoreList>,
    pub(super) direct: Arc<RoaringBitmap>,
    pub(super) view: InView,
    /// Lets all events through.
    pub(super) open: EventFilter,
    /// Events of rooms that were told from an earlier point than the client knew, by id.
    pub(super) shown: BTreeMap<RoomNumber, HashSet<String>>,
}

/// What was read beforehand of rooms that are told whole.
#[derive(Debug, Default)]
pub(super) struct ReadBefore {
    pub(super) heads: BTreeMap<RoomNumber, Stamped<HeadRecord>>,
    pub(super) prefetched: BTreeMap<RoomNumber, Prefetched>,
}

impl Inner {
    /// Builds the answer to a request; messages to the device up to `inbox` have arrived.
    pub(super) async fn slide(
        &self,
        request: &SlidingRequest,
        turn: &Turn,
        inbox: Position,
    ) -> Result<Answer, Error> {
        let user = request.caller.user;
        // Before what it counts is read.
        let ephemeral = self.sources.sequence.last();
        let (position, rooms) = self.memberships.at_head(self.sources.database.store(), user).await?;
        let view = self.in_view(request, turn.base.as_deref(), &rooms).await?;
        let (ignored, direct) = (self.ignored(user).await?, self.direct(user).await?);
        let mut answering = Answering {
            inner: self,
            request,
            turn,
            position,
            ephemeral,
            rooms,
            ignored,
            direct,
            view,
            open: EventFilter::default(),
            shown: BTreeMap::new(),
        };
        let number = turn.next_step();
        let token = self.token(position, ephemeral);
        let mut json = Json::new();
        json.open();
        json.member("pos", &Pos { token, connection: turn.connection.id, step: number }.to_string());
        if let Some(transaction) = &request.transaction {
            json.member("txn_id", transaction);
        }
        answering.write_lists(&mut json);
        let told = answering.write_rooms(&mut json).await?;
        let mut tells = !told.is_empty();
        let mut step = answering.step(number, told);
        tells |= answering.write_extensions(&mut json, inbox, &mut step).await?;
        json.close();
        Ok(Answer { body: json.finish(), tells, step, rooms: answering.rooms })
    }
}

impl Answering<'_> {
    /// What the client knows; nothing, where a connection begins.
    pub(super) fn base(&self) -> Option<&State> {
        self.turn.base.as_deref()
    }

    fn step(&self, number: u64, told: Vec<(RoomNumber, Told)>) -> Step {
        let mut events = self.view.rooms.clone();
        let known = self.base().map(|base| &base.rooms);
        let now: RoaringBitmap = told.iter().map(|(room, _)| room.0).collect();
        let is_told = |room: u32| {
            now.contains(room) || known.is_some_and(|known| known.contains_key(&RoomNumber(room)))
        };
        let untold: Vec<u32> = events.iter().filter(|room| !is_told(*room)).collect();
        for room in untold {
            events.remove(room);
        }
        Step {
            number,
            position: self.position,
            ephemeral: self.ephemeral,
            told,
            events,
            lists: self.view.lists.clone(),
            subscriptions: self.view.subscriptions.clone(),
            direct: Arc::clone(&self.direct),
            ..Step::default()
        }
    }

    fn write_lists(&self, json: &mut Json) {
        json.object("lists");
        for (name, count) in &self.view.counts {
            json.object(name);
            json.member("count", count);
            json.close();
        }
        json.close();
    }

    async fn write_rooms(&mut self, json: &mut Json) -> Result<Vec<(RoomNumber, Told)>, Error> {
        let mut told = Vec::new();
        json.object("rooms");
        for news in self.news().chunks(PREFETCHED_ROOMS) {
            let read = self.read_before(news).await?;
            for news in news {
                let room = news.entry.room;
                let new = match news.entry.membership {
                    Membership::Join => Box::pin(self.write_joined(json, news, &read)).await?,
                    Membership::Invite | Membership::Knock => self.write_stripped(json, news).await?,
                    Membership::Leave | Membership::Ban => Box::pin(self.write_left(json, news)).await?,
                };
                told.extend(new.map(|new| (room, new)));
            }
        }
        told.extend(self.write_departed(json).await?);
        json.close();
        Ok(told)
    }

    /// Reads beforehand what rooms that are told whole will ask for, if there are several.
    async fn read_before(&self, news: &[News]) -> Result<ReadBefore, Error> {
        let is_whole = |news: &&News| news.since.is_none() && news.entry.membership == Membership::Join;
        let whole: Vec<_> = news.iter().filter(is_whole).map(|news| news.entry.room).collect();
        if whole.len() <= 1 {
            return Ok(ReadBefore::default());
        }
        let heads = self.inner.sources.database.get_all::<RoomHead>(&whole).await?;
        let heads: BTreeMap<_, _> =
            whole.iter().zip(heads).filter_map(|(room, head)| Some((*room, head?))).collect();
        let limit = news.iter().map(|news| news.config.timeline_limit).max().unwrap_or_default();
        let some: Vec<_> = heads.iter().map(|(room, head)| (*room, head)).collect();
        let prefetched = self.inner.reader.prefetch(&some, self.position, limit).await?;
        self.inner.prepare_unread(&whole, self.request.caller.user, self.position).await?;
        Ok(ReadBefore { heads, prefetched })
    }
}
