//! Reading states: drives the pure state tree over the store.

use std::{collections::HashMap, sync::Arc};

use allod_matrix::state::{self, Difference, EntryKey, Node, NodeId, NodeSource, Root, Selection, Step};
use bytes::Bytes;
use quick_cache::{Weighter, sync::Cache};

use super::Room;
use crate::{
    database::{Corrupt, Database, Error, Range, Write},
    log::Happened,
    numbers::{EventNumber, Hash128, RoomNumber},
    tables::rooms::{CurrentState, StateNode, StateRoot},
};
use allod_storage::Position;

#[derive(Clone)]
struct ByBytes;

impl Weighter<(RoomNumber, NodeId), Arc<Node>> for ByBytes {
    fn weight(&self, _key: &(RoomNumber, NodeId), node: &Arc<Node>) -> u64 {
        let entries = match &**node {
            Node::Leaf(entries) => entries.len(),
            Node::Branch { children, .. } => children.len(),
        };
        u64::try_from(entries).unwrap_or(u64::MAX).saturating_mul(24).saturating_add(120)
    }
}

/// Adds to a write that the room's current state is another one from its commit on, and tells sync, which looks for changes
/// of state only where it was told of one. The only place that writes [`CurrentState`].
pub(crate) fn put_current_state(write: &mut Write, room: RoomNumber, root: StateRoot) {
    write.put::<CurrentState>(&(room, Position::PENDING), &root);
    write.log(Happened::State { room });
}

/// Reads state trees, and keeps the nodes used lately.
#[derive(Clone)]
pub struct States {
    database: Database,
    cache: Arc<Cache<(RoomNumber, NodeId), Arc<Node>, ByBytes>>,
}

impl std::fmt::Debug for States {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("States").finish_non_exhaustive()
    }
}

/// The nodes that one operation has at hand.
#[derive(Debug, Default)]
pub(crate) struct Nodes(pub(crate) HashMap<NodeId, Arc<Node>>);

impl NodeSource for Nodes {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.0.get(&id).cloned()
    }
}

impl States {
    /// Keeps at most about `cache_bytes` of nodes in memory.
    pub fn new(database: Database, cache_bytes: u64) -> Self {
        let items = usize::try_from(cache_bytes / 512).unwrap_or(usize::MAX);
        Self { database, cache: Arc::new(Cache::with_weighter(items, cache_bytes, ByBytes)) }
    }

    /// Reads the topmost nodes of several states at once, so that they are at hand when they are looked at.
    pub async fn prefetch(&self, roots: &[(RoomNumber, StateRoot)]) -> Result<(), Error> {
        let wanted = roots.iter().filter(|(_, root)| *root != StateRoot::default());
        let wanted = wanted.filter(|(room, root)| self.cache.get(&(*room, NodeId(root.0))).is_none());
        let keys: Vec<_> = wanted.map(|(room, root)| (*room, Hash128(root.0))).collect();
        let rows: Vec<Option<Bytes>> = self.database.get_all::<StateNode>(&keys).await?;
        for ((room, id), row) in keys.iter().zip(rows) {
            if let Some(node) = row.and_then(|bytes| Node::decode(&bytes).ok()) {
                self.cache.insert((*room, NodeId(id.0)), Arc::new(node));
            }
        }
        Ok(())
    }

    /// The events at these entries of a state.
    pub async fn get_many(
        &self,
        room: &Room,
        root: StateRoot,
        keys: &[EntryKey],
    ) -> Result<Vec<Option<EventNumber>>, Error> {
        let root = Root::from_bytes(root.0);
        let found = self.run(room, &mut Nodes::default(), |nodes| state::get_many(root, keys, nodes)).await?;
        Ok(found.into_iter().map(|number| number.map(EventNumber)).collect())
    }

    /// The event at one entry of a state.
    pub async fn get(
        &self,
        room: &Room,
        root: StateRoot,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<EventNumber>, Error> {
        let key = room.hash_key.entry_key(kind, state_key);
        Ok(self.get_many(room, root, &[key]).await?.pop().flatten())
    }

    /// All entries of a state, or of one type in it; those of another type may be among them (see
    /// [`allod_matrix::state::TypePrefix`]).
    pub async fn all(
        &self,
        room: &Room,
        root: StateRoot,
        kind: Option<&str>,
    ) -> Result<Vec<(EntryKey, EventNumber)>, Error> {
        const PAGE: usize = 4096;
        let root = Root::from_bytes(root.0);
        let selection = match kind {
            Some(kind) => Selection::Type(room.hash_key.type_prefix(kind)),
            None => Selection::All,
        };
        let mut nodes = Nodes::default();
        let mut all: Vec<(EntryKey, EventNumber)> = Vec::new();
        loop {
            let after = all.last().map(|(key, _)| *key);
            let page =
                self.run(room, &mut nodes, |nodes| state::scan(root, selection, after, PAGE, nodes)).await?;
            let full = page.len() >= PAGE;
            all.extend(page.into_iter().map(|(key, number)| (key, EventNumber(number))));
            if !full {
                return Ok(all);
            }
        }
    }

    /// What differs between two states.
    pub async fn diff(
        &self,
        room: &Room,
        before: StateRoot,
        after: StateRoot,
    ) -> Result<Vec<Difference>, Error> {
        let (before, after) = (Root::from_bytes(before.0), Root::from_bytes(after.0));
        self.run(room, &mut Nodes::default(), |nodes| state::diff(before, after, nodes)).await
    }

    /// The root of the room's state as of `position`.
    pub async fn root_at(&self, room: RoomNumber, position: Position) -> Result<StateRoot, Error> {
        let range = Range::<CurrentState>::between(&(room, Position::ZERO), &(room, position.next()));
        let rows = self.database.scan(&range.reversed().limit(1)).await?;
        Ok(rows.rows.first().map(|(_, root)| *root).unwrap_or_default())
    }

    /// Runs a tree operation, fetching the nodes that it asks for until it is done.
    pub(crate) async fn run<T>(
        &self,
        room: &Room,
        nodes: &mut Nodes,
        mut operation: impl FnMut(&Nodes) -> Step<T>,
    ) -> Result<T, Error> {
        loop {
            match operation(nodes) {
                Step::Done(result) => return Ok(result),
                Step::Need(ids) => self.fetch(room.number, nodes, &ids).await?,
                Step::Corrupt(_) => {
                    return Err(Error::Corrupt("StateNode", Corrupt("a node does not fit its place")));
                }
            }
        }
    }

    async fn fetch(&self, room: RoomNumber, nodes: &mut Nodes, ids: &[NodeId]) -> Result<(), Error> {
        let mut missing = Vec::new();
        for id in ids {
            match self.cache.get(&(room, *id)) {
                Some(node) => {
                    nodes.0.insert(*id, node);
                }
                None => missing.push((room, Hash128(id.0))),
            }
        }
        let rows: Vec<Option<Bytes>> = self.database.get_all::<StateNode>(&missing).await?;
        for ((_, id), row) in missing.iter().zip(rows) {
            let node = row
                .and_then(|bytes| Node::decode(&bytes).ok())
                .map(Arc::new)
                .ok_or(Error::Corrupt("StateNode", Corrupt("a state tree lacks a node")))?;
            self.cache.insert((room, NodeId(id.0)), Arc::clone(&node));
            nodes.0.insert(NodeId(id.0), node);
        }
        Ok(())
    }
}
