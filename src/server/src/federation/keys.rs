//! The signing keys of other servers: read from them, kept with the times in which they are valid.
//!
//! A document is believed if the server's own keys in it have signed it. Where a server cannot be asked, or may not be,
//! the configured notaries are; there are none by default.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys>

mod document;
mod fetch;

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId, serde::Base64,
    signatures::PublicKeyMap,
};

pub use self::document::DocumentError;
use self::{document::Document, fetch::Fetches};
use super::client::{ClientError, FederationClient};
use crate::{
    clock::Clock,
    config::Live,
    database::{Database, Error, Write},
    numbers::Hash128,
    tables::federation::{ServerKey, ServerKeyDocument, ServerKeyDocumentRow, ServerKeyRow},
    tasks::Tasks,
};

/// A document that was read this recently is not read again.
const FRESH: Duration = Duration::from_secs(60);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The server does not publish such a key, or not for that time.
    #[error("the server does not publish this key")]
    Unknown,
    /// The server was not reached a short while ago, and is not asked again yet.
    #[error("the server was not reached a short while ago")]
    BackingOff,
    /// The server was not asked with success.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The document is not to be believed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl KeyError {
    /// Whether asking again later may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unknown | Self::Client(ClientError::Refused(_)) => false,
            Self::BackingOff | Self::Client(_) | Self::Document(_) | Self::Storage(_) => true,
        }
    }
}

/// How new a document is that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// It was read after it was asked for.
    Now,
    /// It was read a short while ago, and not again.
    Lately,
}

/// Who showed a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Origin,
    Notary,
}

/// The keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerKeys {
    database: Database,
    config: Live,
    clock: Clock,
    client: FederationClient,
    tasks: Tasks,
    fetches: Arc<Fetches>,
}

impl ServerKeys {
    /// Opens the service.
    pub fn new(
        database: Database,
        config: Live,
        clock: Clock,
        client: FederationClient,
        tasks: Tasks,
    ) -> Self {
        Self { database, config, clock, client, tasks, fetches: Arc::default() }
    }

    /// The key with which a server signs requests now.
    pub async fn for_request(
        &self,
        server: &ServerName,
        key_id: &ServerSigningKeyId,
    ) -> Result<Base64, KeyError> {
        let usable = |row: &ServerKeyRow, now_ms| !row.retired && row.valid_until_ms >= now_ms;
        if let Some(row) = self.row(server, key_id).await?
            && usable(&row, self.clock.now_ms())
        {
            return Ok(Base64::new(row.key));
        }
        self.refresh(server).await?;
        let row = self.row(server, key_id).await?.filter(|row| usable(row, self.clock.now_ms()));
        row.map(|row| Base64::new(row.key)).ok_or(KeyError::Unknown)
    }

    /// The key with which a server signed an event at a time. `enforce_validity` is what the room version says: without
    /// it, the key need not have been valid then.
    pub async fn for_event(
        &self,
        server: &ServerName,
        key_id: &ServerSigningKeyId,
        at_ms: u64,
        enforce_validity: bool,
    ) -> Result<Base64, KeyError> {
        let usable = |row: &ServerKeyRow| !enforce_validity || row.valid_until_ms >= at_ms;
        let before = self.row(server, key_id).await?;
        if let Some(row) = before {
            if usable(&row) {
                return Ok(Base64::new(row.key));
            }
            if row.retired {
                return Err(KeyError::Unknown);
            }
        }
        let reading = self.refresh_now(server).await?;
        let row = self.row(server, key_id).await?.filter(usable);
        row.map(|row| Base64::new(row.key)).ok_or(match reading {
            Reading::Now => KeyError::Unknown,
            // It may have been published since.
            Reading::Lately => KeyError::BackingOff,
        })
    }

    /// The keys for verifying events, as far as they are to be had: server, key and time of each signature. Servers are
    /// asked side by side.
    pub async fn for_events(
        &self,
        wanted: impl IntoIterator<Item = (OwnedServerName, OwnedServerSigningKeyId, u64)>,
        enforce_validity: bool,
    ) -> PublicKeyMap {
        let asked = wanted.into_iter().map(|(server, key_id, at_ms)| async move {
            let found = self.for_event(&server, &key_id, at_ms, enforce_validity).await;
            if let Err(error) = &found {
                tracing::debug!(%server, %key_id, %error, "no key to verify an event with");
            }
            Some((server, key_id, found.ok()?))
        });
        let mut keys = PublicKeyMap::new();
        for (server, key_id, key) in futures_util::future::join_all(asked).await.into_iter().flatten() {
            keys.entry(server.to_string()).or_default().insert(key_id.to_string(), key);
        }
        keys
    }

    /// The document of a server, for whoever asks this one as a notary: valid at least until `valid_until_ms` if the
    /// server can be asked, else the last one that there is.
    pub async fn document(&self, server: &ServerName, valid_until_ms: u64) -> Result<Option<String>, Error> {
        let hash = self.server_hash(server);
        let stored = self.database.get::<ServerKeyDocument>(&hash).await?;
        // Half of its time is what others shall have left of it.
        let now_ms = self.clock.now_ms();
        let usable = stored.as_ref().is_some_and(|row| {
            let half_ms = row.fetched_ms.midpoint(row.valid_until_ms);
            row.valid_until_ms >= valid_until_ms && now_ms < half_ms
        });
        if !usable {
            match self.refresh(server).await {
                Ok(()) => {
                    return Ok(self.database.get::<ServerKeyDocument>(&hash).await?.map(|row| row.json));
                }
                Err(KeyError::Storage(error)) => return Err(error),
                Err(error) => tracing::debug!(%server, %error, "keys could not be read anew"),
            }
        }
        Ok(stored.map(|row| row.json))
    }

    /// Takes over a document that the server itself sent, if it is to be believed.
    pub async fn learn(&self, server: &ServerName, json: &str) -> Result<(), KeyError> {
        self.store(server, json, Source::Origin).await
    }

    async fn store(&self, server: &ServerName, json: &str, from: Source) -> Result<(), KeyError> {
        let now_ms = self.clock.now_ms();
        let document = Document::verify(server, json, now_ms)?;
        let hash = self.server_hash(server);
        // A notary may show what the server has since taken back: it adds, and changes nothing that is newer.
        let newer = match from {
            Source::Origin => false,
            Source::Notary => {
                let stored = self.database.get::<ServerKeyDocument>(&hash).await?;
                stored.is_some_and(|row| row.valid_until_ms > document.valid_until_ms)
            }
        };
        let mut write = Write::new();
        if newer {
            for row in document.keys {
                let key = (hash, self.key_hash(&row.key_id));
                if self.database.get::<ServerKey>(&key).await?.is_none() {
                    write.put::<ServerKey>(&key, &row);
                }
            }
            self.database.commit(write).await.map_err(Error::from)?;
            return Ok(());
        }
        let row = ServerKeyDocumentRow {
            server: server.to_string(),
            json: json.to_owned(),
            fetched_ms: now_ms,
            valid_until_ms: document.valid_until_ms,
        };
        write.put::<ServerKeyDocument>(&hash, &row);
        for row in document.keys {
            write.put::<ServerKey>(&(hash, self.key_hash(&row.key_id)), &row);
        }
        self.database.commit(write).await.map_err(Error::from)?;
        Ok(())
    }

    async fn row(
        &self,
        server: &ServerName,
        key_id: &ServerSigningKeyId,
    ) -> Result<Option<ServerKeyRow>, Error> {
        let key = (self.server_hash(server), self.key_hash(key_id.as_str()));
        let row = self.database.get::<ServerKey>(&key).await?;
        // One that became known to be public after it was stored is refused too.
        Ok(row.filter(|row| !document::is_public(&row.key)))
    }

    fn server_hash(&self, server: &ServerName) -> Hash128 {
        self.database.hash("server", server.as_str())
    }

    fn key_hash(&self, key_id: &str) -> Hash128 {
        self.database.hash("server key", key_id)
    }
}

#[cfg(test)]
mod tests;
