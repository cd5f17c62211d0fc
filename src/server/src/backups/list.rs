//! The list of a snapshot's files, as it stands on the disk: a line of JSON, and behind it the hash of that line.

use serde::{Deserialize, Serialize};

/// The layout of lists that is written.
const LAYOUT: u32 = 1;

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    layout: u32,
    /// What it is called: when it was begun, in UTC, such as `20261124T130501Z`.
    #[serde(skip)]
    pub name: String,
    /// Whose it is.
    pub server_name: String,
    /// The version of the program that made it.
    pub made_by: String,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub made_at_ms: u64,
    /// The identity of the database.
    pub creation_id: u128,
    /// Its generation.
    pub generation: u32,
    /// Its files, by path.
    pub files: Vec<SnapshotFile>,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Its path in the data folder, or below `media` or `configuration`.
    pub path: String,
    /// The BLAKE3 hash of its bytes, under which they are kept, in hexadecimal.
    pub hash: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since the Unix epoch.
    pub changed_ns: i128,
}

impl Snapshot {
    /// One without files.
    pub(super) fn new(name: String, made_at_ms: u64, of: &super::Sources) -> Self {
        Self {
            layout: LAYOUT,
            name,
            server_name: of.server_name.clone(),
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            made_at_ms,
            creation_id: of.creation_id,
            generation: of.generation,
            files: Vec::new(),
        }
    }

    /// How many bytes a restored server takes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// As it stands on the disk.
    pub(super) fn encode(&self) -> Vec<u8> {
        // Plain data with text keys: this cannot fail.
        let line = serde_json::to_string(self).unwrap_or_default();
        let hash = blake3::hash(line.as_bytes()).to_hex();
        format!("{line}\n{hash}\n").into_bytes()
    }

    /// Reads one; none if it is not what was written, or in a layout that is not known.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Option<Self> {
        let (line, hash) = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split_once('\n')?;
        if blake3::hash(line.as_bytes()).to_hex().as_str() != hash {
            return None;
        }
        let snapshot: Self = serde_json::from_str(line).ok()?;
        let is_known = snapshot.layout == LAYOUT && snapshot.files.iter().all(SnapshotFile::is_sound);
        is_known.then(|| Self { name: name.to_owned(), ..snapshot })
    }
}

impl SnapshotFile {
    /// Whether the path stays where it belongs and the hash is one: both become paths.
    fn is_sound(&self) -> bool {
        let stays = self.path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        stays && self.hash.len() == 64 && self.hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}
