//! What of a room a sync tells: the rules that need no storage.

pub mod heroes;
pub mod required;
pub mod state;
