//! The suite on the places that are made here.

use std::{fs, path::Path};

use self::suite::{ONE, OTHER, read, suite, write};
use super::*;

#[path = "suite.rs"]
mod suite;

#[tokio::test]
async fn memory() {
    suite(&Blobs::memory()).await;
}

#[tokio::test]
async fn directory() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::directory(folder.path()).unwrap();
    suite(&blobs).await;
    assert!(blobs.free_bytes().unwrap().is_some_and(|bytes| bytes > 0));
    assert!(folder.path().join("ab/ab").join(ONE.to_string()).is_file());
    assert_eq!(files(folder.path()), 1, "nothing but the blob that was left");
}

#[tokio::test]
async fn opening_a_folder_removes_what_never_became_whole() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::directory(folder.path()).unwrap();
    write(&blobs, ONE, &[b"whole"]).await;
    let mut unfinished = blobs.create(OTHER).await.unwrap();
    unfinished.write(&vec![1; 2 * PIECE_BYTES]).await.unwrap();
    // As a crash does: nothing is dropped.
    std::mem::forget(unfinished);
    assert_eq!(files(folder.path()), 2);
    let blobs = Blobs::directory(folder.path()).unwrap();
    assert_eq!(files(folder.path()), 1);
    assert_eq!(read(&blobs, ONE, 0, u64::MAX).await.unwrap(), b"whole");
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}
