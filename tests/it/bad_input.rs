//! Every endpoint that is served, given what it must refuse: no token, a wrong one, a wrong method, bodies that are no
//! JSON, not what they should be, or too large, and ids of nothing. None may answer with a 5xx.

use std::{collections::BTreeMap, fs};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Answer, Person, TestServer};

/// The specification's endpoints: what each asks for by way of authentication.
const ENDPOINTS: &str = "docs/spec-endpoints.tsv";
/// Larger than any body but a file may be.
const TOO_LARGE_BYTES: usize = 14 * 1024 * 1024;

/// An endpoint, with its path filled in with ids of nothing.
struct Endpoint {
    method: Method,
    template: String,
    path: String,
    /// What the specification says; `None` for paths that it does not have.
    authentication: Option<String>,
}

impl Endpoint {
    fn wants_token(&self) -> bool {
        self.authentication.as_deref() == Some("access token")
    }

    fn has_body(&self) -> bool {
        matches!(self.method, Method::POST | Method::PUT) && !is_file(&self.template)
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.template)
    }
}

/// Bodies there are files, which may be anything.
fn is_file(path: &str) -> bool {
    path.contains("/media/") && path.contains("/upload")
}

fn unnamed(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "{}" } else { part }.to_owned();
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

/// A value of the right form for a parameter, which stands behind this part of the path.
fn example(before: &str, person: &Person) -> String {
    match before {
        "rooms" | "room" | "join" | "knock" | "room_summary" | "summary" => "!unknown:example.org",
        "event" | "context" | "redact" | "relations" | "report" | "m.read" | "receipt" => "$unknown",
        "user" | "users" | "profile" | "presence" | "typing" | "whois" | "lock" | "suspend" => {
            &person.user_id
        }
        "devices" => "UNKNOWN",
        _ => "unknown",
    }
    .to_owned()
}

fn endpoints(person: &Person) -> Vec<Endpoint> {
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/spec-endpoints.tsv")).unwrap();
    let authentication: BTreeMap<(String, String), String> = list
        .lines()
        .skip(1)
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .map(|line| ((line[1].to_owned(), unnamed(line[2])), line[4].to_owned()))
        .collect();
    assert!(authentication.len() > 200, "{ENDPOINTS} is not what it was");
    let filled = |template: &str| {
        let parts: Vec<&str> = template.split('/').collect();
        let part = |(index, part): (usize, &&str)| {
            if part.starts_with('{') { example(parts[index - 1], person) } else { (*part).to_owned() }
        };
        parts.iter().enumerate().map(part).collect::<Vec<_>>().join("/")
    };
    allod_api::router::served_to_clients()
        .into_iter()
        .map(|(method, template)| Endpoint {
            path: filled(&template),
            authentication: authentication.get(&(method.to_string(), unnamed(&template))).cloned(),
            method,
            template,
        })
        .collect()
}

/// Refusals have an errcode and a message; a success is a success.
#[track_caller]
fn check_sane(endpoint: &Endpoint, what: &str, answer: &Answer) {
    let (status, body) = (answer.status, &answer.body);
    let name = endpoint.name();
    assert!(!status.is_server_error(), "{name}, {what}: {status} {body}");
    // User-interactive authentication asks without an errcode.
    let asks = status == StatusCode::UNAUTHORIZED && body.get("flows").is_some();
    if status.is_client_error() && !asks {
        assert!(body["errcode"].is_string() && body["error"].is_string(), "{name}, {what}: {status} {body}");
    }
}

async fn server_and_endpoints() -> (TestServer, Person, Vec<Endpoint>) {
    let server = TestServer::new().await;
    let person = server.register("someone").await;
    let endpoints = endpoints(&person);
    (server, person, endpoints)
}

#[tokio::test]
async fn tokens_that_are_missing_or_wrong() {
    let (server, _, endpoints) = server_and_endpoints().await;
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.wants_token()) {
        let name = endpoint.name();
        let body = || if endpoint.has_body() { json!({}) } else { Value::Null };
        let answer = server.anonymously(endpoint.method.clone(), &endpoint.path, body()).await;
        assert_eq!(answer.refusal(), (401, "M_MISSING_TOKEN"), "{name}: {}", answer.body);
        for token in ["wrong", "syt_c29tZW9uZQ_wrong_000000"] {
            let answer = server.send(Some(token), endpoint.method.clone(), &endpoint.path, body()).await;
            assert_eq!(answer.refusal(), (401, "M_UNKNOWN_TOKEN"), "{name}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn methods_that_are_wrong() {
    let (server, person, endpoints) = server_and_endpoints().await;
    for endpoint in &endpoints {
        let answer = server.send(Some(&person.token), Method::PATCH, &endpoint.path, json!({})).await;
        assert_eq!(answer.refusal(), (405, "M_UNRECOGNIZED"), "{}", endpoint.template);
    }
}

#[tokio::test]
async fn bodies_that_are_no_json() {
    let (server, person, endpoints) = server_and_endpoints().await;
    for endpoint in
        endpoints.iter().filter(|endpoint| endpoint.has_body() && endpoint.authentication.is_some())
    {
        for body in [&b"{\"a\":"[..], b"not json", b"{\"a\":\"\xff\"}", b"{} {}"] {
            let answer = server
                .send_bytes(&person.token, endpoint.method.clone(), &endpoint.path, body.to_vec())
                .await;
            check_sane(endpoint, "no JSON", &answer);
            assert!(answer.status.is_client_error(), "{}: {}", endpoint.name(), answer.status);
            if answer.status == StatusCode::BAD_REQUEST {
                assert_eq!(answer.refusal().1, "M_NOT_JSON", "{}: {}", endpoint.name(), answer.body);
            }
        }
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be() {
    let (server, person, endpoints) = server_and_endpoints().await;
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    let bodies = ["[]", "null", "7", "\"text\"", &deep];
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.has_body()) {
        for body in bodies {
            let bytes = body.as_bytes().to_vec();
            let answer =
                server.send_bytes(&person.token, endpoint.method.clone(), &endpoint.path, bytes).await;
            let what = body.get(..20).unwrap_or(body);
            check_sane(endpoint, what, &answer);
            assert!(answer.status.is_client_error(), "{}, {what}: {}", endpoint.name(), answer.status);
        }
    }
}

/// Every field of a known request with a value of another type.
#[tokio::test]
async fn fields_of_the_wrong_type() {
    const FIELDS: [&str; 26] = [
        "type",
        "user_id",
        "room_id",
        "reason",
        "limit",
        "filter",
        "content",
        "name",
        "topic",
        "preset",
        "invite",
        "initial_state",
        "power_level_content_override",
        "messages",
        "device_keys",
        "one_time_keys",
        "actions",
        "enabled",
        "timeout",
        "typing",
        "displayname",
        "visibility",
        "auth",
        "devices",
        "username",
        "password",
    ];
    let (server, person, endpoints) = server_and_endpoints().await;
    for value in [json!(null), json!(-1), json!("text"), json!([[]]), json!({ "a": { "b": [1, "2", null] } })]
    {
        let body: Value = FIELDS.iter().map(|field| ((*field).to_owned(), value.clone())).collect();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.has_body() && !ends_session(endpoint)) {
            let answer =
                server.send(Some(&person.token), endpoint.method.clone(), &endpoint.path, body.clone()).await;
            check_sane(endpoint, &value.to_string(), &answer);
        }
    }
}

#[tokio::test]
async fn bodies_that_are_too_large() {
    let (server, person, endpoints) = server_and_endpoints().await;
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(TOO_LARGE_BYTES)).into_bytes();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.has_body()) {
        let answer =
            server.send_bytes(&person.token, endpoint.method.clone(), &endpoint.path, body.clone()).await;
        // What only administrators may is refused before a body is read.
        if answer.status != StatusCode::FORBIDDEN {
            assert_eq!(answer.refusal(), (413, "M_TOO_LARGE"), "{}: {}", endpoint.name(), answer.body);
        }
    }
}

#[tokio::test]
async fn ids_of_nothing_and_paths_of_nonsense() {
    let (server, person, endpoints) = server_and_endpoints().await;
    for endpoint in endpoints.iter().filter(|endpoint| !ends_session(endpoint)) {
        let body = || if endpoint.has_body() { json!({}) } else { Value::Null };
        let answer = server.send(Some(&person.token), endpoint.method.clone(), &endpoint.path, body()).await;
        check_sane(endpoint, "ids of nothing", &answer);
        if !endpoint.template.contains('{') {
            continue;
        }
        let long = "x".repeat(600);
        for nonsense in ["%00", "%FF%FE", "%2e%2e%2f%2e%2e%2fetc", "%F0%9F%A6%80", "!:", "@", long.as_str()] {
            let part = |part: &str| if part.starts_with('{') { nonsense } else { part }.to_owned();
            let path = endpoint.template.split('/').map(part).collect::<Vec<_>>().join("/");
            let answer = server.send(Some(&person.token), endpoint.method.clone(), &path, body()).await;
            check_sane(endpoint, nonsense, &answer);
        }
        let path = format!("{}?limit=-1&from=%00&since=%FF&timeout=x&dir=z&filter=%7B&ts=-1", endpoint.path);
        let answer = server.send(Some(&person.token), endpoint.method.clone(), &path, body()).await;
        check_sane(endpoint, "a query of nonsense", &answer);
    }
}

/// The test goes on with the same session.
fn ends_session(endpoint: &Endpoint) -> bool {
    endpoint.template.contains("/logout")
}

#[tokio::test]
async fn unknown_paths() {
    let (server, person, _) = server_and_endpoints().await;
    for path in
        ["/", "/_matrix", "/_matrix/client/v3/nothing", "/_matrix/client/v9/sync", "/_synapse/admin/v9/x"]
    {
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            let answer = server.send(Some(&person.token), method.clone(), path, json!({})).await;
            assert_eq!(answer.refusal(), (404, "M_UNRECOGNIZED"), "{method} {path}");
        }
    }
}
