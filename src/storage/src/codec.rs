//! Ordered encoding of keys: the order of the bytes is the order of the values.

use crate::Position;

/// A key under construction, which remembers where a pending position stands.
#[derive(Clone, Debug, Default)]
pub struct KeyWriter {
    bytes: Vec<u8>,
    pending: Option<usize>,
}

impl KeyWriter {
    /// An empty key with room for a usual one.
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(32), pending: None }
    }

    /// Appends raw bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes, and the offset of a pending position among them.
    pub fn finish(self) -> (Vec<u8>, Option<usize>) {
        (self.bytes, self.pending)
    }
}

/// A value with an order-preserving, self-delimiting encoding.
pub trait KeyCodec: Sized {
    /// Appends the encoding.
    fn encode(&self, writer: &mut KeyWriter);
    /// Takes the value off the front of `bytes`; `None` if they are too short or malformed.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl KeyCodec for $integer {
            fn encode(&self, writer: &mut KeyWriter) {
                writer.extend(&self.to_be_bytes());
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                let (head, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*head))
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, u128);

impl<const N: usize> KeyCodec for [u8; N] {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.extend(self);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*head)
    }
}

impl KeyCodec for () {
    fn encode(&self, _writer: &mut KeyWriter) {}
    fn decode(_bytes: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl KeyCodec for Position {
    fn encode(&self, writer: &mut KeyWriter) {
        if *self == Self::PENDING {
            writer.pending = Some(writer.bytes.len());
        }
        self.get().encode(writer);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        u64::decode(bytes).map(Self::new)
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),+))*) => {$(
        impl<$($name: KeyCodec),+> KeyCodec for ($($name,)+) {
            fn encode(&self, writer: &mut KeyWriter) {
                $(self.$index.encode(writer);)+
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::decode(bytes)?,)+))
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
}

/// The first key after all keys that begin with `prefix`; empty if there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}
