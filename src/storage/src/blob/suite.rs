//! What every place of blobs promises. Other crates that make places include this file in their tests.

use super::{BlobName, Blobs, PIECE_BYTES};

pub(super) const ONE: BlobName = BlobName([0xab; 16]);
pub(super) const OTHER: BlobName = BlobName([0x01; 16]);

pub(super) async fn write(blobs: &Blobs, name: BlobName, pieces: &[&[u8]]) {
    let mut writer = blobs.create(name).await.unwrap();
    for piece in pieces {
        writer.write(piece).await.unwrap();
    }
    writer.finish().await.unwrap();
}

pub(super) async fn read(blobs: &Blobs, name: BlobName, from: u64, length: u64) -> Option<Vec<u8>> {
    let mut reader = blobs.open(name, from, length).await.unwrap()?;
    Some(reader.rest().await.unwrap().to_vec())
}

/// What every place promises.
pub(super) async fn suite(blobs: &Blobs) {
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
