//! Pure Matrix rules: event formats, authorisation, the state tree, visibility, filters, push.
//!
//! Owns what the specification says and nothing else: no tokio, no storage, no network. Time and
//! randomness are arguments; look-ups are closures over what the caller has fetched beforehand.

pub mod auth;
pub mod create_room;
pub mod event;
pub mod filter;
pub mod glob;
pub mod membership;
pub mod power;
pub mod push;
pub mod relation;
pub mod resolve;
pub mod server_acl;
pub mod state;
pub mod stripped;
pub mod sync;
pub mod visibility;
pub mod words;
