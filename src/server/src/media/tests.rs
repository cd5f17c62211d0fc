//! The whole service over memory, or over a folder where files are counted.

use std::{fs, path::Path, time::Duration};

use allod_storage::Store;
use tempfile::TempDir;

use super::*;
use crate::{
    config::{ByteSize, Config, Interval},
    rooms,
    tables::{
        SPACES,
        media::{MediaOfUser, MediaUsage, SharedBlob, Thumbnail},
    },
};

pub(super) const ALICE: UserNumber = UserNumber(1);
pub(super) const BOB: UserNumber = UserNumber(2);

pub(super) struct Fixture {
    pub(super) media: Media,
    pub(super) clock: Clock,
    tasks: Tasks,
    store: Store,
    folder: TempDir,
    config: Config,
    _rooms: rooms::testing::Server,
}

pub(super) async fn fixture(change: impl FnOnce(&mut config::Media)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.media.folder = Some(folder.path().into());
    config.media.free_space = ByteSize(0);
    change(&mut config.media);
    open(config, folder, Store::memory(SPACES), Clock::manual(1_700_000_000_000)).await
}

async fn open(config: Config, folder: TempDir, store: Store, clock: Clock) -> Fixture {
    let (random, tasks) = (Random::seeded(clock.now_ms()), Tasks::new());
    let rooms = rooms::testing::Server::over(store.clone()).await;
    let database = Database::open(store.clone(), &random).await.unwrap();
    let media = Media::open(MediaSources {
        database,
        config: Live::new(config.clone()),
        clock: clock.clone(),
        random,
        tasks: tasks.clone(),
        client: None,
        bucket: None,
        rooms: rooms.rooms.clone(),
    });
    Fixture { media: media.await.unwrap(), clock, tasks, store, folder, config, _rooms: rooms }
}

impl Fixture {
    async fn restart(self) -> Self {
        drop(self.media);
        assert!(self.tasks.shut_down(Duration::from_secs(10)).await);
        self.clock.advance(Duration::from_secs(1));
        open(self.config, self.folder, self.store, self.clock).await
    }

    pub(super) async fn put(&self, user: UserNumber, bytes: &[u8]) -> String {
        id(&self.try_put(user, bytes).await.unwrap())
    }

    async fn try_put(&self, user: UserNumber, bytes: &[u8]) -> Result<ruma::OwnedMxcUri, UploadError> {
        let mut upload = self.media.upload(user, 0).await?;
        upload.write(bytes).await?;
        upload.finish(Description::default()).await
    }

    pub(super) async fn get(&self, media_id: &str) -> Option<Vec<u8>> {
        let content = self.media.content(wanted(media_id)).await.ok()?;
        let mut reader = self.media.read(&content, 0, u64::MAX).await.ok()?;
        Some(reader.rest().await.unwrap().to_vec())
    }

    /// Waits until the folder holds so many files.
    pub(super) async fn files(&self, expected: usize) {
        for _ in 0..1000 {
            if count(self.folder.path()) == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count(self.folder.path()), expected);
    }

    /// There is nothing left of any file.
    async fn nothing_is_left(&self) {
        self.files(0).await;
        let database = &self.media.0.database;
        assert!(database.scan_all(Range::<MediaFile>::whole()).await.unwrap().is_empty());
        assert!(database.scan_all(Range::<MediaOfUser>::whole()).await.unwrap().is_empty());
        assert!(database.scan_all(Range::<MediaUsage>::whole()).await.unwrap().is_empty());
        assert!(database.scan_all(Range::<SharedBlob>::whole()).await.unwrap().is_empty());
        assert!(database.scan_all(Range::<Thumbnail>::whole()).await.unwrap().is_empty());
        for _ in 0..1000 {
            if database.scan_all(Range::<UnownedBlob>::whole()).await.unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("a blob is still noted as unowned");
    }
}

fn count(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

fn wanted(media_id: &str) -> Wanted<'_> {
    let server = <&ServerName>::try_from("localhost").unwrap();
    Wanted { server, media_id, wait: Duration::ZERO, remote: true, asker: Asker::Server(server) }
}

pub(super) fn id(uri: &ruma::MxcUri) -> String {
    uri.parts().unwrap().1.to_owned()
}

pub(super) fn server() -> &'static ServerName {
    "localhost".try_into().unwrap()
}

fn png(size: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(size, size).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

const SMALL: ThumbnailWanted =
    ThumbnailWanted { width: 32, height: 32, method: Method::Crop, animated: false };

#[tokio::test]
async fn equal_files_of_one_person_are_one_and_of_two_are_two() {
    let fixture = fixture(|_| {}).await;
    let (first, second) = (fixture.put(ALICE, b"hello").await, fixture.put(ALICE, b"hello").await);
    assert_ne!(first, second);
    fixture.files(1).await;
    let third = fixture.put(BOB, b"hello").await;
    fixture.files(2).await;
    fixture.media.delete(server(), &first).await.unwrap();
    assert_eq!(fixture.get(&first).await, None);
    for kept in [&second, &third] {
        assert_eq!(fixture.get(kept).await.unwrap(), b"hello");
    }
    fixture.files(2).await;
    assert_eq!(fixture.media.delete_of_user(ALICE).await.unwrap(), 1);
    fixture.files(1).await;
    assert_eq!(fixture.media.delete_of_user(BOB).await.unwrap(), 1);
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn many_equal_files_at_once_are_one() {
    let fixture = fixture(|_| {}).await;
    let files = futures_util::future::join_all((0..20).map(|_| fixture.put(ALICE, b"hello"))).await;
    fixture.files(1).await;
    let usage = fixture.media.0.database.get::<MediaUsage>(&ALICE).await.unwrap().unwrap();
    assert_eq!((usage.files, usage.bytes), (20, 100));
    futures_util::future::join_all(files.iter().map(|file| fixture.media.delete(server(), file))).await;
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn a_file_goes_with_its_thumbnails() {
    let fixture = fixture(|_| {}).await;
    let file = fixture.put(ALICE, &png(200)).await;
    let made =
        futures_util::future::join_all((0..10).map(|_| fixture.media.thumbnail(wanted(&file), SMALL))).await;
    let tags: std::collections::BTreeSet<String> = made.into_iter().map(|made| made.unwrap().tag).collect();
    assert_eq!(tags.len(), 1, "made once");
    fixture.files(2).await;
    let larger = ThumbnailWanted { width: 90, ..SMALL };
    fixture.media.thumbnail(wanted(&file), larger).await.unwrap();
    fixture.files(3).await;
    let fixture = fixture.restart().await;
    fixture.media.thumbnail(wanted(&file), SMALL).await.unwrap();
    fixture.files(3).await;
    fixture.media.delete(server(), &file).await.unwrap();
    assert!(matches!(
        fixture.media.thumbnail(wanted(&file), SMALL).await,
        Err(ThumbnailError::Content(ContentError::NotFound))
    ));
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_nor_does_a_crash() {
    let fixture = fixture(|_| {}).await;
    let mut upload = fixture.media.upload(ALICE, 0).await.unwrap();
    upload.write(&vec![1; 1 << 20]).await.unwrap();
    fixture.files(1).await;
    drop(upload);
    fixture.nothing_is_left().await;

    // One that was being written, and one that was whole and not known yet.
    let mut upload = fixture.media.upload(ALICE, 0).await.unwrap();
    upload.write(&vec![1; 1 << 20]).await.unwrap();
    std::mem::forget(upload);
    let blob = fixture.media.name_blob().await.unwrap();
    fixture.media.0.blobs.create(blob).await.unwrap().finish().await.unwrap();
    fixture.files(2).await;
    let fixture = fixture.restart().await;
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn what_could_not_be_removed_is_removed_later() {
    let fixture = fixture(|_| {}).await;
    let blob = fixture.media.name_blob().await.unwrap();
    fixture.media.0.blobs.create(blob).await.unwrap().finish().await.unwrap();
    fixture.clock.advance(Duration::from_secs(6 * 24 * 3600));
    fixture.media.sweep().await.unwrap();
    fixture.files(1).await;
    fixture.clock.advance(Duration::from_secs(2 * 24 * 3600));
    fixture.media.sweep().await.unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn limits_hold() {
    let fixture = fixture(|media| {
        media.upload_size = ByteSize(10);
        media.quota_per_user = Some(ByteSize(25));
    })
    .await;
    assert!(matches!(fixture.media.upload(ALICE, 11).await, Err(UploadError::TooLarge(10))));
    assert!(matches!(fixture.try_put(ALICE, b"hello world").await, Err(UploadError::TooLarge(10))));
    let first = fixture.put(ALICE, b"0123456789").await;
    fixture.put(ALICE, b"9876543210").await;
    assert!(matches!(fixture.media.upload(ALICE, 6).await, Err(UploadError::QuotaExceeded(25))));
    assert!(matches!(fixture.try_put(ALICE, b"012345").await, Err(UploadError::QuotaExceeded(25))));
    fixture.put(ALICE, b"01234").await;
    fixture.put(BOB, b"012345").await;
    fixture.media.delete(server(), &first).await.unwrap();
    fixture.put(ALICE, b"012345").await;
    fixture.files(4).await;
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_nothing_more() {
    let fixture = fixture(|media| media.free_space = ByteSize(u64::MAX >> 1)).await;
    assert!(matches!(fixture.media.upload(ALICE, 0).await, Err(UploadError::NoSpace)));
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn a_media_id_waits_for_its_file_and_not_for_ever() {
    let fixture = fixture(|media| media.pending_uploads = 2).await;
    let media = &fixture.media;
    let (uri, expires_ms) = media.create(ALICE).await.unwrap();
    let file = id(&uri);
    assert_eq!(expires_ms, 1_700_000_000_000 + 24 * 3600 * 1000);
    assert!(matches!(media.content(wanted(&file)).await, Err(ContentError::NotYetUploaded)));
    assert!(matches!(media.upload_to(BOB, server(), &file, 0).await, Err(UploadError::NotYours)));
    assert!(matches!(media.upload_to(ALICE, server(), "other", 0).await, Err(UploadError::NotFound)));
    media.create(ALICE).await.unwrap();
    assert!(matches!(media.create(ALICE).await, Err(CreateError::TooMany { retry_after_ms: 86_400_000 })));

    // Someone waits while it is uploaded.
    let waiting = Wanted { wait: Duration::from_secs(30), ..wanted(&file) };
    let (content, ()) = tokio::join!(media.content(waiting), async {
        let mut upload = media.upload_to(ALICE, server(), &file, 0).await.unwrap();
        let mut too_late = media.upload_to(ALICE, server(), &file, 0).await.unwrap();
        upload.write(b"hello").await.unwrap();
        upload.finish(Description::default()).await.unwrap();
        too_late.write(b"other").await.unwrap();
        let refused = too_late.finish(Description::default()).await;
        assert!(matches!(refused, Err(UploadError::AlreadyUploaded)), "{refused:?}");
    });
    assert_eq!(content.unwrap().bytes, 5);
    assert!(matches!(media.upload_to(ALICE, server(), &file, 0).await, Err(UploadError::AlreadyUploaded)));

    let (forgotten, _) = media.create(ALICE).await.unwrap();
    fixture.clock.advance(Duration::from_secs(24 * 3600));
    let forgotten = id(&forgotten);
    assert!(matches!(media.upload_to(ALICE, server(), &forgotten, 0).await, Err(UploadError::NotFound)));
    assert!(matches!(media.content(wanted(&forgotten)).await, Err(ContentError::NotFound)));
    media.sweep().await.unwrap();
    assert!(media.row(media.key(server(), &forgotten)).await.unwrap().is_none());
    assert_eq!(fixture.get(&file).await.unwrap(), b"hello");
    media.delete_of_user(ALICE).await.unwrap();
    fixture.nothing_is_left().await;
}

#[tokio::test]
async fn files_go_after_their_time_unless_they_are_protected() {
    let fixture = fixture(|media| media.retention = Some(Interval::seconds(1000))).await;
    let (old, protected) = (fixture.put(ALICE, &png(100)).await, fixture.put(ALICE, b"protected").await);
    fixture.media.thumbnail(wanted(&old), SMALL).await.unwrap();
    fixture.media.set_protected(server(), &protected, true).await.unwrap();
    fixture.clock.advance(Duration::from_secs(600));
    let young = fixture.put(BOB, b"young").await;
    fixture.files(4).await;
    fixture.clock.advance(Duration::from_secs(400));
    fixture.media.sweep().await.unwrap();
    fixture.files(2).await;
    assert_eq!(fixture.get(&old).await, None);
    assert!(fixture.get(&young).await.is_some() && fixture.get(&protected).await.is_some());
}

#[tokio::test]
async fn what_is_in_quarantine_is_not_given() {
    let fixture = fixture(|_| {}).await;
    let file = fixture.put(ALICE, b"hello").await;
    fixture.media.set_quarantined(server(), &file, true).await.unwrap();
    assert_eq!(fixture.get(&file).await, None);
    fixture.media.set_quarantined(server(), &file, false).await.unwrap();
    assert!(fixture.get(&file).await.is_some());
    fixture.media.set_protected(server(), &file, true).await.unwrap();
    fixture.media.set_quarantined(server(), &file, true).await.unwrap();
    assert!(fixture.get(&file).await.is_some());
    assert!(matches!(fixture.media.set_protected(server(), "none", true).await, Err(RemoveError::NotFound)));
}

#[tokio::test]
async fn when_a_file_was_fetched_last_is_known_by_the_day() {
    let fixture = fixture(|_| {}).await;
    let file = fixture.put(ALICE, b"hello").await;
    let key = fixture.media.key(server(), &file);
    let first = fixture.media.row(key).await.unwrap().unwrap();
    fixture.get(&file).await;
    assert_eq!(fixture.media.row(key).await.unwrap().unwrap(), first);
    fixture.clock.advance(Duration::from_secs(36 * 3600));
    fixture.get(&file).await;
    // The next commit is behind it.
    fixture.put(BOB, b"other").await;
    let later = fixture.media.row(key).await.unwrap().unwrap();
    assert!(later.accessed_day > first.accessed_day);
    assert_eq!(MediaRow { accessed_day: first.accessed_day, ..later }, first);
}

#[tokio::test]
async fn cve_2021_41281_what_is_no_media_id_is_not_looked_up() {
    let fixture = fixture(|_| {}).await;
    let long = "a".repeat(256);
    for media_id in ["", ".", "..", "../../etc/passwd", "a/b", "a\\b", "a\0", "/", "ä", "a b", "%2e", &long]
    {
        let refused = fixture.media.content(wanted(media_id)).await;
        assert!(matches!(refused, Err(ContentError::NotFound)), "{media_id:?}");
        assert!(!is_media_id(media_id));
    }
    assert!(is_media_id("abc-DEF_123") && is_media_id(&"a".repeat(255)));
}

#[tokio::test]
async fn metadata_goes_if_so_configured() {
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\0 48.2082N";
    let jpeg = [&b"\xff\xd8\xff\xe1\0\x1a"[..], &exif[..24], b"\xff\xdb\0\x03\x01\xff\xd9behind"].concat();
    for (strip, expected) in [(false, jpeg.clone()), (true, b"\xff\xd8\xff\xdb\0\x03\x01\xff\xd9".to_vec())] {
        let fixture = fixture(|media| media.strip_metadata = strip).await;
        let file = fixture.put(ALICE, &jpeg).await;
        assert_eq!(fixture.get(&file).await.unwrap(), expected);
        let content = fixture.media.content(wanted(&file)).await.unwrap();
        assert_eq!(content.bytes, u64::try_from(expected.len()).unwrap());
    }
}
