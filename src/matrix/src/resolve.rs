//! State resolution v2 and v2.1 (§Room version 2, §Room version 12), evaluated lazily.
//!
//! Pure: [`conflicts`] finds what differs between state trees, [`Resolution`] says what it needs to
//! know of events and state, and the caller fetches that in batches. Cost follows the conflict and
//! its auth chains, never the size of the room. It decides nothing about where events come from
//! and writes nothing.
//!
//! # The auth difference without the auth chains of the whole state
//!
//! Let the state sets be S₁ … Sₙ, U what all of them share, Dᵢ = Sᵢ − U the conflicted events of
//! one, and R(X) the events of X with all their ancestors in the auth graph. The full auth chain
//! of Sᵢ is R(U) ∪ R(Dᵢ), so that an event is in some but not in all of them exactly if it is in
//! some but not in all R(Dᵢ), and not in R(U):
//!
//! ```text
//! difference = (∪ R(Dᵢ) − ∩ R(Dᵢ)) − R(U)
//! ```
//!
//! The bracket needs the chains of conflicted events alone. What is left to decide is which of its
//! few events are in R(U) (module `ground`): first by the chains of the unconflicted state of the
//! very keys that the conflicted events cite, which explains nearly all; then, exactly, by walking
//! from what remains to the events that cite it, until one of them is unconflicted state or there
//! are no more.
//!
//! As elsewhere in the federation, an event counts as part of its own set's chain.

mod check;
mod conflict;
mod gather;
mod graph;
mod ground;
mod mainline;
mod power;
mod resolution;
mod subgraph;
mod view;

pub use self::{
    conflict::conflicts,
    graph::{AuthGraph, Vertex},
    resolution::{Change, Progress, Resolution},
    view::Need,
};

#[cfg(test)]
mod tests;
