//! The steps: what people do with several devices, and what all of them must be able to read.

use anyhow::{Context, Result, ensure};
use matrix_sdk::{
    attachment::AttachmentConfig,
    encryption::verification::{SasVerification, VerificationRequest},
    ruma::{
        OwnedRoomId, OwnedUserId,
        api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
        events::{
            AnySyncMessageLikeEvent, AnySyncTimelineEvent, InitialStateEvent, SyncMessageLikeEvent,
            room::{encryption::RoomEncryptionEventContent, message::MessageType},
        },
    },
};

use crate::{
    device::{Device, until},
    ledger::Ledger,
    servers::Servers,
};

/// How many messages each device sends in a round.
const ROUNDS: usize = 3;

/// What the steps share.
pub(crate) struct Story {
    servers: Servers,
    ledger: Ledger,
    /// Anna's two devices, then Bea's.
    devices: Vec<Device>,
    room: Option<OwnedRoomId>,
}

impl Story {
    pub(crate) async fn new(servers: Servers) -> Result<Self> {
        Ok(Self { servers, ledger: Ledger::default(), devices: Vec::new(), room: None })
    }

    fn room(&self) -> Result<OwnedRoomId> {
        self.room.clone().context("no room")
    }

    fn all(&self) -> Vec<&Device> {
        self.devices.iter().collect()
    }

    pub(crate) async fn signs_in(&mut self) -> Result<()> {
        for (number, name) in ["anna", "bea"].into_iter().enumerate() {
            let server = self.servers.of(number);
            let phone = Device::register(server, name).await?;
            phone.client.encryption().bootstrap_cross_signing(None).await?;
            self.devices.push(phone);
            self.devices.push(Device::log_in(server, name, "laptop").await?);
        }
        Ok(())
    }

    pub(crate) async fn verifies_own_device(&mut self) -> Result<()> {
        for pair in self.devices.chunks(2) {
            let [phone, laptop] = pair else { continue };
            verify(phone, laptop).await?;
            until("the secrets", async || {
                let status = laptop.client.encryption().cross_signing_status().await;
                Ok(status.filter(|status| status.is_complete()).map(drop))
            })
            .await?;
            until("the signature by the owner", async || {
                let device = phone.client.encryption().get_device(&laptop.user()?, &laptop.id()?).await?;
                Ok(device.filter(|device| device.is_cross_signed_by_owner()).map(drop))
            })
            .await?;
        }
        Ok(())
    }

    pub(crate) async fn creates_a_room(&mut self) -> Result<()> {
        let mut request = CreateRoom::new();
        request.preset = Some(RoomPreset::PrivateChat);
        request.invite = vec![self.devices[2].user()?];
        let encryption = RoomEncryptionEventContent::with_recommended_defaults();
        request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
        let room = self.devices[0].client.create_room(request).await?.room_id().to_owned();
        let through = self.servers.all[0].name.clone();
        until("the invitation", async || Ok(self.devices[2].client.get_room(&room).map(drop))).await?;
        self.devices[2].join(&room, &through).await?;
        for device in &self.devices {
            until("the room", async || {
                let Some(room) = device.client.get_room(&room) else { return Ok(None) };
                Ok(room.latest_encryption_state().await?.is_encrypted().then_some(()))
            })
            .await?;
        }
        self.room = Some(room);
        Ok(())
    }

    pub(crate) async fn knows_devices(&mut self) -> Result<()> {
        everybody_knows(&self.all()).await
    }

    pub(crate) async fn talks(&mut self) -> Result<()> {
        self.round("talk").await
    }

    /// Every device says something, some times, and all read it.
    async fn round(&mut self, what: &str) -> Result<()> {
        let room = self.room()?;
        for number in 0..ROUNDS {
            for device in &self.devices {
                self.ledger.send(device, &room, &format!("{what} {number} by {}", device.name)).await?;
            }
        }
        let readings = self.ledger.check(&self.all()).await?;
        let all = self.ledger.len() * self.devices.len();
        ensure!(what != "talk" || readings == all, "only {readings} of {all} were for them");
        Ok(())
    }

    pub(crate) async fn verifies_each_other(&mut self) -> Result<()> {
        let [anna, bea] = [&self.devices[0], &self.devices[2]];
        verify(anna, bea).await?;
        for (devices, other) in [(&self.devices[..2], bea.user()?), (&self.devices[2..], anna.user()?)] {
            for device in devices {
                until(&format!("that {other} is verified for {}", device.name), async || {
                    let identity = device.client.encryption().request_user_identity(&other).await?;
                    Ok(identity.filter(|identity| identity.is_verified()).map(drop))
                })
                .await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn sends_a_file(&mut self) -> Result<()> {
        let room = self.room()?;
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let sending = self.devices[0].room(&room)?;
        let config = AttachmentConfig::new();
        let kind = mime::APPLICATION_OCTET_STREAM;
        let event = sending.send_attachment("file.bin", &kind, bytes.clone(), config).await?.event_id;
        for device in &self.devices[1..] {
            let read = until("the file", async || {
                let event = device.room(&room)?.event(&event, None).await?;
                let AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(
                    SyncMessageLikeEvent::Original(message),
                )) = event.raw().deserialize()?
                else {
                    return Ok(None);
                };
                let MessageType::File(file) = message.content.msgtype else { return Ok(None) };
                Ok(device.client.media().get_file(&file, false).await?)
            })
            .await?;
            ensure!(read == bytes, "{} reads another file", device.name);
        }
        Ok(())
    }

    pub(crate) async fn comes_and_goes(&mut self) -> Result<()> {
        let room = self.room()?;
        let carol = Device::register(self.servers.of(1), "carol").await?;
        self.devices[0].room(&room)?.invite_user_by_id(&carol.user()?).await?;
        until("the invitation", async || Ok(carol.client.get_room(&room).map(drop))).await?;
        carol.join(&room, &self.servers.all[0].name).await?;
        let devices: Vec<&Device> = self.devices.iter().chain([&carol]).collect();
        everybody_knows(&devices).await?;
        let first = self.ledger.len();
        for device in &devices {
            self.ledger.send(device, &room, &format!("with carol by {}", device.name)).await?;
        }
        let readings = self.ledger.check_from(first, &devices).await?;
        ensure!(readings == devices.len() * devices.len(), "only {readings} were for them");
        carol.room(&room)?.leave().await?;
        until("that she is gone", async || {
            let members = self.devices[2].room(&room)?.members(matrix_sdk::RoomMemberships::JOIN).await?;
            Ok((members.len() == 2).then_some(()))
        })
        .await?;
        self.round("without carol").await
    }

    pub(crate) async fn restores(&mut self) -> Result<()> {
        let room = self.room()?;
        let recovery = self.devices[0].client.encryption().recovery();
        let key = recovery.enable().wait_for_backups_to_upload().await?;
        let tablet = Device::log_in(self.servers.of(0), "anna", "tablet").await?;
        tablet.client.encryption().recovery().recover(&key).await?;
        until("the room", async || Ok(tablet.client.get_room(&room).map(drop))).await?;
        tablet.client.encryption().backups().download_room_keys_for_room(&room).await?;
        self.ledger.check_all(&tablet, &room).await?;
        let own = tablet.client.encryption().get_own_device().await?.context("no device")?;
        ensure!(own.is_cross_signed_by_owner(), "the new device is not signed");
        self.devices.push(tablet);
        everybody_knows(&self.all()).await?;
        self.round("with a tablet").await
    }

    pub(crate) async fn signs_out(&mut self) -> Result<()> {
        let tablet = self.devices.pop().context("no tablet")?;
        let (user, id) = (tablet.user()?, tablet.id()?);
        tablet.log_out().await?;
        for device in &self.devices {
            until("that the tablet is gone", async || {
                Ok((!device.known(&user).await?.contains(&id)).then_some(()))
            })
            .await?;
        }
        self.round("without a tablet").await
    }

    pub(crate) async fn survives(&mut self) -> Result<()> {
        for number in 0..self.servers.all.len() {
            self.servers.all[number].kill()?;
            self.servers.all[number].start()?;
            self.round(&format!("after kill {number}")).await?;
        }
        Ok(())
    }
}

/// Waits until every device knows all of them.
pub(crate) async fn everybody_knows(devices: &[&Device]) -> Result<()> {
    for knower in devices {
        for known in devices {
            let (user, id): (OwnedUserId, _) = (known.user()?, known.id()?);
            until(&format!("that {} knows {}", knower.name, known.name), async || {
                Ok(knower.known(&user).await?.contains(&id).then_some(()))
            })
            .await?;
        }
    }
    Ok(())
}

/// Verifies devices of the same or of different people, by comparing emoji.
async fn verify(one: &Device, other: &Device) -> Result<()> {
    let (user, device) = (other.user()?, other.id()?);
    let of_other =
        until("the other's device", async || Ok(one.client.encryption().get_device(&user, &device).await?))
            .await?;
    let asking: VerificationRequest = of_other.request_verification().await?;
    let flow = asking.flow_id().to_owned();
    let asker = one.user()?;
    let encryption = other.client.encryption();
    let asked =
        until("the request", async || Ok(encryption.get_verification_request(&asker, &flow).await)).await?;
    asked.accept().await?;
    until("that the request is accepted", async || Ok(asking.is_ready().then_some(()))).await?;
    let asking: SasVerification = asking.start_sas().await?.context("no verification")?;
    let asked = until("the verification", async || {
        Ok(encryption.get_verification(&asker, &flow).await.and_then(|verification| verification.sas()))
    })
    .await?;
    asked.accept().await?;
    for side in [&asking, &asked] {
        until("something to compare", async || Ok(side.can_be_presented().then_some(()))).await?;
    }
    ensure!(
        asking.decimals().is_some() && asking.decimals() == asked.decimals(),
        "they see different numbers"
    );
    asking.confirm().await?;
    asked.confirm().await?;
    for side in [&asking, &asked] {
        until("the end of the verification", async || {
            ensure!(!side.is_cancelled(), "cancelled: {:?}", side.cancel_info());
            Ok(side.is_done().then_some(()))
        })
        .await?;
    }
    Ok(())
}
