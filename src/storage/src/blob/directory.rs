//! Blobs as files of a folder: `ab/cd/abcd…`, two levels of 256 folders, so that no folder grows large.
//!
//! A blob is written under `incoming/`, synced, and renamed; then the folder that it came to is synced. A crash leaves
//! it whole or leaves a file in `incoming/`, which the next start removes.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use super::BlobName;

/// Where files stand until they are whole.
const INCOMING: &str = "incoming";
/// Nobody but the server reads its files.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder of blobs.
#[derive(Clone, Debug)]
pub(super) struct Directory(Arc<Path>);

/// A file under `incoming/`, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Writing {
    directory: Directory,
    name: BlobName,
    file: File,
    incoming: Incoming,
}

#[derive(Debug)]
struct Incoming(PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already if it was finished; if it cannot be removed, the next start does.
        let _ = fs::remove_file(&self.0);
    }
}

impl Directory {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        let incoming = folder.join(INCOMING);
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&incoming)?;
        for entry in fs::read_dir(&incoming)? {
            fs::remove_file(entry?.path())?;
        }
        fs::File::open(&folder)?.sync_all()?;
        Ok(Self(folder.into()))
    }

    pub(super) async fn create(&self, name: BlobName) -> io::Result<Writing> {
        let incoming = Incoming(self.0.join(INCOMING).join(name.to_string()));
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(FILE_MODE).open(&incoming.0).await?;
        Ok(Writing { directory: self.clone(), name, file, incoming })
    }

    /// The file of a blob, `from` bytes behind its beginning, and its size.
    pub(super) async fn open_blob(&self, name: BlobName, from: u64) -> io::Result<Option<(File, u64)>> {
        let mut file = match File::open(self.path(name)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = file.metadata().await?.len();
        if from > 0 {
            file.seek(io::SeekFrom::Start(from)).await?;
        }
        Ok(Some((file, size)))
    }

    pub(super) async fn delete(&self, name: BlobName) -> io::Result<()> {
        let path = self.path(name);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => sync_folder(path.parent().unwrap_or(&self.0)).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&*self.0)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    pub(super) fn path(&self, name: BlobName) -> PathBuf {
        let [first, second, ..] = name.0;
        self.0.join(format!("{first:02x}")).join(format!("{second:02x}")).join(name.to_string())
    }
}

impl Writing {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await
    }

    pub(super) async fn finish(mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let path = self.directory.path(self.name);
        let inner = path.parent().unwrap_or(&self.directory.0);
        let outer = inner.parent().unwrap_or(&self.directory.0);
        make_folder(outer, &self.directory.0).await?;
        make_folder(inner, outer).await?;
        tokio::fs::rename(&self.incoming.0, &path).await?;
        sync_folder(inner).await
    }
}

/// The next bytes of a file, at most `wanted`; none at its end.
pub(super) async fn read(file: &mut File, wanted: usize) -> io::Result<Bytes> {
    let mut piece = bytes::BytesMut::with_capacity(wanted);
    let limit = u64::try_from(wanted).unwrap_or(u64::MAX);
    file.take(limit).read_buf(&mut piece).await?;
    Ok(piece.freeze())
}

/// Makes a folder that survives a crash, if it is not there.
async fn make_folder(folder: &Path, parent: &Path) -> io::Result<()> {
    match tokio::fs::DirBuilder::new().mode(FOLDER_MODE).create(folder).await {
        Ok(()) => sync_folder(parent).await,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

async fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder).await?.sync_all().await
}
