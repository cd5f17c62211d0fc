//! Tests of the engines as wholes.

mod crash;
mod disk_full;
mod engines;
mod faults;
mod figures;
mod io_error;
mod random;
mod rocks;

use std::path::Path;

use crate::conformance::SPACES;
use crate::{OpenOptions, Store};

/// Opens a database for the suite's spaces.
fn open(path: &Path) -> Store {
    Store::open(options(path)).unwrap()
}

fn options(path: &Path) -> OpenOptions {
    OpenOptions::new(path, SPACES, 1, "example.org")
}
