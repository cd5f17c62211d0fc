//! What administrators see of files, and how they find many of them.

use ruma::{OwnedUserId, ServerName};

use super::{DAY_MS, Media, is_media_id, sweep::is_deletable};
use crate::{
    database::{Error, Range},
    numbers::{Hash128, RoomNumber, UserNumber},
    tables::media::{EventMedia, MediaFile, MediaKeeper, MediaOfUser, MediaRestriction, MediaRow},
};

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaInfo {
    /// The server whose file it is.
    pub server: String,
    /// Its media id there.
    pub media_id: String,
    /// Who uploaded it, if that was one of ours.
    pub uploader: Option<OwnedUserId>,
    /// When it was made here, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The day on which it was fetched last, as milliseconds since the Unix epoch.
    pub accessed_ms: u64,
    /// Its size in bytes; none while it has not been uploaded.
    pub bytes: Option<u64>,
    /// Its media type, as the uploader said.
    pub content_type: Option<String>,
    /// Its name, as the uploader said.
    pub file_name: Option<String>,
    /// Whether an administrator took it out of circulation.
    pub quarantined: bool,
    /// Whether retention and quarantine pass it by.
    pub protected: bool,
    /// Whether not everybody with an account may fetch it.
    pub restricted: bool,
}

/// Whose files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// All that are kept here.
    #[default]
    All,
    /// Those of this server.
    Ours,
    /// Copies of other servers' files.
    Others,
    /// Those that a user uploaded.
    User(UserNumber),
    /// Those that events of a room name or carry, as far as the server can see.
    Room(RoomNumber),
}

/// Which files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Whose.
    pub whose: Whose,
    /// Those that were neither made nor fetched since, in milliseconds since the Unix epoch.
    pub unused_since_ms: Option<u64>,
    /// Those that were made before, in milliseconds since the Unix epoch.
    pub made_before_ms: Option<u64>,
    /// Those of more bytes.
    pub larger_than_bytes: Option<u64>,
    /// Leaves out what somebody has as their picture, or in a collection of stickers.
    pub but_kept: bool,
    /// Leaves out what is protected, and what is kept in quarantine so that it is not fetched again.
    pub but_protected: bool,
}

impl Media {
    /// What is known of a file.
    pub async fn info(&self, server: &ServerName, media_id: &str) -> Result<Option<MediaInfo>, Error> {
        if !is_media_id(media_id) {
            return Ok(None);
        }
        let key = self.key(server, media_id);
        match self.row(key).await? {
            Some(row) => Ok(Some(self.info_of(key, &row).await?)),
            None => Ok(None),
        }
    }

    async fn info_of(&self, key: Hash128, row: &MediaRow) -> Result<MediaInfo, Error> {
        let uploader = match row.uploader {
            Some(user) => self.0.rooms.user_id(user).await?,
            None => None,
        };
        let restricted = self.0.database.get::<MediaRestriction>(&key).await?.is_some();
        let content = row.content.as_ref();
        Ok(MediaInfo {
            server: row.server.clone().unwrap_or_else(|| self.0.server_name.to_string()),
            media_id: row.media_id.clone(),
            uploader,
            created_ms: row.created_ms,
            accessed_ms: u64::from(row.accessed_day).saturating_mul(DAY_MS),
            bytes: content.map(|content| content.bytes),
            content_type: content.and_then(|content| content.content_type.clone()),
            file_name: content.and_then(|content| content.file_name.clone()),
            quarantined: row.quarantined,
            protected: row.protected,
            restricted,
        })
    }

    /// The files of a selection.
    pub async fn list(&self, selection: Selection) -> Result<Vec<MediaInfo>, Error> {
        let mut found = Vec::new();
        for (key, row) in self.selected(selection).await? {
            found.push(self.info_of(key, &row).await?);
        }
        Ok(found)
    }

    /// Deletes the files of a selection; which they were.
    pub async fn delete_selected(&self, selection: Selection) -> Result<Vec<MediaInfo>, Error> {
        let mut deleted = Vec::new();
        for (key, row) in self.selected(selection).await? {
            let info = self.info_of(key, &row).await?;
            if self.delete_by_key(key).await? {
                deleted.push(info);
            }
        }
        Ok(deleted)
    }

    /// Takes the files of a selection out of circulation, but those that are protected; how many they were.
    pub async fn quarantine_selected(&self, selection: Selection) -> Result<u64, Error> {
        let mut count = 0_u64;
        for (key, row) in self.selected(selection).await? {
            if !row.protected && !row.quarantined && self.quarantine_by_key(key).await? {
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }

    async fn selected(&self, selection: Selection) -> Result<Vec<(Hash128, MediaRow)>, Error> {
        let database = &self.0.database;
        let keys: Vec<Hash128> = match selection.whose {
            Whose::All | Whose::Ours | Whose::Others => return self.selected_of_all(selection).await,
            Whose::User(user) => {
                let rows = database.scan_all(Range::<MediaOfUser>::prefix(&user)).await?;
                rows.into_iter().map(|((_, _, key), ())| key).collect()
            }
            Whose::Room(room) => {
                let rows = database.scan_all(Range::<EventMedia>::prefix(&room)).await?;
                let mut keys: Vec<Hash128> = rows.into_iter().map(|((_, _, key), _)| key).collect();
                keys.sort_unstable();
                keys.dedup();
                keys
            }
        };
        let rows = database.get_all::<MediaFile>(&keys).await?;
        let mut found = Vec::new();
        for (key, row) in keys.into_iter().zip(rows) {
            if let Some(row) = row
                && self.is_selected(selection, key, &row).await?
            {
                found.push((key, row));
            }
        }
        Ok(found)
    }

    async fn selected_of_all(&self, selection: Selection) -> Result<Vec<(Hash128, MediaRow)>, Error> {
        let (mut found, mut range) = (Vec::new(), Range::<MediaFile>::whole());
        loop {
            let page = self.0.database.scan(&range).await?;
            let last = page.rows.last().map(|(key, _)| *key);
            for (key, row) in page.rows {
                if self.is_selected(selection, key, &row).await? {
                    found.push((key, row));
                }
            }
            let (true, Some(last)) = (page.more, last) else { return Ok(found) };
            range = range.continued_after(&last);
        }
    }

    async fn is_selected(&self, selection: Selection, key: Hash128, row: &MediaRow) -> Result<bool, Error> {
        let bytes = row.content.as_ref().map_or(0, |content| content.bytes);
        // Known by the day, so until its end.
        let accessed_ms = u64::from(row.accessed_day).saturating_add(1).saturating_mul(DAY_MS);
        let used_ms = row.created_ms.max(accessed_ms);
        let fits = match selection.whose {
            Whose::Ours => row.server.is_none(),
            Whose::Others => row.server.is_some(),
            Whose::All | Whose::User(_) | Whose::Room(_) => true,
        } && selection.unused_since_ms.is_none_or(|since_ms| used_ms <= since_ms)
            && selection.made_before_ms.is_none_or(|before_ms| row.created_ms < before_ms)
            && selection.larger_than_bytes.is_none_or(|larger| bytes > larger)
            && (!selection.but_protected || is_deletable(row));
        if !fits || !selection.but_kept {
            return Ok(fits);
        }
        let keepers = self.0.database.scan(&Range::<MediaKeeper>::prefix(&key).limit(1)).await?;
        Ok(keepers.rows.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::{ALICE, BOB, fixture, id, server};

    #[tokio::test]
    async fn files_are_found_by_owner_age_and_size() {
        let fixture = fixture(|_| {}).await;
        let media = &fixture.media;
        let old = fixture.put(ALICE, b"old and small").await;
        fixture.clock.advance(std::time::Duration::from_secs(3 * 24 * 3600));
        let now_ms = fixture.clock.now_ms();
        let large = fixture.put(ALICE, &[7; 1000]).await;
        let of_bob = fixture.put(BOB, b"of bob").await;
        media.set_protected(server(), &of_bob, true).await.unwrap();
        let list = async |selection| {
            let mut found: Vec<String> =
                media.list(selection).await.unwrap().into_iter().map(|info| info.media_id).collect();
            found.sort_unstable();
            found
        };
        let sorted = |ids: &[&String]| {
            let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
            ids.sort_unstable();
            ids
        };
        let all = Selection::default();
        assert_eq!(list(all).await, sorted(&[&old, &large, &of_bob]));
        assert_eq!(list(Selection { whose: Whose::Ours, ..all }).await.len(), 3);
        assert_eq!(list(Selection { whose: Whose::Others, ..all }).await.len(), 0);
        assert_eq!(list(Selection { whose: Whose::User(ALICE), ..all }).await, sorted(&[&old, &large]));
        assert_eq!(list(Selection { made_before_ms: Some(now_ms), ..all }).await, sorted(&[&old]));
        assert_eq!(list(Selection { unused_since_ms: Some(now_ms), ..all }).await, sorted(&[&old]));
        assert_eq!(list(Selection { larger_than_bytes: Some(100), ..all }).await, sorted(&[&large]));
        let unprotected = Selection { but_protected: true, ..all };
        assert_eq!(list(unprotected).await, sorted(&[&old, &large]));

        let info = media.info(server(), &large).await.unwrap().unwrap();
        assert_eq!((info.bytes, info.quarantined, info.restricted), (Some(1000), false, false));
        let of_alice = Selection { whose: Whose::User(ALICE), ..all };
        assert_eq!(media.quarantine_selected(all).await.unwrap(), 2, "not what is protected");
        assert!(media.info(server(), &large).await.unwrap().unwrap().quarantined);
        assert_eq!(fixture.get(&large).await, None);
        assert_eq!(media.delete_selected(of_alice).await.unwrap().len(), 2);
        assert_eq!(list(all).await, sorted(&[&of_bob]));
        fixture.files(1).await;
        let restricted = media.upload_restricted(ALICE, 0).await.unwrap();
        let uri = restricted.finish(crate::media::Description::default()).await.unwrap();
        assert!(media.info(server(), &id(&uri)).await.unwrap().unwrap().restricted);
    }
}
