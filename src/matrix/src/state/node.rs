//! A node of the state tree and its bytes.
//!
//! A leaf holds up to `LEAF_ENTRIES_MAX` entries, a branch two to sixteen children. Both carry
//! the key prefix that they stand under, so that a node means the same wherever it is found.
//! Decoding is total: any bytes give a well-formed node or an error.

use super::key::{EntryKey, NodeId};

/// Most entries in a leaf. A subtree of no more entries *is* a leaf, a larger one a branch: the
/// shape follows from the set alone. Chosen by measurement (`tests::bytes_per_change`).
pub(super) const LEAF_ENTRIES_MAX: usize = 32;

const VERSION: u8 = 1;
const LEAF: u8 = 0;
const BRANCH: u8 = 1;

/// A node, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// 1 to `LEAF_ENTRIES_MAX` entries in the order of their keys: key and event number.
    Leaf(Vec<(EntryKey, u32)>),
    /// More entries than a leaf holds, split by the nibble at `depth`.
    Branch {
        /// How many leading nibbles all keys below have in common.
        depth: u8,
        /// Those nibbles, the rest zero.
        prefix: EntryKey,
        /// 2 to 16 children in the order of their nibbles.
        children: Vec<Child>,
    },
}

/// A reference from a branch to a node below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// The nibble at the branch's depth, 0 to 15.
    pub nibble: u8,
    /// The node.
    pub id: NodeId,
    /// How many entries are in its subtree.
    pub count: u32,
}

/// Why bytes are not a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a node of a state tree: {0}")]
pub struct DecodeError(&'static str);

impl Node {
    /// The number of entries in the subtree.
    pub fn count(&self) -> u32 {
        match self {
            Self::Leaf(entries) => u32::try_from(entries.len()).unwrap_or(u32::MAX),
            Self::Branch { children, .. } => {
                children.iter().fold(0, |sum: u32, child| sum.saturating_add(child.count))
            }
        }
    }

    /// The nodes directly below, for walks that mark what is reachable.
    pub fn child_ids(&self) -> impl Iterator<Item = NodeId> {
        let children = match self {
            Self::Leaf(_) => &[],
            Self::Branch { children, .. } => children.as_slice(),
        };
        children.iter().map(|child| child.id)
    }

    /// Whether the node may stand under these leading nibbles.
    pub(super) fn is_under(&self, prefix: &EntryKey, nibbles: u8) -> bool {
        match self {
            Self::Leaf(entries) => [entries.first(), entries.last()]
                .into_iter()
                .flatten()
                .all(|(key, _)| key.shared_nibbles(prefix) >= nibbles),
            Self::Branch { depth, prefix: own, .. } => {
                *depth >= nibbles && own.shared_nibbles(prefix) >= nibbles
            }
        }
    }

    /// The node's bytes; equal nodes have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(entries) => encode_leaf(entries),
            Self::Branch { depth, prefix, children } => encode_branch(*depth, prefix, children),
        }
    }

    /// Reads what [`Node::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(DecodeError("unknown version"));
        }
        let node = match reader.byte()? {
            LEAF => decode_leaf(&mut reader)?,
            BRANCH => decode_branch(&mut reader)?,
            _ => return Err(DecodeError("unknown kind")),
        };
        if reader.0.is_empty() { Ok(node) } else { Err(DecodeError("trailing bytes")) }
    }
}

/// `version kind count shared-bytes prefix (suffix number)*`
fn encode_leaf(entries: &[(EntryKey, u32)]) -> Vec<u8> {
    let shared = shared_bytes(entries);
    let mut out = Vec::with_capacity(4 + 16 + entries.len() * 20);
    let count = u8::try_from(entries.len()).unwrap_or(u8::MAX);
    out.extend_from_slice(&[VERSION, LEAF, count, shared]);
    let shared = usize::from(shared);
    if let Some((first, _)) = entries.first() {
        out.extend(first.0.iter().take(shared));
    }
    for (key, number) in entries {
        out.extend(key.0.iter().skip(shared));
        write_varint(&mut out, *number);
    }
    out
}

fn decode_leaf(reader: &mut Reader<'_>) -> Result<Node, DecodeError> {
    let count = usize::from(reader.byte()?);
    let shared = usize::from(reader.byte()?);
    if count == 0 || count > LEAF_ENTRIES_MAX || shared > 16 {
        return Err(DecodeError("leaf header"));
    }
    let mut prefix = [0; 16];
    reader.fill(prefix.get_mut(..shared))?;
    let mut entries: Vec<(EntryKey, u32)> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut key = prefix;
        reader.fill(key.get_mut(shared..))?;
        let key = EntryKey(key);
        if entries.last().is_some_and(|(last, _)| *last >= key) {
            return Err(DecodeError("leaf order"));
        }
        entries.push((key, reader.varint()?));
    }
    if usize::from(shared_bytes(&entries)) != shared {
        return Err(DecodeError("leaf prefix"));
    }
    Ok(Node::Leaf(entries))
}

/// `version kind depth prefix bitmap (id count)*`
fn encode_branch(depth: u8, prefix: &EntryKey, children: &[Child]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + 16 + children.len() * 20);
    out.extend_from_slice(&[VERSION, BRANCH, depth]);
    out.extend(prefix.0.iter().take(usize::from(depth.div_ceil(2))));
    let bitmap = children.iter().fold(0_u16, |bits, child| bits | 1 << (child.nibble & 0xf));
    out.extend_from_slice(&bitmap.to_be_bytes());
    for child in children {
        out.extend_from_slice(&child.id.0);
        write_varint(&mut out, child.count);
    }
    out
}

fn decode_branch(reader: &mut Reader<'_>) -> Result<Node, DecodeError> {
    let depth = reader.byte()?;
    if depth >= EntryKey::NIBBLES {
        return Err(DecodeError("branch depth"));
    }
    let mut prefix = [0; 16];
    reader.fill(prefix.get_mut(..usize::from(depth.div_ceil(2))))?;
    let prefix = EntryKey(prefix);
    if prefix.truncated(depth) != prefix {
        return Err(DecodeError("branch prefix"));
    }
    let bitmap = u16::from_be_bytes([reader.byte()?, reader.byte()?]);
    if bitmap.count_ones() < 2 {
        return Err(DecodeError("branch children"));
    }
    let mut children = Vec::with_capacity(16);
    let mut total: u32 = 0;
    for nibble in (0..16_u8).filter(|nibble| bitmap >> nibble & 1 == 1) {
        let mut id = [0; 16];
        reader.fill(Some(&mut id))?;
        let count = reader.varint()?;
        total = total.checked_add(count).ok_or(DecodeError("branch count"))?;
        if count == 0 {
            return Err(DecodeError("branch count"));
        }
        children.push(Child { nibble, id: NodeId(id), count });
    }
    if usize::try_from(total).is_ok_and(|total| total <= LEAF_ENTRIES_MAX) {
        return Err(DecodeError("branch count"));
    }
    Ok(Node::Branch { depth, prefix, children })
}

/// How many leading bytes all keys of a sorted leaf share.
fn shared_bytes(entries: &[(EntryKey, u32)]) -> u8 {
    match (entries.first(), entries.last()) {
        (Some((first, _)), Some((last, _))) => first.shared_nibbles(last) / 2,
        _ => 0,
    }
}

/// Seven bits a byte, least significant first.
fn write_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// What is left to decode.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError("too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn fill(&mut self, target: Option<&mut [u8]>) -> Result<(), DecodeError> {
        let target = target.ok_or(DecodeError("length"))?;
        let (head, rest) = self.0.split_at_checked(target.len()).ok_or(DecodeError("too short"))?;
        target.copy_from_slice(head);
        self.0 = rest;
        Ok(())
    }

    fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u64 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // A last byte of zero is not the shortest form, and equal nodes have equal bytes.
                if byte == 0 && shift > 0 {
                    return Err(DecodeError("number"));
                }
                return u32::try_from(value).map_err(|_| DecodeError("number"));
            }
        }
        Err(DecodeError("number"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(keys: &[u8]) -> Node {
        Node::Leaf(keys.iter().map(|byte| (EntryKey([*byte; 16]), u32::from(*byte) << 4)).collect())
    }

    fn branch() -> Node {
        let child = |nibble, count| Child { nibble, id: NodeId([nibble; 16]), count };
        Node::Branch {
            depth: 3,
            prefix: EntryKey([0xab; 16]).truncated(3),
            children: vec![child(0, 31), child(9, 1), child(15, 70_000)],
        }
    }

    #[test]
    fn round_trips() {
        for node in [leaf(&[1]), leaf(&[1, 2, 0x80, 0xff]), branch()] {
            assert_eq!(Node::decode(&node.encode()), Ok(node));
        }
    }

    /// Golden: stored nodes must never change.
    #[test]
    fn golden_bytes() {
        let leaf = Node::Leaf(vec![
            (EntryKey([1; 16]), 5),
            (EntryKey([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]), 300),
        ]);
        assert_eq!(leaf.encode(), [&[1, 0, 2, 15][..], &[1; 15], &[1, 5, 2, 0xac, 2]].concat());
        let bytes = branch().encode();
        assert_eq!(bytes[..7], [1, 1, 3, 0xab, 0xa0, 0b1000_0010, 1]);
        assert_eq!(bytes.len(), 7 + 17 + 17 + 19);
    }

    #[test]
    fn malformed_nodes_are_refused() {
        let mut unsorted = leaf(&[1, 2]).encode();
        unsorted.swap(4, 21);
        let mut deep = branch().encode();
        deep[2] = 32;
        let mut stray = branch().encode();
        stray[4] |= 1;
        let mut trailing = leaf(&[1]).encode();
        trailing.push(0);
        let small = Node::Branch {
            depth: 0,
            prefix: EntryKey([0; 16]),
            children: vec![
                Child { nibble: 0, id: NodeId([1; 16]), count: 1 },
                Child { nibble: 1, id: NodeId([2; 16]), count: 1 },
            ],
        };
        for bytes in [unsorted, deep, stray, trailing, small.encode(), vec![], vec![2, 0]] {
            assert!(Node::decode(&bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        /// Whatever decodes encodes to the same bytes; nothing panics.
        #[test]
        fn decoding_is_total(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..2_u8, head in any::<bool>(),
        ) {
            if head && bytes.len() > 3 {
                bytes[0] = VERSION;
                bytes[1] = kind;
                bytes[2] %= 6;
            }
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(node.encode(), bytes);
            }
        }

        /// A flipped bit in a real node never panics either.
        #[test]
        fn damaged_nodes(at in 0..60_usize, bit in 0..8_u8) {
            for node in [leaf(&[1, 2, 3]), branch()] {
                let mut bytes = node.encode();
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
                if let Ok(node) = Node::decode(&bytes) {
                    prop_assert_eq!(node.encode(), bytes);
                }
            }
        }
    }
}
