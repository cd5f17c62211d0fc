//! Handing out one-time keys: each at most once, oldest first, and the fallback key when there are none.

use std::collections::{BTreeMap, BTreeSet};

use allod_storage::CommitError;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, MutexGuard};

use super::{ATTEMPTS_MAX, KeyError, Keys};
use crate::{
    database::{Error, Range, Write},
    log::Happened,
    numbers::{DeviceNumber, UserNumber},
    tables::{
        Stamped, Table,
        keys::{
            FallbackKey, FallbackKeyRow, KeyCounts, KeyCountsRow, OneTimeKey, OneTimeKeyById, OneTimeKeyRow,
        },
    },
};

/// Keys handed out in one commit: some, because a conflict with an upload makes all of them be tried again.
const CLAIMS_PER_COMMIT: usize = 500;
/// Queues of those who claim; a device's number says which is its.
const QUEUES: usize = 128;

/// The algorithm that is wanted, by user and device.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>;
/// Keys by user, device and key id.
pub type Claimed = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, BTreeMap<String, Box<RawValue>>>>;

/// Those who claim keys of the same device go one after the other: each would find the key taken that it was about to be
/// given, and who lost often would be sent away. What is given out once is not decided here but by each commit's checks.
#[derive(Debug)]
pub(super) struct Queues([Mutex<()>; QUEUES]);

impl Default for Queues {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Queues {
    /// Waits for one's turn with all these devices, always in the same order.
    async fn turn(&self, claims: &[Claim<'_>]) -> Vec<MutexGuard<'_, ()>> {
        let queue = |claim: &Claim<'_>| usize::try_from(claim.device.0).unwrap_or_default() % QUEUES;
        let wanted: BTreeSet<usize> = claims.iter().map(queue).collect();
        let mut turns = Vec::new();
        for queue in wanted.into_iter().filter_map(|queue| self.0.get(queue)) {
            turns.push(queue.lock().await);
        }
        turns
    }
}

/// One device's key that is wanted.
#[derive(Clone, Copy)]
struct Claim<'a> {
    user_id: &'a UserId,
    user: UserNumber,
    device_id: &'a OwnedDeviceId,
    device: DeviceNumber,
    algorithm: &'a str,
}

/// What a device has left of an algorithm.
struct Left {
    /// The oldest of its one-time keys, and where it stands.
    oldest: Option<(<OneTimeKey as Table>::Key, OneTimeKeyRow)>,
    /// Its fallback key, if there is no other.
    fallback: Option<FallbackKeyRow>,
    /// How many there are.
    counts: Option<Stamped<KeyCountsRow>>,
}

/// A key that would be handed out.
struct Found {
    key_id: String,
    json: String,
}

impl Keys {
    /// Hands out a key of each local device that has one of the algorithm wanted; others are missing in the answer.
    pub async fn claim(&self, wanted: &Claims) -> Result<Claimed, KeyError> {
        let claims = self.local_claims(wanted).await?;
        let mut claimed = Claimed::new();
        for claims in claims.chunks(CLAIMS_PER_COMMIT) {
            for (claim, found) in self.claim_together(claims).await? {
                let Ok(json) = RawValue::from_string(found.json) else { continue };
                let devices = claimed.entry(claim.user_id.to_owned()).or_default();
                devices.entry(claim.device_id.clone()).or_default().insert(found.key_id, json);
            }
        }
        Ok(claimed)
    }

    async fn local_claims<'a>(&self, wanted: &'a Claims) -> Result<Vec<Claim<'a>>, Error> {
        let local: Vec<_> = wanted.iter().filter(|(user_id, _)| self.users.is_local(user_id)).collect();
        let ids: Vec<&UserId> = local.iter().map(|(user_id, _)| &***user_id).collect();
        let numbers = self.users.numbers(&ids).await?;
        let users: Vec<UserNumber> = numbers.iter().flatten().copied().collect();
        let mut lists = self.devices.lists(&users).await?.into_iter();
        let mut claims = Vec::new();
        for ((user_id, devices), user) in local.into_iter().zip(numbers) {
            let Some((user, known)) = user.and_then(|user| Some((user, lists.next()?))) else { continue };
            for (device_id, algorithm) in devices {
                if let Some(device) = known.iter().find(|device| device.id == *device_id) {
                    claims.push(Claim { user_id, user, device_id, device: device.number, algorithm });
                }
            }
        }
        Ok(claims)
    }

    async fn claim_together<'a>(&self, claims: &[Claim<'a>]) -> Result<Vec<(Claim<'a>, Found)>, KeyError> {
        let _turns = self.queues.turn(claims).await;
        for _ in 0..ATTEMPTS_MAX {
            let mut write = Write::new();
            let mut found = Vec::new();
            for (claim, left) in claims.iter().zip(self.what_is_left(claims).await?) {
                found.extend(self.stage_claim(&mut write, *claim, left).map(|key| (*claim, key)));
            }
            if write.is_empty() {
                return Ok(found);
            }
            match self.database.commit(write).await {
                Ok(_) => return Ok(found),
                // Somebody else was given one of these keys.
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::Busy)
    }

    /// What each device has left of the algorithm wanted: three reads, however many devices there are.
    async fn what_is_left(&self, claims: &[Claim<'_>]) -> Result<Vec<Left>, Error> {
        let keys: Vec<_> = claims
            .iter()
            .map(|claim| (claim.user, claim.device, self.algorithm_hash(claim.algorithm)))
            .collect();
        let oldest: Vec<_> = keys.iter().map(|key| Range::<OneTimeKey>::prefix(key).limit(1)).collect();
        let oldest = self.database.scan_many(&oldest).await?.into_iter().map(|mut page| page.rows.pop());
        let oldest: Vec<_> = oldest.collect();
        let counts: Vec<_> = claims.iter().map(|claim| (claim.user, claim.device)).collect();
        let counts = self.database.get_all::<KeyCounts>(&counts).await?;
        let empty: Vec<_> =
            keys.iter().zip(&oldest).filter(|(_, oldest)| oldest.is_none()).map(|(key, _)| *key).collect();
        let mut fallbacks = self.database.get_all::<FallbackKey>(&empty).await?.into_iter();
        let left = oldest.into_iter().zip(counts).map(|(oldest, counts)| {
            let fallback = if oldest.is_none() { fallbacks.next().flatten() } else { None };
            Left { oldest, fallback, counts }
        });
        Ok(left.collect())
    }

    fn stage_claim(&self, write: &mut Write, claim: Claim<'_>, left: Left) -> Option<Found> {
        let Claim { user, device, algorithm, .. } = claim;
        let Left { oldest, fallback, counts } = left;
        if let Some((key, row)) = oldest {
            write.exists::<OneTimeKey>(&key);
            write.delete::<OneTimeKey>(&key);
            write.delete::<OneTimeKeyById>(&(user, device, self.one_time_id_hash(&row.key_id)));
            stage_counts(write, claim, counts, |left| take_one(left, algorithm));
            return Some(Found { key_id: row.key_id, json: row.json });
        }
        let fallback = fallback?;
        if !fallback.used {
            let key = (user, device, self.algorithm_hash(algorithm));
            write.equals::<FallbackKey>(&key, &fallback);
            write.put::<FallbackKey>(&key, &FallbackKeyRow { used: true, ..fallback.clone() });
            stage_counts(write, claim, counts, |left| {
                left.unused_fallback.retain(|unused| unused != algorithm);
            });
        }
        Some(Found { key_id: fallback.key_id, json: fallback.json })
    }
}

fn stage_counts(
    write: &mut Write,
    claim: Claim<'_>,
    counts: Option<Stamped<KeyCountsRow>>,
    change: impl FnOnce(&mut KeyCountsRow),
) {
    let Some(old) = counts else { return };
    let key = (claim.user, claim.device);
    let mut left = old.value.clone();
    change(&mut left);
    write.equals::<KeyCounts>(&key, &old);
    write.put::<KeyCounts>(&key, &Stamped::pending(left));
    write.log(Happened::UserData { user: claim.user });
}

fn take_one(left: &mut KeyCountsRow, algorithm: &str) {
    for (known, count) in &mut left.one_time {
        if known == algorithm {
            *count = count.saturating_sub(1);
        }
    }
    left.one_time.retain(|(_, count)| *count > 0);
}
