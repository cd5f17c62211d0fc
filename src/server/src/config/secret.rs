//! Secrets: named in the configuration by a file, never written in it.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The longest secret that is read.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A secret's text; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Where a secret is kept: a file that only its owner can read, or a credential that systemd hands over, written
/// `credential:NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(PathBuf);

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", .0.display(), error = .1)]
    Unreadable(PathBuf, io::Error),
    /// Others may read the file.
    #[error("{path} can be read or changed by others (mode {mode:03o}); make it private: chmod 600 {path}", path = .0.display(), mode = .1)]
    Exposed(PathBuf, u32),
    /// The file holds nothing.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// The file is no secret.
    #[error("{} is longer than 64 KiB, which is no secret", .0.display())]
    TooLong(PathBuf),
    /// There is no such credential.
    #[error("credential:{0} needs systemd's LoadCredential= (CREDENTIALS_DIRECTORY is not set)")]
    NoCredentials(String),
}

impl SecretFile {
    /// A secret in this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Reads it; white space around it is no part of it.
    pub fn read(&self) -> Result<Secret, SecretError> {
        if let Some(name) = self.0.to_str().and_then(|text| text.strip_prefix("credential:")) {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY")
                .ok_or_else(|| SecretError::NoCredentials(name.to_owned()))?;
            return read(&Path::new(&folder).join(name));
        }
        let unreadable = |error| SecretError::Unreadable(self.0.clone(), error);
        let mode = fs::metadata(&self.0).map_err(unreadable)?.permissions().mode() & 0o777;
        // Its group may read it: that is how root hands a secret to a service.
        if mode & 0o027 != 0 {
            return Err(SecretError::Exposed(self.0.clone(), mode));
        }
        read(&self.0)
    }
}

fn read(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |error| SecretError::Unreadable(path.to_owned(), error);
    if fs::metadata(path).map_err(unreadable)?.len() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLong(path.to_owned()));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    match text.trim() {
        "" => Err(SecretError::Empty(path.to_owned())),
        text => Ok(Secret::new(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_only_from_a_private_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "  hush\n").unwrap();
        for (mode, readable) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false), (0o666, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(SecretFile::new(&path).read().is_ok(), readable, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = SecretFile::new(&path).read().unwrap();
        assert_eq!(secret.expose(), "hush");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn an_empty_file_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(SecretFile::new(&path).read(), Err(SecretError::Empty(_))));
    }
}
