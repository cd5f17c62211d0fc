//! Tables of the server itself. Ids 1 to 9.

use bytes::Bytes;

super::tables! {
    /// Secrets and marks of this database by a fixed number: 1 = key of the hashes in keys.
    Meta = 1 in OPERATIONAL: u8 => Bytes, Operational, Forever;
}
