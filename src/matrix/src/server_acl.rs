//! `m.room.server_acl`: which servers may take part in a room (§Server Access Control Lists).
//!
//! ruma's content type refuses the whole event for one odd field; the specification wants odd
//! fields replaced by their defaults.

use std::net::IpAddr;

use ruma::ServerName;
use serde_json::{Value, value::RawValue};

use crate::glob::{Glob, Wildcards};

/// A compiled access control list.
#[derive(Clone, Debug)]
pub struct ServerAcl {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    allow_ip_literals: bool,
}

impl ServerAcl {
    /// Reads an event's content. What is missing or odd counts as its default: no server allowed,
    /// none denied, IP literals allowed.
    pub fn parse(content: &RawValue) -> Self {
        let content: Value = serde_json::from_str(content.get()).unwrap_or_default();
        let globs = |field: &str| {
            let patterns = content.get(field).and_then(Value::as_array);
            let compile =
                |item: &Value| Some(Glob::new(item.as_str()?, Wildcards::StarAndQuestionMark, true));
            patterns.into_iter().flatten().filter_map(compile).collect()
        };
        Self {
            allow: globs("allow"),
            deny: globs("deny"),
            allow_ip_literals: content.get("allow_ip_literals").and_then(Value::as_bool).unwrap_or(true),
        }
    }

    /// Whether a server may take part. A room without the event has no list: all servers may.
    pub fn is_allowed(&self, server: &ServerName) -> bool {
        let host = server.host();
        if !self.allow_ip_literals && is_ip_literal(host) {
            return false;
        }
        !self.deny.iter().any(|glob| glob.matches(host)) && self.allow.iter().any(|glob| glob.matches(host))
    }
}

/// Whether a host is an IP address, IPv6 ones in brackets.
fn is_ip_literal(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allowed(content: &Value, server: &str) -> bool {
        let raw = RawValue::from_string(content.to_string()).unwrap();
        ServerAcl::parse(&raw).is_allowed(<&ServerName>::try_from(server).unwrap())
    }

    #[test]
    fn cases() {
        let example = json!({
            "allow": ["*"], "deny": ["*.evil.com", "evil.com"], "allow_ip_literals": false,
        });
        for (server, expected) in [
            ("matrix.org", true),
            ("evil.com", false),
            ("EVIL.com", false),
            ("a.evil.com", false),
            ("evil.com:8448", false),
            ("notevil.com", true),
            ("1.2.3.4", false),
            ("1.2.3.4:80", false),
            ("[::1]", false),
            ("[2001:db8::1]:8448", false),
        ] {
            assert_eq!(allowed(&example, server), expected, "{server}");
        }
        assert!(!allowed(&json!({}), "a.org"));
        assert!(!allowed(&json!({"allow": "*"}), "a.org"));
        assert!(allowed(&json!({"allow": ["*", 5, null], "deny": 3}), "a.org"));
        assert!(allowed(&json!({"allow": ["*"], "allow_ip_literals": "false"}), "1.2.3.4"));
        assert!(allowed(&json!({"allow": ["?.org"]}), "a.org"));
        assert!(!allowed(&json!({"allow": ["?.org"]}), "ab.org"));
        assert!(!allowed(&json!([]), "a.org"));
    }

    /// Many and nasty globs.
    #[test]
    fn cve_2023_45129_hostile_lists() {
        let deny: Vec<_> = (0..10_000).map(|n| format!("*a*a*a*a*b{n}")).collect();
        let content = json!({"allow": ["*"], "deny": deny});
        assert!(allowed(&content, &format!("{}.org", "a".repeat(200))));
        // One pattern of a whole event.
        let content = json!({"allow": ["*"], "deny": ["*a".repeat(20_000) + "*b"]});
        assert!(allowed(&content, &format!("{}.org", "a".repeat(200))));
        let content = json!({"allow": ["*"], "deny": ["EVIL.example"]});
        assert!(!allowed(&content, "evil.EXAMPLE"));
    }
}
