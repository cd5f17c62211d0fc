//! Which state a sliding sync asks for: the `required_state` of lists and subscriptions (MSC4186).

use std::collections::{BTreeMap, BTreeSet};

/// Stands for every type, or for every state key.
const ANY: &str = "*";
/// Stands for the reader's user id.
const ME: &str = "$ME";
/// As the state key of `m.room.member`: the members that the timeline needs.
const LAZY: &str = "$LAZY";
/// The type of members.
const MEMBER: &str = "m.room.member";

/// The state that is asked for: what any of its parts asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequiredState {
    parts: BTreeSet<Part>,
}

/// What one list or subscription asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// All types but those that are named.
    all: bool,
    /// Named types.
    types: BTreeMap<String, Keys>,
    /// State keys of any type.
    keys: BTreeSet<String>,
    /// The members that the timeline needs.
    lazy: bool,
}

/// State keys of a type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Keys {
    Any,
    Only(BTreeSet<String>),
}

impl Keys {
    fn has(&self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(keys) => keys.contains(key),
        }
    }
}

impl RequiredState {
    /// From pairs of a type and a state key, as `me` asks for them. Beside `*` and `*`, a type that is named with certain
    /// keys is asked for with these alone.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, me: &str) -> Self {
        let mut part = Part::default();
        for (kind, key) in pairs {
            match (kind, key) {
                (ANY, ANY) => part.all = true,
                (ANY, key) => drop(part.keys.insert(if key == ME { me } else { key }.to_owned())),
                (MEMBER, LAZY) => {
                    part.lazy = true;
                    part.types.entry(MEMBER.to_owned()).or_insert_with(|| Keys::Only(BTreeSet::new()));
                }
                (kind, ANY) => drop(part.types.insert(kind.to_owned(), Keys::Any)),
                (kind, key) => {
                    let keys = part.types.entry(kind.to_owned());
                    if let Keys::Only(keys) = keys.or_insert_with(|| Keys::Only(BTreeSet::new())) {
                        keys.insert(if key == ME { me } else { key }.to_owned());
                    }
                }
            }
        }
        Self { parts: BTreeSet::from([part]) }
    }

    /// Asks for what another asks for, too.
    pub fn add(&mut self, other: &Self) {
        self.parts.extend(other.parts.iter().cloned());
    }

    /// Whether a piece of state is asked for, the timeline aside.
    pub fn has(&self, kind: &str, key: &str) -> bool {
        self.parts.iter().any(|part| {
            let named = part.types.get(kind);
            named.map_or(part.all, |keys| keys.has(key)) || part.keys.contains(key)
        })
    }

    /// Whether the members that the timeline needs are asked for.
    pub fn is_lazy(&self) -> bool {
        self.parts.iter().any(|part| part.lazy)
    }

    /// Whether all pieces of state have to be looked at to find those that are asked for.
    pub fn needs_scan(&self) -> bool {
        self.parts.iter().any(|part| part.all || !part.keys.is_empty())
    }

    /// Whether members are asked for that [`Self::keys`] does not name.
    pub fn wants_members(&self) -> bool {
        self.parts.iter().any(|part| match part.types.get(MEMBER) {
            Some(Keys::Any) => true,
            Some(Keys::Only(_)) => !part.keys.is_empty(),
            None => part.all || !part.keys.is_empty(),
        })
    }

    /// Types that are asked for with every key.
    pub fn types(&self) -> BTreeSet<&str> {
        let types = self.parts.iter().flat_map(|part| &part.types);
        types.filter(|(_, keys)| **keys == Keys::Any).map(|(kind, _)| kind.as_str()).collect()
    }

    /// Pieces of state that are asked for by type and key.
    pub fn keys(&self) -> BTreeSet<(&str, &str)> {
        let types = self.parts.iter().flat_map(|part| &part.types);
        types
            .flat_map(|(kind, keys)| {
                let keys = match keys {
                    Keys::Any => None,
                    Keys::Only(keys) => Some(keys),
                };
                keys.into_iter().flatten().map(move |key| (kind.as_str(), key.as_str()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(pairs: &[(&str, &str)]) -> RequiredState {
        RequiredState::new(pairs.iter().copied(), "@me:x")
    }

    #[test]
    fn named_keys_and_wildcards() {
        let some = required(&[("m.room.name", ""), ("m.room.member", "$ME"), ("m.call.member", "*")]);
        assert!(some.has("m.room.name", "") && !some.has("m.room.name", "x"));
        assert!(some.has("m.room.member", "@me:x") && !some.has("m.room.member", "@you:x"));
        assert!(some.has("m.call.member", "any") && !some.has("m.room.topic", ""));
        assert!(!some.needs_scan() && !some.is_lazy());
        assert_eq!(some.types(), BTreeSet::from(["m.call.member"]));
        assert_eq!(some.keys(), BTreeSet::from([("m.room.name", ""), ("m.room.member", "@me:x")]));
        let keyed = required(&[("*", "")]);
        assert!(keyed.has("m.room.name", "") && !keyed.has("m.call.member", "any") && keyed.needs_scan());
    }

    #[test]
    fn beside_all_a_named_type_is_restricted() {
        let lazy = required(&[("*", "*"), ("m.room.member", "$LAZY"), ("m.room.member", "$ME")]);
        assert!(lazy.is_lazy() && lazy.has("x", "y") && !lazy.wants_members());
        assert!(lazy.has("m.room.member", "@me:x") && !lazy.has("m.room.member", "@you:x"));
        assert!(required(&[("*", "*")]).has("m.room.member", "@you:x"));
        let all = required(&[("*", "*"), ("m.room.member", "*")]);
        assert!(all.has("m.room.member", "@you:x") && all.wants_members());
    }

    #[test]
    fn together_they_ask_for_what_either_asks_for() {
        let mut both = required(&[("*", "*"), ("m.room.member", "$LAZY")]);
        both.add(&required(&[("m.room.member", "@you:x")]));
        assert!(both.has("m.room.member", "@you:x") && !both.has("m.room.member", "@they:x"));
        assert!(both.is_lazy() && both.has("m.room.topic", ""));
        let mut same = both.clone();
        same.add(&both);
        assert_eq!(same, both);
    }
}
