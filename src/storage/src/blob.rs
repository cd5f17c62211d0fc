//! Files too large for rows: streams of bytes under names that are not chosen by anybody.
//!
//! A name is 16 bytes that the caller draws at random; nothing else enters a path, so that nothing from a network can. A
//! blob is written once, appears whole or not at all, and never changes: who overwrites one has drawn a name twice. What
//! is known about a blob stands in rows: this module can list nothing, so rows say what is to be deleted.

use std::{fmt, io, sync::Arc};

use bytes::{Bytes, BytesMut};

mod directory;
mod elsewhere;
mod memory;

pub use self::elsewhere::{Elsewhere, ElsewhereReader, ElsewhereWriter, Soon};
use self::{directory::Directory, memory::Memory};

/// Most bytes that a reader gives at a time, and that a writer gathers before it writes.
pub const PIECE_BYTES: usize = 256 * 1024;

/// What a blob is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName(pub [u8; 16]);

impl fmt::Display for BlobName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Where blobs are kept.
#[derive(Clone, Debug)]
pub struct Blobs(Place);

#[derive(Clone, Debug)]
enum Place {
    /// A folder of this machine.
    Directory(Directory),
    /// Memory, for tests and servers that forget all.
    Memory(Memory),
    /// A place that somebody else made.
    Elsewhere(Arc<dyn Elsewhere>),
}

impl Blobs {
    /// Opens a folder, or makes it; what uploads that broke off left in it is removed.
    pub fn directory(folder: impl Into<std::path::PathBuf>) -> io::Result<Self> {
        Ok(Self(Place::Directory(Directory::open(folder.into())?)))
    }

    /// An empty place in memory.
    pub fn memory() -> Self {
        Self(Place::Memory(Memory::default()))
    }

    /// A place that somebody else made.
    pub fn elsewhere(place: Arc<dyn Elsewhere>) -> Self {
        Self(Place::Elsewhere(place))
    }

    /// Begins a blob. It is there once [`BlobWriter::finish`] has returned.
    pub async fn create(&self, name: BlobName) -> io::Result<BlobWriter> {
        let sink = match &self.0 {
            Place::Directory(directory) => Sink::Directory(directory.create(name).await?),
            Place::Memory(memory) => Sink::Memory(memory.create(name)),
            Place::Elsewhere(place) => Sink::Elsewhere(place.create(name).await?),
        };
        Ok(BlobWriter { sink, gathered: BytesMut::new() })
    }

    /// Opens a blob for reading `length` bytes from `from`, or as many as there are; `None` if there is no such blob.
    pub async fn open(&self, name: BlobName, from: u64, length: u64) -> io::Result<Option<BlobReader>> {
        let opened = match &self.0 {
            Place::Directory(directory) => {
                directory.open_blob(name, from).await?.map(|(file, size)| (Source::Directory(file), size))
            }
            Place::Memory(memory) => {
                memory.read(name, from).map(|(bytes, size)| (Source::Memory(bytes), size))
            }
            Place::Elsewhere(place) => {
                let opened = place.open(name, from, length).await?;
                opened.map(|(reader, size)| (Source::Elsewhere(reader), size))
            }
        };
        Ok(opened.map(|(source, size)| BlobReader {
            source,
            size,
            left: size.saturating_sub(from).min(length),
        }))
    }

    /// Removes a blob, durably. One that is not there is no error.
    pub async fn delete(&self, name: BlobName) -> io::Result<()> {
        match &self.0 {
            Place::Directory(directory) => directory.delete(name).await,
            Place::Memory(memory) => {
                memory.delete(name);
                Ok(())
            }
            Place::Elsewhere(place) => place.delete(name).await,
        }
    }

    /// Bytes that this process may still write there; `None` where nobody knows.
    pub fn free_bytes(&self) -> io::Result<Option<u64>> {
        match &self.0 {
            Place::Directory(directory) => directory.free_bytes().map(Some),
            Place::Memory(_) | Place::Elsewhere(_) => Ok(None),
        }
    }
}

/// A blob being written. Dropped before [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    sink: Sink,
    gathered: BytesMut,
}

#[derive(Debug)]
enum Sink {
    Directory(directory::Writing),
    Memory(memory::Writing),
    Elsewhere(Box<dyn ElsewhereWriter>),
}

impl BlobWriter {
    /// Appends bytes. After an error the blob can only be dropped.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let piece = self.gathered.split();
        match &mut self.sink {
            Sink::Directory(writing) => writing.write(&piece).await,
            Sink::Memory(writing) => {
                writing.write(&piece);
                Ok(())
            }
            Sink::Elsewhere(writing) => writing.write(piece.freeze()).await,
        }
    }

    /// Ends the blob: from here on it is there under its name, and survives a crash.
    pub async fn finish(mut self) -> io::Result<()> {
        self.flush().await?;
        match self.sink {
            Sink::Directory(writing) => writing.finish().await,
            Sink::Memory(writing) => {
                writing.finish();
                Ok(())
            }
            Sink::Elsewhere(writing) => writing.finish().await,
        }
    }
}

/// A blob, or a part of one, being read.
#[derive(Debug)]
pub struct BlobReader {
    source: Source,
    size: u64,
    left: u64,
}

#[derive(Debug)]
enum Source {
    Directory(tokio::fs::File),
    Memory(Bytes),
    Elsewhere(Box<dyn ElsewhereReader>),
}

impl BlobReader {
    /// Bytes of the whole blob.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next piece, at most [`PIECE_BYTES`]; `None` at the end.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        if wanted == 0 {
            return Ok(None);
        }
        let piece = match &mut self.source {
            Source::Directory(file) => directory::read(file, wanted).await?,
            Source::Memory(bytes) => bytes.split_to(wanted.min(bytes.len())),
            Source::Elsewhere(reader) => reader.read(wanted).await?,
        };
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Ok(Some(piece))
    }

    /// All that is still to come. The caller knows that it is not much.
    pub async fn rest(&mut self) -> io::Result<Bytes> {
        let mut whole = BytesMut::with_capacity(usize::try_from(self.left).unwrap_or_default());
        while let Some(piece) = self.chunk().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

#[cfg(test)]
mod tests;
