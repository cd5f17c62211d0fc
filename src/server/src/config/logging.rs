//! The `[logging]` section.

use serde::{Deserialize, Serialize};

use super::option::section;

section! {
    /// What the server writes to standard error.
    Logging = "logging" {
        /// How much: "error", "warn", "info", "debug" or "trace"; or by module, such as
        /// "info,allod_server::rooms=debug".
        filter: String = "info".to_owned(), Reloaded;
        /// "text", or "json" with an object a line.
        format: LogFormat = LogFormat::Text;
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}
