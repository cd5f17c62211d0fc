//! Which module of the server crate may use which other: the list in `edges.txt`, and no cycle in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::source::{check_generated, sources};

/// Modules that know each other on purpose, and count as one.
const KNOTS: [(&str, &[&str]); 1] = [
    // A table's declaration and the store with types cannot be told apart; numbers are keys of tables.
    ("tables", &["database", "log", "numbers"]),
];

/// The folder of the server crate.
const FOLDER: &str = "src/server/src/";

type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn server_modules_use_each_other_in_one_direction() {
    let edges = edges();
    let mut list = String::from(
        "# Which module of the server crate uses which others. A new edge is a decision: this file changes with it.\n",
    );
    for (module, uses) in &edges {
        let uses: Vec<&str> = uses.iter().map(String::as_str).collect();
        writeln!(list, "{module}: {}", uses.join(" ")).unwrap();
    }
    assert_eq!(cycle(&edges), None, "these modules use each other in a circle");
    check_generated("tests/tidy/edges.txt", &list);
}

fn edges() -> Edges {
    let mut edges = Edges::new();
    for source in sources() {
        let Some(path) = source.path.strip_prefix(FOLDER) else { continue };
        let module = path.split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        // Tests may use what they like; they stand at the end of a file, or in one called tests or testing.
        if path.ends_with("tests.rs") || path.ends_with("testing.rs") {
            continue;
        }
        let text = source.text.split("#[cfg(test)]").next().unwrap();
        let uses = edges.entry(one_of_knot(module).to_owned()).or_default();
        let used = used_modules(text).into_iter().map(|used| one_of_knot(&used).to_owned());
        uses.extend(used.filter(|used| used != one_of_knot(module)));
    }
    edges
}

fn one_of_knot(module: &str) -> &str {
    KNOTS.iter().find(|(_, others)| others.contains(&module)).map_or(module, |(name, _)| name)
}

/// The modules named behind `crate::`, also within braces.
fn used_modules(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => used.extend(first_words(group)),
            None => used.extend(word(rest)),
        }
    }
    used
}

/// The first word of each path of a group such as `a, b::{c, d}, e::f}`.
fn first_words(group: &str) -> Vec<String> {
    let (mut words, mut depth, mut begins) = (Vec::new(), 0_u32, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !letter.is_whitespace() => {
                words.extend(word(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    words
}

/// A module's name at the beginning of a text; a macro or a type of the crate's root is none.
fn word(text: &str) -> Option<String> {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word.starts_with(|letter: char| letter.is_lowercase()) && !rest.starts_with('!'))
        .then(|| word.to_owned())
}

/// A circle of modules, if there is one.
fn cycle(edges: &Edges) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    edges.keys().find_map(|module| visit(module, edges, &mut Vec::new(), &mut done))
}

fn visit(
    module: &str,
    edges: &Edges,
    path: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(start) = path.iter().position(|step| step == module) {
        return Some(path[start..].to_vec());
    }
    if !done.contains(module) {
        path.push(module.to_owned());
        for next in edges.get(module).into_iter().flatten() {
            if let Some(cycle) = visit(next, edges, path, done) {
                return Some(cycle);
            }
        }
        path.pop();
        done.insert(module.to_owned());
    }
    None
}

#[test]
fn modules_are_found_in_paths_and_groups() {
    let text = "use crate::{\n    clock::Clock,\n    database::{self, Corrupt},\n    tables,\n};\n// crate::no\nlet x = crate::random::Random::new();\ncrate::tables! {}\n";
    let used: Vec<String> = used_modules(text).into_iter().collect();
    assert_eq!(used, ["clock", "database", "random", "tables"]);
}

#[test]
fn circles_are_found() {
    let edges = |list: &[(&str, &str)]| {
        let mut edges = Edges::new();
        for (from, to) in list {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        edges
    };
    assert_eq!(cycle(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(
        cycle(&edges(&[("a", "b"), ("b", "c"), ("c", "b")])),
        Some(vec!["b".to_owned(), "c".to_owned()])
    );
}
