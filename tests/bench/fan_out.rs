//! One sends, and all others wait in `/sync`: whether every message reaches everyone exactly once, and how soon.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::{
    client::{Client, escape},
    figure::{Figure, Meter},
    server::Server,
};

/// Messages that are sent one by one, each when everyone has the one before.
const PACED: usize = 50;
/// Messages that are sent without waiting for anyone.
const BURST: usize = 50;
/// What has not arrived by then is lost.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(60);
/// What listeners ask for: enough events that a burst leaves no gap, and no members whom they do not see.
const FILTER: &str =
    r#"{"presence":{"types":[]},"room":{"state":{"lazy_load_members":true},"timeline":{"limit":100}}}"#;

/// A message that has reached someone.
struct Arrival {
    listener: usize,
    message: usize,
    at: Instant,
}

#[derive(Deserialize)]
struct Answer {
    next_batch: String,
    #[serde(default)]
    rooms: Rooms,
}

#[derive(Default, Deserialize)]
struct Rooms {
    #[serde(default)]
    join: HashMap<String, Joined>,
}

#[derive(Deserialize)]
struct Joined {
    timeline: Timeline,
}

#[derive(Deserialize)]
struct Timeline {
    #[serde(default)]
    limited: bool,
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    content: Value,
}

/// Sends to everyone in the room, and measures how it arrives: first at a pace, then in a burst.
pub(crate) async fn fan_out(
    server: &Server,
    sender: &mut Client,
    listeners: &mut [Client],
    room: &str,
    limit: Duration,
) -> anyhow::Result<Vec<Figure>> {
    let people = listeners.len();
    let (arrivals, arrived) = unbounded_channel();
    let mut started = Vec::with_capacity(people);
    for (listener, client) in listeners.iter_mut().enumerate() {
        // One after the other: what is to be measured is what follows.
        let answer: Answer = client.get(&sync_path(None, 0)).await?;
        started.push((listener, client, answer.next_batch));
    }
    let listening = try_join_all(started.into_iter().map(|(listener, client, since)| {
        let arrivals = arrivals.clone();
        listen(client, listener, since, arrivals)
    }));
    let mut count = Count { arrived, seen: vec![[0; PACED + BURST]; people] };
    let sending = async {
        // Until all are waiting.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let paced = count.paced(server, sender, room, limit).await?;
        let burst = count.burst(server, sender, room).await?;
        anyhow::Ok(vec![paced, burst])
    };
    tokio::select! {
        biased;
        figures = sending => figures,
        ended = listening => {
            let _: Vec<()> = ended?;
            bail!("nobody listens any more")
        }
    }
}

fn sync_path(since: Option<&str>, timeout_ms: u64) -> String {
    let filter = escape(FILTER);
    let since = since.map(|since| format!("&since={}", escape(since))).unwrap_or_default();
    format!("/_matrix/client/v3/sync?filter={filter}&timeout={timeout_ms}{since}")
}

async fn listen(
    client: &mut Client,
    listener: usize,
    mut since: String,
    arrivals: UnboundedSender<Arrival>,
) -> anyhow::Result<()> {
    loop {
        let answer: Answer = client.get(&sync_path(Some(&since), 30_000)).await?;
        let at = Instant::now();
        since = answer.next_batch;
        for room in answer.rooms.join.into_values() {
            if room.timeline.limited {
                bail!("listener {listener} was told of a gap");
            }
            let messages = room.timeline.events.iter().filter_map(|event| event.content.get("n")?.as_u64());
            for message in messages {
                let message = usize::try_from(message)?;
                arrivals.send(Arrival { listener, message, at }).ok().context("nobody counts")?;
            }
        }
    }
}

/// What has arrived where.
struct Count {
    arrived: UnboundedReceiver<Arrival>,
    /// By listener and message, how often.
    seen: Vec<[u8; PACED + BURST]>,
}

impl Count {
    /// Sends one message after the other, each when the one before has arrived everywhere.
    async fn paced(
        &mut self,
        server: &Server,
        sender: &mut Client,
        room: &str,
        limit: Duration,
    ) -> anyhow::Result<Figure> {
        let people = self.seen.len();
        let mut latencies = Vec::with_capacity(PACED * people);
        let mut sent = 0;
        let meter = Meter::start(server.process);
        while sent < PACED && !meter.is_over(limit) {
            let began = Instant::now();
            sender.send(room, &numbered(sent)).await?;
            sent += 1;
            self.receive(sent * people, &mut latencies, |_| began).await?;
        }
        let mut figure = meter.stop(format!("fan-out, 1 sender to {people} on /sync"), latencies);
        figure.note = self.verdict(0..sent).await;
        Ok(figure)
    }

    /// Sends many at once.
    async fn burst(&mut self, server: &Server, sender: &mut Client, room: &str) -> anyhow::Result<Figure> {
        let people = self.seen.len();
        let mut began = Vec::with_capacity(BURST);
        let mut latencies = Vec::with_capacity(BURST * people);
        let meter = Meter::start(server.process);
        for message in PACED..PACED + BURST {
            began.push(Instant::now());
            sender.send(room, &numbered(message)).await?;
        }
        let began_of = |message: usize| {
            let began = message.checked_sub(PACED).and_then(|index| began.get(index));
            began.copied().unwrap_or_else(Instant::now)
        };
        self.receive(BURST * people, &mut latencies, began_of).await?;
        let mut figure = meter.stop(format!("burst of {BURST} messages to {people} on /sync"), latencies);
        figure.note = self.verdict(PACED..PACED + BURST).await;
        Ok(figure)
    }

    /// Takes in what arrives until it is as many as expected, or nothing has come for long.
    async fn receive(
        &mut self,
        expected: usize,
        latencies: &mut Vec<Duration>,
        began: impl Fn(usize) -> Instant,
    ) -> anyhow::Result<()> {
        while latencies.len() < expected {
            match tokio::time::timeout(ARRIVAL_TIME_MAX, self.arrived.recv()).await {
                Ok(Some(arrival)) => {
                    latencies.push(arrival.at.saturating_duration_since(began(arrival.message)));
                    self.note(&arrival)?;
                }
                Ok(None) => bail!("nobody listens any more"),
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn note(&mut self, arrival: &Arrival) -> anyhow::Result<()> {
        let times = self.seen.get_mut(arrival.listener).and_then(|seen| seen.get_mut(arrival.message));
        let times = times.with_context(|| format!("message {} was never sent", arrival.message))?;
        *times = times.saturating_add(1);
        Ok(())
    }

    /// Whether these messages reached everyone exactly once.
    async fn verdict(&mut self, messages: std::ops::Range<usize>) -> String {
        // What comes twice comes soon after.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut strangers = 0;
        while let Ok(arrival) = self.arrived.try_recv() {
            strangers += usize::from(self.note(&arrival).is_err());
        }
        let times = || self.seen.iter().flat_map(|seen| seen.get(messages.clone()).unwrap_or_default());
        let lost = times().filter(|times| **times == 0).count();
        let repeated = times().filter(|times| **times > 1).count() + strangers;
        if lost + repeated == 0 {
            "each exactly once".to_owned()
        } else {
            format!("{lost} lost, {repeated} repeated")
        }
    }
}

fn numbered(message: usize) -> Value {
    json!({ "msgtype": "m.text", "body": format!("Message {message} to everyone"), "n": message })
}
