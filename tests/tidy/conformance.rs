//! `docs/conformance.md`: every endpoint of the specification, and whether it is served.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use crate::source::{check_generated, root};

/// The specification's endpoints, a line each.
const ENDPOINTS: &str = "docs/spec-endpoints.tsv";

/// APIs in the order of the document, with their titles. Those that a homeserver calls and does not serve are left out.
const APIS: [(&str, &str); 3] = [
    ("client-server", "Client-server API"),
    ("client-server-prose", "Client-server API, defined in prose"),
    ("server-server", "Server-server API"),
];

/// Why an endpoint is not served. One that is served must not stand here, and one that is not must.
const REASONS: [(&str, &str); 19] = [
    ("POST /_matrix/client/v3/account/3pid", "deprecated; an administrator gives accounts their addresses"),
    ("POST /_matrix/client/v1/login/get_token", NO_SINGLE_SIGN_ON),
    ("GET /_matrix/client/v1/auth_metadata", NO_OAUTH),
    ("GET /_matrix/client/v3/events", OLD_SYNC),
    ("GET /_matrix/client/v3/initialSync", OLD_SYNC),
    ("GET /_matrix/client/v3/events/{eventId}", OLD_SYNC),
    ("GET /_matrix/client/v3/rooms/{roomId}/initialSync", OLD_SYNC),
    ("GET /.well-known/matrix/policy_server", NO_POLICY_SERVER),
    ("GET /_matrix/client/v3/login/sso/redirect", NO_SINGLE_SIGN_ON),
    ("GET /_matrix/client/v3/login/sso/redirect/{idpId}", NO_SINGLE_SIGN_ON),
    ("GET {authorization_endpoint}", NO_OAUTH),
    ("POST {registration_endpoint}", NO_OAUTH),
    ("POST {device_authorization_endpoint}", NO_OAUTH),
    ("POST {token_endpoint}", NO_OAUTH),
    ("GET {account_management_uri}", NO_OAUTH),
    ("POST {revocation_endpoint}", NO_OAUTH),
    ("GET /_matrix/static/client/login/", "a page for clients without a form of their own; none needs it"),
    (
        "GET /_matrix/federation/v1/query/{queryType}",
        "stands for the queries that are served under paths of their own",
    ),
    ("POST /_matrix/policy/v1/sign", NO_POLICY_SERVER),
];
const NO_OAUTH: &str = "people sign in at this server, by password; there is no OAuth 2.0";
const NO_SINGLE_SIGN_ON: &str = "there is no single sign-on";
const NO_POLICY_SERVER: &str = "this server asks policy servers, and is none";
const OLD_SYNC: &str = "deprecated or replaced; `/sync`, `/messages` and room summaries tell all of it";

struct Endpoint<'a> {
    method: &'a str,
    path: &'a str,
    since: &'a str,
    deprecated: bool,
    chapter: &'a str,
}

#[test]
fn the_list_of_served_endpoints_is_current() {
    let list = fs::read_to_string(root().join(ENDPOINTS)).unwrap();
    let served: BTreeSet<(String, String)> = allod_api::router::served()
        .into_iter()
        .map(|(method, path)| (method.to_string(), unnamed(&path)))
        .collect();
    check_generated("docs/conformance.md", &document(&list, &served));
}

fn document(list: &str, served: &BTreeSet<(String, String)>) -> String {
    let is_served =
        |endpoint: &Endpoint<'_>| served.contains(&(endpoint.method.to_owned(), unnamed(endpoint.path)));
    let mut text = String::from(
        "# Conformance\n\n\
         Every endpoint of the Matrix specification (v1.19) that a homeserver serves, and whether allod does. Generated from\n\
         the router and `spec-endpoints.tsv` by `tests/tidy.rs`, which fails when this file is not current. An endpoint that\n\
         is served may still lack something: `complement/results.jsonl` says what passes. What a homeserver asks of\n\
         application services is listed last.\n\n\
         | API | endpoints | served |\n|---|---|---|\n",
    );
    for (api, title) in APIS {
        let endpoints = endpoints(list, api);
        let count = endpoints.iter().filter(|endpoint| is_served(endpoint)).count();
        writeln!(text, "| {title} | {} | {count} |", endpoints.len()).unwrap();
    }
    for (api, title) in APIS {
        write!(text, "\n## {title}\n").unwrap();
        let mut chapters: BTreeMap<&str, Vec<Endpoint<'_>>> = BTreeMap::new();
        for endpoint in endpoints(list, api) {
            chapters.entry(endpoint.chapter).or_default().push(endpoint);
        }
        for (chapter, endpoints) in chapters {
            write!(text, "\n### {chapter}\n\n| endpoint | since | served |\n|---|---|---|\n").unwrap();
            for endpoint in endpoints {
                let deprecated = if endpoint.deprecated { ", deprecated" } else { "" };
                let Endpoint { method, path, since, .. } = endpoint;
                let name = format!("{method} {path}");
                let reason = REASONS.iter().find(|(of, _)| *of == name).map(|(_, reason)| *reason);
                let served = match (is_served(&endpoint), reason) {
                    (true, None) => "yes".to_owned(),
                    (false, Some(reason)) => format!("no: {reason}"),
                    (true, Some(_)) => panic!("{name} is served: it needs no reason"),
                    (false, None) => panic!("{name} is not served: say why in REASONS"),
                };
                writeln!(text, "| `{method} {path}` | {since}{deprecated} | {served} |").unwrap();
            }
        }
    }
    text.push_str(&called(list));
    text
}

/// What this server asks of application services, and whether its sources name the path.
fn called(list: &str) -> String {
    let asks = ["ask.rs", "deliver.rs"]
        .map(|file| fs::read_to_string(root().join("src/server/src/appservices").join(file)).unwrap());
    let mut text =
        String::from("\n## Application service API\n\n| endpoint | since | asked |\n|---|---|---|\n");
    for endpoint in endpoints(list, "application-service") {
        let Endpoint { method, path, since, .. } = endpoint;
        let fixed: String = path.split('{').next().unwrap_or(path).trim_end_matches('/').to_owned();
        // Users and locations are asked for by the same code.
        let fixed = fixed.trim_end_matches("/user").trim_end_matches("/location").to_owned();
        let is_asked = asks.iter().any(|source| source.contains(&format!("\"{fixed}")));
        assert!(is_asked, "{method} {path} is asked by nobody");
        writeln!(text, "| `{method} {path}` | {since} | yes |").unwrap();
    }
    text
}

fn endpoints<'a>(list: &'a str, api: &str) -> Vec<Endpoint<'a>> {
    list.lines()
        .skip(1)
        .map(|line| line.split('\t').collect::<Vec<&str>>())
        .filter(|fields| fields.first() == Some(&api))
        .map(|fields| {
            let [_, method, path, _, _, _, since, deprecated, source] = *fields else {
                panic!("{ENDPOINTS} has a line of {} fields", fields.len())
            };
            let chapter = source.rsplit(['/', '#']).next().unwrap_or(source).trim_end_matches(".yaml");
            Endpoint { method, path, since, deprecated: deprecated == "y", chapter }
        })
        .collect()
}

/// A path without the names of its parameters, which each side chooses.
fn unnamed(path: &str) -> String {
    let segments = path.trim_end_matches('/').split('/');
    segments
        .map(|segment| if segment.starts_with('{') { "{}" } else { segment })
        .collect::<Vec<_>>()
        .join("/")
}
