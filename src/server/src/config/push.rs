//! The `[push]` section.

use super::option::section;

section! {
    /// Notifications of people's devices, sent through the push gateways that their applications name.
    Push = "push" {
        /// Whether notifications leave this server at all.
        enabled: bool = true, Reloaded;
        /// The hosts of gateways that may be used; none listed means any. Gateways at addresses that are not public need
        /// `egress.allowed_networks` too.
        gateways: Vec<String> = Vec::new() => "[\"push.example.org\"]", Reloaded;
        /// Whether gateways learn nothing but ids and counts, whatever an application asks for: not who said something,
        /// nor what, nor the names of rooms.
        event_id_only: bool = false, Reloaded;
    }
}
