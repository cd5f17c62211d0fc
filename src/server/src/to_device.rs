//! Messages from device to device: sent once, kept until the device says that it has them.
//!
//! A device's inbox has an end: what comes when it is full is dropped, so that an abandoned device cannot stop others
//! from sending to everybody else. Messages for users of other servers are rows of the outbox.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use allod_storage::{CommitError, Position};
use ruma::{OwnedUserId, UserId, to_device::DeviceIdOrAllDevices};
use serde_json::value::RawValue;

use crate::{
    clock::Clock,
    database::{Database, Error, Range, Write},
    devices::Devices,
    federation::policy::Policy,
    log::Happened,
    numbers::{DeviceNumber, UserNumber},
    tables::{
        accounts::Device,
        inbox::{StoredMessage, ToDeviceMessage, ToDeviceTransaction},
    },
    users::Users,
};

mod remote;

/// Most messages that wait for a device.
pub const INBOX_MESSAGES_MAX: u32 = 10_000;
/// Most messages in one answer, but for those of one commit, which stay together.
pub const RECEIVED_MAX: usize = 100;
/// Longest message, as the device gets it, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 88 * 1024;
/// Most bytes of messages in one commit.
const COMMIT_BYTES_MAX: usize = 768 * 1024;
/// What a row costs in a commit besides the message, in bytes.
const ROW_BYTES: usize = 64;

/// Stands for all devices of other servers in the transactions.
const REMOTE: DeviceNumber = DeviceNumber(0);

/// Why messages were not sent.
#[derive(Debug, thiserror::Error)]
pub enum ToDeviceError {
    /// A message is too long.
    #[error("a message is too long")]
    TooLarge,
    /// The inboxes of all devices that it was for are full.
    #[error("the inbox is full")]
    Full,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl From<CommitError> for ToDeviceError {
    fn from(error: CommitError) -> Self {
        Self::Database(error.into())
    }
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The device, in whose transactions a request is repeated.
    pub device: DeviceNumber,
}

/// Contents by user and device.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>>;

/// What waits for a device.
#[derive(Debug)]
pub struct Received {
    /// The events, in order.
    pub events: Vec<Box<RawValue>>,
    /// Up to where they are all there: what the device acknowledges by coming back. Before the position that was asked
    /// for if there are more.
    pub upto: Position,
}

/// The service of messages to devices.
#[derive(Clone, Debug)]
pub struct ToDevice(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    users: Users,
    devices: Devices,
    clock: Clock,
    /// How many messages wait for a device, if somebody wanted to know.
    waiting: Mutex<HashMap<DeviceNumber, u32>>,
    /// Which other servers are spoken to; none without federation.
    policy: OnceLock<Policy>,
}

/// A message for one device.
type Addressed = (UserNumber, DeviceNumber, String);

impl ToDevice {
    /// Over a database, and the devices that `*` stands for.
    pub fn new(database: Database, users: Users, devices: Devices, clock: Clock) -> Self {
        let (waiting, policy) = (Mutex::default(), OnceLock::new());
        Self(Arc::new(Inner { database, users, devices, clock, waiting, policy }))
    }

    /// From now on messages also go to users of other servers, of those that this one speaks to.
    pub fn reach_out(&self, policy: Policy) {
        // It is said once, when the server starts.
        let _ = self.0.policy.set(policy);
    }

    /// Sends messages to users' devices. The same transaction again is done already. Users and devices that are
    /// not there are passed over.
    pub async fn send(
        &self,
        sender: Sender<'_>,
        event_type: &str,
        txn_id: &str,
        messages: &Messages,
    ) -> Result<(), ToDeviceError> {
        self.send_elsewhere(sender, event_type, txn_id, messages).await?;
        let addressed = self.address(sender.user_id, event_type, messages).await?;
        let wanted = addressed.len();
        let addressed = self.drop_overflow(addressed).await?;
        if wanted > 0 && addressed.is_empty() {
            return Err(ToDeviceError::Full);
        }
        for (part, messages) in (0_u32..).zip(into_commits(addressed)) {
            let transaction = format!("{event_type}\0{txn_id}\0{part}");
            self.commit(sender.device, &transaction, messages).await?;
        }
        Ok(())
    }

    /// Delivers messages of a user of another server. The same message id of the same sender again is done already.
    pub async fn deliver(
        &self,
        sender: &UserId,
        event_type: &str,
        message_id: &str,
        messages: &Messages,
    ) -> Result<(), ToDeviceError> {
        let transaction = format!("{sender}\0{message_id}");
        self.send(Sender { user_id: sender, device: REMOTE }, event_type, &transaction, messages).await
    }

    /// What waits for a device up to a position. Messages up to `acknowledged` have arrived and are deleted.
    pub async fn receive(
        &self,
        user: UserNumber,
        device: DeviceNumber,
        acknowledged: Position,
        upto: Position,
    ) -> Result<Received, Error> {
        loop {
            let page = self.0.database.scan(&Range::<ToDeviceMessage>::prefix(&(user, device))).await?;
            let arrived = page.rows.partition_point(|((_, _, position, _), _)| *position <= acknowledged);
            let mut write = Write::new();
            for (key, _) in page.rows.iter().take(arrived) {
                write.delete::<ToDeviceMessage>(key);
            }
            if arrived > 0 {
                self.waiting().remove(&device);
                let deleted = self.0.database.submit(write);
                if page.more && arrived == page.rows.len() {
                    deleted.await?;
                    continue;
                }
                // Nobody waits for it: if it is lost, the next acknowledgement, which covers this one, does it again.
            }
            let rows =
                page.rows.into_iter().skip(arrived).map(|((_, _, position, _), message)| (position, message));
            return Ok(whole_commits(rows, page.more, upto));
        }
    }

    async fn address(
        &self,
        sender: &UserId,
        event_type: &str,
        messages: &Messages,
    ) -> Result<Vec<Addressed>, ToDeviceError> {
        let local: Vec<_> = messages.iter().filter(|(user_id, _)| self.0.users.is_local(user_id)).collect();
        let ids: Vec<&UserId> = local.iter().map(|(user_id, _)| &***user_id).collect();
        let numbers = self.0.users.numbers(&ids).await?;
        let mut addressed = Vec::new();
        for ((_, contents), user) in local.into_iter().zip(numbers) {
            let Some(user) = user else { continue };
            let devices = self.0.devices.list(user).await?;
            for (target, content) in contents {
                let event = event(sender, event_type, content)?;
                let wanted = devices.iter().filter(|device| match target {
                    DeviceIdOrAllDevices::AllDevices => true,
                    DeviceIdOrAllDevices::DeviceId(id) => device.id == *id,
                });
                addressed.extend(wanted.map(|device| (user, device.number, event.clone())));
            }
        }
        Ok(addressed)
    }

    /// Keeps what the inboxes have room for.
    async fn drop_overflow(&self, addressed: Vec<Addressed>) -> Result<Vec<Addressed>, Error> {
        let mut kept = Vec::with_capacity(addressed.len());
        for message in addressed {
            let (user, device, _) = message;
            let known = self.waiting().get(&device).copied();
            let waiting = match known {
                Some(waiting) => waiting,
                None => self.count(user, device).await?,
            };
            if waiting < INBOX_MESSAGES_MAX {
                self.waiting().insert(device, waiting.saturating_add(1));
                kept.push(message);
            } else {
                tracing::debug!(device = device.0, "inbox full, message dropped");
            }
        }
        Ok(kept)
    }

    async fn count(&self, user: UserNumber, device: DeviceNumber) -> Result<u32, Error> {
        let mut range = Range::<ToDeviceMessage>::prefix(&(user, device));
        let mut count = 0_u32;
        loop {
            let page = self.0.database.scan(&range).await?;
            count = count.saturating_add(u32::try_from(page.rows.len()).unwrap_or(u32::MAX));
            match page.rows.last() {
                Some((last, _)) if page.more && count < INBOX_MESSAGES_MAX => {
                    range = range.continued_after(last);
                }
                _ => return Ok(count),
            }
        }
    }

    /// Commits messages with the mark that this part of the transaction is done; nothing happens if it is already.
    async fn commit(
        &self,
        sender: DeviceNumber,
        transaction: &str,
        mut messages: Vec<Addressed>,
    ) -> Result<(), CommitError> {
        let hash = self.0.database.hash("to-device transaction", transaction);
        let today = self.today();
        loop {
            let mut write = Write::new();
            let done = [today, today.saturating_sub(1)]
                .map(|day| write.absent::<ToDeviceTransaction>(&(day, sender, hash)));
            write.put::<ToDeviceTransaction>(&(today, sender, hash), &());
            let (mut targets, mut seen) = (BTreeMap::new(), BTreeSet::new());
            for (number, (user, device, event)) in (0..).zip(&messages) {
                let event = StoredMessage { event: event.clone() };
                write.put::<ToDeviceMessage>(&(*user, *device, Position::PENDING, number), &event);
                write.log(Happened::ToDevice { user: *user, device: *device });
                if seen.insert(*device) {
                    targets.insert(write.exists::<Device>(&(*user, *device)), *device);
                }
            }
            match self.0.database.commit(write).await {
                Err(CommitError::Conflict(check)) if done.contains(&check) => return Ok(()),
                // A device was deleted meanwhile; the others still get theirs.
                Err(CommitError::Conflict(check)) => {
                    let gone = targets.get(&check).copied();
                    messages.retain(|(_, device, _)| Some(*device) != gone);
                }
                outcome => return outcome.map(drop),
            }
        }
    }

    fn today(&self) -> u32 {
        u32::try_from(self.0.clock.now_ms() / 86_400_000).unwrap_or(u32::MAX)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<DeviceNumber, u32>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn event(sender: &UserId, event_type: &str, content: &RawValue) -> Result<String, ToDeviceError> {
    #[derive(serde::Serialize)]
    struct Event<'a> {
        content: &'a RawValue,
        sender: &'a UserId,
        r#type: &'a str,
    }
    let event = serde_json::to_string(&Event { content, sender, r#type: event_type });
    event.ok().filter(|event| event.len() <= MESSAGE_BYTES_MAX).ok_or(ToDeviceError::TooLarge)
}

/// Cuts messages into commits that fit the store; at least one, so that an empty transaction is remembered too.
fn into_commits(messages: Vec<Addressed>) -> Vec<Vec<Addressed>> {
    let mut commits = vec![Vec::new()];
    let mut bytes = 0_usize;
    for message in messages {
        let size = message.2.len().saturating_add(ROW_BYTES);
        bytes = bytes.saturating_add(size);
        if bytes > COMMIT_BYTES_MAX {
            commits.push(Vec::new());
            bytes = size;
        }
        if let Some(commit) = commits.last_mut() {
            commit.push(message);
        }
    }
    commits
}

/// The first messages up to a position, never only a part of a commit. `more`: there are others behind these rows.
fn whole_commits(
    rows: impl Iterator<Item = (Position, StoredMessage)>,
    more: bool,
    upto: Position,
) -> Received {
    let mut taken: Vec<(Position, Box<RawValue>)> = Vec::new();
    for (position, message) in rows {
        let last = taken.last().map(|(position, _)| *position);
        if position > upto {
            return received(taken, upto);
        }
        if taken.len() >= RECEIVED_MAX
            && let Some(last) = last
            && position > last
        {
            return received(taken, last);
        }
        taken.extend(RawValue::from_string(message.event).ok().map(|event| (position, event)));
    }
    if more && let Some(cut) = taken.last().map(|(position, _)| *position) {
        // The commit at the end of the page may go on behind it; a page is larger than a commit, so something is left.
        taken.retain(|(position, _)| *position < cut);
        let last = taken.last().map_or(Position::ZERO, |(position, _)| *position);
        return received(taken, last);
    }
    received(taken, upto)
}

fn received(taken: Vec<(Position, Box<RawValue>)>, upto: Position) -> Received {
    Received { events: taken.into_iter().map(|(_, event)| event).collect(), upto }
}

#[cfg(test)]
mod tests;
