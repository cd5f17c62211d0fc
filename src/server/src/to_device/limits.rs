//! How much waits for a device, and for how long: a device that does not fetch its messages gets no more after a while.
//!
//! What is refused in this way is told to whoever sends to that device alone, and otherwise counted, for administrators.

use super::{Addressed, ToDevice};
use crate::{
    database::{Error, Range, Write},
    numbers::{DeviceNumber, UserNumber},
    tables::{
        inbox::{InboxAge, InboxRefusals, InboxRefusalsRow, ToDeviceMessage},
        keys::DehydratedDevice,
    },
};

/// Most messages that wait for a device.
pub const INBOX_MESSAGES_MAX: u32 = 10_000;
/// Days that messages wait for a device that fetches none; then it gets no more. A dehydrated one does.
pub const INBOX_DAYS_MAX: u32 = 90;
/// How often a count is tried again that others wrote at the same time.
const ATTEMPTS_MAX: u32 = 10;

/// What waits for a device, for administrators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages that it has not acknowledged; counted up to [`INBOX_MESSAGES_MAX`].
    pub messages: u32,
    /// Since which day they wait, in days since the epoch; none if nothing waits.
    pub since_day: Option<u32>,
    /// Messages that were refused because too many waited, or for too long.
    pub refused: u64,
    /// When one was refused last, in milliseconds since the epoch.
    pub refused_ms: Option<u64>,
}

/// Messages, by whether their device gets them.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Those that are kept.
    pub(super) kept: Vec<Addressed>,
    /// The devices of the others.
    pub(super) refused: Vec<(UserNumber, DeviceNumber)>,
    /// Devices for which nothing waited.
    pub(super) waking: Vec<(UserNumber, DeviceNumber)>,
}

impl ToDevice {
    /// What waits for a device.
    pub async fn waiting_for(&self, user: UserNumber, device: DeviceNumber) -> Result<Waiting, Error> {
        let age = self.0.database.get::<InboxAge>(&(user, device)).await?;
        let refusals = self.0.database.get::<InboxRefusals>(&(user, device)).await?;
        let messages = self.count(user, device).await?;
        Ok(Waiting {
            messages,
            since_day: age.filter(|_| messages > 0),
            refused: refusals.as_ref().map_or(0, |row| row.count),
            refused_ms: refusals.map(|row| row.last_ms),
        })
    }

    /// Separates what the inboxes have room for from the rest. What is kept counts as waiting from now on.
    pub(super) async fn sort_out(&self, addressed: Vec<Addressed>) -> Result<Sorted, Error> {
        let mut devices: Vec<_> = addressed.iter().map(|(user, device, _)| (*user, *device)).collect();
        devices.dedup();
        let ages = self.0.database.get_all::<InboxAge>(&devices).await?;
        let (mut sorted, today) = (Sorted::default(), self.today());
        let mut asleep = Vec::new();
        for (device, age) in devices.into_iter().zip(ages) {
            match age {
                None => sorted.waking.push(device),
                Some(since) if since.saturating_add(INBOX_DAYS_MAX) <= today => asleep.push(device),
                Some(_) => {}
            }
        }
        let dehydrated = self.0.database.get_all::<DehydratedDevice>(&asleep).await?;
        let mut dehydrated = dehydrated.iter().map(Option::is_some);
        // Nobody fetches for a dehydrated device before there is need for it, however late.
        asleep.retain(|_| !dehydrated.next().unwrap_or_default());
        for message in addressed {
            let (user, device, _) = message;
            let known = self.waiting().get(&device).copied();
            let waiting = match known {
                Some(waiting) => waiting,
                None => self.count(user, device).await?,
            };
            if waiting >= INBOX_MESSAGES_MAX || asleep.contains(&(user, device)) {
                sorted.refused.push((user, device));
            } else {
                self.waiting().insert(device, waiting.saturating_add(1));
                sorted.kept.push(message);
            }
        }
        Ok(sorted)
    }

    /// Notes for administrators that messages were refused.
    pub(super) async fn count_refused(&self, refused: &[(UserNumber, DeviceNumber)]) -> Result<(), Error> {
        for device in refused {
            self.count_refusal(*device).await?;
        }
        Ok(())
    }

    async fn count_refusal(&self, key: (UserNumber, DeviceNumber)) -> Result<(), Error> {
        tracing::warn!(device = key.1.0, "a message for a device that fetches none was refused");
        for _ in 0..ATTEMPTS_MAX {
            let row = self.0.database.get::<InboxRefusals>(&key).await?;
            let mut write = Write::new();
            let gone = write.exists::<super::Device>(&key);
            match &row {
                Some(row) => write.equals::<InboxRefusals>(&key, row),
                None => write.absent::<InboxRefusals>(&key),
            };
            let count = row.map_or(0, |row| row.count).saturating_add(1);
            let last_ms = self.0.clock.now_ms();
            write.put::<InboxRefusals>(&key, &InboxRefusalsRow { count, last_ms });
            match self.0.database.commit(write).await {
                Err(allod_storage::CommitError::Conflict(check)) if check != gone => {}
                Ok(_) | Err(allod_storage::CommitError::Conflict(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
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
}
