//! Room state as a value: the persistent, content-addressed tree and what is computed on it.
//!
//! Pure: nodes come from a [`tree::NodeSource`], and new nodes go back to the caller.

mod diff;
mod key;
mod node;
mod scan;
pub mod tree;
mod update;

pub use self::{
    diff::{Difference, diff},
    key::{EntryKey, NodeId, RoomHashKey, Root, TypePrefix},
    node::{Child, DecodeError, Node},
    scan::{Selection, scan},
    tree::{NodeSource, Step, count, get_many},
    update::{Updated, update},
};

#[cfg(test)]
mod tests;
