//! Blobs in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};

use super::BlobName;

/// Blobs in memory, shared by the clones of this.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<HashMap<BlobName, Bytes>>>);

/// A blob being written.
#[derive(Debug)]
pub(super) struct Writing {
    memory: Memory,
    name: BlobName,
    bytes: BytesMut,
}

impl Memory {
    pub(super) fn create(&self, name: BlobName) -> Writing {
        Writing { memory: self.clone(), name, bytes: BytesMut::new() }
    }

    /// What follows the first `from` bytes, and how many there are in all.
    pub(super) fn read(&self, name: BlobName, from: u64) -> Option<(Bytes, u64)> {
        let mut bytes = self.blobs().get(&name)?.clone();
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        Some((bytes.split_off(from), size))
    }

    pub(super) fn delete(&self, name: BlobName) {
        self.blobs().remove(&name);
    }

    fn blobs(&self) -> std::sync::MutexGuard<'_, HashMap<BlobName, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn finish(self) {
        self.memory.blobs().insert(self.name, self.bytes.freeze());
    }
}
