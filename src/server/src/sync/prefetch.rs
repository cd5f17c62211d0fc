//! Reads what rooms that are shown whole will ask for, all rooms at once: a read of many rows costs little more than one
//! of a single row, above all where they come from the disk.

use std::collections::{BTreeMap, BTreeSet};

use allod_matrix::state::{Root, Selection, scan};
use allod_storage::Position;

use super::{
    room_delta::{RoomReader, Window},
    timeline::Places,
};
use crate::{
    database::{Error, Range},
    numbers::{EventNumber, RoomNumber},
    rooms::state::Nodes,
    tables::{
        Stamped,
        rooms::{Aggregate, CurrentState, HeadRecord, StateRoot},
    },
};

/// Changes of a room's current state that are read beforehand: a timeline seldom goes further back.
const ROOTS: usize = 12;
/// Entries of a room's state whose events are read beforehand.
const STATE_ENTRIES: usize = 64;

/// What was read beforehand of a room, as of a position.
#[derive(Debug)]
pub(crate) struct Prefetched {
    /// The newest places of the timeline.
    pub(super) places: Places,
    /// The latest roots of the current state, the newest first.
    roots: Vec<(Position, StateRoot)>,
    /// Whether there are older ones.
    more: bool,
    /// Whether one of the timeline's events has others that relate to it.
    pub(super) may_be_related: bool,
}

impl Prefetched {
    /// The root of the current state as of a position, if it is among what was read.
    pub(super) fn root_at(&self, position: Position) -> Option<StateRoot> {
        let root = self.roots.iter().find(|(changed, _)| *changed <= position);
        root.map(|(_, root)| *root).or_else(|| (!self.more).then(StateRoot::default))
    }
}

impl RoomReader {
    /// Reads what these rooms, with their heads, will most likely ask for when they are shown up to `until`, with
    /// timelines of at most `limit` events.
    pub(crate) async fn prefetch(
        &self,
        rooms: &[(RoomNumber, &Stamped<HeadRecord>)],
        until: Position,
        limit: usize,
    ) -> Result<BTreeMap<RoomNumber, Prefetched>, Error> {
        let numbers: Vec<_> = rooms.iter().map(|(room, _)| *room).collect();
        self.rooms.prefetch(&numbers).await?;
        let states: Vec<_> = rooms.iter().map(|(room, head)| (*room, head.value.root)).collect();
        self.rooms.states().prefetch(&states).await?;
        let window = Window { since: None, until };
        let places = self.read_places_many(&numbers, window, limit.saturating_add(1)).await?;
        let roots: Vec<_> = numbers
            .iter()
            .map(|room| Range::<CurrentState>::between(&(*room, Position::ZERO), &(*room, until.next())))
            .map(|range| range.reversed().limit(ROOTS))
            .collect();
        let roots = self.database.scan_many(&roots).await?;
        let mut events = BTreeSet::new();
        for ((room, head), places) in rooms.iter().zip(&places) {
            events.extend(places.rows.iter().map(|(_, number)| (*room, *number)));
            events.extend(self.state_events(*room, head.value.root).await?);
        }
        let events: Vec<_> = events.into_iter().collect();
        self.rooms.events().get_keys(&events).await?;
        let related = self.related(&numbers, &places).await?;
        let read = numbers.into_iter().zip(places.into_iter().zip(roots)).map(|(room, (places, roots))| {
            let more = roots.more;
            let roots = roots.rows.into_iter().map(|((_, position), root)| (position, root)).collect();
            (room, Prefetched { places, roots, more, may_be_related: related.contains(&room) })
        });
        Ok(read.collect())
    }

    /// The rooms where something relates to one of the events at these places.
    async fn related(&self, rooms: &[RoomNumber], places: &[Places]) -> Result<BTreeSet<RoomNumber>, Error> {
        let of_room = |(room, places): (&RoomNumber, &Places)| {
            let room = *room;
            places.rows.iter().map(move |(_, number)| (room, *number)).collect::<Vec<_>>()
        };
        let keys: Vec<_> = rooms.iter().zip(places).flat_map(of_room).collect();
        let rows = self.database.get_all::<Aggregate>(&keys).await?;
        Ok(keys.iter().zip(rows).filter_map(|((room, _), row)| row.map(|_| *room)).collect())
    }

    /// Some events of a state: all, if it is small.
    async fn state_events(
        &self,
        room: RoomNumber,
        root: StateRoot,
    ) -> Result<Vec<(RoomNumber, EventNumber)>, Error> {
        let (room, root) = (self.rooms.get(room).await?, Root::from_bytes(root.0));
        let mut nodes = Nodes::default();
        let entries = self
            .rooms
            .states()
            .run(&room, &mut nodes, |nodes| scan(root, Selection::All, None, STATE_ENTRIES, nodes))
            .await?;
        Ok(entries.into_iter().map(|(_, number)| (room.number, EventNumber(number))).collect())
    }
}
