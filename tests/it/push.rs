//! Notifications of the built program: over TLS, to a gateway that is there while the server is killed.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::Method;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{authority::Authority, http::Http, running::Running};

/// What the gateway was asked, and did.
#[derive(Debug, Default)]
struct Taken {
    /// The event ids that it was told, with how often it said that it took them.
    events: BTreeMap<String, u32>,
    /// Requests that it might have taken.
    asked: u32,
    /// How often it was told of something for the push key that it rejects.
    rejected: u32,
}

type Told = Arc<Mutex<Taken>>;

/// Takes connections with the certificate in a folder.
pub(crate) fn acceptor(folder: &std::path::Path) -> TlsAcceptor {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let certificates = CertificateDer::pem_slice_iter(&read("certificate.pem")).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("certificate.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(certificates, key).unwrap()))
}

/// A gateway that takes most; it ends when the set of its tasks is dropped.
async fn gateway(folder: &std::path::Path, taken: Told) -> (u16, JoinSet<()>) {
    let acceptor = acceptor(folder);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, taken) = (acceptor.clone(), Arc::clone(&taken));
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let serve = service_fn(move |request| take(request, Arc::clone(&taken)));
                // A server that is killed breaks off.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    });
    (port, tasks)
}

/// Fails, refuses, keeps one request waiting for ever, and rejects one push key; takes what is left.
async fn take(request: Request<Incoming>, told: Told) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/_matrix/push/v1/notify");
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let answer = |status: u16, text: &'static str| {
        let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
        *answer.status_mut() = status.try_into().unwrap();
        Ok(answer)
    };
    if body["notification"]["devices"][0]["pushkey"] == "gone" {
        told.lock().unwrap().rejected += 1;
        return answer(200, "{\"rejected\":[\"gone\"]}");
    }
    let number = {
        let mut told = told.lock().unwrap();
        told.asked += 1;
        told.asked
    };
    match number {
        // Until the server is killed or gives it up.
        35 => std::future::pending().await,
        _ if number % 25 == 10 => answer(503, "{}"),
        _ if number % 25 == 20 => answer(400, "{}"),
        _ => {
            if let Some(event_id) = body["notification"]["event_id"].as_str() {
                *told.lock().unwrap().events.entry(event_id.to_owned()).or_default() += 1;
            }
            answer(200, "{\"rejected\":[]}")
        }
    }
}

fn configuration(folder: &std::path::Path) -> String {
    let path = folder.display();
    format!(
        r#"
[server]
name = "localhost"
data_dir = "{path}/data"
[listeners]
client = ["127.0.0.1:0"]
[accounts]
registration = "open"
password_memory = "8 KiB"
password_iterations = 1
[limits]
rates = false
[egress]
allowed_networks = ["127.0.0.0/8", "::1"]
[federation]
certificate_authorities = ["{path}/authority.pem"]
"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_arrive_over_sigkill() {
    const KILLS: u32 = 4;
    let folder = tempfile::tempdir().unwrap();
    Authority::new().certify(folder.path(), &["localhost"]);
    let taken = Told::default();
    let (port, _gateway) = gateway(folder.path(), Arc::clone(&taken)).await;
    let file = folder.path().join("allod.toml");
    fs::write(&file, configuration(folder.path())).unwrap();
    let mut server = Running::configured(&file, "localhost");
    let mut http = Http::new(&server.address);
    let (alice, bob) = (http.register("alice").await, http.register("bob").await);
    let room = json!({ "preset": "public_chat" });
    let room = http.send(&alice, Method::POST, "/_matrix/client/v3/createRoom", room).await.ok();
    let room = room["room_id"].as_str().unwrap().to_owned();
    http.send(&bob, Method::POST, &format!("/_matrix/client/v3/join/{room}"), json!({})).await.ok();
    let pusher = |key: &str| {
        json!({
            "pushkey": key, "kind": "http", "app_id": "app", "app_display_name": "", "device_display_name": "",
            "lang": "en",
            "data": { "url": format!("https://localhost:{port}/_matrix/push/v1/notify"), "format": "event_id_only" },
        })
    };
    let set = "/_matrix/client/v3/pushers/set";
    http.send(&bob, Method::POST, set, pusher("key")).await.ok();
    http.send(&bob, Method::POST, set, pusher("gone")).await.ok();
    let mut sent = Vec::new();
    for kill in 0..KILLS {
        for number in 0..25 {
            let said = http.say(&alice, &room, &format!("{kill}.{number}"), "hello").await.unwrap().ok();
            sent.push(said["event_id"].as_str().unwrap().to_owned());
        }
        sleep(Duration::from_millis(u64::from(kill) * 40)).await;
        server.kill();
        server = Running::configured(&file, "localhost");
        http = Http::new(&server.address);
    }
    let missing = |taken: &Taken| sent.iter().filter(|id| !taken.events.contains_key(*id)).count();
    let arrive = async {
        while missing(&taken.lock().unwrap()) > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(120), arrive).await.is_ok();
    assert!(arrived, "{} of {} are missing", missing(&taken.lock().unwrap()), sent.len());
    // One pusher has one notification under way: each kill can hit one between the answer and its being written down.
    let doubled = taken.lock().unwrap().events.values().map(|times| times - 1).sum::<u32>();
    assert!(doubled <= KILLS, "{doubled} were sent again");
    assert!(taken.lock().unwrap().events.keys().all(|id| sent.contains(id)));
    // What was rejected is gone, and was told nothing more.
    let rejected = taken.lock().unwrap().rejected;
    assert!((1..=KILLS + 1).contains(&rejected), "{rejected}");
    let left = http.get(&bob, "/_matrix/client/v3/pushers").await.ok();
    assert_eq!(left["pushers"].as_array().unwrap().len(), 1);
    assert_eq!(left["pushers"][0]["pushkey"], "key");
    server.stop();
}
