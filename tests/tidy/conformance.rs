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
         is served may still lack something: `complement/results.jsonl` says what passes.\n\n\
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
                let served = if is_served(&endpoint) { "yes" } else { "no" };
                let Endpoint { method, path, since, .. } = endpoint;
                writeln!(text, "| `{method} {path}` | {since}{deprecated} | {served} |").unwrap();
            }
        }
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
