//! Spaces: the few separately tuned key ranges of a database, and the keys in them.

use crate::Error;

/// How the rows of a space are used, which decides how an engine lays them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Mostly read one row at a time by its whole key.
    Point,
    /// Mostly read as ranges.
    Scan,
    /// Written at one end and deleted at the other.
    Queue,
}

/// One separately tuned key range; in RocksDB a column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space {
    /// Unique number of the space; 0 to 15 belong to the storage layer itself.
    pub id: u8,
    /// Unique name, stored in the database.
    pub name: &'static str,
}

/// A full key: the space and the ordered bytes in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Where the row is.
    pub space: u8,
    /// What orders it there.
    pub bytes: Vec<u8>,
}

impl Key {
    /// A key in a space.
    pub fn new(space: Space, bytes: impl Into<Vec<u8>>) -> Self {
        Self { space: space.id, bytes: bytes.into() }
    }
}

/// Rows with `low <= key < high` of a space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRange {
    /// Where the rows are.
    pub space: Space,
    /// First key of the range; empty means from the start of the space.
    pub low: Vec<u8>,
    /// First key after the range; empty means to the end of the space.
    pub high: Vec<u8>,
}

impl KeyRange {
    /// A whole space.
    pub fn whole(space: Space) -> Self {
        Self { space, low: Vec::new(), high: Vec::new() }
    }
}

/// The lowest space number that is not the storage layer's own.
pub(crate) const SPACE_ID_MIN: u8 = 16;
/// Names that no declared space may take.
pub(crate) const OWN_NAMES: [&str; 4] = ["default", "meta", "log", "audit"];

/// The spaces that a store was opened with, by number.
#[derive(Debug)]
pub(crate) struct Declared {
    names: [Option<&'static str>; 256],
    spaces: &'static [(Space, Profile)],
}

impl Declared {
    /// Takes the declarations; numbers and names must be unique and not the storage layer's own.
    pub(crate) fn new(spaces: &'static [(Space, Profile)]) -> Result<Self, Error> {
        let mut names = [None; 256];
        for (space, _) in spaces {
            let taken = space.id < SPACE_ID_MIN
                || OWN_NAMES.contains(&space.name)
                || names.contains(&Some(space.name))
                || names.get(usize::from(space.id)).is_some_and(Option::is_some);
            if taken {
                return Err(Error::Foreign(format!(
                    "space {} ({}) is declared twice or takes a number or name of the storage layer",
                    space.id, space.name
                )));
            }
            if let Some(slot) = names.get_mut(usize::from(space.id)) {
                *slot = Some(space.name);
            }
        }
        Ok(Self { names, spaces })
    }

    /// The name of a declared space.
    pub(crate) fn name(&self, id: u8) -> Result<&'static str, Error> {
        self.names
            .get(usize::from(id))
            .copied()
            .flatten()
            .ok_or(Error::TooLarge("a key is in no declared space"))
    }

    /// All declarations.
    pub(crate) fn all(&self) -> &'static [(Space, Profile)] {
        self.spaces
    }
}
