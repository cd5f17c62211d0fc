//! Journeys through a whole server in this process: the real router and services over a store in memory, or with
//! `ALLOD_TEST_ENGINE=rocksdb` over one on disk. A module a chapter.
//! What only a process can show (`program`, `service_manager`, `crash`, `disk_full`) is shown with the built program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of it is tests, and clippy excuses only functions that are marked so"
)]

mod accounts;
mod authority;
mod backup;
mod bad_input;
mod crash;
mod disk_full;
mod encryption;
mod erasure;
mod federation;
mod first_chat;
mod http;
mod load;
mod mail;
mod media;
mod program;
mod push;
mod room_deletion;
mod running;
mod server;
mod service_manager;
