//! Who this server is: its name and the key that it signs with.

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
    /// Loads the key from a file of one line, `ed25519 VERSION BASE64`, or makes a new one there.
    pub fn open(server_name: OwnedServerName, path: &Path, random: &Random) -> Result<Self, IdentityError> {
        let failed = |error| IdentityError::Io(path.to_owned(), error);
        let line = match fs::read_to_string(path) {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let line = new_key_line(random);
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(failed)?;
                file.write_all(line.as_bytes()).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                line
            }
            Err(error) => return Err(failed(error)),
        };
        let key = parse_key_line(&line).ok_or_else(|| IdentityError::Damaged(path.to_owned()))?;
        Ok(Self { server_name, key: Arc::new(key) })
    }

    /// An identity with a key that is kept nowhere; for tests.
    pub fn ephemeral(server_name: OwnedServerName, random: &Random) -> Option<Self> {
        Some(Self { server_name, key: Arc::new(parse_key_line(&new_key_line(random))?) })
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key that signs.
    pub fn key(&self) -> &Ed25519KeyPair {
        &self.key
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
}
