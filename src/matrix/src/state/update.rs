//! Changing the state tree: several entries at once, writing only the paths to them.
//!
//! **Invariant:** the shape, and so the root, is a function of the set of entries alone, whatever
//! the order and grouping of the changes and after deletions too (`tests::shape_is_canonical`).

use std::sync::Arc;

use super::{
    key::{EntryKey, NodeId, RoomHashKey, Root},
    node::{Child, LEAF_ENTRIES_MAX, Node},
    tree::{Loader, NodeSource, Step},
};

/// The outcome of [`update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// The new state.
    pub root: Root,
    /// The nodes to store with it, children before parents. None if nothing changed.
    pub new_nodes: Vec<(NodeId, Vec<u8>)>,
}

/// Sets (`Some`) and removes (`None`) entries. Of several changes to one key the last counts.
pub fn update(
    root: Root,
    changes: &[(EntryKey, Option<u32>)],
    hasher: &RoomHashKey,
    source: &impl NodeSource,
) -> Step<Updated> {
    let mut loader = Loader::new(source);
    let changes = sorted(changes);
    let outcome = match root.0 {
        None => Outcome::Changed(build(inserts(&changes), &mut loader)),
        Some(id) => match loader.root(id) {
            Some(node) => apply(&node, &changes, &mut loader),
            None => Outcome::Unchanged,
        },
    };
    let mut new_nodes = Vec::new();
    let root = match outcome {
        Outcome::Unchanged => root,
        _ if loader.is_stuck() => root,
        Outcome::Changed(tree) => Root(tree.map(|tree| seal(tree, hasher, &mut new_nodes).0)),
    };
    loader.finish(Updated { root, new_nodes })
}

/// A subtree in the making.
enum Tree {
    /// Stored already.
    Kept { id: NodeId, count: u32 },
    /// A new leaf.
    Leaf(Vec<(EntryKey, u32)>),
    /// A new branch.
    Branch { depth: u8, prefix: EntryKey, children: Vec<(u8, Tree)>, count: u32 },
}

impl Tree {
    fn count(&self) -> u32 {
        match self {
            Self::Kept { count, .. } | Self::Branch { count, .. } => *count,
            Self::Leaf(entries) => u32::try_from(entries.len()).unwrap_or(u32::MAX),
        }
    }
}

/// What became of a node.
enum Outcome {
    Unchanged,
    Changed(Option<Tree>),
}

/// Something to be put into a new subtree: an entry, or a subtree that holds everything under
/// some leading nibbles. No item lies under another one.
struct Item {
    key: EntryKey,
    what: What,
}

enum What {
    Entry(u32),
    Tree { nibbles: u8, tree: Tree },
}

impl Item {
    fn entry((key, number): (EntryKey, u32)) -> Self {
        Self { key, what: What::Entry(number) }
    }

    fn count(&self) -> u32 {
        match &self.what {
            What::Entry(_) => 1,
            What::Tree { tree, .. } => tree.count(),
        }
    }
}

/// The changes in the order of their keys, the last of each key only.
fn sorted(changes: &[(EntryKey, Option<u32>)]) -> Vec<(EntryKey, Option<u32>)> {
    let mut sorted: Vec<_> = changes.iter().rev().copied().collect();
    sorted.sort_by_key(|(key, _)| *key);
    sorted.dedup_by_key(|(key, _)| *key);
    sorted
}

/// The entries that changes add where nothing was.
fn inserts(changes: &[(EntryKey, Option<u32>)]) -> Vec<Item> {
    let added = changes.iter().filter_map(|(key, number)| Some((*key, (*number)?)));
    added.map(Item::entry).collect()
}

/// Applies sorted changes to a node.
fn apply<S: NodeSource>(
    node: &Node,
    changes: &[(EntryKey, Option<u32>)],
    loader: &mut Loader<'_, S>,
) -> Outcome {
    match node {
        Node::Leaf(entries) => {
            let merged = merge(entries, changes);
            if merged == *entries {
                return Outcome::Unchanged;
            }
            Outcome::Changed(build(merged.into_iter().map(Item::entry).collect(), loader))
        }
        Node::Branch { depth, prefix, children } => {
            apply_to_branch(*depth, prefix, children, changes, loader)
        }
    }
}

fn apply_to_branch<S: NodeSource>(
    depth: u8,
    prefix: &EntryKey,
    children: &[Child],
    changes: &[(EntryKey, Option<u32>)],
    loader: &mut Loader<'_, S>,
) -> Outcome {
    let below = depth.saturating_add(1);
    let mut items = Vec::with_capacity(children.len() + changes.len());
    let mut is_changed = false;
    let mut rest = changes;
    for child in children {
        let under = prefix.with_nibble(depth, child.nibble);
        // Changes before this child's are for no child at all: pure additions.
        let start = rest.partition_point(|(key, _)| key.truncated(below) < under);
        let (before, from) = rest.split_at(start);
        let length = from.partition_point(|(key, _)| key.truncated(below) == under);
        let (own, after) = from.split_at(length);
        items.extend(inserts(before));
        rest = after;
        let kept = Tree::Kept { id: child.id, count: child.count };
        let below_child = match own {
            [] => None,
            _ => loader.load(child.id, &under, below, Some(child.count)),
        };
        let tree = match below_child.map(|node: Arc<Node>| apply(&node, own, loader)) {
            None | Some(Outcome::Unchanged) => Some(kept),
            Some(Outcome::Changed(tree)) => {
                is_changed = true;
                tree
            }
        };
        let item = |tree| Item { key: under, what: What::Tree { nibbles: below, tree } };
        items.extend(tree.map(item));
    }
    items.extend(inserts(rest));
    let added = items.iter().any(|item| matches!(item.what, What::Entry(_)));
    if !is_changed && !added {
        return Outcome::Unchanged;
    }
    if loader.is_stuck() {
        return Outcome::Changed(None);
    }
    Outcome::Changed(build(items, loader))
}

/// The one tree that holds exactly these sorted items.
fn build<S: NodeSource>(mut items: Vec<Item>, loader: &mut Loader<'_, S>) -> Option<Tree> {
    let count = items.iter().fold(0_u32, |sum, item| sum.saturating_add(item.count()));
    if let [Item { what: What::Tree { .. }, .. }] = items.as_slice() {
        return match items.pop()?.what {
            What::Tree { tree, .. } => Some(tree),
            What::Entry(_) => None,
        };
    }
    if usize::try_from(count).is_ok_and(|count| count <= LEAF_ENTRIES_MAX) {
        return build_leaf(items, loader);
    }
    let (first, last) = (items.first()?.key, items.last()?.key);
    let depth = first.shared_nibbles(&last);
    let mut groups: Vec<(u8, Vec<Item>)> = Vec::with_capacity(16);
    for item in items {
        let nibble = item.key.nibble(depth);
        match groups.last_mut() {
            Some((last, group)) if *last == nibble => group.push(item),
            _ => groups.push((nibble, vec![item])),
        }
    }
    let mut children = Vec::with_capacity(groups.len());
    for (nibble, group) in groups {
        children.push((nibble, build(group, loader)?));
    }
    Some(Tree::Branch { depth, prefix: first.truncated(depth), children, count })
}

/// A leaf of few items; subtrees among them are leaves and dissolve.
fn build_leaf<S: NodeSource>(items: Vec<Item>, loader: &mut Loader<'_, S>) -> Option<Tree> {
    let mut entries = Vec::with_capacity(LEAF_ENTRIES_MAX);
    for item in items {
        match item.what {
            What::Entry(number) => entries.push((item.key, number)),
            What::Tree { tree: Tree::Leaf(own), .. } => entries.extend(own),
            What::Tree { nibbles, tree: Tree::Kept { id, count } } => {
                // A miss leaves a note in the loader; going on finds the other misses.
                let node = loader.load(id, &item.key, nibbles, Some(count));
                if let Some(Node::Leaf(own)) = node.as_deref() {
                    entries.extend(own);
                }
            }
            What::Tree { tree: Tree::Branch { .. }, .. } => return None,
        }
    }
    (!entries.is_empty()).then_some(Tree::Leaf(entries))
}

/// A leaf's entries after sorted changes.
fn merge(entries: &[(EntryKey, u32)], changes: &[(EntryKey, Option<u32>)]) -> Vec<(EntryKey, u32)> {
    let mut merged = Vec::with_capacity(entries.len() + changes.len());
    let mut old = entries.iter().copied().peekable();
    for (key, number) in changes {
        while let Some(entry) = old.next_if(|(other, _)| other < key) {
            merged.push(entry);
        }
        old.next_if(|(other, _)| other == key);
        merged.extend(number.map(|number| (*key, number)));
    }
    merged.extend(old);
    merged
}

/// Encodes and names the new nodes of a tree, children first.
fn seal(tree: Tree, hasher: &RoomHashKey, out: &mut Vec<(NodeId, Vec<u8>)>) -> (NodeId, u32) {
    let node = match tree {
        Tree::Kept { id, count } => return (id, count),
        Tree::Leaf(entries) => Node::Leaf(entries),
        Tree::Branch { depth, prefix, children, .. } => {
            let seal_child = |(nibble, tree)| {
                let (id, count) = seal(tree, hasher, out);
                Child { nibble, id, count }
            };
            Node::Branch { depth, prefix, children: children.into_iter().map(seal_child).collect() }
        }
    };
    let bytes = node.encode();
    let id = hasher.node_id(&bytes);
    out.push((id, bytes));
    (id, node.count())
}
