//! Listing the state, all of it or one type, page by page.

use super::{
    key::{EntryKey, Root, TypePrefix},
    node::Node,
    tree::{Loader, NodeSource, Step},
};

/// What a scan lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// The state whose keys begin so; see [`TypePrefix`] about collisions.
    Type(TypePrefix),
}

impl Selection {
    /// Whether entries under these leading nibbles may be selected.
    fn touches(self, under: &EntryKey, nibbles: u8) -> bool {
        match self {
            Self::All => true,
            Self::Type(prefix) => shared(prefix, under) >= nibbles.min(8),
        }
    }

    /// Whether all entries under these leading nibbles are selected.
    fn covers(self, under: &EntryKey, nibbles: u8) -> bool {
        match self {
            Self::All => true,
            Self::Type(prefix) => nibbles >= 8 && shared(prefix, under) >= 8,
        }
    }
}

/// How many leading nibbles a type's prefix shares with a key.
fn shared(TypePrefix([a, b, c, d]): TypePrefix, key: &EntryKey) -> u8 {
    let mut padded = [0; 16];
    for (target, byte) in padded.iter_mut().zip([a, b, c, d]) {
        *target = byte;
    }
    EntryKey(padded).shared_nibbles(key)
}

/// Up to `limit` entries after `after`, in the order of their keys. Fewer than `limit` means the
/// end; else go on after the last key.
pub fn scan(
    root: Root,
    selection: Selection,
    after: Option<EntryKey>,
    limit: usize,
    source: &impl NodeSource,
) -> Step<Vec<(EntryKey, u32)>> {
    let mut scan = Scan { loader: Loader::new(source), selection, after, limit, out: Vec::new(), pending: 0 };
    if let Some(id) = root.0
        && limit > 0
        && let Some(node) = scan.loader.root(id)
    {
        scan.visit(&node);
    }
    scan.loader.finish(scan.out)
}

struct Scan<'a, S> {
    loader: Loader<'a, S>,
    selection: Selection,
    after: Option<EntryKey>,
    limit: usize,
    out: Vec<(EntryKey, u32)>,
    /// Entries that are sure to be in the missing nodes: no need to ask for more than the page.
    pending: usize,
}

impl<S: NodeSource> Scan<'_, S> {
    fn is_full(&self) -> bool {
        self.out.len().saturating_add(self.pending) >= self.limit
    }

    fn visit(&mut self, node: &Node) {
        match node {
            Node::Leaf(entries) => {
                for (key, number) in entries {
                    if self.is_full() {
                        return;
                    }
                    let is_after = self.after.is_none_or(|after| *key > after);
                    if is_after && self.selection.covers(key, EntryKey::NIBBLES) {
                        self.out.push((*key, *number));
                    }
                }
            }
            Node::Branch { depth, prefix, children } => {
                let nibbles = depth.saturating_add(1);
                for child in children {
                    if self.is_full() {
                        return;
                    }
                    let under = prefix.with_nibble(*depth, child.nibble);
                    let seen = self.after.map(|after| after.truncated(nibbles));
                    if seen.is_some_and(|seen| under < seen) || !self.selection.touches(&under, nibbles) {
                        continue;
                    }
                    match self.loader.load(child.id, &under, nibbles, Some(child.count)) {
                        Some(node) => self.visit(&node),
                        None if seen != Some(under) && self.selection.covers(&under, nibbles) => {
                            let count = usize::try_from(child.count).unwrap_or(usize::MAX);
                            self.pending = self.pending.saturating_add(count);
                        }
                        None => {}
                    }
                }
            }
        }
    }
}
