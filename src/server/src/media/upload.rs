//! Uploading: a file arrives piece by piece and becomes known when it is whole.

use std::io;

use allod_storage::{BlobName, BlobWriter};
use ruma::{OwnedMxcUri, ServerName};
use sha2::{Digest, Sha256};

use super::{MEDIA_ID_LETTERS, Media, is_conflict, keeper, strip::Strip};
use crate::{
    database::{Error, Write},
    numbers::{Hash128, UserNumber},
    tables::media::{
        MediaContent, MediaFile, MediaOfUser, MediaRestriction, MediaRow, MediaUsage, PendingMedia,
        Restriction, SharedBlob, SharedBlobRow, UnownedBlob, UsageRow,
    },
};

/// How often the free space is looked at while a file arrives, in bytes.
const SPACE_CHECK_BYTES: u64 = 16 << 20;
/// Longest media type and file name that are kept, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024;

/// What an uploader says about a file.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Its media type.
    pub content_type: Option<String>,
    /// Its name.
    pub file_name: Option<String>,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Larger than this many bytes.
    #[error("files may be {0} bytes large")]
    TooLarge(u64),
    /// The uploader keeps too much here already.
    #[error("no more than {0} bytes may be kept here by one person")]
    QuotaExceeded(u64),
    /// The disk is nearly full.
    #[error("the disk is nearly full")]
    NoSpace,
    /// There is no such media id to upload to, or it has expired.
    #[error("there is no such media id, or it has expired")]
    NotFound,
    /// The media id was given to someone else.
    #[error("this media id is someone else's")]
    NotYours,
    /// The media id has its file already.
    #[error("this media id has its file already")]
    AlreadyUploaded,
    /// The file could not be written.
    #[error("a file could not be written: {0}")]
    Io(#[from] io::Error),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// A file that is arriving. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct Upload {
    media: Media,
    /// The row that it gets, but for its content.
    row: MediaRow,
    /// The row that waits for it, and must still be there; none: there must be none.
    before: Option<MediaRow>,
    /// Who may fetch it, if not everybody with an account, and if that is not written down yet.
    restriction: Option<Restriction>,
    bytes_max: u64,
    blob: BlobName,
    /// Gone once the blob is whole.
    writer: Option<BlobWriter>,
    /// Whether the blob has its owner, or is known not to be needed.
    settled: bool,
    strip: Option<Strip>,
    hasher: Sha256,
    received_bytes: u64,
    bytes: u64,
    next_space_check: u64,
}

impl Media {
    /// Begins an upload of about `announced_bytes` to a media id of its own.
    pub async fn upload(&self, uploader: UserNumber, announced_bytes: u64) -> Result<Upload, UploadError> {
        self.check_quota(self.usage(uploader).await?, announced_bytes)?;
        self.begin(self.new_row(uploader), None, announced_bytes, self.upload_bytes_max()).await
    }

    /// The same of a file that its uploader alone may fetch until it is attached to an event (MSC3911). One that is
    /// attached to nothing goes soon.
    pub async fn upload_restricted(
        &self,
        uploader: UserNumber,
        announced_bytes: u64,
    ) -> Result<Upload, UploadError> {
        let mut upload = self.upload(uploader, announced_bytes).await?;
        upload.row.expires_ms = Some(self.attached_until_ms());
        upload.restriction = Some(Restriction::Unattached);
        Ok(upload)
    }

    /// When a file goes that is attached to nothing until then, in milliseconds since the Unix epoch.
    fn attached_until_ms(&self) -> u64 {
        self.0.clock.now_ms().saturating_add(self.options().pending_time.as_ms())
    }

    /// Begins an upload to a media id that [`Media::create`] gave.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixmediav3uploadservernamemediaid>
    pub async fn upload_to(
        &self,
        uploader: UserNumber,
        server: &ServerName,
        media_id: &str,
        announced_bytes: u64,
    ) -> Result<Upload, UploadError> {
        let key = self.key(server, media_id);
        let (row, restriction) = self.file(key).await?;
        let row = row.filter(|_| *server == self.0.server_name).ok_or(UploadError::NotFound)?;
        if row.uploader != Some(uploader) {
            return Err(UploadError::NotYours);
        }
        if row.content.is_some() {
            return Err(UploadError::AlreadyUploaded);
        }
        if row.expires_ms.is_some_and(|expires_ms| expires_ms <= self.0.clock.now_ms()) {
            return Err(UploadError::NotFound);
        }
        self.check_quota(self.usage(uploader).await?, announced_bytes)?;
        let expires_ms = restriction.is_some().then(|| self.attached_until_ms());
        let filled = MediaRow { expires_ms, ..row.clone() };
        self.begin(filled, Some(row), announced_bytes, self.upload_bytes_max()).await
    }

    /// Begins a file that gets this row in the place of that one.
    pub(super) async fn begin(
        &self,
        row: MediaRow,
        before: Option<MediaRow>,
        announced_bytes: u64,
        bytes_max: u64,
    ) -> Result<Upload, UploadError> {
        check_size(announced_bytes, bytes_max)?;
        self.check_space(announced_bytes)?;
        let blob = self.name_blob().await?;
        let mut upload = Upload {
            media: self.clone(),
            bytes_max,
            blob,
            writer: None,
            settled: false,
            // What others made stays as they made it.
            strip: (row.server.is_none() && self.options().strip_metadata).then(Strip::new),
            row,
            before,
            restriction: None,
            hasher: Sha256::new(),
            received_bytes: 0,
            bytes: 0,
            next_space_check: SPACE_CHECK_BYTES,
        };
        upload.writer = Some(self.0.blobs.create(blob).await?);
        Ok(upload)
    }

    pub(super) async fn usage(&self, uploader: UserNumber) -> Result<UsageRow, Error> {
        Ok(self.0.database.get::<MediaUsage>(&uploader).await?.unwrap_or_default())
    }

    fn check_quota(&self, usage: UsageRow, bytes: u64) -> Result<(), UploadError> {
        match self.options().quota_per_user {
            Some(quota) if usage.bytes.saturating_add(bytes) > quota.0 => {
                Err(UploadError::QuotaExceeded(quota.0))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn check_space(&self, bytes: u64) -> Result<(), UploadError> {
        let floor = self.options().free_space.0;
        match self.0.blobs.free_bytes()? {
            Some(free) if free.saturating_sub(bytes) < floor => Err(UploadError::NoSpace),
            Some(_) | None => Ok(()),
        }
    }

    /// A row for a new file of one of ours.
    pub(super) fn new_row(&self, uploader: UserNumber) -> MediaRow {
        let now_ms = self.0.clock.now_ms();
        MediaRow {
            server: None,
            media_id: self.0.random.token(MEDIA_ID_LETTERS),
            uploader: Some(uploader),
            created_ms: now_ms,
            accessed_day: super::content::day(now_ms),
            needs_account: !self.options().without_account,
            quarantined: false,
            protected: false,
            expires_ms: None,
            content: None,
        }
    }

    pub(super) fn uri(&self, row: &MediaRow) -> OwnedMxcUri {
        let server = row.server.as_deref().unwrap_or(self.0.server_name.as_str());
        format!("mxc://{server}/{}", row.media_id).into()
    }
}

impl Upload {
    /// Says who may fetch the file, if not everybody with an account.
    pub(super) fn restrict(&mut self, restriction: Option<Restriction>) {
        self.restriction = restriction;
    }

    /// Takes the next piece.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), UploadError> {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        self.received_bytes = self.received_bytes.saturating_add(length);
        check_size(self.received_bytes, self.bytes_max)?;
        if self.received_bytes >= self.next_space_check {
            self.next_space_check = self.received_bytes.saturating_add(SPACE_CHECK_BYTES);
            self.media.check_space(0)?;
        }
        if let Some(strip) = &mut self.strip {
            let kept = strip.push(piece);
            self.append(&kept).await
        } else {
            self.append(piece).await
        }
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.hasher.update(bytes);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let writer = self.writer.as_mut().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(writer.write(bytes).await?)
    }

    /// The file is whole: makes it known, and says under which address.
    pub async fn finish(mut self, description: Description) -> Result<OwnedMxcUri, UploadError> {
        if let Some(strip) = self.strip.take() {
            let kept = strip.finish();
            self.append(&kept).await?;
        }
        let content = MediaContent {
            blob: self.blob.0,
            sha256: self.hasher.clone().finalize().into(),
            bytes: self.bytes,
            content_type: description.content_type.map(shorten),
            file_name: description.file_name.map(shorten),
        };
        let key = self.media.key_of(&self.row);
        while !self.commit(key, content.clone()).await? {}
        self.media.0.arrived.notify_waiters();
        self.media.0.to_scan.notify_one();
        Ok(self.media.uri(&self.row))
    }

    /// Whether the file is known now; if not, something it depends on has changed meanwhile.
    async fn commit(&mut self, key: Hash128, mut content: MediaContent) -> Result<bool, UploadError> {
        let database = self.media.0.database.clone();
        let mut write = Write::new();
        let shared_key = (keeper(&self.row), content.sha256);
        let known = database.get::<SharedBlob>(&shared_key).await?;
        if let Some(known) = known {
            content.blob = known.blob;
            write.equals::<SharedBlob>(&shared_key, &known);
            write.put::<SharedBlob>(
                &shared_key,
                &SharedBlobRow { files: known.files.saturating_add(1), ..known },
            );
        } else {
            if let Some(writer) = self.writer.take() {
                writer.finish().await?;
            }
            write.absent::<SharedBlob>(&shared_key);
            write.put::<SharedBlob>(
                &shared_key,
                &SharedBlobRow { blob: self.blob.0, files: 1, thumbnails: 0 },
            );
            write.delete::<UnownedBlob>(&self.blob.0);
        }
        match &self.before {
            Some(before) => write.equals::<MediaFile>(&key, before),
            None => write.absent::<MediaFile>(&key),
        };
        self.count(&mut write, content.bytes).await?;
        if let Some(uploader) = self.row.uploader {
            write.delete::<PendingMedia>(&(uploader, key));
            write.put::<MediaOfUser>(&(uploader, self.row.created_ms, key), &());
        }
        let row = MediaRow { content: Some(content), ..self.row.clone() };
        write.put::<MediaFile>(&key, &row);
        if let Some(restriction) = &self.restriction {
            write.put::<MediaRestriction>(&key, restriction);
        }
        self.media.hold(&mut write, key);
        match database.commit(write).await {
            Ok(_) => {
                self.settled = known.is_none();
                Ok(true)
            }
            Err(error) if is_conflict(&error) => {
                self.check_before(key).await?;
                Ok(false)
            }
            Err(error) => Err(UploadError::Storage(error.into())),
        }
    }

    async fn count(&self, write: &mut Write, bytes: u64) -> Result<(), UploadError> {
        let uploader = keeper(&self.row);
        let usage = self.media.0.database.get::<MediaUsage>(&uploader).await?;
        match &usage {
            Some(usage) => write.equals::<MediaUsage>(&uploader, usage),
            None => write.absent::<MediaUsage>(&uploader),
        };
        let usage = usage.unwrap_or_default();
        if self.row.uploader.is_some() {
            self.media.check_quota(usage, bytes)?;
        }
        let more =
            UsageRow { files: usage.files.saturating_add(1), bytes: usage.bytes.saturating_add(bytes) };
        write.put::<MediaUsage>(&uploader, &more);
        Ok(())
    }

    /// Whether the place of the file is still free.
    async fn check_before(&self, key: Hash128) -> Result<(), UploadError> {
        match (self.media.row(key).await?, &self.before) {
            (None, None) => Ok(()),
            (Some(row), Some(before)) if row == *before => Ok(()),
            (Some(_), _) => Err(UploadError::AlreadyUploaded),
            (None, Some(_)) => Err(UploadError::NotFound),
        }
    }
}

fn check_size(bytes: u64, bytes_max: u64) -> Result<(), UploadError> {
    if bytes > bytes_max { Err(UploadError::TooLarge(bytes_max)) } else { Ok(()) }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The unfinished file goes first: its name must not be forgotten before.
        self.writer = None;
        if !self.settled && tokio::runtime::Handle::try_current().is_ok() {
            let (media, blob) = (self.media.clone(), self.blob);
            self.media.0.tasks.spawn("media discard", async move { media.discard(&[blob]).await });
        }
    }
}

/// What people say about files is kept as far as it is of a reasonable length.
fn shorten(mut text: String) -> String {
    while text.len() > DESCRIPTION_BYTES_MAX {
        text.pop();
    }
    text
}
