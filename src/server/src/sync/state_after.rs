//! The room delta as sliding sync tells it: the state at the end of the timeline, as far as a client asks for it.
//!
//! What a client asks for may grow from one request to the next: what it did not ask for before is told whole, the rest as
//! far as it changed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use allod_matrix::{
    state::{Difference, EntryKey},
    sync::required::RequiredState,
};

use super::{
    lazy::Listener,
    room_delta::{Known, LazyMembers, RoomReader, Window},
    summary::Summary,
    timeline::{Timeline, TimelineWish},
};
use crate::{
    database::Error,
    numbers::{EventNumber, UserNumber},
    rooms::{Room, access::View, event::StoredEvent, partial::Completeness},
    tables::rooms::StateRoot,
};

const MEMBER: &str = "m.room.member";

/// What of a room's state a client asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Required<'a> {
    /// Now.
    pub(crate) now: &'a RequiredState,
    /// When it was told of the room last.
    pub(crate) before: Option<&'a RequiredState>,
    /// Whom lazily loaded members are told.
    pub(crate) listener: Listener,
}

/// What happened in a room.
#[derive(Debug, Default)]
pub(crate) struct DeltaAfter {
    /// The timeline.
    pub(crate) timeline: Timeline,
    /// State events.
    pub(crate) state: Vec<Arc<StoredEvent>>,
    /// Types and state keys of state that is no more.
    pub(crate) removed: Vec<(String, String)>,
    /// Who is there, if that or the room's name changed.
    pub(crate) summary: Option<Summary>,
    /// Whether name and avatar may have changed.
    pub(crate) renamed: bool,
    /// The room's state at the end.
    pub(crate) root: StateRoot,
}

impl DeltaAfter {
    /// Whether there is nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.timeline.events.is_empty()
            && !self.timeline.limited
            && self.state.is_empty()
            && self.removed.is_empty()
            && self.summary.is_none()
            && !self.renamed
    }
}

/// Entries to tell: the event at each, or none if it is gone with the event that was there.
#[derive(Debug, Default)]
struct Changes {
    set: BTreeMap<EntryKey, EventNumber>,
    removed: Vec<EventNumber>,
}

impl RoomReader {
    /// Builds what happened in a room in a window. The timeline is that of `shown`, which may begin earlier.
    pub(crate) async fn delta_after(
        &self,
        view: &View,
        (window, shown): (Window, Window),
        known: Known<'_>,
        timeline: TimelineWish<'_>,
        required: Required<'_>,
    ) -> Result<DeltaAfter, Error> {
        let room = &*view.room;
        let timeline = self.timeline(view, shown, known, timeline).await?;
        let root = match known.head {
            Some(head) if head.position <= window.until => head.value.root,
            _ => self.rooms.states().root_at(room.number, window.until).await?,
        };
        let differences = match window.since {
            Some(since) if self.state_changed(room, since, window.until).await? => {
                let since = self.rooms.states().root_at(room.number, since).await?;
                self.rooms.states().diff(room, since, root).await?
            }
            _ => Vec::new(),
        };
        let members = room.hash_key.type_prefix(MEMBER);
        let names = ["m.room.name", "m.room.avatar"].map(|kind| room.hash_key.entry_key(kind, ""));
        let members_changed = differences.iter().any(|difference| difference.key.type_prefix() == members);
        let renamed =
            window.since.is_none() || differences.iter().any(|difference| names.contains(&difference.key));
        let summary = if renamed || members_changed {
            Some(self.summary_despite_alias(view, root, known.head).await?)
        } else {
            None
        };
        let (state, removed) = self.required(view, window, &timeline, (root, &differences), required).await?;
        Ok(DeltaAfter { timeline, state, removed, summary, renamed, root })
    }

    /// The state that a client asks for, as far as it lacks it, and what of it is no more.
    async fn required(
        &self,
        view: &View,
        window: Window,
        timeline: &Timeline,
        (root, differences): (StateRoot, &[Difference]),
        required: Required<'_>,
    ) -> Result<(Vec<Arc<StoredEvent>>, Vec<(String, String)>), Error> {
        let room = &*view.room;
        let whole = window.since.is_none();
        // Through gaps, and of those whom the server itself just learned of, only those members are told whom the timeline
        // needs.
        let all_members =
            required.now.is_lazy() && !whole && !timeline.limited && !self.became_whole(room, window).await?;
        let members = room.hash_key.type_prefix(MEMBER);
        let mut changes = Changes::default();
        for difference in differences {
            match (difference.after, difference.before) {
                (Some(after), _) => drop(changes.set.insert(difference.key, EventNumber(after))),
                (None, Some(before)) => changes.removed.push(EventNumber(before)),
                (None, None) => {}
            }
        }
        let grown = !whole && required.before.is_some_and(|before| before != required.now);
        let mut candidates = BTreeMap::new();
        if whole || grown {
            candidates = self.candidates(room, root, required.now).await?;
        }
        let mut entries = changes.set.clone();
        entries.extend(candidates.iter().map(|(key, event)| (*key, *event)));
        let numbers: Vec<_> = entries.values().copied().collect();
        let events = self.rooms.events().load_many(room.number, &numbers).await?;
        let mut told: BTreeMap<EntryKey, Arc<StoredEvent>> = BTreeMap::new();
        for (key, event) in entries.keys().zip(events) {
            let (kind, state_key) = (event.record.kind.as_str(), event.record.state_key.as_deref());
            let Some(state_key) = state_key else { continue };
            let asked = required.now.has(kind, state_key);
            let known = !whole
                && !changes.set.contains_key(key)
                && required.before.is_none_or(|before| before.has(kind, state_key));
            if (asked && !known)
                || (all_members && key.type_prefix() == members && changes.set.contains_key(key))
            {
                told.insert(*key, event);
            }
        }
        if required.now.is_lazy() {
            let window = if whole { Window { since: None, ..window } } else { window };
            self.add_needed(view, window, (root, timeline), required.listener, &mut told).await?;
        }
        let removed = self.removed(room, &changes.removed, required.now).await?;
        let mut told: Vec<_> = told.into_values().collect();
        told.sort_by_key(|event| event.position);
        Ok((told, removed))
    }

    /// Whether the members of a room that was joined without them became known in a window.
    async fn became_whole(&self, room: &Room, window: Window) -> Result<bool, Error> {
        let Completeness::WholeSince(at) = self.rooms.completeness(room.number).await? else {
            return Ok(false);
        };
        Ok(window.since.is_some_and(|since| since < at) && at <= window.until)
    }

    /// Entries of a state among which are all that are asked for.
    async fn candidates(
        &self,
        room: &Room,
        root: StateRoot,
        required: &RequiredState,
    ) -> Result<BTreeMap<EntryKey, EventNumber>, Error> {
        let mut candidates = BTreeMap::new();
        if required.needs_scan() {
            let all = self.whole_state(room, root, !required.wants_members()).await?;
            candidates.extend(all.into_iter().map(|(key, event)| (key, EventNumber(event))));
        } else {
            for kind in required.types() {
                candidates.extend(self.rooms.states().all(room, root, Some(kind)).await?);
            }
        }
        let keys = required.keys();
        let keys: Vec<_> = keys.iter().map(|(kind, key)| room.hash_key.entry_key(kind, key)).collect();
        let found = self.rooms.states().get_many(room, root, &keys).await?;
        candidates.extend(keys.into_iter().zip(found).filter_map(|(key, event)| Some((key, event?))));
        Ok(candidates)
    }

    /// Adds the members whom the timeline needs, as far as they were not told.
    async fn add_needed(
        &self,
        view: &View,
        window: Window,
        (root, timeline): (StateRoot, &Timeline),
        listener: Listener,
        told: &mut BTreeMap<EntryKey, Arc<StoredEvent>>,
    ) -> Result<(), Error> {
        let room = &*view.room;
        let senders: BTreeSet<UserNumber> =
            timeline.events.iter().map(|(_, event)| event.record.sender).collect();
        let ids = self.users.ids(&senders.into_iter().collect::<Vec<_>>()).await?;
        let mut needed: HashSet<EntryKey> =
            ids.into_iter().flatten().map(|id| room.hash_key.entry_key(MEMBER, id.as_str())).collect();
        let targets = timeline.events.iter().filter(|(_, event)| event.record.kind == MEMBER);
        let targets = targets.filter_map(|(_, event)| event.record.state_key.as_deref());
        needed.extend(targets.map(|target| room.hash_key.entry_key(MEMBER, target)));
        let mut needed: Vec<_> = needed.into_iter().collect();
        needed.sort_unstable();
        let mut entries =
            told.iter().map(|(key, event)| (*key, event.number.0)).collect::<BTreeMap<EntryKey, u32>>();
        let lazy = LazyMembers { redundant: false, listener: Some(listener) };
        let needed = self.with_cited(room, timeline, needed).await?;
        self.add_members(view, window, root, &needed, lazy, &mut entries).await?;
        let new: Vec<_> = entries.into_iter().filter(|(key, _)| !told.contains_key(key)).collect();
        let numbers: Vec<_> = new.iter().map(|(_, event)| EventNumber(*event)).collect();
        let events = self.rooms.events().load_many(room.number, &numbers).await?;
        told.extend(new.into_iter().map(|(key, _)| key).zip(events));
        Ok(())
    }

    async fn removed(
        &self,
        room: &Room,
        events: &[EventNumber],
        required: &RequiredState,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut removed = Vec::new();
        for event in self.rooms.events().load_many(room.number, events).await? {
            let kind = event.record.kind.clone();
            let Some(state_key) = event.record.state_key.clone() else { continue };
            if required.has(&kind, &state_key) || (kind == MEMBER && required.is_lazy()) {
                removed.push((kind, state_key));
            }
        }
        Ok(removed)
    }
}
