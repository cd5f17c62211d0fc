//! The `[egress]` section.

use super::{option::section, value::Network};

section! {
    /// Requests of this server to other machines.
    Egress = "egress" {
        /// Networks that requests may go to although they are not public: addresses or networks. Whoever can name a
        /// server in a room can make this server connect to it.
        allowed_networks: Vec<Network> = Vec::new() => "[\"10.20.0.0/16\"]", Reloaded;
    }
}
