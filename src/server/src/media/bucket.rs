//! Blobs in a bucket of an S3-compatible store: objects `media/ab/cd/abcd…`.
//!
//! An object is written in one request, or in parts if it is large, and is there once that is complete. What a crash leaves
//! of parts the store keeps until its own rule for incomplete uploads removes it; nothing that is there names them.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use allod_storage::{BlobName, Blobs, Elsewhere, ElsewhereReader, ElsewhereWriter, Soon};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    aws::AmazonS3Builder, path::Path,
};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};

use crate::{
    config::{Config, SecretError},
    egress::{Egress, EgressError},
};

/// Bytes of a part; at most 10,000 parts make an object.
const PART_BYTES: usize = 8 << 20;
/// How long the store may say nothing, within an answer or before it.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a request is tried again.
const RETRIES_MAX: usize = 4;

/// Why a bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// Something is missing in the configuration.
    #[error("media.bucket needs {0}")]
    Missing(&'static str),
    /// The secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The gate cannot be passed.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The configuration names no store.
    #[error("media.bucket cannot be used: {0}")]
    Store(#[from] object_store::Error),
}

/// The bucket of the configuration, if there is one.
pub fn bucket(config: &Config, egress: &Egress) -> Result<Option<Blobs>, BucketError> {
    let options = &config.media;
    let Some(name) = &options.bucket else { return Ok(None) };
    let endpoint = options.bucket_endpoint.as_deref().ok_or(BucketError::Missing("bucket_endpoint"))?;
    let key = options.bucket_key.as_deref().ok_or(BucketError::Missing("bucket_key"))?;
    let secret = options.bucket_secret.as_ref().ok_or(BucketError::Missing("bucket_secret"))?.read()?;
    let store = AmazonS3Builder::new()
        .with_http_connector(egress.objects(endpoint)?)
        .with_bucket_name(name)
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region(&options.bucket_region)
        .with_access_key_id(key)
        .with_secret_access_key(secret.expose())
        .with_retry(RetryConfig { max_retries: RETRIES_MAX, ..RetryConfig::default() })
        .build()?;
    Ok(Some(over(Arc::new(store))))
}

/// Blobs in any object store.
pub(super) fn over(store: Arc<dyn ObjectStore>) -> Blobs {
    Blobs::elsewhere(Arc::new(Bucket { store, unfinished: Unfinished::default() }))
}

/// Objects whose parts are being uploaded, by the blob: who deletes one aborts it.
#[derive(Clone, Debug, Default)]
struct Unfinished(Arc<Mutex<HashMap<BlobName, Parts>>>);

type Parts = Arc<AsyncMutex<Box<dyn MultipartUpload>>>;

impl Unfinished {
    fn put(&self, name: BlobName, parts: Parts) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, parts);
    }

    fn take(&self, name: BlobName) -> Option<Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&name)
    }
}

#[derive(Debug)]
struct Bucket {
    store: Arc<dyn ObjectStore>,
    unfinished: Unfinished,
}

fn path(name: BlobName) -> Path {
    let [first, second, ..] = name.0;
    Path::from(format!("media/{first:02x}/{second:02x}/{name}"))
}

/// What the store answers, within reason.
async fn patiently<T>(answer: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
    let answer = timeout(SILENCE_MAX, answer).await;
    answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(failure)
}

fn failure(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}

/// The same where what is not there is no error.
fn found<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Bucket {
    async fn read(&self, name: BlobName, from: u64, length: u64) -> io::Result<Option<(Reading, u64)>> {
        let path = path(name);
        if length > 0 {
            let range = match from.checked_add(length) {
                Some(_) if from == 0 && length == u64::MAX => None,
                Some(end) => Some(GetRange::Bounded(from..end)),
                None => Some(GetRange::Offset(from)),
            };
            let options = GetOptions { range, ..GetOptions::default() };
            match found(patiently(self.store.get_opts(&path, options)).await) {
                Ok(None) => return Ok(None),
                Ok(Some(got)) => {
                    let size = got.meta.size;
                    return Ok(Some((Reading::of(got.into_stream()), size)));
                }
                // Nothing stands there, perhaps: ranges behind the end are refused.
                Err(error) => tracing::debug!(%error, "a range of an object was not given"),
            }
        }
        let Some(meta) = found(patiently(self.store.head(&path)).await)? else { return Ok(None) };
        if length > 0 && from < meta.size {
            return Err(io::Error::other("the object store does not give an object"));
        }
        Ok(Some((Reading::of(futures_util::stream::empty().boxed()), meta.size)))
    }

    async fn remove(&self, name: BlobName) -> io::Result<()> {
        if let Some(parts) = self.unfinished.take(name) {
            let mut parts = parts.lock().await;
            found(patiently(parts.abort()).await)?;
        }
        found(patiently(self.store.delete(&path(name))).await).map(drop)
    }
}

impl Elsewhere for Bucket {
    fn create(&self, name: BlobName) -> Soon<'_, Box<dyn ElsewhereWriter>> {
        let writing = Writing {
            store: Arc::clone(&self.store),
            unfinished: self.unfinished.clone(),
            name,
            gathered: BytesMut::new(),
            parts: None,
        };
        Box::pin(async move { Ok::<Box<dyn ElsewhereWriter>, _>(Box::new(writing)) })
    }

    fn open(
        &self,
        name: BlobName,
        from: u64,
        length: u64,
    ) -> Soon<'_, Option<(Box<dyn ElsewhereReader>, u64)>> {
        Box::pin(async move {
            let opened = self.read(name, from, length).await?;
            let boxed = |(reading, size)| -> (Box<dyn ElsewhereReader>, u64) { (Box::new(reading), size) };
            Ok(opened.map(boxed))
        })
    }

    fn delete(&self, name: BlobName) -> Soon<'_, ()> {
        Box::pin(self.remove(name))
    }
}

/// An object being written.
#[derive(Debug)]
struct Writing {
    store: Arc<dyn ObjectStore>,
    unfinished: Unfinished,
    name: BlobName,
    gathered: BytesMut,
    /// What it is uploaded in once it is larger than a part.
    parts: Option<Parts>,
}

impl Writing {
    async fn append(&mut self, bytes: Bytes) -> io::Result<()> {
        self.gathered.extend_from_slice(&bytes);
        while self.gathered.len() >= PART_BYTES {
            let part = self.gathered.split_to(PART_BYTES).freeze();
            self.put_part(part).await?;
        }
        Ok(())
    }

    async fn put_part(&mut self, part: Bytes) -> io::Result<()> {
        let parts = if let Some(parts) = &self.parts {
            Arc::clone(parts)
        } else {
            let begun = patiently(self.store.put_multipart(&path(self.name))).await?;
            let parts: Parts = Arc::new(AsyncMutex::new(begun));
            self.unfinished.put(self.name, Arc::clone(&parts));
            self.parts = Some(Arc::clone(&parts));
            parts
        };
        let put = parts.lock().await.put_part(PutPayload::from_bytes(part));
        patiently(put).await
    }

    async fn end(mut self) -> io::Result<()> {
        let rest = self.gathered.split().freeze();
        if self.parts.is_none() {
            let path = path(self.name);
            return patiently(self.store.put(&path, PutPayload::from_bytes(rest))).await.map(drop);
        }
        if !rest.is_empty() {
            self.put_part(rest).await?;
        }
        if let Some(parts) = self.parts.take() {
            patiently(parts.lock().await.complete()).await?;
            self.unfinished.take(self.name);
        }
        Ok(())
    }
}

impl ElsewhereWriter for Writing {
    fn write(&mut self, bytes: Bytes) -> Soon<'_, ()> {
        Box::pin(self.append(bytes))
    }

    fn finish(self: Box<Self>) -> Soon<'static, ()> {
        Box::pin((*self).end())
    }
}

/// An object being read.
struct Reading {
    /// Never locked: it makes what is read by one at a time something that may be shared.
    stream: Mutex<BoxStream<'static, object_store::Result<Bytes>>>,
    /// What has come and was not given yet.
    piece: Bytes,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reading").finish_non_exhaustive()
    }
}

impl Reading {
    fn of(stream: BoxStream<'static, object_store::Result<Bytes>>) -> Self {
        Self { stream: Mutex::new(stream), piece: Bytes::new() }
    }

    async fn next(&mut self, wanted: usize) -> io::Result<Bytes> {
        while self.piece.is_empty() {
            let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
            let next = timeout(SILENCE_MAX, stream.next()).await;
            match next.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
                Some(piece) => self.piece = piece.map_err(failure)?,
                None => return Ok(Bytes::new()),
            }
        }
        Ok(self.piece.split_to(wanted.min(self.piece.len())))
    }
}

impl ElsewhereReader for Reading {
    fn read(&mut self, wanted: usize) -> Soon<'_, Bytes> {
        Box::pin(self.next(wanted))
    }
}

#[cfg(test)]
mod tests;
