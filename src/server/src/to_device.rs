//! Messages from device to device: sent once, kept until the device says that it has them.
//!
//! A device's inbox has an end, in number and in time. Who sends to full ones only is told so; a message for many devices
//! goes to the others, so that an abandoned device cannot keep keys from everybody else, and what it does not get is
//! counted. Messages for users of other servers are rows of the outbox.

use std::{
    collections::{BTreeMap, HashMap},
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
    numbers::{DeviceNumber, Hash128, UserNumber},
    tables::{
        accounts::Device,
        inbox::{
            InboxAge, StoredMessage, ToDeviceMessage, ToDeviceProgress, ToDeviceProgressRow,
            ToDeviceTransaction,
        },
    },
    users::Users,
};

mod limits;
mod remote;

use limits::Sorted;
pub use limits::{INBOX_DAYS_MAX, INBOX_MESSAGES_MAX, Waiting};

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

/// A part of a transaction that is about to be sent.
struct Part<'a> {
    sender: DeviceNumber,
    hash: Hash128,
    /// How far it is done, and the day of that note.
    progress: Option<(u32, ToDeviceProgressRow)>,
    /// Devices for which nothing waited.
    waking: &'a [(UserNumber, DeviceNumber)],
}

/// What became of a part.
enum Sent {
    /// It was sent, and there is more.
    Part,
    /// With it all is sent.
    Whole,
    /// All was sent before.
    Before,
}

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
        let addressed = self.address(sender.user_id, event_type, messages).await?;
        let sorted = self.sort_out(addressed).await?;
        let reaches_nobody = sorted.kept.is_empty() && !sorted.refused.is_empty();
        if reaches_nobody && messages.keys().all(|user_id| self.0.users.is_local(user_id)) {
            return Err(ToDeviceError::Full);
        }
        self.send_elsewhere(sender, event_type, txn_id, messages).await?;
        self.send_here(sender.device, &format!("{event_type}\0{txn_id}"), sorted).await
    }

    /// Sends what was addressed, as a transaction of a device.
    async fn send_here(
        &self,
        sender: DeviceNumber,
        transaction: &str,
        sorted: Sorted,
    ) -> Result<(), ToDeviceError> {
        let hash = self.0.database.hash("to-device transaction", transaction);
        let Sorted { mut kept, refused, waking } = sorted;
        loop {
            let progress = self.progress(sender, hash).await?;
            if let Some((_, done)) = &progress {
                kept.retain(|(user, device, _)| (*user, *device) > (done.user, done.device));
            }
            let part = Part { sender, hash, progress, waking: &waking };
            match self.commit(&part, &mut kept).await? {
                Sent::Part => {}
                Sent::Whole => break,
                Sent::Before => {
                    // They were counted when they were sent.
                    let mut waiting = self.waiting();
                    waiting.retain(|device, _| !kept.iter().any(|(_, sent, _)| sent == device));
                    return Ok(());
                }
            }
        }
        Ok(self.count_refused(&refused).await?)
    }

    /// Delivers messages of a user of another server. The same message id of the same sender again is done already.
    pub async fn deliver(
        &self,
        sender: &UserId,
        event_type: &str,
        message_id: &str,
        messages: &Messages,
    ) -> Result<(), ToDeviceError> {
        let addressed = self.address(sender, event_type, messages).await?;
        let sorted = self.sort_out(addressed).await?;
        self.send_here(REMOTE, &format!("{event_type}\0{sender}\0{message_id}"), sorted).await
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
                // It is in use: what is left has not waited for long.
                if arrived == page.rows.len() && !page.more {
                    write.delete::<InboxAge>(&(user, device));
                } else {
                    write.put::<InboxAge>(&(user, device), &self.today());
                }
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

    /// What waits for a device behind a position. Nothing of it is taken for arrived: it is another device that asks, as for
    /// a dehydrated one, and may be cut off before it has made use of it.
    pub async fn peek(
        &self,
        user: UserNumber,
        device: DeviceNumber,
        after: Position,
    ) -> Result<Received, Error> {
        let head = self.0.database.store().head();
        let range = Range::<ToDeviceMessage>::after(&(user, device), &(user, device, after));
        let page = self.0.database.scan(&range).await?;
        let rows = page.rows.into_iter().map(|((_, _, position, _), message)| (position, message));
        Ok(whole_commits(rows, page.more, head.max(after)))
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
        // The same order each time, so that a transaction that was cut into parts goes on where it was.
        addressed.sort_by_key(|(user, device, _)| (*user, *device));
        Ok(addressed)
    }

    /// How far a transaction is done that was cut into parts, and the day of that note.
    async fn progress(
        &self,
        sender: DeviceNumber,
        hash: Hash128,
    ) -> Result<Option<(u32, ToDeviceProgressRow)>, Error> {
        let today = self.today();
        for day in [today, today.saturating_sub(1)] {
            if let Some(row) = self.0.database.get::<ToDeviceProgress>(&(day, sender, hash)).await? {
                return Ok(Some((day, row)));
            }
        }
        Ok(None)
    }

    /// Commits as many messages as fit, with the mark that the transaction is done up to there; nothing happens if all of
    /// it is done already. Messages for devices that are gone leave `messages`.
    async fn commit(&self, part: &Part<'_>, messages: &mut Vec<Addressed>) -> Result<Sent, CommitError> {
        let (sender, hash, today) = (part.sender, part.hash, self.today());
        loop {
            let fitting = fitting(messages);
            let mut write = Write::new();
            let done = [today, today.saturating_sub(1)]
                .map(|day| write.absent::<ToDeviceTransaction>(&(day, sender, hash)));
            let moved = match &part.progress {
                Some((day, row)) => write.equals::<ToDeviceProgress>(&(*day, sender, hash), row),
                None => write.absent::<ToDeviceProgress>(&(today, sender, hash)),
            };
            match messages.get(..fitting).and_then(<[_]>::last) {
                Some((user, device, _)) if fitting < messages.len() => {
                    let row = ToDeviceProgressRow { user: *user, device: *device };
                    let day = part.progress.as_ref().map_or(today, |(day, _)| *day);
                    write.put::<ToDeviceProgress>(&(day, sender, hash), &row);
                }
                _ => write.put::<ToDeviceTransaction>(&(today, sender, hash), &()),
            }
            let mut targets = BTreeMap::new();
            let mut last = None;
            for (number, (user, device, event)) in (0..).zip(messages.iter().take(fitting)) {
                let event = StoredMessage { event: event.clone() };
                write.put::<ToDeviceMessage>(&(*user, *device, Position::PENDING, number), &event);
                if last.replace(*device) == Some(*device) {
                    continue;
                }
                write.log(Happened::ToDevice { user: *user, device: *device });
                targets.insert(write.exists::<Device>(&(*user, *device)), *device);
                if part.waking.contains(&(*user, *device)) {
                    write.put::<InboxAge>(&(*user, *device), &today);
                }
            }
            match self.0.database.commit(write).await {
                Err(CommitError::Conflict(check)) if done.contains(&check) => return Ok(Sent::Before),
                // The same request is done twice at once, and the other one is ahead.
                Err(CommitError::Conflict(check)) if check == moved => return Ok(Sent::Part),
                // A device was deleted meanwhile; the others still get theirs.
                Err(CommitError::Conflict(check)) => {
                    let gone = targets.get(&check).copied();
                    messages.retain(|(_, device, _)| Some(*device) != gone);
                }
                Err(error) => return Err(error),
                Ok(_) if fitting < messages.len() => return Ok(Sent::Part),
                Ok(_) => return Ok(Sent::Whole),
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

/// How many of the messages fit a commit: those for one device are never separated.
fn fitting(messages: &[Addressed]) -> usize {
    let (mut fitting, mut bytes) = (0_usize, 0_usize);
    for of_device in messages.chunk_by(|one, other| one.1 == other.1) {
        let size = |(_, _, event): &Addressed| event.len().saturating_add(ROW_BYTES);
        bytes = of_device.iter().map(size).fold(bytes, usize::saturating_add);
        if bytes > COMMIT_BYTES_MAX && fitting > 0 {
            break;
        }
        fitting = fitting.saturating_add(of_device.len());
    }
    fitting
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
