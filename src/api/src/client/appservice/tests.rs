//! Application services over HTTP: whom they act for, what is kept for them, their devices.

use http::Method;
use serde_json::{Value, json};

use crate::{
    router,
    testing::{Answer, TestApp, config},
};

const REGISTRATION: &str = r##"
id: irc
url: null
as_token: the-as-token
hs_token: the-hs-token
sender_localpart: ircbot
rate_limited: false
namespaces:
  users: [{ exclusive: true, regex: "@irc_.*:example\\.org" }]
  aliases: [{ exclusive: true, regex: "#irc_.*:example\\.org" }]
"##;
const TOKEN: &str = "the-as-token";
const V3: &str = "/_matrix/client/v3";

async fn app(rates: bool) -> TestApp {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("irc.yaml");
    std::fs::write(&file, REGISTRATION).unwrap();
    let mut config = config();
    config.limits.rates = rates;
    config.accounts.registration = allod_server::config::Registration::Open;
    config.appservices.registrations = vec![file];
    TestApp::with(config, router::build).await
}

async fn register(app: &TestApp, token: Option<&str>, name: &str, body: Value) -> Answer {
    let mut wanted = json!({ "type": "m.login.application_service", "username": name });
    wanted.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let path = format!("{V3}/register");
    match token {
        Some(token) => app.call_as(token, Method::POST, &path, wanted.to_string()).await,
        None => app.call(Method::POST, &path, wanted.to_string()).await,
    }
}

#[tokio::test]
async fn they_act_for_their_own_users_and_no_others() {
    let app = app(false).await;
    let whoami = |query: &str| {
        let path = format!("{V3}/account/whoami{query}");
        let app = &app;
        async move { app.call_as(TOKEN, Method::GET, &path, "").await }
    };
    assert_eq!(whoami("").await.json(), json!({ "user_id": "@ircbot:example.org" }));
    assert_eq!(whoami("?user_id=@irc_anna:example.org").await.error(), (403, "M_FORBIDDEN".to_owned()));
    let made = register(&app, Some(TOKEN), "irc_anna", json!({ "inhibit_login": true })).await;
    assert_eq!(made.json(), json!({ "user_id": "@irc_anna:example.org" }));
    let anna = whoami("?user_id=@irc_anna:example.org").await.json();
    assert_eq!(anna, json!({ "user_id": "@irc_anna:example.org" }));
    for other in ["@alice:example.org", "@irc_anna:other.example", "nobody"] {
        let status = whoami(&format!("?user_id={other}")).await.status.as_u16();
        assert!(matches!(status, 400 | 403), "{other}");
    }
    let device = "?user_id=@irc_anna:example.org&device_id=PHONE";
    assert_eq!(whoami(device).await.error(), (400, "M_UNKNOWN_DEVICE".to_owned()));
    let path = format!("{V3}/devices/PHONE?user_id=@irc_anna:example.org");
    let put = json!({ "display_name": "Phone" }).to_string();
    assert_eq!(app.call_as(TOKEN, Method::PUT, &path, put.clone()).await.status, 201);
    assert_eq!(app.call_as(TOKEN, Method::PUT, &path, put).await.status, 200);
    assert_eq!(whoami(device).await.json()["device_id"], "PHONE");
    // Without the user's password: there is none.
    assert_eq!(app.call_as(TOKEN, Method::DELETE, &path, "{}").await.status, 200);
    assert_eq!(whoami(device).await.error(), (400, "M_UNKNOWN_DEVICE".to_owned()));
    let keys = format!("{V3}/keys/upload?user_id=@irc_anna:example.org");
    assert_eq!(
        app.call_as(TOKEN, Method::POST, &keys, "{}").await.error(),
        (400, "M_INVALID_PARAM".to_owned())
    );
}

#[tokio::test]
async fn names_are_kept_for_them() {
    let app = app(false).await;
    assert_eq!(register(&app, None, "irc_a", json!({})).await.error(), (401, "M_MISSING_TOKEN".to_owned()));
    assert_eq!(
        register(&app, Some("x"), "irc_a", json!({})).await.error(),
        (401, "M_UNKNOWN_TOKEN".to_owned())
    );
    assert_eq!(
        register(&app, Some(TOKEN), "other", json!({})).await.error(),
        (400, "M_EXCLUSIVE".to_owned())
    );
    let made = register(&app, Some(TOKEN), "irc_a", json!({ "device_id": "D" })).await.json();
    assert_eq!(made["device_id"], "D");
    assert!(made["access_token"].is_string());
    assert_eq!(
        register(&app, Some(TOKEN), "irc_a", json!({})).await.error(),
        (400, "M_USER_IN_USE".to_owned())
    );
    let wanted =
        json!({ "username": "irc_b", "password": "long enough", "auth": { "type": "m.login.dummy" } });
    let refused = app.call(Method::POST, &format!("{V3}/register"), wanted.to_string()).await;
    assert_eq!(refused.error(), (400, "M_EXCLUSIVE".to_owned()));
    for name in ["irc_b", "ircbot"] {
        let path = format!("{V3}/register/available?username={name}");
        assert_eq!(app.call(Method::GET, &path, "").await.error(), (400, "M_EXCLUSIVE".to_owned()), "{name}");
    }
    let alice = app.sign_in("@alice:example.org", |_| {}).await;
    let room = app.call_as(&alice, Method::POST, &format!("{V3}/createRoom"), "{}").await.json();
    let path = format!("{V3}/directory/room/%23irc_den:example.org");
    let to = json!({ "room_id": room["room_id"] }).to_string();
    let refused = app.call_as(&alice, Method::PUT, &path, to.clone()).await;
    assert_eq!(refused.error(), (400, "M_EXCLUSIVE".to_owned()));
    assert_eq!(app.call_as(TOKEN, Method::PUT, &path, to).await.status, 200);
    let named = json!({ "room_alias_name": "irc_other" }).to_string();
    let refused = app.call_as(&alice, Method::POST, &format!("{V3}/createRoom"), named).await;
    assert_eq!(refused.error(), (400, "M_EXCLUSIVE".to_owned()));
}

#[tokio::test]
async fn they_sign_their_users_in() {
    let app = app(false).await;
    register(&app, Some(TOKEN), "irc_a", json!({ "inhibit_login": true })).await;
    let login = |token: &'static str, user: &'static str| {
        let identifier = json!({ "type": "m.id.user", "user": user });
        let body = json!({ "type": "m.login.application_service", "identifier": identifier }).to_string();
        let app = &app;
        async move { app.call_as(token, Method::POST, &format!("{V3}/login"), body).await }
    };
    assert_eq!(login(TOKEN, "irc_a").await.json()["user_id"], "@irc_a:example.org");
    assert_eq!(login(TOKEN, "@irc_a:example.org").await.status, 200);
    assert_eq!(login(TOKEN, "alice").await.error(), (400, "M_EXCLUSIVE".to_owned()));
    assert_eq!(login("wrong", "irc_a").await.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
    let flows = app.call(Method::GET, &format!("{V3}/login"), "").await.json()["flows"].clone();
    assert!(flows.as_array().unwrap().contains(&json!({ "type": "m.login.application_service" })), "{flows}");
}

#[tokio::test]
async fn times_are_what_they_say_and_transactions_are_each_users_own() {
    let app = app(false).await;
    for name in ["irc_a", "irc_b"] {
        register(&app, Some(TOKEN), name, json!({ "inhibit_login": true })).await;
    }
    let room = json!({ "preset": "public_chat" }).to_string();
    let path = format!("{V3}/createRoom?user_id=@irc_a:example.org");
    let room = app.call_as(TOKEN, Method::POST, &path, room).await.json();
    let room = room["room_id"].as_str().unwrap();
    let join = format!("{V3}/join/{room}?user_id=@irc_b:example.org");
    assert_eq!(app.call_as(TOKEN, Method::POST, &join, "{}").await.status, 200);
    let send = |user: &'static str| {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/1?ts=1234&user_id=@{user}:example.org");
        let body = json!({ "msgtype": "m.text", "body": "hello" }).to_string();
        let app = &app;
        async move { app.call_as(TOKEN, Method::PUT, &path, body).await.json()["event_id"].clone() }
    };
    let (one, again, other) = (send("irc_a").await, send("irc_a").await, send("irc_b").await);
    assert!(one.is_string() && one == again && one != other);
    let path = format!("{V3}/rooms/{room}/event/{}", one.as_str().unwrap());
    let event =
        app.call_as(TOKEN, Method::GET, &format!("{path}?user_id=@irc_a:example.org"), "").await.json();
    assert_eq!((&event["origin_server_ts"], &event["sender"]), (&json!(1234), &json!("@irc_a:example.org")));
    // Nobody else's clocks are believed.
    let alice = app.sign_in("@alice:example.org", |_| {}).await;
    app.call_as(&alice, Method::POST, &format!("{V3}/join/{room}"), "{}").await;
    let path = format!("{V3}/rooms/{room}/state/m.test/?ts=1234");
    let set = app.call_as(TOKEN, Method::PUT, &format!("{path}&user_id=@irc_a:example.org"), "{}").await;
    let event = format!("{V3}/rooms/{room}/event/{}", set.json()["event_id"].as_str().unwrap());
    assert_eq!(app.call_as(&alice, Method::GET, &event, "").await.json()["origin_server_ts"], 1234);
    let path = format!("{V3}/rooms/{room}/send/m.room.message/1?ts=1234");
    let body = json!({ "msgtype": "m.text", "body": "hello" }).to_string();
    let sent = app.call_as(&alice, Method::PUT, &path, body).await.json();
    let event = format!("{V3}/rooms/{room}/event/{}", sent["event_id"].as_str().unwrap());
    assert_ne!(app.call_as(&alice, Method::GET, &event, "").await.json()["origin_server_ts"], 1234);
}

#[tokio::test]
async fn requests_are_not_counted_where_the_registration_says_so() {
    let app = app(true).await;
    register(&app, Some(TOKEN), "irc_a", json!({ "inhibit_login": true })).await;
    let path = format!("{V3}/joined_rooms?user_id=@irc_a:example.org");
    for _ in 0..2_000 {
        assert_eq!(app.call_as(TOKEN, Method::GET, &path, "").await.status, 200);
    }
}

#[tokio::test]
async fn networks_and_pings_have_answers() {
    let app = app(false).await;
    let alice = app.sign_in("@alice:example.org", |_| {}).await;
    let get = |path: &str| {
        let (path, app, alice) = (format!("{V3}/thirdparty/{path}"), &app, &alice);
        async move { app.call_as(alice, Method::GET, &path, "").await }
    };
    assert_eq!(get("protocols").await.json(), json!({}));
    for path in
        ["protocol/irc", "location/irc", "user/irc?nick=a", "location?alias=%23a:b", "user?userid=@a:b"]
    {
        assert_eq!(get(path).await.error(), (404, "M_NOT_FOUND".to_owned()), "{path}");
    }
    assert_eq!(get("user").await.error(), (400, "M_MISSING_PARAM".to_owned()));
    let ping = |id: &str| format!("/_matrix/client/v1/appservice/{id}/ping");
    let none = app.call_as(TOKEN, Method::POST, &ping("irc"), "{}").await;
    assert_eq!(none.error(), (400, "M_URL_NOT_SET".to_owned()));
    assert_eq!(
        app.call_as(TOKEN, Method::POST, &ping("x"), "{}").await.error(),
        (403, "M_FORBIDDEN".to_owned())
    );
    let stranger = app.call_as(&alice, Method::POST, &ping("irc"), "{}").await;
    assert_eq!(stranger.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}
