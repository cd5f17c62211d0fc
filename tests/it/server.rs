//! A server in this process, and people who use it.

use std::time::Duration;

use allod_api::{
    app::{App, Base},
    router,
};
use allod_server::{
    clock::Clock,
    config::{Accounts, Config, Live, Registration},
    database::Database,
    housekeeping::erasure::Erasure,
    identity::Identity,
    random::Random,
    tables,
    tasks::Tasks,
};
use allod_storage::{OpenOptions, Store};
use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// The name of servers under test.
pub(crate) const NAME: &str = "example.org";
/// When a test begins: 14 November 2023.
const START_MS: u64 = 1_700_000_000_000;

/// A running server without a network.
pub(crate) struct TestServer {
    /// Its time, which stands still until a test moves it.
    pub(crate) clock: Clock,
    config: Config,
    place: Place,
    store: Store,
    tasks: Tasks,
    router: Router,
}

/// Where the rows are.
enum Place {
    Memory,
    Folder(TempDir),
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: StatusCode,
    /// The body; `null` if it is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    /// Status and errcode of a refusal.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["errcode"].as_str().unwrap_or_default())
    }
}

/// Someone signed in.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    /// The user id.
    pub(crate) user_id: String,
    /// The access token.
    pub(crate) token: String,
    /// The device.
    pub(crate) device_id: String,
}

/// The configuration of servers under test: open registration, no rate limits.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.server.name = NAME.try_into().unwrap();
    config.accounts =
        Accounts { registration: Registration::Open, ..Accounts::default() }.with_cheap_passwords();
    config.limits.rates = false;
    config
}

impl TestServer {
    /// A new server.
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    /// A new server with this configuration.
    pub(crate) async fn with(config: Config) -> Self {
        let (place, store) = match std::env::var("ALLOD_TEST_ENGINE").as_deref() {
            Ok("rocksdb") => {
                let folder = tempfile::tempdir().unwrap();
                let store = open(&folder);
                (Place::Folder(folder), store)
            }
            Ok(engine) => panic!("ALLOD_TEST_ENGINE={engine}: there is rocksdb, and memory without it"),
            Err(_) => (Place::Memory, Store::memory(tables::SPACES)),
        };
        Self::start(config, place, store, Clock::manual(START_MS)).await
    }

    /// A new server on disk, whatever the engine of the other tests.
    pub(crate) async fn on_disk(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        Self::start(config, Place::Folder(folder), store, Clock::manual(START_MS)).await
    }

    /// Whether these bytes stand in any file of a server on disk.
    pub(crate) fn has_on_disk(&self, bytes: &[u8]) -> bool {
        let Place::Folder(folder) = &self.place else { panic!("this server is not on disk") };
        let files = std::fs::read_dir(folder.path()).unwrap();
        files
            .filter_map(|entry| std::fs::read(entry.unwrap().path()).ok())
            .any(|file| file.windows(bytes.len()).any(|window| window == bytes))
    }

    /// Its housekeeper of deleted bytes.
    pub(crate) async fn erasure(&self) -> Erasure {
        let database = Database::open(self.store.clone(), &Random::seeded(1)).await.unwrap();
        Erasure::new(database, self.clock.clone(), self.config.storage.erase_within.0)
    }

    /// The store below it.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    async fn start(config: Config, place: Place, store: Store, clock: Clock) -> Self {
        let random = Random::seeded(clock.now_ms());
        let tasks = Tasks::new();
        let base = Base {
            identity: Identity::ephemeral(config.server.name.clone(), &random).unwrap(),
            database: Database::open(store.clone(), &random).await.unwrap(),
            config: Live::new(config.clone()),
            clock: clock.clone(),
            random,
            tasks: tasks.clone(),
        };
        let router = router::build(App::open(base).await.unwrap());
        Self { clock, config, place, store, tasks, router }
    }

    /// Stops it and starts it again over what it has stored.
    pub(crate) async fn restart(self) -> Self {
        let Self { clock, config, place, store, tasks, router } = self;
        drop(router);
        assert!(tasks.shut_down(Duration::from_secs(10)).await, "a task does not end");
        clock.advance(Duration::from_secs(1));
        let store = match &place {
            Place::Memory => store,
            Place::Folder(folder) => {
                store.close().await;
                drop(store);
                open(folder)
            }
        };
        Self::start(config, place, store, clock).await
    }

    /// Sends a request; `body` is not sent if it is `null`.
    pub(crate) async fn send(&self, token: Option<&str>, method: Method, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send_body(token, method, path, body).await
    }

    /// Sends a request with any bytes as its body.
    pub(crate) async fn send_bytes(&self, token: &str, method: Method, path: &str, body: Vec<u8>) -> Answer {
        self.send_body(Some(token), method, path, Body::from(body)).await
    }

    async fn send_body(&self, token: Option<&str>, method: Method, path: &str, body: Body) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() }
    }

    /// A `GET`.
    pub(crate) async fn get(&self, person: &Person, path: &str) -> Answer {
        self.send(Some(&person.token), Method::GET, path, Value::Null).await
    }

    /// A `POST`.
    pub(crate) async fn post(&self, person: &Person, path: &str, body: Value) -> Answer {
        self.send(Some(&person.token), Method::POST, path, body).await
    }

    /// A `PUT`.
    pub(crate) async fn put(&self, person: &Person, path: &str, body: Value) -> Answer {
        self.send(Some(&person.token), Method::PUT, path, body).await
    }

    /// A request without a token.
    pub(crate) async fn anonymously(&self, method: Method, path: &str, body: Value) -> Answer {
        self.send(None, method, path, body).await
    }

    /// Makes an account and signs in.
    pub(crate) async fn register(&self, name: &str) -> Person {
        person(self.anonymously(Method::POST, "/_matrix/client/v3/register", registration(name)).await)
    }

    /// Signs in with the password that [`TestServer::register`] gave.
    pub(crate) async fn log_in(&self, name: &str) -> Person {
        let identifier = json!({ "type": "m.id.user", "user": name });
        let body =
            json!({ "type": "m.login.password", "identifier": identifier, "password": password_of(name) });
        person(self.anonymously(Method::POST, "/_matrix/client/v3/login", body).await)
    }
}

fn open(folder: &TempDir) -> Store {
    let options = OpenOptions::new(folder.path(), tables::SPACES, tables::FORMAT, NAME);
    // Tests look for bytes in the files.
    Store::open(OpenOptions { compressed: false, ..options }).unwrap()
}

/// The body of a registration.
pub(crate) fn registration(name: &str) -> Value {
    json!({ "username": name, "password": password_of(name), "auth": { "type": "m.login.dummy" } })
}

fn password_of(name: &str) -> String {
    format!("the password of {name}")
}

/// Who an answer signed in.
pub(crate) fn person(answer: Answer) -> Person {
    let body = answer.ok();
    let text = |key: &str| body[key].as_str().unwrap().to_owned();
    Person { user_id: text("user_id"), token: text("access_token"), device_id: text("device_id") }
}
