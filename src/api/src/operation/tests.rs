//! The page is what Prometheus can read, the dashboard asks for nothing that is not on it, and nobody is named there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use allod_server::config::FederationMode;
use http::Method;
use serde_json::Value;

use super::*;
use crate::testing::{TestApp, config};

/// A server that talks to a partner, after a few requests.
async fn watched() -> (TestApp, String) {
    let mut config = config();
    config.federation.mode = FederationMode::Allow;
    config.federation.allow = vec!["partner.example".try_into().unwrap()];
    let server = TestApp::with(config, |app| crate::router::build(app.clone()).merge(build(app))).await;
    let token = server.sign_in("@anna:example.org", |_| ()).await;
    let room = "/_matrix/client/v3/rooms/!secret:example.org/messages";
    server.call_as(&token, Method::GET, room, "").await;
    server.call(Method::GET, "/_matrix/client/versions", "").await;
    server.call(Method::GET, "/_matrix/client/nonsense", "").await;
    let page = server.call(Method::GET, "/metrics", "").await;
    assert_eq!(page.headers["content-type"], CONTENT_TYPE);
    (server, page.text)
}

/// The name of each sample's metric, and its labels as they are written.
fn samples(page: &str) -> Vec<(&str, &str)> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            series.split_once('{').map_or((series, ""), |(name, labels)| (name, labels.trim_end_matches('}')))
        })
        .collect()
}

/// The names under which the samples of a metric may stand.
fn names_of(name: &str, kind: &str) -> Vec<String> {
    match kind {
        "histogram" => ["_bucket", "_sum", "_count"].iter().map(|part| format!("{name}{part}")).collect(),
        _ => vec![name.to_owned()],
    }
}

#[tokio::test]
async fn the_page_is_what_prometheus_reads() {
    let (_, page) = watched().await;
    let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
    for line in page.lines().filter_map(|line| line.strip_prefix("# ")) {
        let mut words = line.splitn(3, ' ');
        let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        match what {
            "HELP" => {
                assert!(helped.insert(name) && !rest.is_empty(), "{name} is explained twice or not at all");
            }
            "TYPE" => assert_eq!(kinds.insert(name, rest), None, "{name} is declared twice"),
            other => panic!("{other} is no comment of the format"),
        }
    }
    assert_eq!(kinds.keys().copied().collect::<BTreeSet<_>>(), helped);
    for (name, kind) in &kinds {
        let is_named_well =
            name.starts_with("allod_") && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
        assert!(is_named_well, "{name}");
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        for unit in ["_ms", "_millis", "_kib", "_mb", "_minutes", "_hours"] {
            assert!(!name.contains(unit), "{name} is not in seconds or bytes");
        }
    }
    let known: BTreeSet<String> = kinds.iter().flat_map(|(name, kind)| names_of(name, kind)).collect();
    let all = samples(&page);
    for (name, _) in &all {
        assert!(known.contains(*name), "{name} is not declared");
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "a series stands there twice");
    promtool(&page);
}

/// Prometheus' own check, where it is installed.
fn promtool(page: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut process) = command.spawn() else { return };
    process.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn requests_are_counted_by_endpoint_and_nobody_is_named() {
    let (_, page) = watched().await;
    let room =
        "allod_http_requests_total{method=\"GET\",endpoint=\"/_matrix/client/v3/rooms/{room_id}/messages\"";
    assert!(page.contains(room), "{page}");
    assert!(
        page.contains("allod_http_requests_total{method=\"(none)\",endpoint=\"(none)\",status=\"404\"} 1"),
        "{page}"
    );
    assert!(page.contains("allod_federation_queue_events{server=\"partner.example\"} 0"), "{page}");
    for personal in ["anna", "secret", "@", "127.0.0.1"] {
        assert!(!page.contains(personal), "{personal} is on the page");
    }
}

#[tokio::test]
async fn every_query_of_the_dashboard_finds_its_metrics() {
    let (_, page) = watched().await;
    let names: BTreeSet<&str> = samples(&page).into_iter().map(|(name, _)| name).collect();
    let dashboard = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/grafana/allod.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(dashboard).unwrap()).unwrap();
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            queries += 1;
            let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let asked: Vec<&str> = words.filter(|word| word.starts_with("allod_")).collect();
            assert!(!asked.is_empty(), "{query} asks for nothing");
            for asked in asked {
                assert!(names.contains(asked), "{query} asks for {asked}, which is not on the page");
            }
        }
    }
    assert!(queries >= 15, "only {queries} queries were found");
}

#[tokio::test]
async fn a_server_that_stops_is_alive_and_not_ready() {
    let (server, _) = watched().await;
    let status = async |path: &str| server.call(Method::GET, path, "").await.status.as_u16();
    assert_eq!((status("/health").await, status("/ready").await), (200, 200));
    server.app.stopping.cancel();
    assert_eq!((status("/health").await, status("/ready").await), (200, 503));
}

#[tokio::test]
async fn clients_do_not_reach_it() {
    let server = TestApp::new().await;
    for path in ["/metrics", "/ready", "/_allod/admin/v1/status"] {
        assert_eq!(server.call(Method::GET, path, "").await.status.as_u16(), 404, "{path}");
    }
}
