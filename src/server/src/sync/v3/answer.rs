//! One answer: everything that changed between a token and a position, written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use allod_storage::Position;
use serde_json::value::RawValue;

use super::{SyncRequest, filter::SyncFilter};
use crate::{
    account_data::Datum,
    database::Error,
    numbers::RoomNumber,
    sync::{
        IgnoreList, Inner,
        json::Json,
        memberships::UserRooms,
        plan::{Plan, plan},
        sharing::{Changed, Sharing, Whereabouts},
        token::SyncToken,
    },
    tables::{
        Stamped,
        rooms::{HeadRecord, RoomHead},
    },
};

/// About how many bytes a room takes that is shown whole.
const WHOLE_ROOM_BYTES: usize = 4 * 1024;
/// Rooms that memory is made ready for beforehand.
const WHOLE_ROOMS_EXPECTED_MAX: usize = 1000;
/// About how many bytes the news of an incremental sync take.
const CHANGES_BYTES: usize = 2 * 1024;

/// A finished answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// As JSON; the rest of it if it is sent while it is made.
    pub(super) body: Vec<u8>,
    /// Whether it says anything.
    pub(super) tells: bool,
    /// Its token.
    pub(super) next: SyncToken,
    /// The user's rooms.
    pub(super) rooms: Arc<UserRooms>,
}

/// What an answer is made from.
pub(super) struct Answering<'a> {
    pub(super) inner: &'a Inner,
    pub(super) request: &'a SyncRequest,
    pub(super) filter: &'a SyncFilter,
    /// The client's token if it is of this history; `None` for a first sync.
    pub(super) known: Option<SyncToken>,
    /// The position that the answer is as of.
    pub(super) position: Position,
    pub(super) rooms: Arc<UserRooms>,
    pub(super) plan: Plan,
    pub(super) ignored: Arc<IgnoreList>,
    /// Account data that changed, by room, and all of rooms that are shown whole.
    pub(super) room_data: BTreeMap<RoomNumber, Vec<Datum>>,
    /// Ephemeral events by room.
    pub(super) ephemeral: BTreeMap<RoomNumber, Vec<Vec<u8>>>,
    /// Heads of rooms that are shown whole.
    pub(super) heads: BTreeMap<RoomNumber, Stamped<HeadRecord>>,
    /// Joined rooms that may have new events.
    pub(super) changed: BTreeSet<RoomNumber>,
}

impl Inner {
    /// Builds the answer to a token, into `json`; `since` is the client's token whatever its history.
    pub(super) async fn answer(
        &self,
        request: &SyncRequest,
        filter: &SyncFilter,
        since: Option<SyncToken>,
        known: Option<SyncToken>,
        mut json: Json,
    ) -> Result<Answer, Error> {
        let user = request.caller.user;
        // Before what it counts is read.
        let ephemeral = self.sources.sequence.last();
        let (position, rooms) = self.memberships.at_head(self.sources.database.store(), user).await?;
        let changes = match known {
            Some(since) => self.memberships.changes(user, since.position, position).await?,
            None => Vec::new(),
        };
        let plan = plan(&rooms, known.map(|since| since.position), &changes, filter.include_leave);
        let ignored = self.ignored(user).await?;
        let mut answering = Answering {
            inner: self,
            request,
            filter,
            known,
            position,
            rooms,
            plan,
            ignored,
            room_data: BTreeMap::new(),
            ephemeral: BTreeMap::new(),
            heads: BTreeMap::new(),
            changed: BTreeSet::new(),
        };
        answering.select_rooms().await?;
        answering.hold_back_partial().await?;
        let global_data = answering.read_account_data().await?;
        answering.read_ephemeral().await?;
        answering.find_changed_rooms().await?;

        json.reserve(answering.expected_bytes());
        json.open();
        let mut differences = Changed::new();
        let mut tells = answering.write_rooms(&mut json, &mut differences).await?;
        let sharing = match answering.known {
            Some(_) => self.sharing(answering.whereabouts(), &differences).await?,
            None => Sharing::default(),
        };
        tells |= answering.write_presence(&mut json, &sharing).await?;
        tells |= answering.write_account_data(&mut json, &global_data);
        let inbox = answering.write_to_device(&mut json, &mut tells).await?;
        // A first sync begins with no devices known, so nothing has changed.
        if since.is_some() {
            let window = (answering.since(), position);
            tells |= self.write_device_lists(&mut json, answering.whereabouts(), window, &sharing).await?;
        }
        self.write_key_counts(&mut json, &request.caller).await?;
        let next = SyncToken {
            generation: self.sources.database.store().generation(),
            position,
            boot: self.boot,
            ephemeral,
            inbox,
        };
        json.member("next_batch", &next.to_string());
        json.close();
        Ok(Answer { body: json.finish(), tells, next, rooms: answering.rooms })
    }
}

impl Inner {
    /// An answer that tells nothing.
    pub(super) async fn empty_answer(
        &self,
        request: &SyncRequest,
        next: SyncToken,
    ) -> Result<Vec<u8>, Error> {
        let mut json = Json::new();
        json.open();
        self.write_key_counts(&mut json, &request.caller).await?;
        json.member("next_batch", &next.to_string());
        json.close();
        Ok(json.finish())
    }
}

impl Answering<'_> {
    /// The last change of typing and presence that the client knows; all of it is new after a restart.
    pub(super) fn known_ephemeral(&self) -> Option<u64> {
        self.known.filter(|token| token.boot == self.inner.boot).map(|token| token.ephemeral)
    }

    /// The position that the client knows.
    pub(super) fn since(&self) -> Option<Position> {
        self.known.map(|token| token.position)
    }

    fn whereabouts(&self) -> Whereabouts<'_> {
        Whereabouts {
            own: self.request.caller.user,
            joined: &self.rooms.joined,
            newly_joined: &self.plan.newly_joined,
            newly_left: &self.plan.newly_left,
            window: (self.since(), self.position),
        }
    }

    /// About how long the answer will be.
    fn expected_bytes(&self) -> usize {
        let whole = self.plan.joined.iter().filter(|joined| joined.since.is_none()).count();
        let rooms = whole.min(WHOLE_ROOMS_EXPECTED_MAX).saturating_mul(WHOLE_ROOM_BYTES);
        rooms.saturating_add(CHANGES_BYTES)
    }

    /// Leaves out rooms that the filter excludes, and invitations of those who are ignored.
    async fn select_rooms(&mut self) -> Result<(), Error> {
        self.inner.hide_unwanted_invites(self.request.caller.user, &mut self.plan.invited).await?;
        if self.filter.all_rooms {
            return Ok(());
        }
        let mut wanted = BTreeSet::new();
        for entry in &self.rooms.rooms {
            let room = self.inner.sources.rooms.get(entry.room).await?;
            if self.filter.rooms.contains(&room.room_id) {
                wanted.insert(entry.room);
            }
        }
        self.plan.retain(|room| wanted.contains(&room));
        Ok(())
    }

    /// Reads changed account data: keeps that of rooms, and returns the rest.
    async fn read_account_data(&mut self) -> Result<Vec<Datum>, Error> {
        let user = self.request.caller.user;
        let account_data = &self.inner.sources.account_data;
        let since = self.since();
        let unchanged = since.is_some_and(|since| !self.inner.activity.user_data_changed(user, since));
        let mut changed =
            if unchanged { Vec::new() } else { account_data.changes(user, since, self.position).await? };
        let mut global: Vec<Datum> = Vec::new();
        let shown_whole: BTreeSet<_> = self
            .plan
            .joined
            .iter()
            .filter(|joined| joined.since.is_none())
            .map(|joined| joined.room)
            .collect();
        if since.is_some() && !shown_whole.is_empty() {
            changed.retain(|datum| datum.room.is_none_or(|room| !shown_whole.contains(&room)));
            let all = account_data.changes(user, None, self.position).await?;
            changed.extend(
                all.into_iter().filter(|datum| datum.room.is_some_and(|room| shown_whole.contains(&room))),
            );
        }
        for datum in changed {
            match datum.room {
                Some(room) => self.room_data.entry(room).or_default().push(datum),
                None => global.push(datum),
            }
        }
        let user_id = &self.request.caller.user_id;
        self.inner.sources.push_rules.complete(user, user_id, &mut global, since.is_none()).await?;
        Ok(global)
    }

    /// Finds the joined rooms that may have new events, and reads the heads of those that are shown whole.
    async fn find_changed_rooms(&mut self) -> Result<(), Error> {
        let activity = &self.inner.activity;
        let whole = self.request.full_state;
        let is_whole = |since: Option<Position>| whole || since.is_none();
        let mut wanted: Vec<RoomNumber> = Vec::new();
        if let Some(since) = self.since() {
            let old =
                self.plan.joined.iter().filter(|joined| joined.since.is_some()).map(|joined| joined.room);
            let (changed, unknown) = activity.split_by_last_event(old, since);
            self.changed.extend(changed);
            wanted.extend(unknown);
        }
        let shown_whole =
            self.plan.joined.iter().filter(|joined| is_whole(joined.since)).map(|joined| joined.room);
        wanted.extend(shown_whole);
        wanted.sort_unstable();
        wanted.dedup();
        let heads = self.inner.sources.database.get_all::<RoomHead>(&wanted).await?;
        for (room, head) in wanted.into_iter().zip(heads) {
            let Some(head) = head else { continue };
            activity.event(room, head.position);
            if self.since().is_some_and(|since| head.position > since) {
                self.changed.insert(room);
            }
            self.heads.insert(room, head);
        }
        Ok(())
    }

    /// Writes all rooms; whether there are any.
    async fn write_rooms(&self, json: &mut Json, changed: &mut Changed) -> Result<bool, Error> {
        let start = json.mark();
        json.object("rooms");
        let inside = json.mark();
        self.write_joined(json, changed).await?;
        self.write_invited(json).await?;
        self.write_knocked(json).await?;
        self.write_left(json).await?;
        Ok(json.close_unless_empty(start, inside))
    }
}

/// Writes an event that has a type and content only.
pub(in crate::sync) fn bare_event(kind: &str, content: &RawValue) -> Vec<u8> {
    let mut json = Json::new();
    json.open();
    json.raw_member("content", content.get());
    json.member("type", &kind);
    json.close();
    json.finish()
}
