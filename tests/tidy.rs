//! What the compiler and clippy cannot check: sizes, the direction of dependencies, generated files that are current.
//!
//! `UPDATE=1 cargo test --test tidy` rewrites what is generated. It does not make the ratchet list of sizes longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of it is tests, and clippy excuses only functions that are marked so"
)]

#[path = "tidy/conformance.rs"]
mod conformance;
#[path = "tidy/edges.rs"]
mod edges;
#[path = "tidy/generated.rs"]
mod generated;
#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeMap;

use source::sources;

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    assert!(
        silent.is_empty(),
        "these files do not open with what they own and must not do (//!): {silent:#?}"
    );
}

#[test]
fn what_is_to_be_done_says_why() {
    let mut silent = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            let Some((_, rest)) = line.split_once(concat!("TO", "DO")) else { continue };
            let reason = rest.trim_start_matches(':').split_whitespace().count();
            if !rest.starts_with(':') || reason < 3 {
                silent.push(format!("{}:{number}", source.path));
            }
        }
    }
    assert!(silent.is_empty(), "write what is to be done and why it is not done yet: {silent:#?}");
}

#[test]
fn table_ids_and_names_are_unique() {
    let (mut ids, mut names) = (BTreeMap::new(), BTreeMap::new());
    for table in allod_server::tables::all() {
        assert_eq!(ids.insert(table.id, table.name), None, "{} shares its id {}", table.name, table.id);
        assert_eq!(names.insert(table.name, table.id), None, "two tables are called {}", table.name);
    }
}
