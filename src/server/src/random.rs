//! Chance, injected: every secret and every generated name comes from here.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{RngCore, SeedableRng, TryRngCore, rngs::OsRng, rngs::StdRng};

/// Letters and digits that generated tokens are made of.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Where chance comes from.
#[derive(Clone, Debug)]
pub struct Random(Source);

#[derive(Clone, Debug)]
enum Source {
    /// A generator of the cryptographic kind, seeded by the operating system.
    Secure(Arc<Mutex<StdRng>>),
}

impl Random {
    /// Seeded by the operating system; fails only if it has no entropy source.
    pub fn secure() -> std::io::Result<Self> {
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).map_err(std::io::Error::other)?;
        Ok(Self(Source::Secure(Arc::new(Mutex::new(StdRng::from_seed(seed))))))
    }

    /// Repeatable; for tests.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Secure(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        let Source::Secure(generator) = &self.0;
        generator.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }

    /// An array of random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// `length` letters and digits: about six bits each.
    pub fn token(&self, length: usize) -> String {
        let mut token = String::with_capacity(length);
        while token.len() < length {
            for byte in self.bytes::<64>() {
                // The largest multiple of 62 below 256, so that every letter is equally likely.
                if byte < 248
                    && token.len() < length
                    && let Some(letter) = ALPHABET.get(usize::from(byte) % ALPHABET.len())
                {
                    token.push(char::from(*letter));
                }
            }
        }
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_of_the_length_asked_for_and_differ() {
        let random = Random::seeded(1);
        let (one, two) = (random.token(43), random.token(43));
        assert_eq!(one.len(), 43);
        assert_ne!(one, two);
        assert!(one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
