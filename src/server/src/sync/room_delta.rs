//! What happened in a room between two positions, for one reader: timeline, state, summary. The one builder of it; how
//! it is written down is the business of each kind of sync.
//!
//! As of `until`: what is read is immutable or carries its position. Its cost follows what changed, not what the room
//! weighs: the state is the difference of two trees.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use allod_matrix::{
    filter::EventFilter,
    state::{Difference, EntryKey, Root, Selection, TypePrefix, scan},
    sync::state::{Entries, before_timeline, changed},
};
use allod_storage::Position;

use super::{
    activity::Activity,
    lazy::{Listener, ToldMembers},
    partial::Needed,
    prefetch::Prefetched,
    summary::Summary,
    tail::Tails,
    timeline::{Timeline, TimelineWish, matches},
};
use crate::{
    database::{Database, Error, Range},
    numbers::{EventNumber, UserNumber},
    rooms::{Room, Rooms, access::View, event::StoredEvent, state::Nodes},
    tables::{
        Stamped,
        rooms::{CurrentState, HeadRecord, StateRoot},
    },
    users::Users,
};

/// Entries read at once when the members of a state are passed over.
const SCAN_ENTRIES: usize = 64;

/// Builds what sync tells of rooms.
#[derive(Clone, Debug)]
pub(crate) struct RoomReader {
    pub(super) database: Database,
    pub(super) rooms: Rooms,
    pub(super) users: Users,
    pub(super) told: ToldMembers,
    pub(super) activity: Activity,
    pub(super) tails: Tails,
}

/// What lies after `since` (everything, without it) and up to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) since: Option<Position>,
    pub(crate) until: Position,
}

/// What is known of a room before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known<'a> {
    /// Its head.
    pub(crate) head: Option<&'a Stamped<HeadRecord>>,
    /// What was read beforehand, as of the end of the window.
    pub(crate) prefetched: Option<&'a Prefetched>,
}

/// What of a room's state a client wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StateWish<'a> {
    /// Which events.
    pub(crate) filter: &'a EventFilter,
    /// Only the members that are needed.
    pub(crate) lazy: Option<LazyMembers>,
    /// All of the state, whatever changed.
    pub(crate) full: bool,
    /// The state at the end of the timeline instead of at its start.
    pub(crate) after: bool,
}

/// How members are loaded lazily.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LazyMembers {
    /// Repeat members that the listener was told of.
    pub(crate) redundant: bool,
    /// Whom they are told; nobody whose knowledge is kept, without.
    pub(crate) listener: Option<Listener>,
}

/// What happened in a room.
#[derive(Debug, Default)]
pub(crate) struct RoomDelta {
    /// The timeline.
    pub(crate) timeline: Timeline,
    /// State events, before or after the timeline as was wished.
    pub(crate) state: Vec<Arc<StoredEvent>>,
    /// Who is there, if that changed.
    pub(crate) summary: Option<Summary>,
    /// Entries of the state that changed.
    pub(crate) changed: Vec<Difference>,
}

impl RoomDelta {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.timeline.events.is_empty()
            && !self.timeline.limited
            && self.state.is_empty()
            && self.summary.is_none()
    }
}

/// The states at the ends of a timeline, and what lies between them.
struct States {
    start: StateRoot,
    end: StateRoot,
    /// From what the client knows to the timeline's start.
    before: Vec<Difference>,
    /// Along the timeline.
    along: Vec<Difference>,
}

impl RoomReader {
    /// Builds what happened in a room in a window.
    pub(crate) async fn delta(
        &self,
        view: &View,
        window: Window,
        known: Known<'_>,
        timeline: TimelineWish<'_>,
        state: StateWish<'_>,
    ) -> Result<RoomDelta, Error> {
        let head = known.head;
        let timeline = self.timeline(view, window, known, timeline).await?;
        let states = self.states(view, window, known, &timeline, state.full).await?;
        let members = view.room.hash_key.type_prefix("m.room.member");
        let is_member = |difference: &Difference| difference.key.type_prefix() == members;
        let members_changed = match &states {
            Some(states) => states.before.iter().chain(&states.along).any(is_member),
            None => false,
        };
        let summary = match &states {
            Some(states) if members_changed || window.since.is_none() || state.full => {
                Some(self.summary(view, states.end, head).await?)
            }
            _ => None,
        };
        let events = self.state(view, window, &timeline, states.as_ref(), summary.as_ref(), state).await?;
        let changed = match states {
            Some(states) => states.before.into_iter().chain(states.along).collect(),
            None => Vec::new(),
        };
        Ok(RoomDelta { timeline, state: events, summary, changed })
    }

    /// The states of a window; `None` if nothing changed in it.
    async fn states(
        &self,
        view: &View,
        window: Window,
        known: Known<'_>,
        timeline: &Timeline,
        full: bool,
    ) -> Result<Option<States>, Error> {
        let room = &*view.room;
        let reader = self.rooms.states();
        let since = if full { None } else { window.since };
        if let Some(since) = since
            && !self.state_changed(room, since, window.until).await?
        {
            return Ok(None);
        }
        let end = match known.head {
            Some(head) if head.position <= window.until => head.value.root,
            _ => reader.root_at(room.number, window.until).await?,
        };
        let start = match timeline.events.first() {
            // Before the room there is nothing.
            Some((_, first))
                if first.record.kind == "m.room.create" && first.record.prev_events.is_empty() =>
            {
                StateRoot::default()
            }
            Some((at, _)) => {
                let before = Position::new(at.get().saturating_sub(1));
                match known.prefetched.and_then(|prefetched| prefetched.root_at(before)) {
                    Some(root) => root,
                    None => reader.root_at(room.number, before).await?,
                }
            }
            None => end,
        };
        let before = match since {
            Some(since) => {
                let since = reader.root_at(room.number, since).await?;
                reader.diff(room, since, start).await?
            }
            None => Vec::new(),
        };
        let along = reader.diff(room, start, end).await?;
        Ok(Some(States { start, end, before, along }))
    }

    /// Whether the room's current state changed in a window.
    pub(super) async fn state_changed(
        &self,
        room: &Room,
        since: Position,
        until: Position,
    ) -> Result<bool, Error> {
        if since >= until
            || (until <= self.activity.followed() && !self.activity.state_changed(room.number, since))
        {
            return Ok(false);
        }
        let range =
            Range::<CurrentState>::between(&(room.number, since.next()), &(room.number, until.next()));
        Ok(!self.database.scan(&range.limit(1)).await?.rows.is_empty())
    }

    async fn state(
        &self,
        view: &View,
        window: Window,
        timeline: &Timeline,
        states: Option<&States>,
        summary: Option<&Summary>,
        wish: StateWish<'_>,
    ) -> Result<Vec<Arc<StoredEvent>>, Error> {
        if wish.filter.is_closed() || !wish.filter.matches_room(&view.room.room_id) {
            return Ok(Vec::new());
        }
        let room = &*view.room;
        let whole = wish.full || window.since.is_none();
        let mut entries = match states {
            Some(states) => self.entries(room, timeline, states, whole, wish).await?,
            None => Entries::new(),
        };
        if let Some(lazy) = wish.lazy {
            let tree = match (states, timeline.events.last()) {
                (Some(states), _) if wish.after => states.end,
                (Some(states), _) => states.start,
                (None, Some((_, last))) => last.record.state_before,
                (None, None) => return Ok(Vec::new()),
            };
            let needed = self.needed_members(view, timeline, summary, whole).await?;
            let since = if whole { None } else { window.since };
            let at = Window { since, until: window.until };
            self.add_members(view, at, tree, &needed, lazy, &mut entries).await?;
        }
        let numbers: Vec<_> = entries.values().map(|number| EventNumber(*number)).collect();
        let mut events = Vec::with_capacity(numbers.len());
        for event in self.rooms.events().load_many(room.number, &numbers).await? {
            if matches(wish.filter, room, &event)? {
                events.push(event);
            }
        }
        events.sort_by_key(|event| event.position);
        Ok(events)
    }

    /// The entries of the state section, without members that are added lazily.
    async fn entries(
        &self,
        room: &Room,
        timeline: &Timeline,
        states: &States,
        whole: bool,
        wish: StateWish<'_>,
    ) -> Result<Entries, Error> {
        let base = match (whole, wish.after) {
            (true, after) => {
                let tree = if after { states.end } else { states.start };
                self.whole_state(room, tree, wish.lazy.is_some()).await?
            }
            (false, _) => changed(&states.before),
        };
        if wish.after {
            let mut entries = base;
            if !whole {
                entries.extend(changed(&states.along));
            }
            return Ok(entries);
        }
        let shown: HashSet<EntryKey> = timeline
            .events
            .iter()
            .filter_map(|(_, event)| {
                let state_key = event.record.state_key.as_deref()?;
                Some(room.hash_key.entry_key(&event.record.kind, state_key))
            })
            .collect();
        Ok(before_timeline(base, &states.along, |key| shown.contains(&key)))
    }

    pub(super) async fn whole_state(
        &self,
        room: &Room,
        tree: StateRoot,
        without_members: bool,
    ) -> Result<Entries, Error> {
        if !without_members {
            let all = self.rooms.states().all(room, tree, None).await?;
            return Ok(all.into_iter().map(|(key, number)| (key, number.0)).collect());
        }
        let members = room.hash_key.type_prefix("m.room.member");
        let tree = Root::from_bytes(tree.0);
        let (mut nodes, mut entries, mut after) = (Nodes::default(), Entries::new(), None);
        loop {
            let page = self
                .rooms
                .states()
                .run(room, &mut nodes, |nodes| scan(tree, Selection::All, after, SCAN_ENTRIES, nodes))
                .await?;
            entries.extend(page.iter().filter(|(key, _)| key.type_prefix() != members).copied());
            let Some((last, _)) = page.last().filter(|_| page.len() >= SCAN_ENTRIES) else {
                return Ok(entries);
            };
            after = Some(if last.type_prefix() == members { last_key_of(members) } else { *last });
        }
    }

    /// Whose member events go with this part of the room.
    async fn needed_members(
        &self,
        view: &View,
        timeline: &Timeline,
        summary: Option<&Summary>,
        whole: bool,
    ) -> Result<Vec<Needed>, Error> {
        let senders = timeline.events.iter().map(|(_, event)| event.record.sender);
        let heroes = summary.into_iter().flat_map(|summary| summary.heroes.iter().map(|(hero, _)| *hero));
        let own = whole.then_some(view.caller.user);
        let users: BTreeSet<UserNumber> = senders.chain(heroes).chain(own).collect();
        let users: Vec<_> = users.into_iter().collect();
        let ids = self.users.ids(&users).await?;
        let hash_key = &view.room.hash_key;
        let keys = ids.into_iter().flatten().map(|id| hash_key.entry_key("m.room.member", id.as_str()));
        self.with_cited(&view.room, timeline, keys.collect()).await
    }

    /// Adds the member events of the state that are needed and not known to the listener.
    pub(super) async fn add_members(
        &self,
        view: &View,
        window: Window,
        tree: StateRoot,
        needed: &[Needed],
        lazy: LazyMembers,
        entries: &mut Entries,
    ) -> Result<(), Error> {
        let keys: Vec<EntryKey> = needed.iter().map(|(key, _)| *key).collect();
        let found = self.rooms.states().get_many(&view.room, tree, &keys).await?;
        let mut members: Vec<(EntryKey, EventNumber)> = needed
            .iter()
            .zip(found)
            .filter_map(|((key, cited), number)| Some((*key, number.or(*cited)?)))
            .filter(|(key, _)| !entries.contains_key(key))
            .collect();
        let room = view.room.number;
        if let Some(listener) = lazy.listener {
            if !lazy.redundant {
                members = self.told.untold(listener, room, window.since, &members);
            }
            let prefix = view.room.hash_key.type_prefix("m.room.member");
            let others = entries.iter().filter(|(key, _)| key.type_prefix() == prefix);
            let others = others.map(|(key, number)| (*key, EventNumber(*number)));
            let all: Vec<_> = members.iter().copied().chain(others).collect();
            self.told.tell(listener, room, window.since, window.until, &all);
        }
        entries.extend(members.into_iter().map(|(key, number)| (key, number.0)));
        Ok(())
    }
}

/// The last key that a piece of state of this type can have.
fn last_key_of(TypePrefix([a, b, c, d]): TypePrefix) -> EntryKey {
    let mut key = [0xff; 16];
    for (target, byte) in key.iter_mut().zip([a, b, c, d]) {
        *target = byte;
    }
    EntryKey(key)
}
