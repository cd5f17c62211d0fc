//! The fixed-size names of the state tree: entry keys, node ids, roots, and the key they are
//! hashed with.
//!
//! Remote users choose types and state keys, hence the secret key per room: nobody outside can
//! look for collisions or unbalance a tree.

/// A room's secret for hashing: 32 bytes from the server's random source, fixed for the room.
#[derive(Clone)]
pub struct RoomHashKey([u8; 32]);

/// The name of a piece of state: 4 bytes keyed hash of the type, 12 of type and state key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey(pub [u8; 16]);

/// The first four bytes of all keys of a type. Two types may share a prefix (chance 2⁻³²):
/// who scans by prefix checks the type of what the entries point to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypePrefix(pub [u8; 4]);

/// The keyed 128-bit hash of a node's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

/// A whole state: the id of the topmost node, or nothing for the empty state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root(pub Option<NodeId>);

impl Root {
    /// The state without entries.
    pub const EMPTY: Self = Self(None);

    /// The 16 bytes that stand for it in rows; zeros for the empty state.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.map_or([0; 16], |id| id.0)
    }

    /// Reads what [`Root::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self((bytes != [0; 16]).then_some(NodeId(bytes)))
    }
}

impl EntryKey {
    /// The number of nibbles in a key.
    pub(super) const NIBBLES: u8 = 32;

    /// The prefix shared by all keys of the same type.
    pub fn type_prefix(&self) -> TypePrefix {
        let [a, b, c, d, ..] = self.0;
        TypePrefix([a, b, c, d])
    }

    /// The nibble at `index`, 0 beyond the end.
    pub(super) fn nibble(&self, index: u8) -> u8 {
        let byte = self.0.get(usize::from(index / 2)).copied().unwrap_or_default();
        if index.is_multiple_of(2) { byte >> 4 } else { byte & 0xf }
    }

    /// How many leading nibbles two keys have in common.
    pub(super) fn shared_nibbles(&self, other: &Self) -> u8 {
        let difference = u128::from_be_bytes(self.0) ^ u128::from_be_bytes(other.0);
        u8::try_from(difference.leading_zeros() / 4).unwrap_or(Self::NIBBLES)
    }

    /// The key with everything after `nibbles` set to zero.
    pub(super) fn truncated(&self, nibbles: u8) -> Self {
        let kept = u32::from(Self::NIBBLES.saturating_sub(nibbles)) * 4;
        let mask = u128::MAX.checked_shl(kept).unwrap_or(0);
        Self((u128::from_be_bytes(self.0) & mask).to_be_bytes())
    }

    /// The key with the nibble at `index` set; it must have been zero.
    pub(super) fn with_nibble(&self, index: u8, nibble: u8) -> Self {
        let shift = u32::from(Self::NIBBLES.saturating_sub(index.saturating_add(1))) * 4;
        Self((u128::from_be_bytes(self.0) | (u128::from(nibble & 0xf) << shift)).to_be_bytes())
    }
}

impl RoomHashKey {
    /// Wraps 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored with the room.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The name of a piece of state.
    pub fn entry_key(&self, kind: &str, state_key: &str) -> EntryKey {
        let length = u64::try_from(kind.len()).unwrap_or(u64::MAX).to_be_bytes();
        let mut key = self.hash(2, &[&length, kind.as_bytes(), state_key.as_bytes()]);
        for (target, byte) in key.iter_mut().zip(self.type_prefix(kind).0) {
            *target = byte;
        }
        EntryKey(key)
    }

    /// What the keys of all state of a type begin with.
    pub fn type_prefix(&self, kind: &str) -> TypePrefix {
        let [a, b, c, d, ..] = self.hash(1, &[kind.as_bytes()]);
        TypePrefix([a, b, c, d])
    }

    /// The id of a node.
    pub fn node_id(&self, bytes: &[u8]) -> NodeId {
        NodeId(self.hash(3, &[bytes]))
    }

    /// 128 bits of keyed hash over a purpose and some parts.
    fn hash(&self, purpose: u8, parts: &[&[u8]]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[purpose]);
        for part in parts {
            hasher.update(part);
        }
        let mut out = [0; 16];
        hasher.finalize_xof().fill(&mut out);
        out
    }
}

impl std::fmt::Debug for RoomHashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoomHashKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles() {
        let key = EntryKey([0x12, 0x34, 0xab, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xef]);
        assert_eq!([0, 1, 2, 4, 5, 30, 31, 32].map(|i| key.nibble(i)), [1, 2, 3, 10, 11, 14, 15, 0]);
        let mut other = key;
        other.0[2] = 0xac;
        assert_eq!(key.shared_nibbles(&other), 5);
        assert_eq!(key.shared_nibbles(&key), 32);
        assert_eq!(key.truncated(3).0[..3], [0x12, 0x30, 0]);
        assert_eq!(key.truncated(0), EntryKey([0; 16]));
        assert_eq!(key.truncated(32), key);
        assert_eq!(key.truncated(3).with_nibble(3, 4).0[..2], [0x12, 0x34]);
        assert_eq!(EntryKey([0; 16]).with_nibble(31, 7).0[15], 7);
    }

    /// Golden: stored keys must never change.
    #[test]
    fn golden_hashes() {
        let key = RoomHashKey::new([7; 32]);
        let entry = key.entry_key("m.room.member", "@a:b");
        assert_eq!(entry.type_prefix(), key.type_prefix("m.room.member"));
        assert_ne!(key.entry_key("a", "bc"), key.entry_key("ab", "c"));
        assert_eq!(u128::from_be_bytes(entry.0), GOLDEN_ENTRY);
        assert_eq!(u128::from_be_bytes(key.node_id(b"node").0), GOLDEN_NODE);
    }

    const GOLDEN_ENTRY: u128 = 180_967_752_050_753_100_435_680_403_389_102_002_792;
    const GOLDEN_NODE: u128 = 163_844_942_651_380_153_457_355_529_755_840_692_884;

    #[test]
    fn roots_round_trip() {
        for root in [Root::EMPTY, Root(Some(NodeId([9; 16])))] {
            assert_eq!(Root::from_bytes(root.to_bytes()), root);
        }
        assert_eq!(Root::EMPTY.to_bytes(), [0; 16]);
    }
}
