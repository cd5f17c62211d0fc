//! The conflicted state subgraph (v2.1): every event on a way through the auth graph from one
//! conflicted event to another.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::view::View;

/// A walk from the conflicted events to their ancestors that leaves out what leads to none.
#[derive(Debug)]
pub(super) struct Subgraph {
    conflicted: RoaringBitmap,
    seen: RoaringBitmap,
    frontier: Vec<u32>,
    /// Auth events to the walked events that name them.
    named_by: HashMap<u32, Vec<u32>>,
}

impl Subgraph {
    pub(super) fn new(conflicted: &RoaringBitmap) -> Self {
        Self {
            conflicted: conflicted.clone(),
            seen: conflicted.clone(),
            frontier: conflicted.iter().collect(),
            named_by: HashMap::new(),
        }
    }

    /// Walks as far as it can; whether it is done.
    pub(super) fn advance(&mut self, view: &mut View<'_>) -> bool {
        let mut waiting = Vec::new();
        while let Some(number) = self.frontier.pop() {
            if let Some(chain) = view.graph.chain(number)
                && chain.is_disjoint(&self.conflicted)
            {
                continue;
            }
            let Some(vertex) = view.vertex(number) else {
                waiting.push(number);
                continue;
            };
            for auth_event in &vertex.auth_events {
                self.named_by.entry(*auth_event).or_default().push(number);
                if self.seen.insert(*auth_event) {
                    self.frontier.push(*auth_event);
                }
            }
        }
        self.frontier = waiting;
        self.frontier.is_empty()
    }

    /// The events of the subgraph, once the walk is done: of all ancestors of conflicted events
    /// those from which the way back up starts at a conflicted one.
    pub(super) fn between(&self) -> RoaringBitmap {
        let mut between = self.conflicted.clone();
        let mut stack: Vec<u32> = self.conflicted.iter().collect();
        while let Some(number) = stack.pop() {
            for descendant in self.named_by.get(&number).into_iter().flatten() {
                if between.insert(*descendant) {
                    stack.push(*descendant);
                }
            }
        }
        between
    }
}
