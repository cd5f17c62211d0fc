//! People who send at the same time, and a ledger of what the server promised them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use allod_server::random::Random;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    http::Http,
    server::{Answer, Person},
};

/// A message that was sent, answered or not.
#[derive(Clone, Debug)]
struct Sent {
    person: usize,
    room: usize,
    text: String,
    /// When it was sent, as a count of beginnings and ends.
    began: u64,
    /// The event, and when the answer came.
    acknowledged: Option<(String, u64)>,
}

/// What one sender did, and the answer that ended it, if it was not a break.
type Done = (BTreeMap<String, Sent>, Option<Answer>);

/// Senders at work.
pub(crate) struct Load(JoinSet<Done>);

/// What to send.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    /// Distinguishes this load's transactions from those of all others.
    pub(crate) name: &'a str,
    /// Bytes of a message beyond its transaction id.
    pub(crate) bytes: usize,
    /// Messages of each sender at most.
    pub(crate) messages: usize,
}

/// All that was sent, what was promised of it, and the histories as they were last seen.
pub(crate) struct Ledger {
    people: Vec<Person>,
    rooms: Vec<String>,
    /// By transaction id.
    sent: BTreeMap<String, Sent>,
    /// Each room's events, in order.
    seen: Vec<Vec<String>>,
    /// The events of transactions, where the histories have them.
    found: HashMap<String, String>,
    clock: Arc<AtomicU64>,
}

impl Ledger {
    /// Makes accounts and rooms; everyone is in every room.
    pub(crate) async fn new(address: &str, people: usize, rooms: usize) -> Self {
        let mut http = Http::new(address);
        let mut ledger = Self {
            people: Vec::new(),
            rooms: Vec::new(),
            sent: BTreeMap::new(),
            seen: vec![Vec::new(); rooms],
            found: HashMap::new(),
            clock: Arc::default(),
        };
        for number in 0..people {
            ledger.people.push(http.register(&format!("sender{number}")).await);
        }
        for number in 0..rooms {
            let body = json!({ "name": format!("Room {number}"), "preset": "public_chat" });
            let path = "/_matrix/client/v3/createRoom";
            let room = http.send(&ledger.people[number % people], Method::POST, path, body).await.ok();
            let room = room["room_id"].as_str().unwrap().to_owned();
            let join = format!("/_matrix/client/v3/join/{room}");
            for person in &ledger.people {
                http.send(person, Method::POST, &join, json!({})).await.ok();
            }
            ledger.rooms.push(room);
        }
        ledger
    }

    /// One of the people.
    pub(crate) fn person(&self) -> &Person {
        &self.people[0]
    }

    /// How many messages were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.sent.values().filter(|sent| sent.acknowledged.is_some()).count()
    }

    /// Everyone begins to send in every room, one message after the other.
    pub(crate) fn load(&self, address: &str, plan: Plan<'_>) -> Load {
        let mut senders = JoinSet::new();
        for (person, who) in self.people.iter().enumerate() {
            for (room, place) in self.rooms.iter().enumerate() {
                let (http, who, place) = (Http::new(address), who.clone(), place.clone());
                let name = format!("{}-{person}-{room}", plan.name);
                let clock = Arc::clone(&self.clock);
                let (bytes, messages) = (plan.bytes, plan.messages);
                senders.spawn(async move {
                    let mut sender = Sender { http, who, place, clock, person, room };
                    sender.send_all(&name, bytes, messages).await
                });
            }
        }
        Load(senders)
    }

    /// Waits for the senders to end and writes down what they did. Returns the answers that ended them.
    pub(crate) async fn collect(&mut self, load: Load) -> Vec<Answer> {
        let mut refusals = Vec::new();
        for (sent, refusal) in load.0.join_all().await {
            self.sent.extend(sent);
            refusals.extend(refusal);
        }
        refusals
    }

    /// All that was acknowledged is there, once and in its place; what was seen before is unchanged.
    pub(crate) async fn check(&mut self, address: &str) {
        let mut http = Http::new(address);
        self.found.clear();
        for (room, place) in self.rooms.iter().enumerate() {
            let history = http.history(&self.people[0], place).await;
            let ids: Vec<String> = history.iter().map(|event| id_of(event).to_owned()).collect();
            let before = &self.seen[room];
            assert!(ids.starts_with(before), "what was seen of {place} is changed");
            // The newest beginning among the messages so far: none of them may be of after an answer to a later one.
            let mut began = 0;
            for event in history.iter().filter(|event| event["type"] == "m.room.message") {
                let text = event["content"]["body"].as_str().unwrap();
                let transaction = text.split(' ').next().unwrap();
                let sent = &self.sent[transaction];
                assert_eq!((text, room), (sent.text.as_str(), sent.room), "{transaction} is damaged");
                let twice = self.found.insert(transaction.to_owned(), id_of(event).to_owned());
                assert_eq!(twice, None, "{transaction} is there twice");
                if let Some((_, at)) = &sent.acknowledged {
                    assert!(
                        began <= *at,
                        "{transaction} stands behind what was sent after it was acknowledged"
                    );
                }
                began = began.max(sent.began);
            }
            self.seen[room] = ids;
        }
        for (transaction, sent) in &self.sent {
            if let Some((event, _)) = &sent.acknowledged {
                assert_eq!(self.found.get(transaction), Some(event), "{transaction} is lost");
            }
        }
    }

    /// Sends again what has no answer, and every `step`th of the rest: the answer is the event that was made
    /// before, if there was one. Returns how many had no answer, and how many of these were stored all the same.
    pub(crate) async fn settle(&mut self, address: &str, step: usize) -> (usize, usize) {
        let mut http = Http::new(address);
        let (mut unanswered, mut stored) = (0, 0);
        for (number, (transaction, sent)) in self.sent.iter_mut().enumerate() {
            if sent.acknowledged.is_some() && number % step != 0 {
                continue;
            }
            let (who, place) = (&self.people[sent.person], &self.rooms[sent.room]);
            let answer = http.say(who, place, transaction, &sent.text).await.unwrap().ok();
            let event = id_of(&answer);
            if sent.acknowledged.is_none() {
                unanswered += 1;
                stored += usize::from(self.found.contains_key(transaction));
            }
            if let Some(found) = self.found.get(transaction) {
                assert_eq!(event, found, "{transaction} was made again");
            }
            let now = self.clock.fetch_add(1, Ordering::SeqCst);
            sent.acknowledged.get_or_insert((event.to_owned(), now));
        }
        (unanswered, stored)
    }
}

/// One person in one room.
struct Sender {
    http: Http,
    who: Person,
    place: String,
    clock: Arc<AtomicU64>,
    person: usize,
    room: usize,
}

impl Sender {
    async fn send_all(&mut self, name: &str, bytes: usize, messages: usize) -> Done {
        let mut all = BTreeMap::new();
        // What compression could make small would not fill a disk.
        let noise = Random::seeded(u64::try_from(self.person).unwrap());
        for number in 0..messages {
            let transaction = format!("{name}-{number}");
            let text = format!("{transaction} {}", noise.token(bytes));
            let began = self.clock.fetch_add(1, Ordering::SeqCst);
            let answer = self.http.say(&self.who, &self.place, &transaction, &text).await;
            let now = self.clock.fetch_add(1, Ordering::SeqCst);
            let ended = !matches!(&answer, Ok(answer) if answer.status == StatusCode::OK);
            let acknowledged = match &answer {
                Ok(answer) if !ended => Some((id_of(&answer.body).to_owned(), now)),
                _ => None,
            };
            all.insert(transaction, Sent { person: self.person, room: self.room, text, began, acknowledged });
            if ended {
                return (all, answer.ok());
            }
        }
        (all, None)
    }
}

fn id_of(event: &Value) -> &str {
    event["event_id"].as_str().unwrap()
}
