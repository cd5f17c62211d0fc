//! The auth graph of a room as far as it was looked at: vertices and chains, kept within a limit.
//!
//! Everything here is an immutable fact about events, so nothing is ever out of date; a chain is
//! kept only once its walk is complete. It knows no state.

use std::{collections::HashMap, sync::Arc};

use roaring::RoaringBitmap;

/// An event's place in the auth graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// The event's type.
    pub kind: String,
    /// Its state key, if it is a state event.
    pub state_key: Option<String>,
    /// The numbers of its `auth_events`, in the order in which it names them.
    pub auth_events: Vec<u32>,
}

impl Vertex {
    /// Whether it is the state event of this type with an empty key.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind == kind && self.state_key.as_deref() == Some("")
    }

    /// About how many bytes it takes in memory.
    fn bytes(&self) -> usize {
        let text = self.kind.len().saturating_add(self.state_key.as_ref().map_or(0, String::len));
        text.saturating_add(self.auth_events.len().saturating_mul(4)).saturating_add(120)
    }
}

/// What is remembered of a room's auth graph between resolutions.
#[derive(Debug)]
pub struct AuthGraph {
    /// What was told since the last step of a resolution, which is not dropped before that.
    told: HashMap<u32, Arc<Vertex>>,
    vertices: Recent<Arc<Vertex>>,
    /// Events by number to the numbers of all their ancestors in the auth graph.
    chains: Recent<Arc<RoaringBitmap>>,
}

impl AuthGraph {
    /// An empty memory that holds up to about so many bytes. Any limit is correct; a small one
    /// makes resolutions ask for more.
    pub fn new(bytes_max: usize) -> Self {
        let half = bytes_max / 2;
        Self { told: HashMap::new(), vertices: Recent::new(half), chains: Recent::new(half) }
    }

    /// Tells it an event's place.
    pub fn insert(&mut self, number: u32, vertex: Vertex) {
        self.told.insert(number, Arc::new(vertex));
    }

    /// Hands over what was told, and remembers it for later.
    pub(super) fn take_told(&mut self) -> HashMap<u32, Arc<Vertex>> {
        let told = std::mem::take(&mut self.told);
        #[expect(clippy::iter_over_hash_type, reason = "the order decides only what is forgotten first")]
        for (number, vertex) in &told {
            self.vertices.insert(*number, vertex.clone(), vertex.bytes());
        }
        told
    }

    pub(super) fn vertex(&mut self, number: u32) -> Option<Arc<Vertex>> {
        self.vertices.get(number)
    }

    pub(super) fn chain(&mut self, number: u32) -> Option<Arc<RoaringBitmap>> {
        self.chains.get(number)
    }

    /// Remembers a complete chain.
    pub(super) fn insert_chain(&mut self, number: u32, chain: RoaringBitmap) {
        let bytes = chain.serialized_size().saturating_add(100);
        self.chains.insert(number, Arc::new(chain), bytes);
    }

    /// About how many bytes it takes in memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.vertices.bytes() + self.chains.bytes()
    }
}

/// A map of bounded size in two generations: when the young one is full it becomes the old one,
/// and what was old and not used since is gone.
#[derive(Debug)]
struct Recent<V> {
    young: HashMap<u32, (V, usize)>,
    old: HashMap<u32, (V, usize)>,
    young_bytes: usize,
    bytes_max: usize,
}

impl<V: Clone> Recent<V> {
    fn new(bytes_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, bytes_max }
    }

    fn get(&mut self, number: u32) -> Option<V> {
        if let Some((value, _)) = self.young.get(&number) {
            return Some(value.clone());
        }
        let (value, bytes) = self.old.remove(&number)?;
        self.insert(number, value.clone(), bytes);
        Some(value)
    }

    fn insert(&mut self, number: u32, value: V, bytes: usize) {
        if self.young_bytes.saturating_add(bytes) > self.bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        if self.young.insert(number, (value, bytes)).is_none() {
            self.young_bytes = self.young_bytes.saturating_add(bytes);
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.young.values().chain(self.old.values()).map(|(_, bytes)| bytes).sum()
    }
}
