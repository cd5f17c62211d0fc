//! One suite for every place that blobs may be kept in.

use std::{fs, path::Path};

use super::*;

const ONE: BlobName = BlobName([0xab; 16]);
const OTHER: BlobName = BlobName([0x01; 16]);

async fn write(blobs: &Blobs, name: BlobName, pieces: &[&[u8]]) {
    let mut writer = blobs.create(name).await.unwrap();
    for piece in pieces {
        writer.write(piece).await.unwrap();
    }
    writer.finish().await.unwrap();
}

async fn read(blobs: &Blobs, name: BlobName, from: u64, length: u64) -> Option<Vec<u8>> {
    let mut reader = blobs.open(name, from, length).await.unwrap()?;
    Some(reader.rest().await.unwrap().to_vec())
}

/// What every place promises.
async fn suite(blobs: &Blobs) {
    assert_eq!(read(blobs, ONE, 0, u64::MAX).await, None);
    blobs.delete(ONE).await.unwrap();

    write(blobs, ONE, &[b"hello", b"", b" world"]).await;
    assert_eq!(read(blobs, ONE, 0, u64::MAX).await.unwrap(), b"hello world");
    assert_eq!(read(blobs, ONE, 6, 3).await.unwrap(), b"wor");
    assert_eq!(read(blobs, ONE, 6, 300).await.unwrap(), b"world");
    assert_eq!(read(blobs, ONE, 11, 1).await.unwrap(), b"");
    assert_eq!(read(blobs, ONE, 500, 1).await.unwrap(), b"");
    assert_eq!(blobs.open(ONE, 3, 2).await.unwrap().unwrap().size(), 11);

    write(blobs, OTHER, &[]).await;
    assert_eq!(read(blobs, OTHER, 0, u64::MAX).await.unwrap(), b"");

    // What is not finished is not there.
    blobs.delete(OTHER).await.unwrap();
    let mut unfinished = blobs.create(OTHER).await.unwrap();
    unfinished.write(&vec![1; 3 * PIECE_BYTES]).await.unwrap();
    assert_eq!(read(blobs, OTHER, 0, u64::MAX).await, None);
    drop(unfinished);
    assert_eq!(read(blobs, OTHER, 0, u64::MAX).await, None);

    // Larger than any piece, and read while it is removed.
    let large: Vec<u8> = (0..5 * PIECE_BYTES).map(|index| u8::try_from(index % 251).unwrap()).collect();
    write(blobs, OTHER, &large.chunks(70_000).collect::<Vec<_>>()).await;
    let mut reader = blobs.open(OTHER, 0, u64::MAX).await.unwrap().unwrap();
    let first = reader.chunk().await.unwrap().unwrap();
    assert!(first.len() <= PIECE_BYTES);
    blobs.delete(OTHER).await.unwrap();
    assert_eq!(read(blobs, OTHER, 0, u64::MAX).await, None);
    let rest = reader.rest().await.unwrap();
    assert_eq!([first, rest].concat(), large);
    assert_eq!(read(blobs, ONE, 0, 5).await.unwrap(), b"hello");
}

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
