//! allod's services: rules of users, rooms and sync over the storage seam.
//!
//! The only crate that joins storage and Matrix rules. A service is a cheap-clone struct whose constructor takes the
//! services that it uses, so that a cycle cannot be constructed.

pub mod account_data;
pub mod accounts;
pub mod audit;
pub mod backups;
pub mod clock;
pub mod config;
pub mod consumer;
pub mod database;
pub mod delayed_events;
pub mod devices;
pub mod egress;
pub mod federation;
pub mod filters;
pub mod guests;
pub mod housekeeping;
pub mod identity;
pub mod inbound;
pub mod invite_rules;
pub mod key_backup;
pub mod keys;
pub mod last_changes;
pub mod log;
pub mod media;
pub mod notifications;
pub mod numbers;
pub mod outbox;
pub mod passwords;
pub mod presence;
pub mod profiles;
pub mod push_rules;
pub mod pushers;
pub mod random;
pub mod receipts;
pub mod registration;
pub mod registration_tokens;
pub mod retry;
pub mod room_lookup;
pub mod rooms;
pub mod sessions;
pub mod succession;
pub mod sync;
pub mod tables;
pub mod tags;
pub mod tasks;
pub mod thread_subscriptions;
pub mod to_device;
pub mod typing;
pub mod uiaa;
pub mod user_directory;
pub mod users;
pub mod wake;
