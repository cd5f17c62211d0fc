//! What can go wrong in storage.

/// Why a read failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The engine cannot answer now; trying again later may help.
    #[error("storage is unavailable: {0}")]
    Unavailable(String),
    /// Stored bytes are not what they should be.
    #[error("storage is corrupt: {0}")]
    Corrupt(String),
    /// The request passes a limit of this crate, or names a space that was not declared.
    #[error("request over a storage limit: {0}")]
    TooLarge(&'static str),
    /// The database was made by another program, another version or another server.
    #[error("{0}")]
    Foreign(String),
}

/// Why a batch was not (or perhaps not) committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The check with this index failed; nothing was written.
    #[error("check {0} of the batch failed")]
    Conflict(usize),
    /// The engine failed in the middle: the batch may or may not be there after the store recovers.
    #[error("the outcome of the commit is unknown")]
    Unknown,
    /// The store takes no writes since an earlier write error; nothing was written.
    #[error("storage is read-only: {0}")]
    ReadOnly(String),
    /// The store is closed or overloaded; nothing was written.
    #[error("storage is unavailable")]
    Unavailable,
    /// A key, a value or the batch passes a limit, or a key is in no declared space; nothing was written.
    #[error("batch over a storage limit: {0}")]
    TooLarge(&'static str),
}
