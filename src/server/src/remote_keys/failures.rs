//! Which servers did not answer when they were asked for keys: when last, how often, why. For administrators who look for
//! the cause of an undecryptable message. Names of servers, counts and times; nothing of whose keys they were.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedServerName, ServerName};

use crate::{
    clock::Clock,
    database::{Database, Error, Range, Write},
    egress::EgressError,
    federation::client::ClientError,
    tables::keys::{KEY_FAILURE_SECONDS, KeyFailure, KeyFailureRow, KeyFailures},
};

/// Servers that are remembered; beyond, the one whose last failure is longest ago is forgotten.
pub const SERVERS_MAX: usize = 1_000;

/// What a server was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Keys of devices and users.
    Query,
    /// One-time keys.
    Claim,
}

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Failures {
    database: Database,
    clock: Clock,
    known: Arc<Mutex<BTreeMap<OwnedServerName, KeyFailureRow>>>,
}

impl Failures {
    /// Reads what is remembered.
    pub(super) async fn open(database: Database, clock: Clock) -> Result<Self, Error> {
        let rows = database.scan_all(Range::<KeyFailure>::whole()).await?;
        let named = rows.into_iter().filter_map(|(_, row)| Some((row.server.as_str().try_into().ok()?, row)));
        let known = Arc::new(Mutex::new(named.collect()));
        Ok(Self { database, clock, known })
    }

    /// Notes what came of asking servers.
    pub(super) fn note<'a>(
        &self,
        asked: Asked,
        outcomes: impl Iterator<Item = (&'a ServerName, Option<&'a ClientError>)>,
    ) {
        let mut write = Write::new();
        let now_ms = self.clock.now_ms();
        let mut known = self.known();
        for (server, error) in outcomes {
            let changed = match error {
                Some(error) => failed(
                    known.entry(server.to_owned()).or_insert_with(|| none(server)),
                    asked,
                    error,
                    now_ms,
                ),
                None => known.get_mut(server).is_some_and(|row| answered(row, asked, now_ms)),
            };
            if let Some(row) = known.get(server).filter(|_| changed) {
                write.put::<KeyFailure>(&self.hash(server), row);
            }
        }
        while known.len() > SERVERS_MAX {
            let oldest = known.iter().min_by_key(|(_, row)| last_ms(row)).map(|(server, _)| server.clone());
            let Some(oldest) = oldest else { break };
            known.remove(&oldest);
            write.delete::<KeyFailure>(&self.hash(&oldest));
        }
        if !write.is_empty() {
            // Submitted before the lock is gone, so that rows are as new as memory; losing it does no harm.
            drop(self.database.submit(write));
        }
    }

    /// The servers that failed within the time that this is remembered, the last failure first.
    pub(super) fn list(&self) -> Vec<KeyFailureRow> {
        let oldest_ms = self.clock.now_ms().saturating_sub(KEY_FAILURE_SECONDS.saturating_mul(1000));
        let mut rows: Vec<KeyFailureRow> = self.known().values().cloned().collect();
        rows.retain(|row| last_ms(row) >= oldest_ms);
        rows.sort_by_key(|row| std::cmp::Reverse(last_ms(row)));
        rows
    }

    fn hash(&self, server: &ServerName) -> crate::numbers::Hash128 {
        self.database.hash("key failure", server.as_str())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<OwnedServerName, KeyFailureRow>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn none(server: &ServerName) -> KeyFailureRow {
    KeyFailureRow { server: server.to_string(), query: None, claim: None }
}

fn of(row: &mut KeyFailureRow, asked: Asked) -> &mut Option<KeyFailures> {
    match asked {
        Asked::Query => &mut row.query,
        Asked::Claim => &mut row.claim,
    }
}

fn failed(row: &mut KeyFailureRow, asked: Asked, error: &ClientError, now_ms: u64) -> bool {
    let of = of(row, asked);
    let before = of.take();
    *of = Some(KeyFailures {
        count: before.as_ref().map_or(0, |before| before.count).saturating_add(1),
        first_ms: before.map_or(now_ms, |before| before.first_ms),
        last_ms: now_ms,
        reason: reason(error),
        answered_ms: None,
    });
    true
}

/// Notes the first answer after a failure; whether it is one.
fn answered(row: &mut KeyFailureRow, asked: Asked, now_ms: u64) -> bool {
    let Some(of) = of(row, asked) else { return false };
    let first = of.answered_ms.is_none();
    of.answered_ms.get_or_insert(now_ms);
    first
}

fn last_ms(row: &KeyFailureRow) -> u64 {
    [&row.query, &row.claim].into_iter().flatten().map(|kind| kind.last_ms).max().unwrap_or_default()
}

/// The class of what went wrong: nothing of what the other server said.
fn reason(error: &ClientError) -> String {
    let word = match error {
        ClientError::Refused(_) => "not_allowed",
        ClientError::Egress(EgressError::Name(_)) => "name_not_found",
        ClientError::Egress(EgressError::Unreachable(_)) => "unreachable",
        ClientError::Egress(EgressError::TimedOut) => "timed_out",
        ClientError::Egress(EgressError::TooLarge(_)) => "too_large",
        ClientError::Egress(EgressError::Off(_)) => "switched_off",
        ClientError::Egress(EgressError::Address(_)) => "no_public_address",
        ClientError::Egress(EgressError::Malformed(_) | EgressError::Trust(_)) => "not_sent",
        ClientError::Status { status, .. } => return format!("status_{}", status.as_u16()),
        ClientError::Malformed(_) => "malformed",
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::{accounts::testing::Fixture, housekeeping::sweep::Sweeper};

    const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

    fn timed_out() -> ClientError {
        ClientError::Egress(EgressError::TimedOut)
    }

    async fn open(fixture: &Fixture) -> Failures {
        Failures::open(fixture.database.clone(), fixture.clock.clone()).await.unwrap()
    }

    #[tokio::test]
    async fn failures_are_counted_by_server_and_kind_and_forgotten_after_a_month() {
        let fixture = Fixture::new().await;
        let failures = open(&fixture).await;
        let (far, near) = (server_name!("far.example"), server_name!("near.example"));
        failures.note(Asked::Query, [(far, Some(&timed_out())), (near, None)].into_iter());
        fixture.clock.advance(DAY);
        let refused = ClientError::Malformed("secret".to_owned());
        failures.note(Asked::Query, [(far, Some(&refused))].into_iter());
        failures.note(Asked::Claim, [(far, None)].into_iter());
        let start = 1_700_000_000_000;
        let expected = KeyFailures {
            count: 2,
            first_ms: start,
            last_ms: start + 86_400_000,
            reason: "malformed".to_owned(),
            answered_ms: None,
        };
        for failures in [&failures, &open(&fixture).await] {
            let rows = failures.list();
            assert_eq!(rows.len(), 1, "who answers is not written down");
            assert_eq!((rows[0].server.as_str(), &rows[0].claim), ("far.example", &None));
            assert_eq!(rows[0].query.as_ref(), Some(&expected));
        }
        failures.note(Asked::Query, [(far, None)].into_iter());
        assert_eq!(failures.list()[0].query.as_ref().unwrap().answered_ms, Some(start + 86_400_000));
        fixture.clock.advance(DAY * 31);
        assert!(failures.list().is_empty());
        let sweeper = Sweeper::new(fixture.database.clone(), fixture.clock.clone());
        sweeper.sweep(&tokio_util::sync::CancellationToken::new()).await.unwrap();
        assert!(fixture.database.scan_all(Range::<KeyFailure>::whole()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_thousand_servers_are_remembered_and_no_more() {
        let fixture = Fixture::new().await;
        let failures = open(&fixture).await;
        for number in 0..SERVERS_MAX + 5 {
            let server = OwnedServerName::try_from(format!("s{number}.example")).unwrap();
            failures.note(Asked::Claim, [(&*server, Some(&timed_out()))].into_iter());
            fixture.clock.advance(std::time::Duration::from_secs(1));
        }
        let rows = failures.list();
        assert_eq!(rows.len(), SERVERS_MAX);
        assert_eq!(rows[0].server, format!("s{}.example", SERVERS_MAX + 4));
        assert_eq!(rows[SERVERS_MAX - 1].server, "s5.example");
        assert_eq!(fixture.database.scan_all(Range::<KeyFailure>::whole()).await.unwrap().len(), SERVERS_MAX);
    }
}
