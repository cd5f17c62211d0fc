//! The framework through its real router: what every endpoint has in common.

use allod_server::{
    config::{Period, Rate},
    tables::accounts::AccountKind,
};
use http::{Method, Request, header};
use ruma::api::client::{
    account::whoami,
    alias::create_alias,
    room::create_room,
    session::{login, logout, logout_all},
    state::{get_state_event_for_key, send_state_event},
};
use serde_json::json;

use crate::{
    address::Peer,
    app::App,
    auth::{Active, Admin, AppserviceToken, Guest, Locked, Session},
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, json_bytes},
    testing::{TestApp, config},
};

async fn whoami(_: App, caller: Session, _: whoami::v3::Request) -> Result<whoami::v3::Response> {
    Ok(whoami::v3::Response::new(caller.user_id, caller.guest))
}

async fn create_room(_: App, (): (), _: PlainRequest) -> Result<Response> {
    panic!("on purpose")
}

async fn logout(_: App, _: Locked, _: logout::v3::Request) -> Result<logout::v3::Response> {
    Ok(logout::v3::Response::new())
}

async fn logout_all(_: App, _: Admin, _: logout_all::v3::Request) -> Result<logout_all::v3::Response> {
    Ok(logout_all::v3::Response::new())
}

async fn login(_: App, _: AppserviceToken, _: login::v3::Request) -> Result<login::v3::Response> {
    Err(Error::forbidden("no"))
}

async fn get_state(_: App, caller: Guest, request: get_state_event_for_key::v3::Request) -> Result<Response> {
    let body = json!([caller.user_id, request.room_id, request.event_type, request.state_key]);
    Ok(json_bytes(body.to_string()))
}

async fn send_state(_: App, _: Active, request: send_state_event::v3::Request) -> Result<Response> {
    Ok(json_bytes(json!([request.event_type, request.state_key]).to_string()))
}

async fn make_room(_: App, _: Active, _: create_room::v3::Request) -> Result<create_room::v3::Response> {
    Ok(create_room::v3::Response::new(ruma::owned_room_id!("!a:example.org")))
}

async fn make_alias(_: App, _: Active, _: create_alias::v3::Request) -> Result<create_alias::v3::Response> {
    Ok(create_alias::v3::Response::new())
}

fn routes() -> Routes {
    Routes::default()
        .endpoint(whoami)
        .endpoint(logout)
        .endpoint(logout_all)
        .endpoint(login)
        .endpoint(make_room)
        .endpoint(make_alias)
        .raw_endpoint(get_state)
        .raw_endpoint(send_state)
        .route(&Method::GET, "/panic/{x}", create_room)
}

async fn server() -> TestApp {
    TestApp::with_routes(config(), routes()).await
}

const CREATE: &str = "/_matrix/client/v3/createRoom";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn the_table_of_contents_has_no_conflicts() {
    assert_eq!(crate::router::routes().conflicts, Vec::<String>::new());
}

#[tokio::test]
async fn unknown_paths_and_methods_are_unrecognized_and_carry_cors() {
    let server = server().await;
    let answer = server.call(Method::GET, "/nothing", "").await;
    assert_eq!(answer.error(), (404, "M_UNRECOGNIZED".into()));
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    let answer = server.call(Method::DELETE, CREATE, "").await;
    assert_eq!(answer.error(), (405, "M_UNRECOGNIZED".into()));
    assert_eq!(answer.headers[header::ALLOW], "POST");
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}

#[tokio::test]
async fn options_runs_nothing() {
    let server = server().await;
    for path in ["/panic/1", "/nothing", CREATE] {
        let answer = server.call(Method::OPTIONS, path, "").await;
        assert_eq!(answer.status, 204);
        assert_eq!(
            answer.headers[header::ACCESS_CONTROL_ALLOW_HEADERS],
            "X-Requested-With, Content-Type, Authorization"
        );
        assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_METHODS], "GET, POST, PUT, DELETE, OPTIONS");
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let server = TestApp::new().await;
    let answer = server.call(Method::HEAD, "/_matrix/client/versions", "").await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_panic_costs_one_request_and_shows_nothing() {
    let answer = server().await.call(Method::GET, "/panic/1", "").await;
    assert_eq!(answer.error(), (500, "M_UNKNOWN".into()));
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert!(!answer.text.contains("purpose"), "{}", answer.text);
    assert!(answer.text.contains("request "), "{}", answer.text);
}

#[tokio::test]
async fn bodies_are_told_apart() {
    let server = server().await;
    let token = server.sign_in("@a:example.org", |_| {}).await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(101), "]".repeat(101));
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(1024 * 1024));
    let cases: [(&[u8], u16, &str); 9] = [
        (b"{}", 200, ""),
        (b"", 200, ""),
        (b"{\"name\":", 400, "M_NOT_JSON"),
        (b"name=x", 400, "M_NOT_JSON"),
        (b"{\"name\":\"\xc3\x28\"}", 400, "M_NOT_JSON"),
        (b"{\"name\":1}", 400, "M_BAD_JSON"),
        (b"[]", 400, "M_BAD_JSON"),
        (deep.as_bytes(), 400, "M_BAD_JSON"),
        (large.as_bytes(), 413, "M_TOO_LARGE"),
    ];
    for (body, status, errcode) in cases {
        let answer = server.call_as(&token, Method::POST, CREATE, body.to_vec()).await;
        assert_eq!(answer.error(), (status, errcode.into()), "{}", answer.text);
    }
    let path = "/_matrix/client/v3/directory/room/%23a%3Aexample.org";
    let missing = server.call_as(&token, Method::PUT, path, "{}").await;
    assert_eq!(missing.error(), (400, "M_MISSING_PARAM".into()));
    // ruma panics here.
    let panics = server.call(Method::POST, "/_matrix/client/v3/login", "{}").await;
    assert_eq!(panics.error(), (400, "M_MISSING_PARAM".into()));
    let path = "/_matrix/client/v3/rooms/nonsense/state/m.room.name";
    let invalid = server.call_as(&token, Method::GET, path, "").await;
    assert_eq!(invalid.error(), (400, "M_INVALID_PARAM".into()), "{}", invalid.text);
    let path = "/_matrix/client/v3/rooms/%ff/state/m.room.name";
    let invalid = server.call_as(&token, Method::GET, path, "").await;
    assert_eq!(invalid.error(), (400, "M_INVALID_PARAM".into()));
}

#[tokio::test]
async fn paths_are_decoded_once_and_state_keys_may_be_empty() {
    let server = server().await;
    let token = server.sign_in("@a:example.org", |_| {}).await;
    for (end, key) in [("", ""), ("/", ""), ("/%2525%2Fa", "%25/a"), ("/k", "k")] {
        let path = format!("/_matrix/client/r0/rooms/!a%3Aexample.org/state/m.x{end}");
        let answer = server.call_as(&token, Method::GET, &path, "").await;
        assert_eq!(answer.json(), json!(["@a:example.org", "!a:example.org", "m.x", key]));
        let answer = server.call_as(&token, Method::PUT, &path, "{}").await;
        assert_eq!(answer.json(), json!(["m.x", key]), "{}", answer.text);
    }
}

#[tokio::test]
async fn callers_are_let_in_by_their_type() {
    let server = server().await;
    let user = server.sign_in("@user:example.org", |_| {}).await;
    let locked = server.sign_in("@locked:example.org", |account| account.locked = true).await;
    let suspended = server.sign_in("@suspended:example.org", |account| account.suspended = true).await;
    let admin = server.sign_in("@admin:example.org", |account| account.admin = true).await;
    let guest = server.sign_in("@guest:example.org", |account| account.kind = AccountKind::Guest).await;
    let state = "/_matrix/client/v3/rooms/!a:example.org/state/m.x";
    let (logout, logout_all) = ("/_matrix/client/v3/logout", "/_matrix/client/v3/logout/all");
    let cases = [
        (&user, Method::GET, WHOAMI, 200, ""),
        (&user, Method::POST, logout_all, 403, "M_FORBIDDEN"),
        (&admin, Method::POST, logout_all, 200, ""),
        (&locked, Method::GET, WHOAMI, 401, "M_USER_LOCKED"),
        (&locked, Method::POST, logout, 200, ""),
        (&guest, Method::GET, WHOAMI, 403, "M_GUEST_ACCESS_FORBIDDEN"),
        (&guest, Method::GET, state, 200, ""),
        (&suspended, Method::GET, WHOAMI, 200, ""),
        (&suspended, Method::POST, CREATE, 403, "M_USER_SUSPENDED"),
    ];
    for (token, method, path, status, errcode) in cases {
        let answer = server.call_as(token, method, path, "").await;
        assert_eq!(answer.error(), (status, errcode.into()), "{path} {}", answer.text);
    }
    let answer = server.call_as(&locked, Method::GET, WHOAMI, "").await;
    assert_eq!(answer.json()["soft_logout"], true);
}

/// CVE-2023-32682: an empty token matched rows without one.
#[tokio::test]
async fn cve_2023_32682_empty_tokens_are_nobody() {
    let server = server().await;
    let token = server.sign_in("@user:example.org", |_| {}).await;
    let with_header =
        |value: &str| Request::get(WHOAMI).header("authorization", value).body(String::new().into()).unwrap();
    let cases = [
        ("Bearer ", "M_UNKNOWN_TOKEN"),
        ("Bearer", "M_UNKNOWN_TOKEN"),
        ("Bearer    ", "M_UNKNOWN_TOKEN"),
        ("Bearer x", "M_UNKNOWN_TOKEN"),
        ("Basic x", "M_MISSING_TOKEN"),
    ];
    for (value, errcode) in cases {
        let answer = server.send(with_header(value)).await;
        assert_eq!(answer.error(), (401, errcode.into()), "{value:?}");
    }
    assert_eq!(server.send(with_header(&format!("bearer {token}"))).await.status, 200);
    let query = |token: &str| format!("{WHOAMI}?access_token={token}");
    assert_eq!(server.call(Method::GET, &query(&token), "").await.status, 200);
    assert_eq!(server.call(Method::GET, &query(""), "").await.error(), (401, "M_UNKNOWN_TOKEN".into()));
    assert_eq!(server.call(Method::GET, WHOAMI, "").await.error(), (401, "M_MISSING_TOKEN".into()));
}

#[tokio::test]
async fn limits_refuse_with_retry_after() {
    let mut config = config();
    config.limits.rates = true;
    config.limits.logins = Rate::new(30, Period::Minute, 1);
    let server = TestApp::with_routes(config, routes()).await;
    let login = |address: &str| {
        let body = r#"{"type":"m.login.dummy"}"#.to_owned();
        let peer = Peer::Address(address.parse().unwrap());
        Request::post("/_matrix/client/v3/login").extension(peer).body(body.into()).unwrap()
    };
    assert_ne!(server.send(login("1.1.1.1")).await.status, 429);
    let refused = server.send(login("1.1.1.1")).await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED".into()));
    assert_eq!(refused.headers[header::RETRY_AFTER], "2");
    assert_eq!(refused.json()["retry_after_ms"], 2000);
    assert_ne!(server.send(login("1.1.1.2")).await.status, 429);
    server.clock.advance(std::time::Duration::from_secs(2));
    assert_ne!(server.send(login("1.1.1.1")).await.status, 429);
}
