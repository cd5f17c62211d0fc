//! What must reach a server besides events: rows, written in the commit of their cause.

use allod_storage::Position;
use ruma::ServerName;

use crate::{
    database::{Database, Write},
    log::Happened,
    numbers::UserNumber,
    tables::outbox::{QueuedEdu, QueuedRecord},
};

/// Ephemeral data that must not be lost.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its type.
    pub kind: &'static str,
    /// Its content as JSON, at most 64 KiB.
    pub content: String,
    /// The local user whom it speaks of.
    pub user: UserNumber,
}

/// Adds the row that brings something to a server. `index` tells apart what one commit sends to it.
pub fn put(write: &mut Write, database: &Database, server: &ServerName, index: u32, queued: Queued) {
    let hash = super::server_hash(database, server);
    let Queued { kind, content, user } = queued;
    let record = QueuedRecord { server: server.to_string(), kind: kind.to_owned(), content, user };
    write.put::<QueuedEdu>(&(hash, Position::PENDING, index), &record);
    write.log(Happened::Queued { server: hash });
}
