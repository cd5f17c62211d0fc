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

/// The event ids that the gateway was told, with how often it said that it took them.
type Taken = Arc<Mutex<BTreeMap<String, u32>>>;

/// A gateway that takes everything; it ends when the set of its tasks is dropped.
async fn gateway(folder: &std::path::Path, taken: Taken) -> (u16, JoinSet<()>) {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let certificates = CertificateDer::pem_slice_iter(&read("certificate.pem")).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("certificate.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(certificates, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
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

async fn take(request: Request<Incoming>, taken: Taken) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.uri().path(), "/_matrix/push/v1/notify");
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    if let Some(event_id) = body["notification"]["event_id"].as_str() {
        *taken.lock().unwrap().entry(event_id.to_owned()).or_default() += 1;
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"{\"rejected\":[]}"))))
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
    let taken = Taken::default();
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
    let pusher = json!({
        "pushkey": "key", "kind": "http", "app_id": "app", "app_display_name": "", "device_display_name": "",
        "lang": "en",
        "data": { "url": format!("https://localhost:{port}/_matrix/push/v1/notify"), "format": "event_id_only" },
    });
    http.send(&bob, Method::POST, "/_matrix/client/v3/pushers/set", pusher).await.ok();
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
    let missing = |taken: &BTreeMap<String, u32>| sent.iter().filter(|id| !taken.contains_key(*id)).count();
    let arrive = async {
        while missing(&taken.lock().unwrap()) > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(60), arrive).await.is_ok();
    assert!(arrived, "{} of {} are missing", missing(&taken.lock().unwrap()), sent.len());
    // One pusher has one notification under way: each kill can hit one between the answer and its being written down.
    let doubled = taken.lock().unwrap().values().map(|times| times - 1).sum::<u32>();
    assert!(doubled <= KILLS, "{doubled} were sent again");
    assert!(taken.lock().unwrap().keys().all(|id| sent.contains(id)));
    server.stop();
}
