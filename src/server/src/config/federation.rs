//! The `[federation]` section.

use std::path::PathBuf;

use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use super::option::section;

section! {
    /// Which other servers this one talks to.
    Federation = "federation" {
        /// "off": none, and no request leaves for one. "allow": those listed in `allow`, exactly.
        /// "open": all but those listed in `deny`.
        mode: FederationMode = FederationMode::Off;
        /// The servers of mode "allow".
        allow: Vec<OwnedServerName> = Vec::new() => "[\"partner.example\"]", Reloaded;
        /// The servers that mode "open" leaves out.
        deny: Vec<OwnedServerName> = Vec::new() => "[\"unwanted.example\"]", Reloaded;
        /// What single servers are kept from, of "inbound" (all that they ask or send), "outbound" (all that would be
        /// asked of or sent to them), "invites", "media", "profiles", "directory", "presence", "typing", "receipts".
        /// Both ways, but for the first two. The rule of "*" is for servers that have none of their own.
        rules: Vec<PartnerRule> = Vec::new() => "[{ server = \"partner.example\", refuse = [\"presence\", \"media\"] }]", Reloaded;
        /// Whether other servers are told the names that users give their devices.
        device_names: bool = false, Reloaded;
        /// Files with certificates of authorities that are believed besides the system's, for networks with their own.
        certificate_authorities: Vec<PathBuf> = Vec::new() => "[\"/etc/allod/authority.pem\"]";
        /// Servers that are asked for the signing keys of others which cannot be asked themselves, or may not be.
        /// They learn which keys are wanted.
        notaries: Vec<OwnedServerName> = Vec::new() => "[\"partner.example\"]", Reloaded;
    }
    check |federation| {
        let mut problems = mode_problems(federation);
        for (index, rule) in federation.rules.iter().enumerate() {
            if rule.server != ALL && ServerName::parse(&rule.server).is_err() {
                problems.push(("rules", format!("{} is no name of a server", rule.server)));
            }
            if federation.rules.iter().take(index).any(|other| other.server.eq_ignore_ascii_case(&rule.server)) {
                problems.push(("rules", format!("{} has two rules; make them one", rule.server)));
            }
        }
        problems
    };
}

/// The server of the rule for all that have none of their own.
const ALL: &str = "*";

fn mode_problems(federation: &Federation) -> Vec<(&'static str, String)> {
    match federation.mode {
        FederationMode::Allow if federation.allow.is_empty() => vec![(
            "mode",
            "\"allow\" needs servers in federation.allow; to talk to none, set mode = \"off\"".to_owned(),
        )],
        FederationMode::Off | FederationMode::Open if !federation.allow.is_empty() => {
            vec![("allow", "it is used only with mode = \"allow\"; change the mode or remove it".to_owned())]
        }
        FederationMode::Off | FederationMode::Allow if !federation.deny.is_empty() => {
            vec![("deny", "it is used only with mode = \"open\"; change the mode or remove it".to_owned())]
        }
        FederationMode::Off | FederationMode::Allow | FederationMode::Open => Vec::new(),
    }
}

impl Federation {
    /// Whether a server is kept from something: by its own rule, or else by that for all.
    pub fn refuses(&self, server: &ServerName, what: Refusable) -> bool {
        let of = |name: &str| self.rules.iter().find(|rule| rule.server.eq_ignore_ascii_case(name));
        of(server.as_str()).or_else(|| of(ALL)).is_some_and(|rule| rule.refuse.contains(&what))
    }
}

/// What a server is kept from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartnerRule {
    /// Its name, or "*".
    pub server: String,
    /// What it is kept from.
    pub refuse: Vec<Refusable>,
}

/// What a server can be kept from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refusable {
    /// All that it asks or sends.
    Inbound,
    /// All that would be asked of it or sent to it.
    Outbound,
    /// Invitations.
    Invites,
    /// Files.
    Media,
    /// Profiles.
    Profiles,
    /// The room directory.
    Directory,
    /// Who is online.
    Presence,
    /// Who is typing.
    Typing,
    /// What was read.
    Receipts,
}

/// Which servers may be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FederationMode {
    /// None.
    Off,
    /// Those on the list.
    Allow,
    /// All but those on a list.
    Open,
}
