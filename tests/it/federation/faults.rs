//! Three servers whose requests to each other get lost, late, doubled and cut off, and which are killed at random: in the
//! end all hold the same events and the same state.
//!
//! `ALLOD_FAULT_SEED` says with which seed to begin, `ALLOD_FAULT_RUNS` how many there are.

use std::{collections::BTreeSet, time::Duration};

use allod_server::random::Random;
use tokio::time::{Instant, sleep};

use super::{
    person::{At, escaped},
    proxy::{Proxy, Weather},
    *,
};

/// Runs if nobody says.
const RUNS: u64 = 3;
/// Things that happen in one.
const STEPS: u64 = 40;
/// Things that are said while one is away.
const APART: u64 = 10;
/// How long the servers may take to agree, once all is well.
const AGREEMENT: Duration = Duration::from_secs(180);

/// A server, what stands before it, and somebody there.
struct Side {
    server: Server,
    proxy: Proxy,
    at: Option<At>,
}

impl Side {
    async fn new(authority: &Authority, seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        authority.certify(folder.path(), &["127.0.0.1"]);
        let proxy = Proxy::start(folder.path(), seed).await;
        let name = format!("127.0.0.1:{}", proxy.port);
        let server = Server::named(folder, &name, free_port(), "mode = \"open\"");
        let mut side = Self { server, proxy, at: None };
        side.start();
        side
    }

    fn start(&mut self) {
        self.server.start();
        self.proxy.lead_to(self.server.running.as_ref().map(|running| running.address.as_str()));
        if let Some(at) = &mut self.at {
            at.reconnect(&self.server);
        }
    }

    fn kill(&mut self) {
        self.proxy.lead_to(None);
        self.server.running.take().unwrap().kill();
    }

    fn is_up(&self) -> bool {
        self.server.running.is_some()
    }

    fn at(&mut self) -> &mut At {
        self.at.as_mut().unwrap()
    }
}

fn below(random: &Random, limit: u64) -> u64 {
    u64::from_le_bytes(random.bytes()) % limit
}

fn index(random: &Random, limit: usize) -> usize {
    usize::try_from(below(random, u64::try_from(limit).unwrap())).unwrap()
}

struct World {
    seed: u64,
    random: Random,
    sides: Vec<Side>,
    /// Where all are.
    room: String,
    /// Where only the first two are.
    private: String,
    /// What was acknowledged.
    sent: BTreeSet<String>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let authority = Authority::new();
        let mut sides = Vec::new();
        for (number, name) in (0..).zip(["anna", "bea", "cleo"]) {
            let mut side = Side::new(&authority, seed * 10 + number).await;
            side.at = Some(At::new(&side.server, name).await);
            sides.push(side);
        }
        let ids: Vec<String> = sides.iter_mut().map(|side| side.at().person.user_id.clone()).collect();
        // The first makes the rooms, and has all powers.
        let users: serde_json::Map<_, _> = ids.iter().skip(1).map(|id| (id.clone(), json!(100))).collect();
        let levels = json!({ "users": users });
        let open = json!({ "preset": "public_chat", "power_level_content_override": levels });
        let room = sides[0].at().create(open.clone()).await;
        let private = sides[0].at().create(open).await;
        let via = escaped(&sides[0].server.name);
        for (number, joined) in [(1, &room), (2, &room), (1, &private)] {
            sides[number].at().post(&format!("join/{}?via={via}", escaped(joined)), json!({})).await;
            sides[0].at().sees_member(joined, &ids[number], "join").await;
        }
        sides[1].at().sees_member(&room, &ids[2], "join").await;
        Self { seed, random: Random::seeded(seed), sides, room, private, sent: BTreeSet::new() }
    }

    /// Something that happens.
    async fn step(&mut self, step: u64) {
        let number = index(&self.random, self.sides.len());
        let chance = below(&self.random, 100);
        let weather = [Weather::Fair, Weather::Rough, Weather::Rough, Weather::Gone];
        let weather = weather[index(&self.random, weather.len())];
        let text = format!("{} {step}", self.seed);
        let (room, private) = (self.room.clone(), self.private.clone());
        let path = format!("rooms/{}", escaped(&room));
        let side = &mut self.sides[number];
        match chance {
            0..12 => side.proxy.set_weather(weather),
            12..20 if side.is_up() => side.kill(),
            _ if !side.is_up() => {
                if chance < 60 {
                    side.start();
                }
            }
            20..30 => {
                let body = json!({ "topic": text });
                let answer = side.at().put(&format!("{path}/state/m.room.topic"), body).await;
                self.sent.insert(answer["event_id"].as_str().unwrap().to_owned());
            }
            30..35 => {
                let path = format!("profile/{}/displayname", side.at().person.user_id);
                side.at().put(&path, json!({ "displayname": text })).await;
            }
            35..45 if number < 2 => {
                side.at().say(&private, &text).await;
            }
            _ => {
                let event = side.at().say(&room, &text).await;
                self.sent.insert(event);
            }
        }
        sleep(Duration::from_millis(below(&self.random, 60))).await;
    }

    /// All is well again, and everybody speaks.
    async fn heal(&mut self) {
        for side in &mut self.sides {
            side.proxy.set_weather(Weather::Fair);
            if !side.is_up() {
                side.start();
            }
        }
        for (number, side) in (0..).zip(&mut self.sides) {
            let event = side.at().say(&self.room, &format!("{} well {number}", self.seed)).await;
            self.sent.insert(event);
            if number < 2 {
                side.at().say(&self.private, &format!("{} well {number}", self.seed)).await;
            }
        }
    }

    /// What each of the servers that are in a room holds of it: events and state.
    async fn held(&mut self, room: &str, sides: usize) -> Vec<(BTreeSet<String>, Value)> {
        let mut held = Vec::new();
        for side in &mut self.sides[..sides] {
            let at = side.at();
            at.http.hang_up();
            let events = at.http.history(&at.person, &escaped(room)).await;
            let ids = events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
            held.push((ids, json!(at.state(room).await)));
        }
        held
    }

    /// The third leaves, the others go on in bad weather and are killed, and the third comes back: what was said meanwhile
    /// was not sent to it.
    async fn part(&mut self) {
        let path = format!("rooms/{}", escaped(&self.room));
        let third = self.sides[2].at().person.user_id.clone();
        self.sides[2].at().post(&format!("{path}/leave"), json!({})).await;
        let room = self.room.clone();
        for side in &mut self.sides[..2] {
            side.at().sees_member(&room, &third, "leave").await;
        }
        let apart = format!("{} apart", self.seed);
        for step in 0..APART {
            let side = &mut self.sides[index(&self.random, 2)];
            match below(&self.random, 4) {
                0 if side.is_up() => side.kill(),
                1 => side.proxy.set_weather(Weather::Rough),
                _ => {}
            }
            if !side.is_up() {
                side.start();
            }
            let event = side.at().say(&room, &format!("{apart} {step}")).await;
            self.sent.insert(event);
        }
        for side in &mut self.sides {
            side.proxy.set_weather(Weather::Fair);
        }
        self.agree_among(2).await;
        let via = escaped(&self.sides[0].server.name);
        self.sides[2].at().post(&format!("join/{}?via={via}", escaped(&room)), json!({})).await;
        for side in &mut self.sides[..2] {
            side.at().sees_member(&room, &third, "join").await;
        }
        assert!(
            !self.sides[2].proxy.delivered_text(&apart),
            "seed {}: a server was sent what was said while nobody of it was there",
            self.seed
        );
        let event = self.sides[1].at().say(&room, &format!("{} together", self.seed)).await;
        self.sent.insert(event);
    }

    /// All come to hold the same; the third was sent nothing of the room that it is not in.
    async fn agree(&mut self) {
        self.agree_among(3).await;
        assert!(
            !self.sides[2].proxy.delivered(&self.private),
            "seed {}: a server was sent a room that it is not in",
            self.seed
        );
    }

    async fn agree_among(&mut self, sides: usize) {
        let began = Instant::now();
        let (room, private) = (self.room.clone(), self.private.clone());
        loop {
            let held = self.held(&room, sides).await;
            let mut agreed =
                held.iter().all(|of_one| *of_one == held[0]) && held[0].0.is_superset(&self.sent);
            let in_private = self.held(&private, 2).await;
            agreed &= in_private[0] == in_private[1];
            if agreed {
                break;
            }
            if began.elapsed() > AGREEMENT {
                let differ: Vec<_> =
                    held.iter().map(|(ids, _)| held[0].0.symmetric_difference(ids).count()).collect();
                panic!(
                    "seed {}: no agreement: events {differ:?}, sent and nowhere {}, states {:#?}",
                    self.seed,
                    self.sent.difference(&held[0].0).count(),
                    held.iter().map(|(_, state)| state).collect::<Vec<_>>(),
                );
            }
            sleep(Duration::from_millis(300)).await;
        }
    }
}

async fn runs(first: u64, count: u64) {
    for seed in first..first + count {
        let mut world = World::new(seed).await;
        for step in 0..STEPS {
            world.step(step).await;
        }
        world.heal().await;
        world.agree().await;
        world.part().await;
        world.agree().await;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_agree_whatever_becomes_of_their_requests() {
    runs(setting("ALLOD_FAULT_SEED", 1), setting("ALLOD_FAULT_RUNS", RUNS)).await;
}
