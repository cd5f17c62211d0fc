//! How files go: deleted by their uploader or an administrator, with their uploader's data, or after their time.
//!
//! A deleted file is unknown at once, and its bytes and those of its thumbnails are removed behind the commit; what a
//! crash leaves of them is removed by the next start.

use allod_storage::BlobName;
use ruma::ServerName;

use super::{Media, is_conflict, is_media_id, keeper, loose::Loose};
use crate::{
    database::{Error, Range, Write},
    named_media::{ATTACHED, NAMED},
    numbers::{Hash128, UserNumber},
    tables::media::{
        LooseMedia, MediaContent, MediaFile, MediaKeeper, MediaOfUser, MediaReference, MediaRestriction,
        MediaRow, MediaSender, MediaUsage, PendingMedia, SharedBlob, SharedBlobRow, Thumbnail, UsageRow,
    },
};

/// Why a file cannot be changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is none.
    #[error("there is no such file")]
    NotFound,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Media {
    /// Deletes a file: its row, its bytes unless another file of the same person is equal, and its thumbnails.
    pub async fn delete(&self, server: &ServerName, media_id: &str) -> Result<(), RemoveError> {
        if !is_media_id(media_id) {
            return Err(RemoveError::NotFound);
        }
        let deleted = self.delete_by_key(self.key(server, media_id)).await?;
        if deleted { Ok(()) } else { Err(RemoveError::NotFound) }
    }

    /// Deletes all that a user has uploaded; how many files that were.
    pub async fn delete_of_user(&self, user: UserNumber) -> Result<u64, Error> {
        let mut deleted = 0_u64;
        for table in [true, false] {
            let keys: Vec<Hash128> = if table {
                let rows = self.0.database.scan_all(Range::<MediaOfUser>::prefix(&user)).await?;
                rows.into_iter().map(|((_, _, key), ())| key).collect()
            } else {
                let rows = self.0.database.scan_all(Range::<PendingMedia>::prefix(&user)).await?;
                rows.into_iter().map(|((_, key), _)| key).collect()
            };
            for key in keys {
                deleted = deleted.saturating_add(u64::from(self.delete_by_key(key).await?));
            }
        }
        Ok(deleted)
    }

    /// Takes a file out of circulation, or lets it back in. One that is protected stays as it is.
    pub async fn set_quarantined(
        &self,
        server: &ServerName,
        media_id: &str,
        quarantined: bool,
    ) -> Result<(), RemoveError> {
        self.change(server, media_id, |row| row.quarantined = quarantined && !row.protected).await
    }

    /// Protects a file from quarantine and retention, or no longer does.
    pub async fn set_protected(
        &self,
        server: &ServerName,
        media_id: &str,
        protected: bool,
    ) -> Result<(), RemoveError> {
        self.change(server, media_id, |row| row.protected = protected).await
    }

    /// Takes a file out of circulation by its key; whether there was one.
    pub(super) async fn quarantine_by_key(&self, key: Hash128) -> Result<bool, Error> {
        match self.change_by_key(key, |row| row.quarantined = !row.protected).await {
            Ok(()) => Ok(true),
            Err(RemoveError::NotFound) => Ok(false),
            Err(RemoveError::Storage(error)) => Err(error),
        }
    }

    async fn change(
        &self,
        server: &ServerName,
        media_id: &str,
        change: impl Fn(&mut MediaRow),
    ) -> Result<(), RemoveError> {
        if !is_media_id(media_id) {
            return Err(RemoveError::NotFound);
        }
        self.change_by_key(self.key(server, media_id), change).await
    }

    async fn change_by_key(&self, key: Hash128, change: impl Fn(&mut MediaRow)) -> Result<(), RemoveError> {
        loop {
            let row = self.row(key).await?.ok_or(RemoveError::NotFound)?;
            let mut changed = row.clone();
            change(&mut changed);
            let mut write = Write::new();
            write.equals::<MediaFile>(&key, &row);
            write.put::<MediaFile>(&key, &changed);
            match self.0.database.commit(write).await {
                Err(error) if is_conflict(&error) => {}
                outcome => return Ok(outcome.map(|_| ()).map_err(Error::from)?),
            }
        }
    }

    /// Deletes a file by its key; whether there was one.
    pub(super) async fn delete_by_key(&self, key: Hash128) -> Result<bool, Error> {
        self.delete_if(key, None).await
    }

    /// Deletes a file that nothing keeps, unless that has changed; whether it did.
    pub(super) async fn delete_loose(&self, loose: &Loose) -> Result<bool, Error> {
        self.delete_if(loose.0.0, Some(loose)).await
    }

    async fn delete_if(&self, key: Hash128, loose: Option<&Loose>) -> Result<bool, Error> {
        loop {
            let Some(row) = self.row(key).await? else { return Ok(false) };
            let mut write = Write::new();
            if let Some((key, row)) = loose {
                if self.0.database.get::<LooseMedia>(key).await?.as_ref() != Some(row) {
                    return Ok(false);
                }
                write.equals::<LooseMedia>(key, row);
            }
            self.forget_readers(&mut write, key, &row).await?;
            write.equals::<MediaFile>(&key, &row);
            write.delete::<MediaFile>(&key);
            if let Some(uploader) = row.uploader {
                write.delete::<PendingMedia>(&(uploader, key));
                write.delete::<MediaOfUser>(&(uploader, row.created_ms, key));
            }
            let blobs = match &row.content {
                Some(content) => {
                    self.uncount(&mut write, &row, content.bytes).await?;
                    self.release(&mut write, keeper(&row), content).await?
                }
                None => Vec::new(),
            };
            match self.0.database.commit(write).await {
                Ok(_) => {
                    self.discard(&blobs).await;
                    return Ok(true);
                }
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes away what is written down of who may fetch a file and what names it.
    async fn forget_readers(&self, write: &mut Write, key: Hash128, row: &MediaRow) -> Result<(), Error> {
        let database = &self.0.database;
        write.delete::<MediaRestriction>(&key);
        for kind in [NAMED, ATTACHED] {
            write.delete::<LooseMedia>(&(key, kind));
        }
        for (row, ()) in database.scan(&Range::<MediaSender>::prefix(&key)).await?.rows {
            write.delete::<MediaSender>(&row);
        }
        for (row, ()) in database.scan(&Range::<MediaKeeper>::prefix(&key)).await?.rows {
            write.delete::<MediaKeeper>(&row);
        }
        // A copy of another server's file may come back, and is named then as it was.
        if row.server.is_none() {
            for (row, ()) in database.scan(&Range::<MediaReference>::prefix(&key)).await?.rows {
                write.delete::<MediaReference>(&row);
            }
        }
        Ok(())
    }

    async fn uncount(&self, write: &mut Write, row: &MediaRow, bytes: u64) -> Result<(), Error> {
        let uploader = keeper(row);
        let Some(usage) = self.0.database.get::<MediaUsage>(&uploader).await? else { return Ok(()) };
        write.equals::<MediaUsage>(&uploader, &usage);
        let less =
            UsageRow { files: usage.files.saturating_sub(1), bytes: usage.bytes.saturating_sub(bytes) };
        if less.files == 0 {
            write.delete::<MediaUsage>(&uploader);
        } else {
            write.put::<MediaUsage>(&uploader, &less);
        }
        Ok(())
    }

    /// One file less is this blob; the blobs that nobody owns once the write is committed.
    async fn release(
        &self,
        write: &mut Write,
        keeper: UserNumber,
        content: &MediaContent,
    ) -> Result<Vec<BlobName>, Error> {
        let shared_key = (keeper, content.sha256);
        let Some(shared) = self.0.database.get::<SharedBlob>(&shared_key).await? else {
            return Ok(Vec::new());
        };
        write.equals::<SharedBlob>(&shared_key, &shared);
        if shared.files > 1 {
            let less = SharedBlobRow { files: shared.files.saturating_sub(1), ..shared };
            write.put::<SharedBlob>(&shared_key, &less);
            return Ok(Vec::new());
        }
        write.delete::<SharedBlob>(&shared_key);
        self.disown(write, shared.blob);
        let mut blobs = vec![BlobName(shared.blob)];
        for (thumbnail_key, thumbnail) in
            self.0.database.scan_all(Range::<Thumbnail>::prefix(&shared.blob)).await?
        {
            write.delete::<Thumbnail>(&thumbnail_key);
            self.disown(write, thumbnail.blob);
            self.0.thumbnails.forget(thumbnail_key);
            blobs.push(BlobName(thumbnail.blob));
        }
        Ok(blobs)
    }
}
