//! Files have at most 500 lines and functions 70. What is larger stands in a list, with its size, that only shrinks.

use std::{collections::BTreeMap, fmt::Write, fs};

use crate::source::{Source, root, sources, update};

/// Lines of a file.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, from its signature to its last brace.
const FUNCTION_LINES_MAX: usize = 70;
/// What is larger: `path lines`, or `path::function lines`.
const RATCHET: &str = "tests/tidy/oversize.txt";

#[test]
fn files_and_functions_are_small() {
    let oversize = oversize();
    let text = fs::read_to_string(root().join(RATCHET)).unwrap_or_default();
    let allowed = parse(&text);
    let mut grown = Vec::new();
    for (place, lines) in &oversize {
        match allowed.get(place) {
            Some(allowed) if lines <= allowed => {}
            Some(allowed) => grown.push(format!("{place} has {lines} lines, and {allowed} at most before")),
            None => grown.push(format!("{place} has {lines} lines")),
        }
    }
    assert!(grown.is_empty(), "too large; split it: {grown:#?}");
    if allowed != oversize {
        assert!(update(), "{RATCHET} can shrink: UPDATE=1 cargo test --test tidy does it");
        let list = oversize.iter().fold(String::new(), |mut list, (place, lines)| {
            writeln!(list, "{place} {lines}").unwrap();
            list
        });
        fs::write(root().join(RATCHET), list).unwrap();
    }
}

fn parse(list: &str) -> BTreeMap<String, usize> {
    list.lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(place, lines)| (place.to_owned(), lines.parse().unwrap()))
        .collect()
}

fn oversize() -> BTreeMap<String, usize> {
    let mut oversize = BTreeMap::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            oversize.insert(source.path.clone(), lines);
        }
        for (name, lines) in functions(&source) {
            if lines > FUNCTION_LINES_MAX {
                oversize.insert(format!("{}::{name}", source.path), lines);
            }
        }
    }
    oversize
}

/// The functions of a formatted file, with their lengths: each ends at the first closing brace of its own indent.
fn functions(source: &Source) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        // A declaration without a body, or a body on the same line.
        let is_end = |line: &&str| **line == end || start_of(line, indent) && line.ends_with([';', '}']);
        let length = lines[start..].iter().position(is_end).map_or(1, |end| end + 1);
        functions.push((name.to_owned(), length));
    }
    functions
}

/// Whether a line begins at exactly this indent.
fn start_of(line: &str, indent: &str) -> bool {
    line.strip_prefix(indent).is_some_and(|rest| !rest.starts_with(' '))
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        if let Some(name) = rest.strip_prefix("fn ") {
            return name.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next();
        }
        let (word, after) = rest.split_once(' ')?;
        let is_qualifier = matches!(word, "async" | "const" | "unsafe" | "extern") || word.starts_with("pub");
        rest = if is_qualifier { after } else { return None };
    }
}

#[test]
fn lengths_are_counted_from_signature_to_brace() {
    let text = "pub async fn a(\n    b: u8,\n) {\n    if b {\n    }\n}\n    fn c();\nimpl X {\n    fn d() {}\n    pub(crate) fn e() {\n    }\n}\n";
    let source = Source { path: "x.rs".to_owned(), text: text.to_owned() };
    let lengths: Vec<usize> = functions(&source).into_iter().map(|(_, lines)| lines).collect();
    assert_eq!(lengths, [6, 1, 1, 2]);
}
