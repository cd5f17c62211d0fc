//! Filters: named definitions of what a sync or a page of events shows.
//!
//! A filter's id is a keyed hash of its definition, so the same filter uploaded at every start of a client is stored once.

use std::sync::Arc;

use allod_storage::CommitError;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use quick_cache::sync::Cache;
use ruma::api::client::filter::FilterDefinition;

use crate::{
    database::{Database, Error, Range, Write},
    numbers::{Hash128, UserNumber},
    tables::user_data::{Filter, StoredFilter},
};

/// Most filters that a user may have.
pub const FILTERS_PER_USER_MAX: usize = 200;
/// Longest definition, as JSON, in bytes.
pub const DEFINITION_BYTES_MAX: usize = 32 * 1024;
/// Parsed filters kept in memory.
const CACHED_FILTERS_MAX: usize = 4_096;

/// Why a filter was not stored.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The definition is too long.
    #[error("the filter is too large")]
    TooLarge,
    /// The user has as many filters as a user may have.
    #[error("too many filters")]
    TooMany,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

/// The service of filters.
#[derive(Clone, Debug)]
pub struct Filters {
    database: Database,
    /// Filters never change, so what is cached stays true.
    cache: Arc<Cache<(UserNumber, Hash128), Arc<FilterDefinition>>>,
}

impl Filters {
    /// Over a database.
    pub fn new(database: Database) -> Self {
        Self { database, cache: Arc::new(Cache::new(CACHED_FILTERS_MAX)) }
    }

    /// Stores a filter and returns its id.
    pub async fn create(&self, user: UserNumber, filter: &FilterDefinition) -> Result<String, FilterError> {
        let definition = serde_json::to_string(filter).map_err(|_| FilterError::TooLarge)?;
        if definition.len() > DEFINITION_BYTES_MAX {
            return Err(FilterError::TooLarge);
        }
        let hash = self.database.hash("filter", &definition);
        let key = (user, hash);
        if self.database.get::<Filter>(&key).await?.is_none() {
            let range = Range::<Filter>::prefix(&user).limit(FILTERS_PER_USER_MAX);
            if self.database.scan(&range).await?.rows.len() >= FILTERS_PER_USER_MAX {
                return Err(FilterError::TooMany);
            }
            let mut write = Write::new();
            write.put::<Filter>(&key, &StoredFilter { definition });
            self.database.commit(write).await.map_err(|error: CommitError| Error::from(error))?;
        }
        Ok(URL_SAFE_NO_PAD.encode(hash.0))
    }

    /// The filter of this user with this id.
    pub async fn get(
        &self,
        user: UserNumber,
        filter_id: &str,
    ) -> Result<Option<Arc<FilterDefinition>>, Error> {
        let Some(hash) = hash_of(filter_id) else { return Ok(None) };
        let key = (user, hash);
        if let Some(filter) = self.cache.get(&key) {
            return Ok(Some(filter));
        }
        let Some(stored) = self.database.get::<Filter>(&key).await? else { return Ok(None) };
        let filter: Arc<FilterDefinition> = match serde_json::from_str(&stored.definition) {
            Ok(filter) => Arc::new(filter),
            Err(error) => {
                tracing::warn!(%error, "a stored filter does not parse");
                return Ok(None);
            }
        };
        self.cache.insert(key, Arc::clone(&filter));
        Ok(Some(filter))
    }
}

fn hash_of(filter_id: &str) -> Option<Hash128> {
    let bytes = URL_SAFE_NO_PAD.decode(filter_id).ok()?;
    Some(Hash128(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
