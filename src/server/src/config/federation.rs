//! The `[federation]` section.

use std::path::PathBuf;

use ruma::OwnedServerName;
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
        /// Whether other servers are told the names that users give their devices.
        device_names: bool = false, Reloaded;
        /// Files with certificates of authorities that are believed besides the system's, for networks with their own.
        certificate_authorities: Vec<PathBuf> = Vec::new() => "[\"/etc/allod/authority.pem\"]";
        /// Servers that are asked for the signing keys of others which cannot be asked themselves, or may not be.
        /// They learn which keys are wanted.
        notaries: Vec<OwnedServerName> = Vec::new() => "[\"partner.example\"]", Reloaded;
    }
    check |federation| match federation.mode {
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
    };
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
