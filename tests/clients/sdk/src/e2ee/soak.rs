//! Many encrypted clients in many rooms of two servers, while the servers are killed and cut off, people sign in and out,
//! join and leave.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use matrix_sdk::ruma::{
    OwnedRoomId,
    api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
    events::{InitialStateEvent, room::encryption::RoomEncryptionEventContent},
};
use tokio::time::sleep;

use crate::{
    device::{Device, until},
    ledger::Ledger,
    servers::Servers,
};

/// What is to be done.
pub(crate) struct Plan {
    /// At least so long.
    pub(crate) seconds: u64,
    /// At least so many messages.
    pub(crate) messages: u64,
    /// How many people, half on each server.
    pub(crate) clients: u64,
    /// How many rooms.
    pub(crate) rooms: u64,
    /// What chance begins with.
    pub(crate) seed: u64,
}

/// Chance, the same for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap_or_default() % limit.max(1)
    }
}

/// A person, with a device or two.
struct Person {
    name: String,
    devices: Vec<Device>,
    rooms: Vec<usize>,
}

struct Soak {
    servers: Servers,
    people: Vec<Person>,
    rooms: Vec<OwnedRoomId>,
    ledger: Ledger,
    chance: Chance,
    refused: usize,
    kills: usize,
    cuts: usize,
    comings: usize,
    logins: usize,
}

/// Runs it, and says what was done.
pub(crate) async fn run(servers: Servers, plan: Plan) -> Result<String> {
    let began = Instant::now();
    let mut soak = Soak::new(servers, &plan).await?;
    let ready = began.elapsed();
    let mut tries = 0_usize;
    while began.elapsed() < Duration::from_secs(plan.seconds) || (soak.ledger.len() as u64) < plan.messages {
        tries += 1;
        soak.something(tries).await?;
    }
    for server in 0..soak.servers.all.len() {
        soak.servers.all[server].cut_off(false)?;
    }
    let sent = began.elapsed();
    let devices: Vec<&Device> = soak.people.iter().flat_map(|person| &person.devices).collect();
    let readings = soak.ledger.check(&devices).await.with_context(|| format!("seed {}", plan.seed))?;
    ensure!(soak.ledger.len() > 0 && readings > soak.ledger.len(), "{readings} readings");
    Ok(format!(
        "seed {}: {} messages read {readings} times on {} devices, none unreadable; {} sendings failed, servers killed {} \
         times and cut off {} times, {} joins and leaves, {} sign-ins and sign-outs; ready after {} s, sent after {} s, \
         read after {} s",
        plan.seed,
        soak.ledger.len(),
        devices.len(),
        soak.refused,
        soak.kills,
        soak.cuts,
        soak.comings,
        soak.logins,
        ready.as_secs(),
        sent.as_secs(),
        began.elapsed().as_secs(),
    ))
}

impl Soak {
    async fn new(servers: Servers, plan: &Plan) -> Result<Self> {
        let mut people = Vec::new();
        for number in 0..usize::try_from(plan.clients)? {
            let name = format!("person{number}");
            let device = Device::register(servers.of(number), &name).await?;
            people.push(Person { name, devices: vec![device], rooms: Vec::new() });
        }
        let mut soak = Self {
            servers,
            people,
            rooms: Vec::new(),
            ledger: Ledger::default(),
            chance: Chance(plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            refused: 0,
            kills: 0,
            cuts: 0,
            comings: 0,
            logins: 0,
        };
        for number in 0..usize::try_from(plan.rooms)? {
            let creator = number % soak.people.len();
            let mut request = CreateRoom::new();
            request.preset = Some(RoomPreset::PublicChat);
            let encryption = RoomEncryptionEventContent::with_recommended_defaults();
            request.initial_state = vec![InitialStateEvent::with_empty_state_key(encryption).to_raw_any()];
            let room =
                soak.people[creator].devices[0].client.create_room(request).await?.room_id().to_owned();
            soak.rooms.push(room);
            soak.people[creator].rooms.push(number);
            for _ in 0..soak.people.len() / 4 + 1 {
                let person = soak.chance.below(soak.people.len());
                soak.join(person, number).await?;
            }
        }
        Ok(soak)
    }

    async fn join(&mut self, person: usize, room: usize) -> Result<()> {
        if self.people[person].rooms.contains(&room) {
            return Ok(());
        }
        // A room is on the server of who made it.
        let through = self.servers.of(room % self.people.len()).name.clone();
        for device in &self.people[person].devices[..1] {
            device.join(&self.rooms[room], &through).await?;
        }
        for device in &self.people[person].devices {
            until("the room", async || Ok(device.client.get_room(&self.rooms[room]).map(drop))).await?;
        }
        self.people[person].rooms.push(room);
        Ok(())
    }

    /// One thing that happens. Only what the servers' absence explains may fail.
    async fn something(&mut self, number: usize) -> Result<()> {
        match self.chance.below(100) {
            0 if number > 20 => {
                let server = self.chance.below(self.servers.all.len());
                self.kills += 1;
                self.servers.all[server].kill()?;
                sleep(Duration::from_millis(100)).await;
                self.servers.all[server].start()?;
            }
            1 if number > 20 => {
                let server = self.chance.below(self.servers.all.len());
                self.cuts += 1;
                self.servers.all[server].cut_off(true)?;
                sleep(Duration::from_millis(1_500)).await;
                self.servers.all[server].cut_off(false)?;
            }
            2 | 3 => {
                let (person, room) =
                    (self.chance.below(self.people.len()), self.chance.below(self.rooms.len()));
                self.comings += 1;
                if self.join(person, room).await.is_err() {
                    self.refused += 1;
                }
            }
            4 => self.sign_in_or_out().await?,
            _ => self.talk(number).await?,
        }
        Ok(())
    }

    async fn talk(&mut self, number: usize) -> Result<()> {
        let person = self.chance.below(self.people.len());
        let Some(room) = self.people[person].rooms.get(self.chance.below(self.people[person].rooms.len()))
        else {
            return Ok(());
        };
        let devices = &self.people[person].devices;
        let device = &devices[self.chance.below(devices.len())];
        let text = format!("message {number} by {}", device.name);
        if self.ledger.send(device, &self.rooms[*room], &text).await.is_err() {
            self.refused += 1;
        }
        Ok(())
    }

    /// A person gets a second device, or gives it up.
    async fn sign_in_or_out(&mut self) -> Result<()> {
        let number = self.chance.below(self.people.len());
        self.logins += 1;
        if self.people[number].devices.len() > 1 {
            let second = self.people[number].devices.pop().context("no device")?;
            // It has to read what was sent to it first.
            self.ledger.check(&[&second]).await?;
            second.log_out().await?;
            return Ok(());
        }
        let name = self.people[number].name.clone();
        let device =
            Device::log_in(self.servers.of(number), &name, &format!("device {}", self.logins)).await?;
        for room in &self.people[number].rooms {
            let room = &self.rooms[*room];
            until("the room", async || Ok(device.client.get_room(room).map(drop))).await?;
        }
        self.people[number].devices.push(device);
        Ok(())
    }
}
