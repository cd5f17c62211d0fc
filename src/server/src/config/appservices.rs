//! The `[appservices]` section.

use std::path::PathBuf;

use super::option::section;

section! {
    /// Bridges to other networks, and bots.
    Appservices = "appservices" {
        /// Their registration files, or folders with such files (`*.yaml`).
        registrations: Vec<PathBuf> = Vec::new() => "[\"/etc/allod/appservices\"]";
    }
}
