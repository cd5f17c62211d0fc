//! Files that are generated from the program.

use allod_server::config::{Filled, Preset, example};

use crate::source::check_generated;

#[test]
fn the_example_configuration_is_current() {
    check_generated("conf/allod.example.toml", &example(Preset::Internal, &Filled::default()));
}
