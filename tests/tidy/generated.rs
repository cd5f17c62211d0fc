//! Files that are generated from the program.

use std::{fs, process::Command};

use allod_server::config::{Filled, Preset, example, options_page};

use crate::source::{check_generated, root};

#[test]
fn the_example_configuration_is_current() {
    check_generated("conf/allod.example.toml", &example(Preset::Internal, &Filled::default()));
}

#[test]
fn the_page_of_options_is_current() {
    check_generated("docs/options.md", &options_page());
}

#[test]
fn the_page_of_commands_is_current() {
    let output = Command::new(env!("CARGO_BIN_EXE_allod")).args(["document", "commands"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    check_generated("docs/commands.md", &String::from_utf8(output.stdout).unwrap());
}

/// The pages of the book, and where its pages and README.md link to.
#[test]
fn the_book_has_all_pages_and_its_links_lead_somewhere() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut broken = Vec::new();
    let pages = fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<_> = pages.filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect();
    for page in &pages {
        let name = page.file_name().unwrap().to_string_lossy();
        if name != "SUMMARY.md" && !summary.contains(&format!("({name})")) {
            broken.push(format!("{name} is not in SUMMARY.md"));
        }
    }
    for page in pages.into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !elsewhere && !page.parent().unwrap().join(path).exists() {
                broken.push(format!("{} links to {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
