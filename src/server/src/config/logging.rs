//! The `[logging]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{option::section, value::Interval};

section! {
    /// What the server writes to standard error.
    Logging = "logging" {
        /// How much: "error", "warn", "info", "debug" or "trace"; or by module, such as
        /// "info,allod_server::rooms=debug".
        filter: String = "info".to_owned(), Reloaded;
        /// Requests that take longer are told of as warnings, except those that wait: for news, for other servers,
        /// for files.
        slow_requests: Interval = Interval(Duration::from_secs(5)), Reloaded;
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
