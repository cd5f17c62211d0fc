//! The ways to servers, in a world of names without a network.

use ruma::OwnedServerName;

use super::*;
use crate::{
    config::{Config, FederationMode, Live},
    egress::Names,
};

/// A finder in a world of names and well-known documents.
fn discovery(documents: &[(&str, &str)]) -> (Discovery, Names, Clock) {
    let names = Names::table(
        &[
            ("plain.example", &["1.0.0.1"]),
            ("srv.example", &["1.0.0.2"]),
            ("old.example", &["1.0.0.3"]),
            ("delegating.example", &["1.0.0.4"]),
            ("target-a.example", &["1.0.1.1"]),
            ("target-b.example", &["1.0.1.2", "2606:4700::2"]),
            ("inside.example", &["10.0.0.1"]),
        ],
        &[
            ("_matrix-fed._tcp.srv.example", &[("target-a.example", 4433), ("target-b.example", 4434)]),
            ("_matrix._tcp.srv.example", &[("plain.example", 1)]),
            ("_matrix._tcp.old.example", &[("target-b.example", 5555)]),
            ("_matrix-fed._tcp.rebound.example", &[("inside.example", 22)]),
        ],
    );
    let mut config = Config::default();
    config.federation.mode = FederationMode::Open;
    let clock = Clock::manual(0);
    let egress = Egress::new(Live::new(config), clock.clone(), names.clone());
    let discovery = Discovery::new(egress, clock.clone()).unwrap();
    let hosts = ["plain.example", "srv.example", "old.example", "rebound.example", "missing.example"];
    for host in hosts {
        discovery.well_knowns.keep(host, WellKnown::None, Duration::from_secs(7200), 0);
    }
    for (host, server) in documents {
        let server: OwnedServerName = (*server).try_into().unwrap();
        discovery.well_knowns.keep(host, WellKnown::Delegated(server), Duration::from_secs(7200), 0);
    }
    (discovery, names, clock)
}

type Case = (&'static str, Option<&'static str>, Step, &'static str, &'static str, &'static [&'static str]);

/// The whole table of <https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names>: name, document, then
/// step, name of the certificate with the port that it is asked at, `Host` header, addresses.
const CASES: [Case; 15] = [
    ("1.2.3.4", None, Step::Literal, "1.2.3.4:8448", "1.2.3.4", &["1.2.3.4:8448"]),
    ("1.2.3.4:80", None, Step::Literal, "1.2.3.4:80", "1.2.3.4:80", &["1.2.3.4:80"]),
    (
        "[2606:4700::1]",
        None,
        Step::Literal,
        "[2606:4700::1]:8448",
        "[2606:4700::1]",
        &["[2606:4700::1]:8448"],
    ),
    ("[2606:4700::1]:5", None, Step::Literal, "[2606:4700::1]:5", "[2606:4700::1]:5", &["[2606:4700::1]:5"]),
    ("srv.example:99", None, Step::Port, "srv.example:99", "srv.example:99", &["1.0.0.2:99"]),
    ("delegating.example", Some("1.2.3.4"), Step::Literal, "1.2.3.4:8448", "1.2.3.4", &["1.2.3.4:8448"]),
    ("delegating.example", Some("1.2.3.4:7"), Step::Literal, "1.2.3.4:7", "1.2.3.4:7", &["1.2.3.4:7"]),
    (
        "delegating.example",
        Some("plain.example:7"),
        Step::Port,
        "plain.example:7",
        "plain.example:7",
        &["1.0.0.1:7"],
    ),
    (
        "delegating.example",
        Some("srv.example"),
        Step::Service,
        "srv.example",
        "srv.example",
        &["1.0.1.1:4433", "1.0.1.2:4434", "[2606:4700::2]:4434"],
    ),
    (
        "delegating.example",
        Some("old.example"),
        Step::Service,
        "old.example",
        "old.example",
        &["1.0.1.2:5555", "[2606:4700::2]:5555"],
    ),
    (
        "delegating.example",
        Some("plain.example"),
        Step::Name,
        "plain.example",
        "plain.example",
        &["1.0.0.1:8448"],
    ),
    (
        "srv.example",
        None,
        Step::Service,
        "srv.example",
        "srv.example",
        &["1.0.1.1:4433", "1.0.1.2:4434", "[2606:4700::2]:4434"],
    ),
    (
        "old.example",
        None,
        Step::Service,
        "old.example",
        "old.example",
        &["1.0.1.2:5555", "[2606:4700::2]:5555"],
    ),
    ("plain.example", None, Step::Name, "plain.example", "plain.example", &["1.0.0.1:8448"]),
    // A document of the delegated host is not asked for.
    (
        "delegating.example",
        Some("delegating.example"),
        Step::Name,
        "delegating.example",
        "delegating.example",
        &["1.0.0.4:8448"],
    ),
];

#[tokio::test]
async fn names_resolve_as_the_specification_says() {
    for (name, document, step, authority, host, addresses) in CASES {
        let documents: Vec<(&str, &str)> =
            document.map(|server| ("delegating.example", server)).into_iter().collect();
        let (discovery, ..) = discovery(&documents);
        let route = discovery.route(name.try_into().unwrap()).await.unwrap();
        let destination = &route.destination;
        assert_eq!(route.step, step, "{name} {document:?}");
        assert_eq!(destination.authority, authority, "{name} {document:?}");
        let sent = destination.host_header.as_deref().unwrap_or(&destination.authority);
        assert_eq!(sent, host, "{name} {document:?}");
        let found: Vec<String> = destination.addresses.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(found, addresses, "{name} {document:?}");
        assert_eq!(route.delegated.as_ref().map(|server| server.as_str()), document);
    }
}

/// CVE-2024-52594, and palpo's #190: a server's name, its document or its records led into the own network.
#[tokio::test]
async fn cve_2024_52594_no_way_leads_inside() {
    let (discovery, ..) = discovery(&[("delegating.example", "127.0.0.1:80")]);
    let names = [
        "inside.example:80",
        "10.0.0.1",
        "[::1]:8448",
        "[::ffff:10.0.0.1]",
        "delegating.example",
        "rebound.example",
    ];
    for name in names {
        let route = discovery.route(name.try_into().unwrap()).await;
        assert!(matches!(route, Err(EgressError::Address(_))), "{name} {route:?}");
    }
}

#[tokio::test]
async fn routes_are_kept_for_a_while_and_forgotten_when_they_fail() {
    let (discovery, names, clock) = discovery(&[]);
    let server: &ServerName = "plain.example".try_into().unwrap();
    let asked = || names.asked().iter().filter(|name| *name == "plain.example").count();
    discovery.route(server).await.unwrap();
    discovery.route(server).await.unwrap();
    assert_eq!(asked(), 1);
    clock.advance(ROUTE_TIME);
    discovery.route(server).await.unwrap();
    assert_eq!(asked(), 2);
    discovery.forget(server);
    discovery.route(server).await.unwrap();
    assert_eq!(asked(), 3);
    assert!(discovery.route("missing.example".try_into().unwrap()).await.is_err());
}
