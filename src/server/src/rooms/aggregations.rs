//! Bundled aggregations: what an event's `unsigned` says of those that relate to it.
//!
//! What they come to is kept with the event, so that a page of events costs one look-up of many keys, and a scan only
//! for an event with references, or with children that the reader may not see. State events have none.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#aggregations-of-child-events>

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Rooms, access::View, event::StoredEvent};
use crate::{
    database::{Corrupt, Error, Range},
    numbers::{EventNumber, RoomNumber, UserNumber},
    tables::rooms::{Aggregate, AggregateRecord, Relating, Relation, RelationCount},
};

/// Most references that are told of an event, the newest.
const REFERENCES_MAX: usize = 100;
/// How many of the newest edits are looked at for one that the reader may see.
const EDITS_EXAMINED_MAX: usize = 100;
/// How many replies are loaded at once in looking for one that the reader may see.
const REPLIES_LOADED: usize = 50;
/// Of how many ignored users replies are left out of the count; those of more are counted.
const IGNORED_COUNTED_MAX: usize = 100;

/// The values of `m.relations` by event.
pub(super) type Bundles = HashMap<EventNumber, Box<RawValue>>;
type Aggregates = HashMap<EventNumber, AggregateRecord>;

/// A thread as one reader sees it.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    /// The latest event that they may see.
    pub(super) latest: Arc<StoredEvent>,
    /// How many events it has.
    pub(super) count: u64,
    /// Whether the root or any of them is the reader's.
    pub(super) participated: bool,
}

/// The value of `m.relations`.
#[derive(Debug, Default, Serialize)]
struct Bundle {
    #[serde(rename = "m.reference", skip_serializing_if = "Option::is_none")]
    references: Option<References>,
    #[serde(rename = "m.replace", skip_serializing_if = "Option::is_none")]
    edit: Option<Box<RawValue>>,
    #[serde(rename = "m.thread", skip_serializing_if = "Option::is_none")]
    thread: Option<ThreadSummary>,
}

#[derive(Debug, Default, Serialize)]
struct References {
    chunk: Vec<Reference>,
}

#[derive(Debug, Serialize)]
struct Reference {
    event_id: String,
}

#[derive(Debug, Serialize)]
struct ThreadSummary {
    latest_event: Box<RawValue>,
    count: u64,
    current_user_participated: bool,
}

impl Rooms {
    /// The events in client format, with what relates to them bundled. Messages of `ignored` users do not count.
    pub async fn render_bundled(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        with_room_id: bool,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let aggregates = self.aggregates(view, events).await?;
        if aggregates.is_empty() {
            return self.render(view, events, with_room_id).await;
        }
        let threads = self.thread_views(view, events, &aggregates, ignored).await?;
        let mut bundles = self.bundle(view, events, &aggregates, with_room_id, ignored).await?;
        for (root, summary) in self.summaries(view, threads, with_room_id, ignored).await? {
            bundles.entry(root).or_default().thread = Some(summary);
        }
        self.render_with(view, events, with_room_id, finish(bundles)).await
    }

    /// What the children of those events come to that have any.
    pub(super) async fn aggregates(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
    ) -> Result<Aggregates, Error> {
        let messages = events.iter().filter(|event| event.record.state_key.is_none());
        let keys: Vec<_> = messages.map(|event| (view.room.number, event.number)).collect();
        let rows = self.core.database.get_all::<Aggregate>(&keys).await?;
        Ok(keys.iter().zip(rows).filter_map(|((_, event), row)| Some((*event, row?))).collect())
    }

    /// The threads that begin at these events, as the reader sees them.
    pub(super) async fn thread_views(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        aggregates: &Aggregates,
        ignored: &HashSet<UserNumber>,
    ) -> Result<BTreeMap<EventNumber, Thread>, Error> {
        let room = view.room.number;
        let latest_of = |event: &Arc<StoredEvent>| {
            let aggregate = aggregates.get(&event.number)?;
            Some((Arc::clone(event), aggregate.latest?.1, aggregate.replies))
        };
        let roots: Vec<_> = events.iter().filter_map(latest_of).collect();
        if roots.is_empty() {
            return Ok(BTreeMap::new());
        }
        let numbers: Vec<_> = roots.iter().map(|(_, latest, _)| *latest).collect();
        let latest = self.core.events.load_many(room, &numbers).await?;
        let visible = self.visible(view, &latest).await?;
        let root_numbers: Vec<_> = roots.iter().map(|(root, ..)| root.number).collect();
        let counts = self.reply_counts(view, &root_numbers, ignored).await?;
        let mut threads = BTreeMap::new();
        for (((root, _, replies), (latest, visible)), (own, of_ignored)) in
            roots.into_iter().zip(latest.into_iter().zip(visible)).zip(counts)
        {
            let participated = own > 0 || root.record.sender == view.caller.user;
            let count = replies.saturating_sub(of_ignored);
            let shown = if visible && !ignored.contains(&latest.record.sender) {
                Some((latest, count))
            } else {
                let older = self.latest_visible_reply(view, root.number, ignored).await?;
                older.map(|(older, seen)| (older, if visible { count } else { seen }))
            };
            if let Some((latest, count)) = shown.filter(|(_, count)| *count > 0) {
                threads.insert(root.number, Thread { latest, count, participated });
            }
        }
        Ok(threads)
    }

    /// How many replies in each thread are the reader's, and how many are by users whom they ignore.
    async fn reply_counts(
        &self,
        view: &View,
        roots: &[EventNumber],
        ignored: &HashSet<UserNumber>,
    ) -> Result<Vec<(u64, u64)>, Error> {
        let way = self.core.thread_way();
        let mut users: Vec<_> = ignored.iter().copied().collect();
        users.sort_unstable();
        users.truncate(IGNORED_COUNTED_MAX);
        users.insert(0, view.caller.user);
        let of_root = |root: &EventNumber| {
            let root = *root;
            users.iter().map(move |user| (view.room.number, root, *user, way))
        };
        let keys: Vec<_> = roots.iter().flat_map(of_root).collect();
        let rows = self.core.database.get_all::<RelationCount>(&keys).await?;
        let counts = rows.chunks(users.len()).map(|of_root| {
            let mut counts = of_root.iter().map(|count| count.unwrap_or_default());
            (counts.next().unwrap_or_default(), counts.fold(0, u64::saturating_add))
        });
        Ok(counts.collect())
    }

    /// For one thread: the latest reply that the reader may see and does not ignore, and how many there are up to it.
    async fn latest_visible_reply(
        &self,
        view: &View,
        root: EventNumber,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Option<(Arc<StoredEvent>, u64)>, Error> {
        let range = Range::<Relation>::prefix(&(view.room.number, root, Relating::Thread)).reversed();
        let page = self.core.database.scan(&range).await?;
        let replies = page.rows.iter().filter(|(_, record)| !ignored.contains(&record.sender));
        let numbers: Vec<_> = replies.map(|(key, _)| key.4).collect();
        let mut left = numbers.len();
        for chunk in numbers.chunks(REPLIES_LOADED) {
            let events = self.core.events.load_many(view.room.number, chunk).await?;
            let visible = self.visible(view, &events).await?;
            for (event, visible) in events.into_iter().zip(visible) {
                if visible {
                    return Ok(Some((event, u64::try_from(left).unwrap_or(u64::MAX))));
                }
                left = left.saturating_sub(1);
            }
        }
        Ok(None)
    }

    /// The latest event of a thread carries its own bundle, as it stands in no thread's root.
    async fn summaries(
        &self,
        view: &View,
        threads: BTreeMap<EventNumber, Thread>,
        with_room_id: bool,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Vec<(EventNumber, ThreadSummary)>, Error> {
        let latest: Vec<_> = threads.values().map(|thread| Arc::clone(&thread.latest)).collect();
        let aggregates = self.aggregates(view, &latest).await?;
        let bundles = finish(self.bundle(view, &latest, &aggregates, with_room_id, ignored).await?);
        let rendered = self.render_with(view, &latest, with_room_id, bundles).await?;
        let mut summaries = Vec::with_capacity(threads.len());
        for ((root, thread), latest_event) in threads.into_iter().zip(rendered) {
            summaries.push((
                root,
                ThreadSummary {
                    latest_event: raw(&latest_event)?,
                    count: thread.count,
                    current_user_participated: thread.participated,
                },
            ));
        }
        Ok(summaries)
    }

    /// The latest edits of the events, and references to them.
    async fn bundle(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        aggregates: &Aggregates,
        with_room_id: bool,
        ignored: &HashSet<UserNumber>,
    ) -> Result<BTreeMap<EventNumber, Bundle>, Error> {
        let mut bundles: BTreeMap<EventNumber, Bundle> = BTreeMap::new();
        let edits = self.edits(view, events, aggregates, ignored).await?;
        let (originals, edits): (Vec<_>, Vec<_>) = edits.into_iter().unzip();
        for (original, edit) in originals.into_iter().zip(self.render(view, &edits, with_room_id).await?) {
            bundles.entry(original).or_default().edit = Some(raw(&edit)?);
        }
        for (event, chunk) in self.references(view, events, aggregates, ignored).await? {
            bundles.entry(event).or_default().references = Some(References { chunk });
        }
        Ok(bundles)
    }

    /// The latest edit of each event. What is redacted has none, and an edit is by who sent the event.
    async fn edits(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        aggregates: &Aggregates,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Vec<(EventNumber, Arc<StoredEvent>)>, Error> {
        let may_have =
            |event: &StoredEvent| event.redacted_by.is_none() && !ignored.contains(&event.record.sender);
        let edit_of = |event: &Arc<StoredEvent>| {
            let edit = aggregates.get(&event.number)?.edit.as_ref()?;
            may_have(event).then_some((event.number, edit.event))
        };
        let (originals, numbers): (Vec<_>, Vec<_>) = events.iter().filter_map(edit_of).unzip();
        let edits = self.core.events.load_many(view.room.number, &numbers).await?;
        let visible = self.visible(view, &edits).await?;
        let mut found = Vec::with_capacity(originals.len());
        for ((original, edit), visible) in originals.into_iter().zip(edits).zip(visible) {
            let edit = if visible { Some(edit) } else { self.latest_visible_edit(view, original).await? };
            found.extend(edit.map(|edit| (original, edit)));
        }
        Ok(found)
    }

    async fn latest_visible_edit(
        &self,
        view: &View,
        original: EventNumber,
    ) -> Result<Option<Arc<StoredEvent>>, Error> {
        let range = Range::<Relation>::prefix(&(view.room.number, original, Relating::Edit));
        let page = self.core.database.scan(&range.reversed().limit(EDITS_EXAMINED_MAX)).await?;
        let numbers: Vec<_> = page.rows.iter().map(|(key, _)| key.4).collect();
        let edits = self.core.events.load_many(view.room.number, &numbers).await?;
        let visible = self.visible(view, &edits).await?;
        let visible = edits.into_iter().zip(visible).filter(|(_, visible)| *visible);
        Ok(visible.map(|(edit, _)| edit).max_by_key(|edit| edit.as_edit()))
    }

    /// The events that refer to each event.
    async fn references(
        &self,
        view: &View,
        events: &[Arc<StoredEvent>],
        aggregates: &Aggregates,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Vec<(EventNumber, Vec<Reference>)>, Error> {
        let is_referred = |event: &&Arc<StoredEvent>| {
            aggregates.get(&event.number).is_some_and(|aggregate| aggregate.references > 0)
        };
        let mut numbers = Vec::new();
        let mut parents = Vec::new();
        for event in events.iter().filter(is_referred) {
            for child in self.references_to(view.room.number, event.number, ignored).await? {
                parents.push(event.number);
                numbers.push(child);
            }
        }
        let children = self.core.events.load_many(view.room.number, &numbers).await?;
        let visible = self.visible(view, &children).await?;
        let mut chunks: BTreeMap<EventNumber, Vec<Reference>> = BTreeMap::new();
        for ((parent, child), _) in parents.into_iter().zip(children).zip(visible).filter(|(_, seen)| *seen) {
            chunks.entry(parent).or_default().push(Reference { event_id: child.record.event_id.clone() });
        }
        Ok(chunks.into_iter().collect())
    }

    async fn references_to(
        &self,
        room: RoomNumber,
        event: EventNumber,
        ignored: &HashSet<UserNumber>,
    ) -> Result<Vec<EventNumber>, Error> {
        let range = Range::<Relation>::prefix(&(room, event, Relating::Reference));
        let page = self.core.database.scan(&range.reversed().limit(REFERENCES_MAX)).await?;
        let kept = page.rows.iter().rev().filter(|(_, record)| !ignored.contains(&record.sender));
        Ok(kept.map(|(key, _)| key.4).collect())
    }
}

fn finish(bundles: BTreeMap<EventNumber, Bundle>) -> Bundles {
    bundles.into_iter().filter_map(|(event, bundle)| Some((event, to_raw_value(&bundle).ok()?))).collect()
}

fn raw(json: &[u8]) -> Result<Box<RawValue>, Error> {
    serde_json::from_slice(json)
        .map_err(|_| Error::Corrupt("EventJson", Corrupt("event does not render as JSON")))
}
