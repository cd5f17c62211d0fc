//! What this crate's own tests stand on: a real app over a store in memory, called in process.

use allod_server::{
    clock::Clock,
    config::{Accounts, Config, Live},
    database::{Database, Write},
    devices::WantedDevice,
    identity::Identity,
    random::Random,
    sessions::WantedSession,
    tables::{
        SPACES,
        accounts::{Account, AccountKind, AccountRow},
    },
    tasks::Tasks,
};
use allod_storage::Store;
use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use ruma::UserId;
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    app::{App, Base},
    endpoint::Routes,
    router,
};

/// A server without a network.
pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) clock: Clock,
    database: Database,
    router: Router,
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON; `null` if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Status and errcode, as tests compare them.
    pub(crate) fn error(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

/// A server with rate limits off, at `example.org`.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.server.name = "example.org".try_into().unwrap();
    config.limits.rates = false;
    config.accounts = Accounts::default().with_cheap_passwords();
    config
}

impl TestApp {
    /// The whole API under the default test configuration.
    pub(crate) async fn new() -> Self {
        Self::with(config(), router::build).await
    }

    /// These routes alone.
    pub(crate) async fn with_routes(config: Config, routes: Routes) -> Self {
        Self::with(config, |app| router::build_from(app, routes)).await
    }

    /// The whole API under this configuration.
    pub(crate) async fn with(config: Config, router: impl FnOnce(App) -> Router) -> Self {
        let (clock, random) = (Clock::manual(1_700_000_000_000), Random::seeded(1));
        let database = Database::open(Store::memory(SPACES), &random).await.unwrap();
        let identity = Identity::ephemeral(config.server.name.clone(), &random).unwrap();
        let base = Base {
            identity,
            database: database.clone(),
            config: Live::new(config),
            clock: clock.clone(),
            random,
            tasks: Tasks::new(),
        };
        let app = App::open(base).await.unwrap();
        Self { router: router(app.clone()), app, clock, database }
    }

    /// Makes an account and signs it in; the access token. `change` may make it a guest, locked and so on.
    pub(crate) async fn sign_in(&self, user_id: &str, change: impl FnOnce(&mut AccountRow)) -> String {
        let user_id = UserId::parse(user_id).unwrap();
        let user = self.app.users.number_or_new(&user_id).await.unwrap();
        let mut account = AccountRow {
            created_ms: 0,
            kind: AccountKind::User,
            admin: false,
            locked: false,
            suspended: false,
            deactivated_ms: None,
            erased: false,
        };
        let wanted = WantedSession { device: WantedDevice { id: None, display_name: None }, refresh: false };
        let mut write = Write::new();
        write.put::<Account>(&user, &account);
        self.database.commit(write).await.unwrap();
        let token = self.app.sessions.sign_in(user, &wanted).await.unwrap().access_token;
        change(&mut account);
        let mut write = Write::new();
        write.put::<Account>(&user, &account);
        self.database.commit(write).await.unwrap();
        token
    }

    /// The rows below it.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// A request without a token.
    pub(crate) async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Request::builder().method(method).uri(path).body(body.into()).unwrap()).await
    }

    /// A request with a token.
    pub(crate) async fn call_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {token}"));
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Any request.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).into_owned();
        Answer { status: parts.status, headers: parts.headers, text }
    }
}
