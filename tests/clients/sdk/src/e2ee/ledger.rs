//! What was sent, and which devices have to be able to read it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use matrix_sdk::{
    RoomMemberships,
    ruma::{
        OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
        events::room::message::RoomMessageEventContent,
    },
};

use crate::device::{Device, until};

/// A message and who has to read it.
struct Sent {
    room: OwnedRoomId,
    event: OwnedEventId,
    text: String,
    readers: BTreeSet<(OwnedUserId, OwnedDeviceId)>,
}

/// All messages.
#[derive(Default)]
pub(crate) struct Ledger(Vec<Sent>);

impl Ledger {
    /// Sends a text. Who has to read it is settled before: every device that the sender's client knows of the members
    /// that it knows.
    pub(crate) async fn send(&mut self, sender: &Device, room: &RoomId, text: &str) -> Result<()> {
        let in_room = sender.room(room)?;
        let mut readers = BTreeSet::new();
        for member in in_room.members(RoomMemberships::JOIN).await? {
            let user = member.user_id().to_owned();
            readers.extend(sender.known(&user).await?.into_iter().map(|device| (user.clone(), device)));
        }
        let sent = in_room.send(RoomMessageEventContent::text_plain(text)).await?;
        let (event, text) = (sent.response.event_id, text.to_owned());
        self.0.push(Sent { room: room.to_owned(), event, text, readers });
        Ok(())
    }

    /// How many messages were sent.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits until all devices read what they have to; returns how many readings that were.
    pub(crate) async fn check(&self, devices: &[&Device]) -> Result<usize> {
        self.check_from(0, devices).await
    }

    /// The same of the messages behind the first.
    pub(crate) async fn check_from(&self, first: usize, devices: &[&Device]) -> Result<usize> {
        let mut readings = 0;
        for device in devices {
            let reader = (device.user()?, device.id()?);
            for sent in self.0.iter().skip(first).filter(|sent| sent.readers.contains(&reader)) {
                let what = format!("{:?} for {}", sent.text, device.name);
                let read = until(&what, async || device.reads(&sent.room, &sent.event).await).await?;
                ensure!(read == sent.text, "{} reads {read:?} and not {:?}", device.name, sent.text);
                readings += 1;
            }
        }
        Ok(readings)
    }

    /// That a device reads everything, whether it was there or not.
    pub(crate) async fn check_all(&self, device: &Device, room: &RoomId) -> Result<()> {
        for sent in self.0.iter().filter(|sent| sent.room == room) {
            let what = format!("{:?} for {}", sent.text, device.name);
            let read = until(&what, async || device.reads(&sent.room, &sent.event).await).await?;
            ensure!(read == sent.text, "{read:?}");
        }
        Ok(())
    }
}
