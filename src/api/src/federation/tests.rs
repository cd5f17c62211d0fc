//! Requests of other servers, as the whole API answers them.

use allod_server::config::{Config, FederationMode, Period, Rate};
use http::Method;
use ruma::server_name;
use serde_json::{Value, json};

use super::testing::{Peer, send};
use crate::{
    router,
    testing::{TestApp, config},
};

const PROFILE: &str = "/_matrix/federation/v1/query/profile?user_id=@alice:example.org";

fn federating(mode: FederationMode) -> Config {
    let mut config = config();
    config.federation.mode = mode;
    config
}

async fn server(mode: FederationMode) -> TestApp {
    let mut config = federating(mode);
    config.federation.allow = vec![server_name!("partner.example").to_owned()];
    config.federation.deny = vec![server_name!("unwanted.example").to_owned()];
    let server = TestApp::with(config, router::build).await;
    let token = server.sign_in("@alice:example.org", |_| {}).await;
    let name = json!({ "displayname": "Alice" }).to_string();
    let path = "/_matrix/client/v3/profile/@alice:example.org/displayname";
    assert_eq!(server.call_as(&token, Method::PUT, path, name).await.status, 200);
    server
}

fn unauthorized() -> (u16, String) {
    (401, "M_UNAUTHORIZED".to_owned())
}

#[tokio::test]
async fn switched_off_nothing_is_served() {
    let server = server(FederationMode::Off).await;
    for path in [
        "/_matrix/key/v2/server",
        "/_matrix/key/v2/query/a.example",
        "/_matrix/federation/v1/version",
        "/_matrix/federation/v1/openid/userinfo?access_token=a",
        PROFILE,
    ] {
        let answer = server.call(Method::GET, path, "").await;
        assert_eq!(answer.error(), (404, "M_UNRECOGNIZED".to_owned()), "{path}");
    }
    assert!(router::build_federation(server.app.clone()).is_none());
}

#[tokio::test]
async fn who_is_not_on_the_list_is_refused() {
    let listed = server(FederationMode::Allow).await;
    let answer = Peer::of(&listed, "partner.example").await.call(&listed, Method::GET, PROFILE, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = Peer::of(&listed, "other.example").await.call(&listed, Method::GET, PROFILE, "").await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN".to_owned()));
    let open = server(FederationMode::Open).await;
    let answer = Peer::of(&open, "unwanted.example").await.call(&open, Method::GET, PROFILE, "").await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN".to_owned()));
    let refusals = open.app.federation.as_ref().unwrap().policy.refusals();
    assert_eq!(refusals.len(), 1);
}

/// What the specification lets everyone ask, so that it is not known which server does: keys, the version, and what a
/// token or an identity server vouches for.
const UNSIGNED: [(Method, &str); 7] = [
    (Method::GET, "/_matrix/key/v2/server"),
    (Method::GET, "/_matrix/key/v2/server/"),
    (Method::GET, "/_matrix/key/v2/query/"),
    (Method::POST, "/_matrix/key/v2/query"),
    (Method::GET, "/_matrix/federation/v1/version"),
    (Method::GET, "/_matrix/federation/v1/openid/userinfo"),
    (Method::PUT, "/_matrix/federation/v1/3pid/onbind"),
];

/// The table of routes itself, so that an endpoint that is added later is in it.
#[tokio::test]
async fn a_server_that_is_not_listed_is_refused_at_every_endpoint() {
    let server = server(FederationMode::Allow).await;
    let (known, stranger) = (Peer::of(&server, "other.example").await, Peer::stranger("stranger.example"));
    let routes = router::federation_routes(crate::endpoint::Routes::default());
    let mut signed = 0;
    for (template, endpoints) in &routes.paths {
        for method in endpoints.iter().map(|endpoint| endpoint.method.clone()) {
            let path = filled(template);
            let unsigned = UNSIGNED.iter().any(|(of, begin)| {
                *of == method && (path == *begin || (begin.ends_with('/') && path.starts_with(begin)))
            });
            let body = if method == Method::GET { "" } else { "{}" };
            for peer in [&known, &stranger] {
                let answer = peer.call(&server, method.clone(), &path, body).await;
                if unsigned {
                    assert_ne!(answer.status, 404, "{method} {path} is not served");
                } else {
                    assert_eq!(answer.error(), (403, "M_FORBIDDEN".to_owned()), "{method} {path}");
                    signed += 1;
                }
            }
        }
    }
    assert!(signed >= 2 * 28, "{signed}");
    // Neither its keys nor anything else was asked for.
    assert_eq!(server.app.egress.register().list(), []);
    let refused = server.app.federation.as_ref().unwrap().policy.refusals();
    let counted = |name: &str| refused.iter().find(|(server, _)| server == name).map(|(_, of)| of.inbound);
    assert!(counted("other.example") >= Some(28) && counted("stranger.example") >= Some(28), "{refused:?}");
}

/// A path with something in the place of each parameter.
fn filled(template: &str) -> String {
    let parts = template.split('/').map(|part| if part.starts_with('{') { "stranger.example" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn requests_are_let_in_by_their_signature() {
    let server = server(FederationMode::Open).await;
    let (own, peer) = (server_name!("example.org"), Peer::of(&server, "peer.example").await);
    let stranger = Peer::stranger("stranger.example");
    let get = Method::GET;
    let good = peer.sign(own, &get, PROFILE, "");
    let unsigned = send(&server, Method::GET, PROFILE, "", &[]).await;
    assert_eq!(unsigned.error(), unauthorized());
    for (header, why) in [
        ("X-Matrix", "nothing said"),
        ("X-Matrix origin=peer.example", "half of it said"),
        ("Bearer abc", "another scheme"),
        (&*peer.sign(server_name!("else.example"), &get, PROFILE, ""), "another destination"),
        (&*peer.sign(own, &Method::POST, PROFILE, ""), "another method"),
        (&*peer.sign(own, &get, "/_matrix/federation/v1/query/profile", ""), "another query"),
        (&*peer.sign(own, &get, PROFILE, "{}"), "another body"),
        (&*good.replace("peer.example", "other.example"), "another origin"),
        (&*stranger.sign(own, &get, PROFILE, ""), "an unknown key"),
    ] {
        let answer = send(&server, Method::GET, PROFILE, "", &[header]).await;
        assert_eq!(answer.error(), unauthorized(), "{why}");
    }
    let answer = send(&server, Method::GET, PROFILE, "", &[&good]).await;
    assert_eq!(answer.json(), json!({ "displayname": "Alice" }));
    // Another key of the same server beside it, which is not known, does no harm; one of another server does.
    let own_version = format!("ed25519:{}", peer.identity.key().version());
    let unknown_key = good.replace(&own_version, "ed25519:other");
    assert_eq!(send(&server, Method::GET, PROFILE, "", &[&unknown_key, &good]).await.status, 200);
    let other = stranger.sign(own, &get, PROFILE, "");
    assert_eq!(send(&server, Method::GET, PROFILE, "", &[&good, &other]).await.error(), unauthorized());
    let wrong = peer.sign(own, &get, "/", "");
    assert_eq!(send(&server, Method::GET, PROFILE, "", &[&good, &wrong]).await.error(), unauthorized());
}

#[tokio::test]
async fn bodies_are_covered_by_the_signature() {
    let server = server(FederationMode::Open).await;
    let (own, peer) = (server_name!("example.org"), Peer::of(&server, "peer.example").await);
    let path = "/_matrix/federation/v1/user/keys/query";
    let body = json!({ "device_keys": { "@alice:example.org": [] } }).to_string();
    let header = peer.sign(own, &Method::POST, path, &body);
    let answer = send(&server, Method::POST, path, &body, &[&header]).await;
    assert_eq!(answer.json(), json!({ "device_keys": { "@alice:example.org": {} } }));
    let spaced = body.replace(':', " : ");
    let spaced = spaced.replace("alice : example", "alice:example");
    assert_eq!(send(&server, Method::POST, path, &spaced, &[&header]).await.status, 200);
    let other = body.replace("alice", "bob");
    assert_eq!(send(&server, Method::POST, path, &other, &[&header]).await.error(), unauthorized());
    let odd = r#"{"device_keys":1.5}"#;
    let answer = send(&server, Method::POST, path, odd, &[&header]).await;
    assert_eq!(answer.error(), (400, "M_BAD_JSON".to_owned()));
    let answer = send(&server, Method::POST, path, "nonsense", &[&header]).await;
    assert_eq!(answer.error(), (400, "M_NOT_JSON".to_owned()));
}

#[tokio::test]
async fn a_server_that_asks_too_often_waits() {
    let mut config = federating(FederationMode::Open);
    config.limits.rates = true;
    config.limits.requests_of_server = Rate::new(1, Period::Minute, 2);
    let server = TestApp::with(config, router::build).await;
    let (one, two) = (Peer::of(&server, "one.example").await, Peer::of(&server, "two.example").await);
    for status in [404, 404, 429] {
        assert_eq!(one.call(&server, Method::GET, PROFILE, "").await.status, status);
    }
    assert_eq!(two.call(&server, Method::GET, PROFILE, "").await.status, 404);
}

#[tokio::test]
async fn keys_are_published_and_witnessed() {
    let server = server(FederationMode::Open).await;
    let peer = Peer::of(&server, "peer.example").await;
    let own = server.call(Method::GET, "/_matrix/key/v2/server", "").await.json();
    assert_eq!(own["server_name"], "example.org");
    assert_eq!(own["valid_until_ts"], server.clock.now_ms() + 24 * 3600 * 1000);
    assert!(own["signatures"]["example.org"].is_object());
    // What is published is believed by whoever reads it.
    let other = TestApp::with(federating(FederationMode::Open), router::build).await;
    let keys = &other.app.federation.as_ref().unwrap().keys;
    keys.learn(server_name!("example.org"), &own.to_string()).await.unwrap();

    let one = server.call(Method::GET, "/_matrix/key/v2/query/peer.example", "").await.json();
    let document = &one["server_keys"][0];
    assert_eq!(document["server_name"], "peer.example");
    let signers: Vec<&String> = document["signatures"].as_object().unwrap().keys().collect();
    assert_eq!(signers, ["example.org", "peer.example"]);
    keys.learn(peer.identity.server_name(), &document.to_string()).await.unwrap();

    let wanted = json!({ "server_keys": { "peer.example": {}, "example.org": {}, "10.0.0.1": {} } });
    let many = server.call(Method::POST, "/_matrix/key/v2/query", wanted.to_string()).await.json();
    let names: Vec<&Value> =
        many["server_keys"].as_array().unwrap().iter().map(|document| &document["server_name"]).collect();
    assert_eq!(names, ["example.org", "peer.example"]);
}

#[tokio::test]
async fn questions_without_rooms_are_answered() {
    let server = server(FederationMode::Open).await;
    let peer = Peer::of(&server, "peer.example").await;
    let version = server.call(Method::GET, "/_matrix/federation/v1/version", "").await.json();
    assert_eq!(version["server"]["name"], "allod");
    let get = async |path: &str| peer.call(&server, Method::GET, path, "").await;
    assert_eq!(get(&format!("{PROFILE}&field=displayname")).await.json(), json!({ "displayname": "Alice" }));
    assert_eq!(get(&format!("{PROFILE}&field=avatar_url")).await.json(), json!({}));
    let nobody = "/_matrix/federation/v1/query/profile?user_id=@nobody:example.org";
    assert_eq!(get(nobody).await.error(), (404, "M_NOT_FOUND".to_owned()));
    let alias = "/_matrix/federation/v1/query/directory?room_alias=%23nothing:example.org";
    assert_eq!(get(alias).await.error(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(get("/_matrix/federation/v1/publicRooms?limit=2").await.json()["chunk"], json!([]));
    let filtered = peer.call(&server, Method::POST, "/_matrix/federation/v1/publicRooms", "{}").await;
    assert_eq!(filtered.json()["chunk"], json!([]));
    let devices = get("/_matrix/federation/v1/user/devices/@alice:example.org").await.json();
    assert_eq!((&devices["user_id"], &devices["devices"]), (&json!("@alice:example.org"), &json!([])));
    assert!(devices["stream_id"].as_u64().is_some());
    let elsewhere = get("/_matrix/federation/v1/user/devices/@a:else.example").await;
    assert_eq!(elsewhere.error(), (404, "M_NOT_FOUND".to_owned()));
    let claims =
        json!({ "one_time_keys": { "@alice:example.org": { "A": "signed_curve25519" } } }).to_string();
    let claimed = peer.call(&server, Method::POST, "/_matrix/federation/v1/user/keys/claim", &claims).await;
    assert_eq!(claimed.json(), json!({ "one_time_keys": {} }));
    let unknown = server.call(Method::GET, "/_matrix/federation/v1/openid/userinfo?access_token=x", "").await;
    assert_eq!(unknown.error(), (401, "M_UNKNOWN_TOKEN".to_owned()));
}
