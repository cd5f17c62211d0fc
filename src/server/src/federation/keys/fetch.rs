//! Reading keys from other servers: one request at a time for each, and none for a while after a failure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, ServerName, UInt,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys::v2 as query, get_server_keys::v2 as get_server_keys,
    },
    serde::Raw,
};

use super::{FRESH, KeyError, Reading, ServerKeys, Source, document::DocumentError};
use crate::federation::{client::KEYS, policy::Refused};

/// How long a server that was not reached is left alone: after the first failure, and at most.
const PAUSE_MS: u64 = 10_000;
const PAUSE_MS_MAX: u64 = 10 * 60_000;
/// Servers that are remembered.
const SERVERS_MAX: usize = 20_000;

/// How reading keys went, by server.
#[derive(Debug, Default)]
pub(super) struct Fetches(Mutex<HashMap<OwnedServerName, Arc<tokio::sync::Mutex<Outcome>>>>);

/// How it went with one server.
#[derive(Debug, Default)]
struct Outcome {
    failures: u32,
    retry_at_ms: u64,
    succeeded_ms: Option<u64>,
}

impl Fetches {
    fn of(&self, server: &ServerName) -> Arc<tokio::sync::Mutex<Outcome>> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= SERVERS_MAX {
            servers.retain(|_, outcome| Arc::strong_count(outcome) > 1);
        }
        Arc::clone(servers.entry(server.to_owned()).or_default())
    }
}

impl ServerKeys {
    /// Reads the keys of a server anew. Whoever waited while someone else did is content with that. Goes on when the
    /// caller gives up.
    pub(in crate::federation) async fn refresh(&self, server: &ServerName) -> Result<(), KeyError> {
        self.refresh_now(server).await.map(drop)
    }

    /// The same, and whether they were read just now.
    pub(super) async fn refresh_now(&self, server: &ServerName) -> Result<Reading, KeyError> {
        let (keys, server) = (self.clone(), server.to_owned());
        let reading = self.tasks.spawn("server keys", async move { keys.refresh_alone(&server).await });
        reading.await.unwrap_or(Err(KeyError::BackingOff))
    }

    async fn refresh_alone(&self, server: &ServerName) -> Result<Reading, KeyError> {
        let began_ms = self.clock.now_ms();
        let slot = self.fetches.of(server);
        let mut outcome = slot.lock().await;
        let now_ms = self.clock.now_ms();
        let fresh_ms = u64::try_from(FRESH.as_millis()).unwrap_or(0);
        if outcome.succeeded_ms.is_some_and(|at_ms| now_ms < at_ms.saturating_add(fresh_ms)) {
            let since = outcome.succeeded_ms.is_some_and(|at_ms| at_ms > began_ms);
            return Ok(if since { Reading::Now } else { Reading::Lately });
        }
        if now_ms < outcome.retry_at_ms {
            return Err(KeyError::BackingOff);
        }
        let read = match self.read_from_origin(server).await {
            Ok(()) => Ok(()),
            Err(error) => self.read_from_notaries(server).await.map_err(|_| error),
        };
        if read.is_ok() {
            *outcome = Outcome { succeeded_ms: Some(now_ms), ..Outcome::default() };
        } else {
            let pause_ms = PAUSE_MS.checked_shl(outcome.failures.min(16)).unwrap_or(PAUSE_MS_MAX);
            outcome.retry_at_ms = self.clock.now_ms().saturating_add(pause_ms.min(PAUSE_MS_MAX));
            outcome.failures = outcome.failures.saturating_add(1);
        }
        read.map(|()| Reading::Now)
    }

    async fn read_from_origin(&self, server: &ServerName) -> Result<(), KeyError> {
        let answer = self.client.send_within(server, get_server_keys::Request::new(), KEYS).await?;
        self.learn(server, answer.server_key.json().get()).await
    }

    async fn read_from_notaries(&self, server: &ServerName) -> Result<(), KeyError> {
        let now = MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.clock.now_ms()));
        let config = self.config.get();
        let notaries = config.federation.notaries.iter().filter(|notary| *notary != server);
        let mut last = KeyError::Client(Refused.into());
        for notary in notaries {
            let request = query::Request::new(server.to_owned(), now);
            match self.client.send_within(notary, request, KEYS).await {
                Ok(answer) => match self.learn_from(server, answer.server_keys).await {
                    Ok(()) => return Ok(()),
                    Err(error) => last = error,
                },
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    /// A notary's word is as good as the server's own signature under it.
    async fn learn_from(
        &self,
        server: &ServerName,
        documents: Vec<Raw<ServerSigningKeys>>,
    ) -> Result<(), KeyError> {
        let mut learned = Err(DocumentError::OtherServer.into());
        // The newest last, so that it stands.
        let mut sorted = BTreeMap::new();
        for document in documents.iter().take(16) {
            let until = document.get_field::<MilliSecondsSinceUnixEpoch>("valid_until_ts");
            sorted.insert(until.ok().flatten(), document);
        }
        for document in sorted.into_values() {
            let outcome = self.store(server, document.json().get(), Source::Notary).await;
            if learned.is_err() || outcome.is_ok() {
                learned = outcome;
            }
        }
        learned
    }
}
