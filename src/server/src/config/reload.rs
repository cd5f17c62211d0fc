//! Taking over a changed configuration while running.

use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;

use super::{Config, Note, SECTIONS};

/// An option whose value changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its section.
    pub section: &'static str,
    /// Its key.
    pub key: &'static str,
    /// Whether the running server took it over; else it waits for the next start.
    pub live: bool,
}

/// The configuration of a running server. Cheap to clone; all clones see a reload.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<Config>>>);

impl Live {
    /// Starts with this configuration.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// The configuration as it is now.
    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what can be taken over of `new`, and says what changed.
    pub fn reload(&self, new: &Config) -> Vec<Change> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (merged, changes) = merge(&current, new);
        if let Some(merged) = merged {
            *current = Arc::new(merged);
        }
        changes
    }
}

/// `old` with the live options of `new`, and what differs between the two.
fn merge(old: &Config, new: &Config) -> (Option<Config>, Vec<Change>) {
    let mut changes = Vec::new();
    let (Ok(mut merged), Ok(new)) = (toml::Table::try_from(old), toml::Table::try_from(new)) else {
        return (None, changes);
    };
    for section in SECTIONS {
        let Some(values) = merged.get_mut(section.key).and_then(toml::Value::as_table_mut) else { continue };
        for option in section.options {
            let new = new.get(section.key).and_then(|values| values.get(option.key));
            if values.get(option.key) == new {
                continue;
            }
            let live = option.note == Some(Note::Reloaded);
            changes.push(Change { section: section.key, key: option.key, live });
            match new {
                Some(new) if live => drop(values.insert(option.key.to_owned(), new.clone())),
                None if live => drop(values.remove(option.key)),
                Some(_) | None => {}
            }
        }
    }
    (Config::deserialize(toml::Value::Table(merged)).ok(), changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn a_reload_takes_over_what_is_live_and_tells_of_the_rest() {
        let live = Live::new(Config::default());
        let mut new = Config::default();
        assert_eq!(live.reload(&new), []);
        new.limits.body = ByteSize::mib(2);
        new.server.public_url = Some("https://matrix.example".to_owned());
        assert_eq!(
            live.reload(&new),
            [
                Change { section: "server", key: "public_url", live: false },
                Change { section: "limits", key: "body", live: true },
            ]
        );
        assert_eq!(live.get().limits.body, ByteSize::mib(2));
        assert_eq!(live.get().server.public_url, None);
    }
}
