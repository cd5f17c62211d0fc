//! The stored form of keys and rows.

use allod_storage::{
    Key, Page,
    codec::{KeyCodec, KeyWriter},
};
use bytes::Bytes;

use super::{Corrupt, Error, Rows};
use crate::tables::{StoredValue, Table};

/// A key as bytes, to go on behind it after a restart.
pub fn cursor<T: Table>(key: &T::Key) -> Vec<u8> {
    key_bytes(T::INFO.id, key)
}

pub(super) fn key_bytes(table: u8, key: &impl KeyCodec) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    writer.extend(&[table]);
    key.encode(&mut writer);
    writer.finish().0
}

pub(super) fn storage_key<T: Table>(key: &T::Key) -> (Key, Option<usize>) {
    let mut writer = KeyWriter::new();
    writer.extend(&[T::INFO.id]);
    key.encode(&mut writer);
    let (bytes, pending) = writer.finish();
    (Key::new(T::INFO.space, bytes), pending)
}

pub(super) fn rows_of<T: Table>(page: Page) -> Result<Rows<T>, Error> {
    let mut rows = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        let mut bytes = row.key.get(1..).unwrap_or_default();
        let key =
            T::Key::decode(&mut bytes).ok_or(Error::Corrupt(T::INFO.name, Corrupt("key does not decode")))?;
        rows.push((key, decode::<T>(&row.value)?));
    }
    Ok(Rows { rows, more: page.more })
}

pub(super) fn decode<T: Table>(value: &Bytes) -> Result<T::Value, Error> {
    T::Value::decode_shared(value).map_err(|corrupt| Error::Corrupt(T::INFO.name, corrupt))
}
