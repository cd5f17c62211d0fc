//! Messages to devices of users of other servers: rows of the outbox, written once for each of the sender's transactions.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging>

use std::collections::BTreeMap;

use allod_storage::CommitError;
use ruma::{OwnedServerName, OwnedUserId, to_device::DeviceIdOrAllDevices};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{MESSAGE_BYTES_MAX, Messages, Sender, ToDevice, ToDeviceError, ToDeviceTransaction};
use crate::{
    database::Write,
    numbers::UserNumber,
    outbox::queue::{self, Queued},
};

/// Bytes of messages that go together.
const TOGETHER_BYTES_MAX: usize = 48 * 1024;

type Contents<'a> = BTreeMap<&'a OwnedUserId, BTreeMap<&'a DeviceIdOrAllDevices, &'a RawValue>>;

#[derive(Serialize)]
struct DirectToDevice<'a> {
    sender: &'a ruma::UserId,
    #[serde(rename = "type")]
    kind: &'a str,
    message_id: String,
    messages: &'a Contents<'a>,
}

impl ToDevice {
    /// Queues messages for users of other servers that this one speaks to.
    pub(super) async fn send_elsewhere(
        &self,
        sender: Sender<'_>,
        event_type: &str,
        txn_id: &str,
        messages: &Messages,
    ) -> Result<(), ToDeviceError> {
        let Some(policy) = self.0.policy.get() else { return Ok(()) };
        let by_server = split(messages, |user_id| {
            !self.0.users.is_local(user_id) && policy.allows(user_id.server_name())
        })?;
        if by_server.is_empty() {
            return Ok(());
        }
        let Some(user) = self.0.users.number(sender.user_id).await? else { return Ok(()) };
        for (part, (server, contents)) in by_server.iter().enumerate() {
            let transaction = format!("{event_type}\0{txn_id}\0elsewhere {part}");
            let hash =
                self.0.database.hash("to-device transaction", format!("{}\0{transaction}", sender.device.0));
            let content = DirectToDevice {
                sender: sender.user_id,
                kind: event_type,
                message_id: hex::encode(hash.0),
                messages: contents,
            };
            let content = serde_json::to_string(&content).map_err(|_| ToDeviceError::TooLarge)?;
            self.commit_elsewhere(sender, user, &transaction, (server, content)).await?;
        }
        Ok(())
    }

    async fn commit_elsewhere(
        &self,
        sender: Sender<'_>,
        user: UserNumber,
        transaction: &str,
        (server, content): (&OwnedServerName, String),
    ) -> Result<(), CommitError> {
        let hash = self.0.database.hash("to-device transaction", transaction);
        let today = self.today();
        let mut write = Write::new();
        for day in [today, today.saturating_sub(1)] {
            write.absent::<ToDeviceTransaction>(&(day, sender.device, hash));
        }
        write.put::<ToDeviceTransaction>(&(today, sender.device, hash), &());
        let queued = Queued { kind: "m.direct_to_device", content, user };
        queue::put(&mut write, &self.0.database, server, 0, queued);
        match self.0.database.commit(write).await {
            // The same transaction again: it is queued, or has been sent.
            Err(CommitError::Conflict(_)) => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

/// The messages of each server, in parts that fit a row.
fn split(
    messages: &Messages,
    is_wanted: impl Fn(&OwnedUserId) -> bool,
) -> Result<Vec<(OwnedServerName, Contents<'_>)>, ToDeviceError> {
    let mut parts: Vec<(OwnedServerName, Contents<'_>)> = Vec::new();
    let mut by_server: BTreeMap<&ruma::ServerName, Vec<_>> = BTreeMap::new();
    for (user_id, contents) in messages.iter().filter(|(user_id, _)| is_wanted(user_id)) {
        by_server.entry(user_id.server_name()).or_default().push((user_id, contents));
    }
    for (server, users) in by_server {
        let (mut part, mut bytes) = (Contents::new(), 0_usize);
        for (user_id, contents) in users {
            for (target, content) in contents {
                let size = content.get().len().saturating_add(user_id.as_str().len());
                if size > MESSAGE_BYTES_MAX {
                    return Err(ToDeviceError::TooLarge);
                }
                if bytes.saturating_add(size) > TOGETHER_BYTES_MAX && !part.is_empty() {
                    parts.push((server.to_owned(), std::mem::take(&mut part)));
                    bytes = 0;
                }
                bytes = bytes.saturating_add(size);
                part.entry(user_id).or_default().insert(target, content);
            }
        }
        if !part.is_empty() {
            parts.push((server.to_owned(), part));
        }
    }
    Ok(parts)
}
