//! What end-to-end encryption rests on, while the server is killed: no one-time key twice, every message to a device once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::http::Method;
use ruma::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use crate::{
    http::{BrokenOff, Http},
    running::Running,
    server::{Person, person},
};

/// How many claim at once.
const CLAIMERS: usize = 64;
/// How many one-time keys there are.
const KEYS: usize = 100;
/// How many messages are sent.
const MESSAGES: usize = 60;
/// The id of the key that is given out when there is no other.
const FALLBACK: &str = "signed_curve25519:fallback";

fn sign(pair: &Ed25519KeyPair, person: &Person, object: Value) -> Value {
    let mut object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
    sign_json(&person.user_id, pair, &mut object).unwrap();
    serde_json::to_value(object).unwrap()
}

/// A person's device keys, a hundred one-time keys and a fallback key.
fn upload(person: &Person) -> Value {
    let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), person.device_id.clone()).unwrap();
    let base64 = |bytes: &[u8]| Base64::<Standard, _>::new(bytes.to_vec()).encode();
    let device_keys = json!({
        "user_id": person.user_id, "device_id": person.device_id, "algorithms": ["m.megolm.v1.aes-sha2"],
        "keys": { format!("ed25519:{}", person.device_id): base64(&pair.public_key()) },
    });
    let key = |number: usize| {
        let bytes = [u8::try_from(number).unwrap(); 32];
        sign(&pair, person, json!({ "key": base64(&bytes) }))
    };
    let one_time: serde_json::Map<_, _> =
        (0..KEYS).map(|number| (format!("signed_curve25519:{number}"), key(number))).collect();
    json!({
        "device_keys": sign(&pair, person, device_keys), "one_time_keys": one_time,
        "fallback_keys": { FALLBACK: key(KEYS) },
    })
}

/// Claims keys of a device until there is only the fallback key, or the server breaks off.
async fn claim(address: String, asking: Person, of: Person, answered: Arc<Semaphore>) -> Vec<String> {
    let mut http = Http::new(&address);
    let wanted = json!({ "one_time_keys": { &of.user_id: { &of.device_id: "signed_curve25519" } } });
    let mut given = Vec::new();
    loop {
        let path = "/_matrix/client/v3/keys/claim";
        let Ok(answer) = http.try_send(Some(&asking.token), Method::POST, path, &wanted).await else {
            return given;
        };
        let answer = answer.ok();
        let keys = answer["one_time_keys"][&of.user_id][&of.device_id].as_object().unwrap();
        let key_id = keys.keys().next().unwrap().clone();
        let is_last = key_id == FALLBACK;
        given.push(key_id);
        answered.add_permits(1);
        if is_last {
            return given;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_one_time_key_is_given_out_twice_over_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path());
    let mut http = Http::new(&server.address);
    let (alice, bob) = (http.register("alice").await, http.register("bob").await);
    http.send(&alice, Method::POST, "/_matrix/client/v3/keys/upload", upload(&alice)).await.ok();
    let answered = Arc::new(Semaphore::new(0));
    let claim_all = |address: &str| {
        let one = || claim(address.to_owned(), bob.clone(), alice.clone(), Arc::clone(&answered));
        (0..CLAIMERS).map(|_| one()).collect::<JoinSet<_>>()
    };
    let claimers = claim_all(&server.address);
    // In the middle.
    answered.acquire_many(u32::try_from(KEYS / 4).unwrap()).await.unwrap().forget();
    server.kill();
    let mut given = claimers.join_all().await.concat();
    let before = given.len();
    assert!(before < KEYS, "the server was killed too late: {before}");
    server = Running::start(folder.path());
    let rest = claim_all(&server.address).join_all().await;
    for of_one in &rest {
        assert_eq!(of_one.last().map(String::as_str), Some(FALLBACK), "all end with the fallback key");
    }
    given.extend(rest.concat());
    given.retain(|key| key != FALLBACK);
    let different: BTreeSet<&String> = given.iter().collect();
    assert_eq!(different.len(), given.len(), "a key was given out twice: {given:?}");
    // Each claim that was cut off may have taken one that nobody was told of.
    assert!(given.len() <= KEYS && given.len() + CLAIMERS >= KEYS, "{}", given.len());
    server.stop();
}

/// A device that syncs, and the numbers of the messages that it was given.
struct Device {
    person: Person,
    since: String,
    numbers: Vec<u64>,
}

impl Device {
    async fn sync(&mut self, http: &mut Http) -> Result<(), BrokenOff> {
        let since = if self.since.is_empty() { String::new() } else { format!("&since={}", self.since) };
        let path = format!("/_matrix/client/v3/sync?timeout=0{since}");
        let answer = http.try_send(Some(&self.person.token), Method::GET, &path, &Value::Null).await?.ok();
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        self.numbers.extend(events.iter().filter_map(|event| event["content"]["n"].as_u64()));
        answer["next_batch"].as_str().unwrap().clone_into(&mut self.since);
        Ok(())
    }
}

/// Sends all messages in order, each again until the server says that it has it.
async fn send_all(address: Arc<std::sync::Mutex<String>>, alice: Person, bob: String) {
    for number in 0..MESSAGES {
        let path = format!("/_matrix/client/v3/sendToDevice/org.example.test/{number}");
        let body = json!({ "messages": { &bob: { "*": { "n": number } } } });
        loop {
            let now = address.lock().unwrap().clone();
            let sent = Http::new(&now).try_send(Some(&alice.token), Method::PUT, &path, &body).await;
            if sent.is_ok_and(|answer| answer.status.is_success()) {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_devices_arrive_once_over_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path());
    let mut http = Http::new(&server.address);
    let alice = http.register("alice").await;
    let phone = http.register("bob").await;
    let identifier = json!({ "type": "m.id.user", "user": "bob" });
    let login =
        json!({ "type": "m.login.password", "identifier": identifier, "password": "the password of bob" });
    let login = http.try_send(None, Method::POST, "/_matrix/client/v3/login", &login).await;
    let laptop = person(login.unwrap());
    let address = Arc::new(std::sync::Mutex::new(server.address.clone()));
    let mut sending = JoinSet::new();
    sending.spawn(send_all(Arc::clone(&address), alice, phone.user_id.clone()));
    let mut devices =
        [phone, laptop].map(|person| Device { person, since: String::new(), numbers: Vec::new() });
    let all: Vec<u64> = (0..u64::try_from(MESSAGES).unwrap()).collect();
    for threshold in [MESSAGES / 4, MESSAGES / 2] {
        // Only one of them listens at first, and it is cut off between an answer and the next request.
        while devices[0].numbers.len() < threshold {
            devices[0].sync(&mut http).await.unwrap();
        }
        server.kill();
        server = Running::start(folder.path());
        server.address.clone_into(&mut address.lock().unwrap());
        http = Http::new(&server.address);
    }
    sending.join_all().await;
    for device in &mut devices {
        while device.numbers.len() < MESSAGES {
            device.sync(&mut http).await.unwrap();
        }
        device.sync(&mut http).await.unwrap();
        assert_eq!(device.numbers, all);
    }
    server.stop();
}
