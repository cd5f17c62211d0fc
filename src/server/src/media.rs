//! Media: files that people upload, their thumbnails, and how they go.
//!
//! Rows say what is known about a file; its bytes are a blob. Every blob belongs to one row at any time (see
//! [`tables::media`](crate::tables::media)): one is written down as unowned before its first byte is, given to its owner
//! by the commit that makes the file known, and unowned again by the commit that deletes the file. What a crash leaves
//! unowned is removed by the next start.
//!
//! Equal files of one person are one blob; files of different people never are, so that nobody learns from an upload
//! what others have.

use std::{io, sync::Arc};

use allod_storage::{BlobName, BlobReader, Blobs, CommitError};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    config::{self, Live},
    database::{Database, Error, Range, Write},
    federation::client::FederationClient,
    named_media,
    numbers::{Hash128, UserNumber},
    random::Random,
    rooms::Rooms,
    tables::media::{MediaFile, MediaRow, UnownedBlob},
    tasks::Tasks,
};

mod access;
mod animate;
mod bucket;
mod content;
mod inventory;
mod loose;
mod multipart;
mod pending;
mod picture;
mod preview;
mod remote;
mod remove;
mod strip;
mod sweep;
mod thumbnail;
mod upload;

pub use allod_storage::BlobReader as Reader;

pub use self::{
    access::{Asker, AttachError, CopyError},
    bucket::{BucketError, bucket},
    content::{Content, ContentError, Wanted},
    inventory::{MediaInfo, Selection, Whose},
    pending::CreateError,
    picture::{Method, PictureError},
    preview::{PreviewError, Previews},
    remote::RemoteError,
    remove::RemoveError,
    thumbnail::{ThumbnailError, ThumbnailWanted},
    upload::{Description, Upload, UploadError},
};

/// Letters of a media id: more than 140 bits, so that nobody guesses one.
const MEDIA_ID_LETTERS: usize = 24;
/// Longest media id that is looked up.
const MEDIA_ID_LETTERS_MAX: usize = 255;
/// A day in milliseconds.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct MediaSources {
    /// The rows.
    pub database: Database,
    /// The configuration.
    pub config: Live,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where background tasks are started.
    pub tasks: Tasks,
    /// Requests to other servers; none where federation is off.
    pub client: Option<FederationClient>,
    /// Where files are kept, if not in a folder.
    pub bucket: Option<Blobs>,
    /// The rooms whose events files are sent with.
    pub rooms: Rooms,
}

/// The files of this server, and those of others that it keeps for a while.
#[derive(Clone, Debug)]
pub struct Media(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    blobs: Blobs,
    server_name: OwnedServerName,
    config: Live,
    clock: Clock,
    random: Random,
    tasks: Tasks,
    rooms: Rooms,
    thumbnails: thumbnail::Thumbnails,
    remote: remote::Remote,
    /// Held by who removes old files of other servers.
    making_room: tokio::sync::Mutex<()>,
    /// A file has come for which someone may be waiting.
    arrived: Notify,
}

/// Why media could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be used.
    #[error("cannot use the media folder {0}: {1}")]
    Folder(String, io::Error),
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Media {
    /// Opens the folder, or memory where the rows are in memory too, and starts the removal of what is left over.
    pub async fn open(sources: MediaSources) -> Result<Self, OpenError> {
        let MediaSources { database, config, clock, random, tasks, client, bucket, rooms } = sources;
        let now = config.get();
        let blobs = if let Some(bucket) = bucket {
            bucket
        } else if now.media.folder.is_none() && database.store().forgets() {
            Blobs::memory()
        } else {
            let folder = now.media.folder(&now.server.data_dir);
            Blobs::directory(&folder)
                .map_err(|error| OpenError::Folder(folder.display().to_string(), error))?
        };
        let left_over = database.scan_all(Range::<UnownedBlob>::whole()).await?;
        let media = Self(Arc::new(Inner {
            database,
            blobs,
            server_name: now.server.name.clone(),
            config,
            clock,
            random,
            thumbnails: thumbnail::Thumbnails::new(),
            remote: remote::Remote::new(client),
            making_room: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            tasks,
            rooms,
        }));
        media.mark_beginning().await?;
        loose::start(&media);
        sweep::start(&media, left_over.into_iter().map(|(name, _)| BlobName(name)).collect());
        Ok(media)
    }

    /// Largest file that can be uploaded now, in bytes.
    pub fn upload_bytes_max(&self) -> u64 {
        self.0.config.get().media.upload_size.0
    }

    /// A word that no file holds, of letters and digits.
    pub fn boundary(&self, letters: usize) -> String {
        self.0.random.token(letters)
    }

    fn options(&self) -> config::Media {
        self.0.config.get().media.clone()
    }

    fn key(&self, server: &ServerName, media_id: &str) -> Hash128 {
        named_media::key(&self.0.database, server.as_str(), media_id)
    }

    fn key_of(&self, row: &MediaRow) -> Hash128 {
        let server = row.server.as_deref().unwrap_or(self.0.server_name.as_str());
        named_media::key(&self.0.database, server, &row.media_id)
    }

    async fn row(&self, key: Hash128) -> Result<Option<MediaRow>, Error> {
        self.0.database.get::<MediaFile>(&key).await
    }

    /// Draws the name of a new blob and writes it down as unowned.
    async fn name_blob(&self) -> Result<BlobName, Error> {
        let name = BlobName(self.0.random.bytes());
        let mut write = Write::new();
        write.put::<UnownedBlob>(&name.0, &self.0.clock.now_ms());
        self.0.database.commit(write).await?;
        Ok(name)
    }

    /// Writes down that blobs are to be removed.
    fn disown(&self, write: &mut Write, blob: [u8; 16]) {
        write.put::<UnownedBlob>(&blob, &self.0.clock.now_ms());
    }

    /// Removes unowned blobs. One that cannot be removed is tried again by the next sweep.
    async fn discard(&self, blobs: &[BlobName]) {
        let mut write = Write::new();
        for blob in blobs {
            match self.0.blobs.delete(*blob).await {
                Ok(()) => write.delete::<UnownedBlob>(&blob.0),
                Err(error) => tracing::warn!(%error, "a file could not be removed; trying again later"),
            }
        }
        if !write.is_empty()
            && let Err(error) = self.0.database.commit(write).await
        {
            tracing::warn!(%error, "a removed file is still noted as one to remove");
        }
    }

    /// Bytes of a file that has been found, `length` from `from`; `None` if it was deleted meanwhile.
    async fn open_blob(&self, blob: [u8; 16], from: u64, length: u64) -> io::Result<Option<BlobReader>> {
        self.0.blobs.open(BlobName(blob), from, length).await
    }
}

/// Whether this may be a media id: what is no such word is not looked up.
fn is_media_id(media_id: &str) -> bool {
    (1..=MEDIA_ID_LETTERS_MAX).contains(&media_id.len())
        && media_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Whether a commit lost a race and may be tried again on what is there now.
fn is_conflict(error: &CommitError) -> bool {
    matches!(error, CommitError::Conflict(_))
}

/// Who keeps the blobs of a row.
fn keeper(row: &MediaRow) -> UserNumber {
    row.uploader.unwrap_or_default()
}

#[cfg(test)]
mod tests;
