//! Application services (bridges and bots) as their registration files tell of them: who they are and what is theirs.
//!
//! Read once, when the server starts. What they are sent is the business of [`appservices`](crate::appservices).
//!
//! <https://spec.matrix.org/v1.19/application-service-api/#registration>

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use ruma::{OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use subtle::ConstantTimeEq;

mod file;
mod namespace;

pub use self::file::Registration;
use self::namespace::Namespace;

/// Why the registrations cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// A file or folder cannot be read.
    #[error("appservices.registrations: {file}: {error}", file = .0.display(), error = .1)]
    Unreadable(PathBuf, io::Error),
    /// A file is no registration.
    #[error("appservices.registrations: {file}: {text}", file = .0.display(), text = .1)]
    Malformed(PathBuf, String),
    /// Two registrations have something in common that must tell them apart.
    #[error("appservices.registrations: {file}: another registration has the same {what}", file = .0.display(), what = .1)]
    Twice(PathBuf, &'static str),
}

/// Names an application service; its place in the list of registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeIndex(pub usize);

/// An application service.
#[derive(Debug)]
pub struct Bridge {
    /// What its file says.
    pub registration: Registration,
    /// The user that it is itself.
    pub sender: OwnedUserId,
    users: Vec<Namespace>,
    aliases: Vec<Namespace>,
    rooms: Vec<Namespace>,
}

/// All application services. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Bridges(Arc<[Bridge]>);

impl Bridge {
    fn new(registration: Registration, server_name: &ServerName) -> Result<Self, String> {
        let sender = UserId::parse_with_server_name(registration.sender_localpart.as_str(), server_name)
            .map_err(|_| "sender_localpart is no user name".to_owned())?;
        let compile = |of: &[file::Namespace]| of.iter().map(Namespace::new).collect::<Result<Vec<_>, _>>();
        for (what, text) in [
            ("id", &registration.id),
            ("as_token", &registration.as_token),
            ("hs_token", &registration.hs_token),
        ] {
            if text.trim().is_empty() {
                return Err(format!("{what} is empty"));
            }
        }
        Ok(Self {
            users: compile(&registration.namespaces.users)?,
            aliases: compile(&registration.namespaces.aliases)?,
            rooms: compile(&registration.namespaces.rooms)?,
            sender,
            registration,
        })
    }

    /// Whether a user is the application service itself, or in its namespaces.
    pub fn has_user(&self, user_id: &UserId) -> bool {
        *user_id == self.sender || self.users.iter().any(|namespace| namespace.includes(user_id.as_str()))
    }

    /// Whether an alias is in its namespaces.
    pub fn has_alias(&self, alias: &str) -> bool {
        self.aliases.iter().any(|namespace| namespace.includes(alias))
    }

    /// Whether a room is in its namespaces.
    pub fn has_room(&self, room_id: &RoomId) -> bool {
        self.rooms.iter().any(|namespace| namespace.includes(room_id.as_str()))
    }

    /// Whether nobody else may have a user of this name.
    fn keeps_user(&self, user_id: &UserId) -> bool {
        *user_id == self.sender
            || self.users.iter().any(|namespace| namespace.exclusive && namespace.includes(user_id.as_str()))
    }

    fn keeps_alias(&self, alias: &RoomAliasId) -> bool {
        self.aliases.iter().any(|namespace| namespace.exclusive && namespace.includes(alias.as_str()))
    }

    /// Whether it wants what is not kept: who is typing, has read, is online; and messages to devices.
    pub fn wants_ephemeral(&self) -> bool {
        self.registration.wants_ephemeral()
    }

    /// Whether requests of a user in its name are counted.
    pub fn is_limited(&self, user_id: &UserId) -> bool {
        *user_id != self.sender && self.registration.rate_limited.unwrap_or(true)
    }
}

impl Bridges {
    /// Reads registration files; of a folder, those that end with `.yaml`, in the order of their names.
    pub fn load(places: &[PathBuf], server_name: &ServerName) -> Result<Self, BridgeError> {
        let (mut bridges, mut ids, mut tokens) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for file in files(places)? {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| BridgeError::Unreadable(file.clone(), error))?;
            let malformed = |text: String| BridgeError::Malformed(file.clone(), text);
            let registration = Registration::parse(&text).map_err(malformed)?;
            if !ids.insert(registration.id.clone()) {
                return Err(BridgeError::Twice(file, "id"));
            }
            if !tokens.insert(registration.as_token.clone()) {
                return Err(BridgeError::Twice(file, "as_token"));
            }
            bridges.push(Bridge::new(registration, server_name).map_err(malformed)?);
        }
        Ok(Self(bridges.into()))
    }

    /// From registrations that were read elsewhere; for tests.
    pub fn of(registrations: Vec<Registration>, server_name: &ServerName) -> Result<Self, String> {
        let bridges = registrations.into_iter().map(|registration| Bridge::new(registration, server_name));
        Ok(Self(bridges.collect::<Result<Vec<_>, _>>()?.into()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (BridgeIndex, &Bridge)> {
        self.0.iter().enumerate().map(|(index, bridge)| (BridgeIndex(index), bridge))
    }

    /// The one of this name.
    pub fn get(&self, index: BridgeIndex) -> Option<&Bridge> {
        self.0.get(index.0)
    }

    /// The one whose token this is.
    pub fn by_token(&self, token: &str) -> Option<(BridgeIndex, &Bridge)> {
        self.iter()
            .find(|(_, bridge)| bool::from(bridge.registration.as_token.as_bytes().ct_eq(token.as_bytes())))
    }

    /// Whether one of them, but for this one, keeps a user name for itself.
    pub fn is_user_kept(&self, user_id: &UserId, but: Option<BridgeIndex>) -> bool {
        self.iter().any(|(index, bridge)| Some(index) != but && bridge.keeps_user(user_id))
    }

    /// Whether one of them, but for this one, keeps an alias for itself.
    pub fn is_alias_kept(&self, alias: &RoomAliasId, but: Option<BridgeIndex>) -> bool {
        self.iter().any(|(index, bridge)| Some(index) != but && bridge.keeps_alias(alias))
    }

    /// Those that have a user of this name, the one that keeps it for itself first.
    pub fn of_user(&self, user_id: &UserId) -> Vec<BridgeIndex> {
        let mut owners: Vec<_> = self.iter().filter(|(_, bridge)| bridge.has_user(user_id)).collect();
        owners.sort_by_key(|(_, bridge)| !bridge.keeps_user(user_id));
        owners.into_iter().map(|(index, _)| index).collect()
    }

    /// Those that have an alias of this name.
    pub fn of_alias(&self, alias: &RoomAliasId) -> Vec<BridgeIndex> {
        let owners = self.iter().filter(|(_, bridge)| bridge.has_alias(alias.as_str()));
        owners.map(|(index, _)| index).collect()
    }
}

/// The files that places stand for.
fn files(places: &[PathBuf]) -> Result<Vec<PathBuf>, BridgeError> {
    let mut files = Vec::new();
    for place in places {
        if !place.is_dir() {
            files.push(place.clone());
            continue;
        }
        let unreadable = |error| BridgeError::Unreadable(place.clone(), error);
        let mut within = Vec::new();
        for entry in std::fs::read_dir(place).map_err(unreadable)? {
            within.push(entry.map_err(unreadable)?.path());
        }
        within.retain(|file| file.extension().and_then(|end| end.to_str()).is_some_and(is_yaml));
        within.sort();
        files.extend(within);
    }
    Ok(files)
}

fn is_yaml(extension: &str) -> bool {
    matches!(extension, "yaml" | "yml")
}

#[cfg(test)]
mod tests;
