//! Reading the state tree without doing I/O.
//!
//! Every operation is a function of a root and a [`NodeSource`]. If nodes are missing it says
//! which, as many as it can already know; the caller fetches them in one read and calls again:
//!
//! ```text
//! let numbers = loop {
//!     match get_many(root, &keys, &nodes) {
//!         Step::Done(numbers) => break numbers,
//!         Step::Need(ids) => nodes.extend(store.multi_get(ids).await?),
//!         Step::Corrupt(id) => return Err(…),
//!     }
//! };
//! ```

use std::{collections::BTreeSet, sync::Arc};

use super::{
    key::{EntryKey, NodeId, Root},
    node::Node,
};

/// The nodes at hand: a cache, plus what the caller has fetched for this operation.
pub trait NodeSource {
    /// The node, if it is at hand.
    fn node(&self, id: NodeId) -> Option<Arc<Node>>;
}

impl<F: Fn(NodeId) -> Option<Arc<Node>>> NodeSource for F {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self(id)
    }
}

/// How far an operation got.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step<T> {
    /// It is finished.
    Done(T),
    /// It needs these nodes: distinct, never empty, none of them at hand. Fetch and call again.
    /// Each round goes at least one level down, so there are at most 33.
    Need(Vec<NodeId>),
    /// This node does not fit where it was found: the stored tree is damaged.
    Corrupt(NodeId),
}

impl<T> Step<T> {
    /// Applies a function to the result.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Step<U> {
        match self {
            Self::Done(value) => Step::Done(map(value)),
            Self::Need(ids) => Step::Need(ids),
            Self::Corrupt(id) => Step::Corrupt(id),
        }
    }
}

/// Takes nodes from a source and notes what was missing or wrong.
pub(super) struct Loader<'a, S> {
    source: &'a S,
    missing: BTreeSet<NodeId>,
    corrupt: Option<NodeId>,
}

impl<'a, S: NodeSource> Loader<'a, S> {
    pub(super) fn new(source: &'a S) -> Self {
        Self { source, missing: BTreeSet::new(), corrupt: None }
    }

    /// The topmost node.
    pub(super) fn root(&mut self, id: NodeId) -> Option<Arc<Node>> {
        self.load(id, &EntryKey([0; 16]), 0, None)
    }

    /// The node of a child of a branch with this prefix and depth.
    pub(super) fn child(
        &mut self,
        prefix: &EntryKey,
        depth: u8,
        nibble: u8,
        (id, count): (NodeId, u32),
    ) -> Option<Arc<Node>> {
        let under = prefix.with_nibble(depth, nibble);
        self.load(id, &under, depth.saturating_add(1), Some(count))
    }

    /// A node that must stand under some leading nibbles and hold so many entries.
    pub(super) fn load(
        &mut self,
        id: NodeId,
        under: &EntryKey,
        nibbles: u8,
        count: Option<u32>,
    ) -> Option<Arc<Node>> {
        let Some(node) = self.source.node(id) else {
            self.missing.insert(id);
            return None;
        };
        if !node.is_under(under, nibbles) || count.is_some_and(|count| count != node.count()) {
            self.corrupt = Some(id);
            return None;
        }
        Some(node)
    }

    /// Whether anything was missing or wrong so far.
    pub(super) fn is_stuck(&self) -> bool {
        self.corrupt.is_some() || !self.missing.is_empty()
    }

    /// The outcome: `value` if all nodes were there.
    pub(super) fn finish<T>(self, value: T) -> Step<T> {
        match self.corrupt {
            Some(id) => Step::Corrupt(id),
            None if self.missing.is_empty() => Step::Done(value),
            None => Step::Need(self.missing.into_iter().collect()),
        }
    }
}

/// Looks up several pieces of state; the answers stand in the order of the keys.
pub fn get_many(root: Root, keys: &[EntryKey], source: &impl NodeSource) -> Step<Vec<Option<u32>>> {
    let mut loader = Loader::new(source);
    let mut sorted: Vec<(EntryKey, usize)> =
        keys.iter().copied().enumerate().map(|(index, key)| (key, index)).collect();
    sorted.sort_unstable();
    let mut found = vec![None; keys.len()];
    if let (Some(id), false) = (root.0, keys.is_empty())
        && let Some(node) = loader.root(id)
    {
        get_below(&node, &sorted, &mut loader, &mut found);
    }
    loader.finish(found)
}

/// Looks sorted keys up below a node and writes the answers to the places named with them.
fn get_below<S: NodeSource>(
    node: &Node,
    keys: &[(EntryKey, usize)],
    loader: &mut Loader<'_, S>,
    found: &mut [Option<u32>],
) {
    match node {
        Node::Leaf(entries) => {
            for (key, place) in keys {
                if let Ok(index) = entries.binary_search_by(|(other, _)| other.cmp(key))
                    && let Some(answer) = found.get_mut(*place)
                {
                    *answer = entries.get(index).map(|(_, number)| *number);
                }
            }
        }
        Node::Branch { depth, prefix, children } => {
            let inside = keys_under(keys, prefix, *depth, |(key, _)| key);
            for group in inside.chunk_by(|(a, _), (b, _)| a.nibble(*depth) == b.nibble(*depth)) {
                let Some((first, _)) = group.first() else { continue };
                let nibble = first.nibble(*depth);
                let child = children.iter().find(|child| child.nibble == nibble);
                if let Some(child) = child
                    && let Some(node) = loader.child(prefix, *depth, nibble, (child.id, child.count))
                {
                    get_below(&node, group, loader, found);
                }
            }
        }
    }
}

/// The part of a sorted slice whose keys begin with the leading nibbles of `prefix`.
pub(super) fn keys_under<'a, T>(
    sorted: &'a [T],
    prefix: &EntryKey,
    nibbles: u8,
    key: impl Fn(&T) -> &EntryKey,
) -> &'a [T] {
    let start = sorted.partition_point(|item| key(item).truncated(nibbles) < *prefix);
    let rest = sorted.get(start..).unwrap_or_default();
    let length = rest.partition_point(|item| key(item).truncated(nibbles) == *prefix);
    rest.get(..length).unwrap_or_default()
}

/// The number of entries of a state.
pub fn count(root: Root, source: &impl NodeSource) -> Step<u32> {
    let mut loader = Loader::new(source);
    let count = root.0.and_then(|id| loader.root(id)).map_or(0, |node| node.count());
    loader.finish(count)
}
