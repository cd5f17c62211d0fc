//! The project's source files.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file of Rust.
pub(crate) struct Source {
    /// Its path from the root of the project.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// The root of the project.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of Rust, in the order of their paths.
pub(crate) fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in ["src", "tests"] {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root()).unwrap().display().to_string(),
        })
        .collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Whether generated files are to be rewritten.
pub(crate) fn update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// Checks that a file says `text`, or makes it say so.
pub(crate) fn check_generated(path: &str, text: &str) {
    let file = root().join(path);
    if fs::read_to_string(&file).unwrap_or_default() == text {
        return;
    }
    assert!(update(), "{path} is not current: UPDATE=1 cargo test --test tidy rewrites it");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
}
