//! Journeys through a whole server in this process: the real router and services over a store in memory, or with
//! `ALLOD_TEST_ENGINE=rocksdb` over one on disk. A module a chapter.

mod accounts;
mod first_chat;
mod program;
mod server;
