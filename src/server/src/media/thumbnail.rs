//! Thumbnails: each is made once, on a thread for it, and kept with the blob that it was made of.

use std::{io, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use quick_cache::sync::Cache;
use tokio::sync::Semaphore;

use super::{
    Content, ContentError, Media, Wanted, access,
    content::Found,
    is_conflict, keeper,
    picture::{self, Made, Method, PictureError, Request},
};
use crate::{
    database::{Error, Write},
    numbers::UserNumber,
    tables::media::{MediaContent, SharedBlob, SharedBlobRow, Thumbnail, ThumbnailRow, UnownedBlob},
};

/// Largest file of which a thumbnail is made.
const SOURCE_BYTES_MAX: u64 = 32 << 20;
/// Pictures that are worked on at a time: each may take [`picture::MEMORY_BYTES_MAX`].
const AT_ONCE: usize = 2;
/// Thumbnails whose rows are kept in memory.
const CACHED: usize = 10_000;
/// The sides of thumbnails that are made: the longer side is the next of these that is large enough. The sizes that the
/// specification recommends are among them.
const SIDES: [u16; 6] = [32, 96, 320, 640, 800, 1600];
/// In so many steps the shorter side may differ from the longer, so that nobody can have thousands made.
const STEPS: u32 = 8;

/// What a thumbnail's row is called.
pub(super) type ThumbnailKey = ([u8; 16], u16, u16, u8);

/// Which thumbnail.
#[derive(Clone, Copy, Debug)]
pub struct ThumbnailWanted {
    /// Its width in pixels, about.
    pub width: u64,
    /// Its height in pixels, about.
    pub height: u64,
    /// Whether it is cut to shape.
    pub method: Method,
    /// Whether it may move.
    pub animated: bool,
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub enum ThumbnailError {
    /// The file is not given.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The wanted size is none.
    #[error("width and height must be greater than zero")]
    NoSize,
    /// The file is no picture of a kind that is read here, or a damaged one.
    #[error("the file is no picture of which a thumbnail can be made")]
    NoPicture,
    /// The picture is too large.
    #[error("the picture is too large to make a thumbnail of it")]
    TooLarge,
}

/// What was found out about a thumbnail.
#[derive(Clone, Copy, Debug)]
enum Known {
    Row(ThumbnailRow),
    /// The picture itself is no larger.
    Original,
    Impossible(PictureError),
}

/// What is known about thumbnails, and a limit to how many are made at a time.
#[derive(Debug)]
pub(super) struct Thumbnails {
    /// Also lets many who want the same thumbnail wait for one who makes it.
    known: Cache<ThumbnailKey, Known>,
    workers: Arc<Semaphore>,
}

impl Thumbnails {
    pub(super) fn new() -> Self {
        Self { known: Cache::new(CACHED), workers: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    pub(super) fn forget(&self, key: ThumbnailKey) {
        self.known.remove(&key);
    }
}

impl Media {
    /// A thumbnail of a file, at least as large as wanted, or the file itself if that is no larger.
    pub async fn thumbnail(
        &self,
        wanted: Wanted<'_>,
        size: ThumbnailWanted,
    ) -> Result<Content, ThumbnailError> {
        if size.width == 0 || size.height == 0 {
            return Err(ThumbnailError::NoSize);
        }
        let Found { row, content, restriction } = self.find(wanted).await?;
        if content.bytes > SOURCE_BYTES_MAX {
            return Err(ThumbnailError::TooLarge);
        }
        let request = request(size);
        let kind = u8::from(request.method == Method::Crop) | u8::from(request.animated) << 1;
        let key = (content.blob, request.width, request.height, kind);
        let make = self.find_or_make(key, keeper(&row), &content, request);
        match self.0.thumbnails.known.get_or_insert_async(&key, make).await? {
            Known::Row(row) => Ok(Content {
                content_type: Some(row.kind.content_type().to_owned()),
                file_name: Some(row.kind.file_name().to_owned()),
                bytes: row.bytes,
                tag: URL_SAFE_NO_PAD.encode(row.blob),
                restrictions: access::to_json(restriction.as_ref()),
                blob: row.blob,
            }),
            Known::Original => Ok(Content::of(&content, restriction.as_ref())),
            Known::Impossible(PictureError::TooLarge) => Err(ThumbnailError::TooLarge),
            Known::Impossible(PictureError::Unknown | PictureError::Broken) => Err(ThumbnailError::NoPicture),
        }
    }

    async fn find_or_make(
        &self,
        key: ThumbnailKey,
        keeper: UserNumber,
        content: &MediaContent,
        request: Request,
    ) -> Result<Known, ContentError> {
        if let Some(row) = self.0.database.get::<Thumbnail>(&key).await? {
            return Ok(Known::Row(row));
        }
        match self.make(content, request).await? {
            Ok(Made::Picture(kind, bytes)) => {
                let row = ThumbnailRow {
                    blob: self.name_blob().await?.0,
                    bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
                    kind,
                };
                self.keep(key, (keeper, content.sha256), row, &bytes).await
            }
            Ok(Made::Original) => Ok(Known::Original),
            Err(error) => Ok(Known::Impossible(error)),
        }
    }

    async fn make(
        &self,
        content: &MediaContent,
        request: Request,
    ) -> Result<Result<Made, PictureError>, ContentError> {
        let source = self.whole(content).await?;
        // Closed never; and whoever gives up waiting gives up their place.
        let permit =
            Arc::clone(&self.0.thumbnails.workers).acquire_owned().await.map_err(io::Error::other)?;
        let work = self.0.tasks.spawn_blocking(move || {
            let made = picture::thumbnail(&source, request);
            drop(permit);
            made
        });
        // A decoder that panics has met a picture that is broken.
        Ok(work.await.unwrap_or(Err(PictureError::Broken)))
    }

    /// All bytes of a file that is known to be small.
    pub(super) async fn whole(&self, content: &MediaContent) -> Result<Bytes, ContentError> {
        let mut reader =
            self.open_blob(content.blob, 0, content.bytes).await?.ok_or(ContentError::NotFound)?;
        Ok(reader.rest().await?)
    }

    async fn keep(
        &self,
        key: ThumbnailKey,
        shared_key: (UserNumber, [u8; 32]),
        row: ThumbnailRow,
        bytes: &[u8],
    ) -> Result<Known, ContentError> {
        let name = allod_storage::BlobName(row.blob);
        let mut writer = self.0.blobs.create(name).await?;
        writer.write(bytes).await?;
        writer.finish().await?;
        loop {
            let shared = self.0.database.get::<SharedBlob>(&shared_key).await?;
            let Some(shared) = shared.filter(|shared| shared.blob == key.0) else {
                // The file was deleted meanwhile.
                self.discard(&[name]).await;
                return Err(ContentError::NotFound);
            };
            let mut write = Write::new();
            // Who deletes the file meanwhile hears of the thumbnail by this row.
            write.equals::<SharedBlob>(&shared_key, &shared);
            let more = SharedBlobRow { thumbnails: shared.thumbnails.saturating_add(1), ..shared };
            write.put::<SharedBlob>(&shared_key, &more);
            write.put::<Thumbnail>(&key, &row);
            write.delete::<UnownedBlob>(&row.blob);
            match self.0.database.commit(write).await {
                Ok(_) => return Ok(Known::Row(row)),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }
}

/// What is made for what is wanted.
fn request(wanted: ThumbnailWanted) -> Request {
    let [width, height] = [wanted.width, wanted.height].map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    let (long, short) = (width.max(height), width.min(height));
    let largest = SIDES.last().copied().unwrap_or_default();
    let side = SIDES.into_iter().find(|side| u32::from(*side) >= long).unwrap_or(largest);
    // Rounded up, so that it is no smaller than asked for.
    let eighths = u64::from(short).saturating_mul(STEPS.into()).div_ceil(u64::from(long.max(1)));
    let other = u64::from(side).saturating_mul(eighths) / u64::from(STEPS);
    let other = u16::try_from(other).unwrap_or(side).max(1);
    let (width, height) = if width >= height { (side, other) } else { (other, side) };
    Request { width, height, method: wanted.method, animated: wanted.animated }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sizes_are_made() {
        let size = |width, height| {
            let request = request(ThumbnailWanted { width, height, method: Method::Scale, animated: false });
            (request.width, request.height)
        };
        for same in [(32, 32), (96, 96), (320, 240), (640, 480), (800, 600)] {
            assert_eq!(size(same.0.into(), same.1.into()), same, "as the specification recommends");
        }
        assert_eq!(size(100, 100), (320, 320));
        assert_eq!(size(100, 1), (320, 40));
        assert_eq!(size(1, 1), (32, 32));
        assert_eq!(size(33, 90), (36, 96));
        assert_eq!(size(u64::MAX, u64::MAX), (1600, 1600));
        assert_eq!(size(u64::MAX, 1), (1600, 200));
    }
}
