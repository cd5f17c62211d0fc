//! The `[calls]` section.

use std::time::Duration;

use super::{option::section, secret::SecretFile, value::Interval};

/// How long credentials for the TURN server are valid, unless configured otherwise.
const TURN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

section! {
    /// Calls: this server carries none, and tells clients where they go.
    Calls = "calls" {
        /// The TURN servers that calls between two people go through where they cannot connect directly.
        turn_uris: Vec<String> = Vec::new() => "[\"turns:turn.example.org?transport=tcp\"]", Reloaded;
        /// File with the secret that is shared with the TURN servers (in coturn: static-auth-secret); clients are given
        /// names and passwords made from it that hold for a time.
        turn_secret: Option<SecretFile> = None => "/etc/allod/turn.secret";
        /// How long these hold.
        turn_lifetime: Interval = Interval(TURN_LIFETIME), Reloaded;
        /// The service that lets people into conferences of Element Call (lk-jwt-service): its address.
        livekit_url: Option<String> = None => "https://livekit.example.org/jwt";
    }
    check |calls| {
        let mut problems = Vec::new();
        if !calls.turn_uris.is_empty() && calls.turn_secret.is_none() {
            problems.push(("turn_secret", "must be set with turn_uris".to_owned()));
        }
        let is_turn = |uri: &&String| ["turn:", "turns:", "stun:", "stuns:"].iter().any(|scheme| uri.starts_with(scheme));
        if let Some(uri) = calls.turn_uris.iter().find(|uri| !is_turn(uri)) {
            problems.push(("turn_uris", format!("{uri:?} must begin with turn: or turns: (or stun:, stuns:)")));
        }
        if let Some(url) = &calls.livekit_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            problems.push(("livekit_url", format!("{url:?} must begin with https:// (or http://, for tests)")));
        }
        problems
    };
}
