//! The suite of blobs over object stores: one in memory, and an S3-compatible server where `ALLOD_TEST_S3` names one.

use allod_storage::PIECE_BYTES;
use object_store::{ObjectStore, memory::InMemory};

use self::suite::{ONE, OTHER, read, suite, write};
use super::*;
use crate::{clock::Clock, config::Live, egress::Names};

#[path = "../../../../storage/src/blob/suite.rs"]
mod suite;

/// What the suite does not try with other places: an object of several parts, and one that is given up.
async fn large_objects(blobs: &Blobs) {
    let large: Vec<u8> =
        (0..PART_BYTES * 2 + 12_345).map(|index| u8::try_from(index % 251).unwrap()).collect();
    write(blobs, ONE, &large.chunks(700_000).collect::<Vec<_>>()).await;
    assert_eq!(read(blobs, ONE, 0, u64::MAX).await.unwrap(), large);
    let from = PART_BYTES - 10;
    let part = read(blobs, ONE, u64::try_from(from).unwrap(), 20).await.unwrap();
    assert_eq!(part, large[from..from + 20]);
    blobs.delete(ONE).await.unwrap();

    let mut given_up = blobs.create(OTHER).await.unwrap();
    for piece in large.chunks(PIECE_BYTES) {
        given_up.write(piece).await.unwrap();
    }
    drop(given_up);
    blobs.delete(OTHER).await.unwrap();
    assert_eq!(read(blobs, OTHER, 0, u64::MAX).await, None);
}

#[tokio::test]
async fn an_object_store_in_memory() {
    let store = Arc::new(InMemory::new());
    let shared: Arc<dyn ObjectStore> = store.clone();
    let blobs = over(shared);
    suite(&blobs).await;
    large_objects(&blobs).await;
    assert!(store.head(&path(ONE)).await.is_err(), "nothing is left");
}

#[tokio::test]
async fn an_s3_compatible_server() {
    let Ok(endpoint) = std::env::var("ALLOD_TEST_S3") else { return };
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "testing").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, mode).unwrap();
    let mut config = Config::default();
    config.media.bucket = Some("allod".to_owned());
    config.media.bucket_endpoint = Some(endpoint);
    config.media.bucket_key = Some("testing".to_owned());
    config.media.bucket_secret = Some(crate::config::SecretFile::new(secret));
    let egress =
        Egress::new(Live::new(config.clone()), Clock::manual(1_700_000_000_000), Names::table(&[], &[]));
    let blobs = bucket(&config, &egress).unwrap().unwrap();
    suite(&blobs).await;
    large_objects(&blobs).await;
    let contacts = egress.register().list();
    assert!(contacts.iter().any(|(purpose, _, contact)| {
        *purpose == crate::egress::Purpose::Objects && contact.requests > 10 && contact.bytes_sent > 1 << 20
    }));
}
