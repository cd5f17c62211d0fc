//! Who this server is: its name, the key that it signs with, and those that it has signed with.
//!
//! The keys are in one file: the first line, `ed25519 VERSION SEED`, is the key in use; each further line,
//! `old ed25519 VERSION PUBLIC EXPIRED`, is one that was: what it signed until EXPIRED (milliseconds since the epoch)
//! stays valid.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{OwnedServerName, ServerName, UserId, signatures::Ed25519KeyPair};

use crate::random::Random;

/// The server's name and signing key.
#[derive(Clone, Debug)]
pub struct Identity {
    server_name: OwnedServerName,
    key: Arc<Ed25519KeyPair>,
    old_keys: Arc<[OldKey]>,
}

/// A key that this server signs with no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// Its version.
    pub version: String,
    /// The public key.
    pub public_key: Vec<u8>,
    /// When it was last used, in milliseconds since the epoch.
    pub expired_ms: u64,
}

/// Why the signing key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("signing key {0}: {1}")]
    Io(PathBuf, io::Error),
    /// The file is not a signing key.
    #[error("signing key {0} is damaged; put back the file from a backup, or move it away to get a new key")]
    Damaged(PathBuf),
}

impl Identity {
    /// Loads the keys from a file, or makes a new one there.
    pub fn open(server_name: OwnedServerName, path: &Path, random: &Random) -> Result<Self, IdentityError> {
        let failed = |error| IdentityError::Io(path.to_owned(), error);
        let line = match fs::read_to_string(path) {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let line = new_key_line(random);
                write_private(path, &line).map_err(failed)?;
                line
            }
            Err(error) => return Err(failed(error)),
        };
        let damaged = || IdentityError::Damaged(path.to_owned());
        let key = parse_key_line(&line).ok_or_else(damaged)?;
        let old_keys = line.lines().skip(1).filter(|line| !line.trim().is_empty()).map(parse_old_key);
        let old_keys: Option<Vec<OldKey>> = old_keys.collect();
        Ok(Self { server_name, key: Arc::new(key), old_keys: old_keys.ok_or_else(damaged)?.into() })
    }

    /// Puts a new key in the place of the one in the file, which is kept for verifying what it signed until now. A
    /// running server signs with the new one from its next start. Returns the new key's version.
    pub fn rotate(path: &Path, random: &Random, now_ms: u64) -> Result<String, IdentityError> {
        let failed = |error| IdentityError::Io(path.to_owned(), error);
        let text = fs::read_to_string(path).map_err(failed)?;
        let before = parse_key_line(&text).ok_or_else(|| IdentityError::Damaged(path.to_owned()))?;
        let line = new_key_line(random);
        let version = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let public = STANDARD_NO_PAD.encode(before.public_key());
        let older: Vec<&str> = text.lines().skip(1).collect();
        let new = format!("{line}old ed25519 {} {public} {now_ms}\n{}\n", before.version(), older.join("\n"));
        let beside = path.with_extension("new");
        let _ = fs::remove_file(&beside);
        write_private(&beside, &new).map_err(failed)?;
        fs::rename(&beside, path).map_err(failed)?;
        Ok(version)
    }

    /// An identity with a key that is kept nowhere; for tests.
    pub fn ephemeral(server_name: OwnedServerName, random: &Random) -> Option<Self> {
        let key = Arc::new(parse_key_line(&new_key_line(random))?);
        Some(Self { server_name, key, old_keys: Arc::default() })
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key that signs.
    pub fn key(&self) -> &Ed25519KeyPair {
        &self.key
    }

    /// The keys that this server has signed with.
    pub fn old_keys(&self) -> &[OldKey] {
        &self.old_keys
    }

    /// Whether the user is one of this server's.
    pub fn is_ours(&self, user_id: &UserId) -> bool {
        user_id.server_name() == &*self.server_name
    }
}

fn new_key_line(random: &Random) -> String {
    let seed = STANDARD_NO_PAD.encode(random.bytes::<32>());
    format!("ed25519 a_{} {seed}\n", random.token(6))
}

/// Writes a new file that only its owner may read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn parse_old_key(line: &str) -> Option<OldKey> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let ["old", "ed25519", version, public, expired] = *words else { return None };
    let public_key = STANDARD_NO_PAD.decode(public).ok().filter(|key| key.len() == 32)?;
    Some(OldKey { version: version.to_owned(), public_key, expired_ms: expired.parse().ok()? })
}

fn parse_key_line(line: &str) -> Option<Ed25519KeyPair> {
    /// Everything of a PKCS#8 v1 document for Ed25519 (RFC 8410) but the 32 bytes of the key.
    const PKCS8_HEAD: [u8; 16] =
        [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    let mut parts = line.split_ascii_whitespace();
    let ("ed25519", version, seed) = (parts.next()?, parts.next()?, parts.next()?) else {
        return None;
    };
    let seed = STANDARD_NO_PAD.decode(seed).ok().filter(|seed| seed.len() == 32)?;
    let document = [PKCS8_HEAD.as_slice(), &seed].concat();
    Ed25519KeyPair::from_der(&document, version.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn the_key_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.key");
        let name = server_name!("example.org").to_owned();
        let first = Identity::open(name.clone(), &path, &Random::seeded(1)).unwrap();
        let second = Identity::open(name, &path, &Random::seeded(2)).unwrap();
        assert_eq!(first.key().public_key(), second.key().public_key());
        assert_eq!(first.key().version(), second.key().version());
    }

    #[test]
    fn a_key_that_is_replaced_is_kept_for_verifying() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.key");
        let name = server_name!("example.org").to_owned();
        let first = Identity::open(name.clone(), &path, &Random::seeded(1)).unwrap();
        for (seed, now_ms) in [(2, 100), (3, 200)] {
            let version = Identity::rotate(&path, &Random::seeded(seed), now_ms).unwrap();
            let after = Identity::open(name.clone(), &path, &Random::seeded(9)).unwrap();
            assert_eq!(after.key().version(), version);
        }
        let last = Identity::open(name, &path, &Random::seeded(9)).unwrap();
        let expired: Vec<u64> = last.old_keys().iter().map(|old| old.expired_ms).collect();
        assert_eq!(expired, [200, 100]);
        assert_eq!(last.old_keys()[1].public_key, first.key().public_key());
        assert_eq!(last.old_keys()[1].version, first.key().version());
        fs::write(&path, "ed25519 a_1 short\n").unwrap();
        assert!(Identity::rotate(&path, &Random::seeded(1), 1).is_err());
    }
}
