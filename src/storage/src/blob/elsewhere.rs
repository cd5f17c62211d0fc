//! What a place that another crate makes must do, such as a store that is reached over a network.

use std::{fmt, future::Future, io, pin::Pin};

use bytes::Bytes;

use super::BlobName;

/// A future behind a pointer.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A place that keeps blobs. What it promises is what the suite of blobs asks of all places.
pub trait Elsewhere: fmt::Debug + Send + Sync {
    /// Begins a blob.
    fn create(&self, name: BlobName) -> Soon<'_, Box<dyn ElsewhereWriter>>;
    /// Opens a blob for reading `length` bytes from `from`, or as many as there are, and tells its size in bytes; `None` if
    /// there is no such blob.
    fn open(
        &self,
        name: BlobName,
        from: u64,
        length: u64,
    ) -> Soon<'_, Option<(Box<dyn ElsewhereReader>, u64)>>;
    /// Removes a blob, durably, and what there is of one that was not finished. One that is not there is no error.
    fn delete(&self, name: BlobName) -> Soon<'_, ()>;
}

/// A blob being written there. Dropped before it is finished, it is not there; what it leaves until then goes when it is
/// deleted.
pub trait ElsewhereWriter: fmt::Debug + Send + Sync {
    /// Appends bytes.
    fn write(&mut self, bytes: Bytes) -> Soon<'_, ()>;
    /// Ends the blob: from here on it is there, and stays.
    fn finish(self: Box<Self>) -> Soon<'static, ()>;
}

/// A blob being read from there.
pub trait ElsewhereReader: fmt::Debug + Send + Sync {
    /// The next bytes, at most `wanted`; none at the end.
    fn read(&mut self, wanted: usize) -> Soon<'_, Bytes>;
}
