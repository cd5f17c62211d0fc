//! Looking up a file and reading it.

use std::{io, time::Duration};

use allod_storage::BlobReader;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::ServerName;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{Asker, DAY_MS, Media, access, is_media_id, remote::RemoteError};
use crate::{
    database::{Error, Write},
    numbers::Hash128,
    rooms::send::Caller,
    tables::media::{MediaContent, MediaFile, MediaRow, Restriction},
};

/// Longest time that a request waits for a file to be uploaded.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Which file, and who wants it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The server that its address names.
    pub server: &'a ServerName,
    /// The media id that its address names.
    pub media_id: &'a str,
    /// How long to wait if it has not been uploaded yet.
    pub wait: Duration,
    /// Whether it may be asked of another server.
    pub remote: bool,
    /// Who asks.
    pub asker: Asker<'a>,
}

impl<'a> Wanted<'a> {
    /// What someone with an account wants; it may be another server's.
    pub fn by_account(caller: &'a Caller, server: &'a ServerName, media_id: &'a str, wait: Duration) -> Self {
        Self { server, media_id, wait, remote: true, asker: Asker::User(caller) }
    }

    /// What another server wants: none but this server's own.
    pub fn by_server(
        origin: &'a ServerName,
        server: &'a ServerName,
        media_id: &'a str,
        wait: Duration,
    ) -> Self {
        Self { server, media_id, wait, remote: false, asker: Asker::Server(origin) }
    }

    /// What anyone wants by the addresses from before accounts were asked for.
    pub fn by_anyone(server: &'a ServerName, media_id: &'a str, wait: Duration, remote: bool) -> Self {
        Self { server, media_id, wait, remote, asker: Asker::Anyone }
    }

    fn has_account(&self) -> bool {
        matches!(self.asker, Asker::User(_) | Asker::Server(_))
    }
}

/// Why a file is not given.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// There is none, or not for this caller.
    #[error("there is no such file")]
    NotFound,
    /// It is attached to an event that the caller may not read, or to nothing yet.
    #[error("you may not fetch this file")]
    Forbidden,
    /// It has not been uploaded yet, or the scanner has not found it clean yet.
    #[error("the file has not been uploaded yet")]
    NotYetUploaded,
    /// Another server did not give it.
    #[error("another server did not give the file: {0}")]
    Remote(#[from] RemoteError),
    /// Its bytes cannot be read.
    #[error("a file could not be read: {0}")]
    Io(#[from] io::Error),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A file or thumbnail that may be read.
#[derive(Clone, Debug)]
pub struct Content {
    /// Its media type, as the uploader said.
    pub content_type: Option<String>,
    /// Its name, as the uploader said.
    pub file_name: Option<String>,
    /// Its size in bytes.
    pub bytes: u64,
    /// A word that is equal for equal bytes, of letters, digits, `-` and `_`.
    pub tag: String,
    /// What other servers are told of who may fetch it.
    pub restrictions: Value,
    pub(super) blob: [u8; 16],
}

/// A file that may be read, with its rows.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) row: MediaRow,
    pub(super) content: MediaContent,
    pub(super) restriction: Option<Restriction>,
}

impl Content {
    pub(super) fn of(content: &MediaContent, restriction: Option<&Restriction>) -> Self {
        Self {
            content_type: content.content_type.clone(),
            file_name: content.file_name.clone(),
            bytes: content.bytes,
            tag: URL_SAFE_NO_PAD.encode(content.sha256),
            restrictions: access::to_json(restriction),
            blob: content.blob,
        }
    }
}

impl Media {
    /// Looks a file up, and waits for it if it is about to be uploaded.
    pub async fn content(&self, wanted: Wanted<'_>) -> Result<Content, ContentError> {
        let found = self.find(wanted).await?;
        tracing::trace!(bytes = found.content.bytes, "a file is fetched");
        Ok(Content::of(&found.content, found.restriction.as_ref()))
    }

    /// The bytes of a file, `length` from `from`.
    pub async fn read(&self, content: &Content, from: u64, length: u64) -> Result<BlobReader, ContentError> {
        self.open_blob(content.blob, from, length).await?.ok_or(ContentError::NotFound)
    }

    pub(super) async fn find(&self, wanted: Wanted<'_>) -> Result<Found, ContentError> {
        if !is_media_id(wanted.media_id) {
            return Err(ContentError::NotFound);
        }
        let key = self.key(wanted.server, wanted.media_id);
        let deadline = Instant::now() + wanted.wait.min(WAIT_MAX);
        let mut fetched = false;
        loop {
            // Listens before it looks, so that what comes between is heard.
            let mut arrived = std::pin::pin!(self.0.arrived.notified());
            arrived.as_mut().enable();
            let (row, restriction, is_held) = self.held_file(key).await?;
            let Some(row) = row else {
                if !wanted.remote || *wanted.server == self.0.server_name || !self.may_fetch(wanted) {
                    return Err(ContentError::NotFound);
                }
                if fetched {
                    return Err(RemoteError::Here.into());
                }
                self.fetch(key, wanted.server, wanted.media_id).await?;
                fetched = true;
                continue;
            };
            if row.quarantined || (row.needs_account && !wanted.has_account()) && row.content.is_some() {
                return Err(ContentError::NotFound);
            }
            if row.content.is_none() && self.is_over(&row) {
                return Err(ContentError::NotFound);
            }
            if let Some(content) = row.content.clone() {
                if let Some(restriction) = &restriction
                    && !self.may_read(key, &row, restriction, wanted.asker).await?
                {
                    return Err(refusal(wanted.asker));
                }
                if !is_held {
                    self.saw(key, &row);
                    return Ok(Found { row, content, restriction });
                }
            }
            if timeout_at(deadline, arrived).await.is_err() {
                return Err(ContentError::NotYetUploaded);
            }
        }
    }

    /// Whether a file of another server may be fetched for this caller: not for everybody on earth.
    fn may_fetch(&self, wanted: Wanted<'_>) -> bool {
        wanted.has_account() || self.options().without_account
    }

    fn is_over(&self, row: &MediaRow) -> bool {
        row.expires_ms.is_some_and(|expires_ms| expires_ms <= self.0.clock.now_ms())
    }

    /// Notes that a file was fetched, at most once a day. Nobody waits for it, and what is lost does not matter.
    fn saw(&self, key: Hash128, row: &MediaRow) {
        let today = day(self.0.clock.now_ms());
        if row.accessed_day >= today {
            return;
        }
        let mut write = Write::new();
        write.equals::<MediaFile>(&key, row);
        write.put::<MediaFile>(&key, &MediaRow { accessed_day: today, ..row.clone() });
        drop(self.0.database.submit(write));
    }
}

/// Those without an account are not told what there is.
fn refusal(asker: Asker<'_>) -> ContentError {
    match asker {
        Asker::User(_) | Asker::Server(_) => ContentError::Forbidden,
        Asker::Anyone => ContentError::NotFound,
    }
}

/// The day since the Unix epoch.
pub(super) fn day(ms: u64) -> u32 {
    u32::try_from(ms / DAY_MS).unwrap_or(u32::MAX)
}
