//! The difference of two states, found by walking only what differs.

use std::sync::Arc;

use super::{
    key::{EntryKey, NodeId, Root},
    node::Node,
    tree::{Loader, NodeSource, Step},
};

/// A piece of state that differs. Never equal on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Its name.
    pub key: EntryKey,
    /// The event number in the first state.
    pub before: Option<u32>,
    /// The event number in the second state.
    pub after: Option<u32>,
}

/// What differs between two states, in the order of the keys.
pub fn diff(before: Root, after: Root, source: &impl NodeSource) -> Step<Vec<Difference>> {
    let mut walk = Walk { loader: Loader::new(source), out: Vec::new() };
    walk.visit(Side::of_root(before), Side::of_root(after));
    walk.out.sort_unstable();
    walk.loader.finish(walk.out)
}

/// A part of one of the two states.
enum Side {
    Nothing,
    /// A node not looked at yet, and what must hold for it.
    Reference {
        id: NodeId,
        under: EntryKey,
        nibbles: u8,
        count: Option<u32>,
    },
    Branch {
        id: NodeId,
        node: Arc<Node>,
    },
    Entries(Vec<(EntryKey, u32)>),
}

impl Side {
    fn of_root(root: Root) -> Self {
        root.0.map_or(Self::Nothing, |id| Self::Reference {
            id,
            under: EntryKey([0; 16]),
            nibbles: 0,
            count: None,
        })
    }

    fn id(&self) -> Option<NodeId> {
        match self {
            Self::Reference { id, .. } | Self::Branch { id, .. } => Some(*id),
            Self::Nothing | Self::Entries(_) => None,
        }
    }

    /// Depth and prefix, if it is a branch.
    fn fork(&self) -> Option<(u8, EntryKey)> {
        match self {
            Self::Branch { node, .. } => match &**node {
                Node::Branch { depth, prefix, .. } => Some((*depth, *prefix)),
                Node::Leaf(_) => None,
            },
            _ => None,
        }
    }

    /// Splits into the parts under `prefix` by the nibble at `depth`, and what is not under it.
    fn split(self, depth: u8, prefix: EntryKey) -> (Vec<(u8, Self)>, Self) {
        match self {
            Self::Nothing | Self::Reference { .. } => (Vec::new(), self),
            Self::Entries(entries) => {
                let (inside, outside): (Vec<_>, Vec<_>) =
                    entries.into_iter().partition(|(key, _)| key.truncated(depth) == prefix);
                let same = |a: &(EntryKey, u32), b: &(EntryKey, u32)| a.0.nibble(depth) == b.0.nibble(depth);
                let part = |group: &[(EntryKey, u32)]| {
                    let nibble = group.first()?.0.nibble(depth);
                    Some((nibble, Self::Entries(group.to_vec())))
                };
                (inside.chunk_by(same).filter_map(part).collect(), Self::Entries(outside))
            }
            Self::Branch { id, node } => match &*node {
                Node::Branch { depth: own, prefix: own_prefix, children }
                    if *own == depth && *own_prefix == prefix =>
                {
                    let nibbles = depth.saturating_add(1);
                    let part = |child: &super::node::Child| {
                        let under = prefix.with_nibble(depth, child.nibble);
                        let (id, count) = (child.id, Some(child.count));
                        (child.nibble, Self::Reference { id, under, nibbles, count })
                    };
                    (children.iter().map(part).collect(), Self::Nothing)
                }
                Node::Branch { depth: own, prefix: own_prefix, .. }
                    if *own > depth && own_prefix.truncated(depth) == prefix =>
                {
                    (vec![(own_prefix.nibble(depth), Self::Branch { id, node })], Self::Nothing)
                }
                _ => (Vec::new(), Self::Branch { id, node }),
            },
        }
    }
}

struct Walk<'a, S> {
    loader: Loader<'a, S>,
    out: Vec<Difference>,
}

impl<S: NodeSource> Walk<'_, S> {
    fn visit(&mut self, before: Side, after: Side) {
        if before.id().is_some() && before.id() == after.id() {
            return;
        }
        let (Some(before), Some(after)) = (self.resolve(before), self.resolve(after)) else {
            return;
        };
        let fork = match (before.fork(), after.fork()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let Some((depth, prefix)) = fork else {
            self.compare(&before, &after);
            return;
        };
        let (parts_before, rest_before) = before.split(depth, prefix);
        let (parts_after, rest_after) = after.split(depth, prefix);
        let mut parts_after = parts_after.into_iter().peekable();
        for (nibble, part) in parts_before {
            while let Some((_, lone)) = parts_after.next_if(|(other, _)| *other < nibble) {
                self.visit(Side::Nothing, lone);
            }
            let partner = parts_after.next_if(|(other, _)| *other == nibble);
            self.visit(part, partner.map_or(Side::Nothing, |(_, partner)| partner));
        }
        for (_, lone) in parts_after {
            self.visit(Side::Nothing, lone);
        }
        // What is not under the fork's prefix exists on the side without the fork only.
        if !matches!(rest_before, Side::Nothing) {
            self.visit(rest_before, Side::Nothing);
        }
        if !matches!(rest_after, Side::Nothing) {
            self.visit(Side::Nothing, rest_after);
        }
    }

    /// Loads a reference; `None` if the node is missing.
    fn resolve(&mut self, side: Side) -> Option<Side> {
        let Side::Reference { id, under, nibbles, count } = side else {
            return Some(side);
        };
        let node = self.loader.load(id, &under, nibbles, count)?;
        Some(match &*node {
            Node::Leaf(entries) => Side::Entries(entries.clone()),
            Node::Branch { .. } => Side::Branch { id, node },
        })
    }

    /// Compares two sorted lists of entries.
    fn compare(&mut self, before: &Side, after: &Side) {
        let entries = |side: &Side| match side {
            Side::Entries(entries) => entries.clone(),
            _ => Vec::new(),
        };
        let mut after = entries(after).into_iter().peekable();
        for (key, number) in entries(before) {
            while let Some((key, number)) = after.next_if(|(other, _)| *other < key) {
                self.out.push(Difference { key, before: None, after: Some(number) });
            }
            let partner = after.next_if(|(other, _)| *other == key).map(|(_, number)| number);
            if partner != Some(number) {
                self.out.push(Difference { key, before: Some(number), after: partner });
            }
        }
        let added = after.map(|(key, number)| Difference { key, before: None, after: Some(number) });
        self.out.extend(added);
    }
}
