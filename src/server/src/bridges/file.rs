//! Registration files, as the specification writes them and as bridges in use do.

use serde::{Deserialize, Serialize};

/// What a registration file says.
#[derive(Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "as the files have it, under earlier names too")]
pub struct Registration {
    /// Names the application service for ever.
    pub id: String,
    /// Where it is; nothing is sent to one without.
    #[serde(default)]
    pub url: Option<String>,
    /// By which it shows who it is.
    pub as_token: String,
    /// By which this server shows it who it is.
    pub hs_token: String,
    /// The name of the user that it is itself.
    pub sender_localpart: String,
    /// What is its own.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Whether requests in its users' names are counted.
    #[serde(default)]
    pub rate_limited: Option<bool>,
    /// Networks that it connects.
    #[serde(default)]
    pub protocols: Option<Vec<String>>,
    /// Whether it wants ephemeral data.
    #[serde(default)]
    receive_ephemeral: bool,
    /// The same under its earlier names.
    #[serde(default)]
    push_ephemeral: bool,
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    unstable_push_ephemeral: bool,
    /// Whether it wants to know of devices and keys (MSC3202).
    #[serde(default, rename = "org.matrix.msc3202")]
    pub encryption: bool,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Registration").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What an application service has for its own.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Namespaces {
    /// Users.
    #[serde(default)]
    pub users: Vec<Namespace>,
    /// Room aliases.
    #[serde(default)]
    pub aliases: Vec<Namespace>,
    /// Room ids.
    #[serde(default)]
    pub rooms: Vec<Namespace>,
}

/// A set of ids.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// Whether nobody else may use one of them.
    #[serde(default)]
    pub exclusive: bool,
    /// Which they are.
    pub regex: String,
}

impl Registration {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Whether it wants ephemeral data, under whichever name it says so.
    pub fn wants_ephemeral(&self) -> bool {
        self.receive_ephemeral || self.push_ephemeral || self.unstable_push_ephemeral
    }
}
