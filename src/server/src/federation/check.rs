//! Whether another server can be spoken to, step by step, and what to do where it cannot: for administrators.

use ruma::{ServerName, UserId};
use serde::Deserialize;

use super::{
    Federation,
    client::{ClientError, KEYS},
    discovery::{Route, Step},
    keys::KeyError,
};
use crate::egress::EgressError;

/// What came of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What was looked at.
    pub step: &'static str,
    /// What was found; whether that is as it should be.
    pub found: Result<String, Trouble>,
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl Trouble {
    fn new(what: impl Into<String>, advice: &'static str) -> Self {
        Self { what: what.into(), advice }
    }
}

const LISTS: &str =
    "see federation.mode, federation.allow and federation.deny in this server's configuration";
const NAME: &str =
    "look at the DNS records of that name; /.well-known/matrix/server and SRV records may lead elsewhere";
const ADDRESS: &str =
    "if that server is in a private network on purpose, name the network in egress.allowed_networks";
const CONNECTION: &str =
    "a server must listen there, and firewalls on both sides must let the connection through";
const CERTIFICATE: &str = "its certificate must be valid for that name and come from an authority that this machine, or \
                           federation.certificate_authorities, trusts";
const ANSWER: &str = "something else than a Matrix server answers there; look at its proxy";
const SIGNATURE: &str = "it must be able to read this server's keys: check from its side that it reaches this server, and \
                         that both clocks are right";
const PARTNER: &str = "ask its administrator whether this server is on one of its lists";

impl Federation {
    /// Looks at everything that must be right between this server and another, up to the first thing that is not.
    pub async fn check(&self, server: &ServerName) -> Vec<Checked> {
        let mut steps = Vec::new();
        let mut note = |step, found: Result<String, Trouble>| {
            let goes_on = found.is_ok();
            steps.push(Checked { step, found });
            goes_on
        };
        let _ = note("policy", self.check_policy(server))
            && note("discovery", self.check_discovery(server).await)
            && note("connection", self.check_connection(server).await)
            && note("keys", self.check_keys(server).await)
            && note("signed request", self.check_signature(server).await);
        steps
    }

    fn check_policy(&self, server: &ServerName) -> Result<String, Trouble> {
        if self.policy.allows(server) {
            Ok("the configuration lets the servers talk".to_owned())
        } else {
            Err(Trouble::new("the configuration does not let this server talk to that one", LISTS))
        }
    }

    async fn check_discovery(&self, server: &ServerName) -> Result<String, Trouble> {
        let route = self.client.route(server).await.map_err(|error| unreached(&error))?;
        Ok(describe(&route))
    }

    async fn check_connection(&self, server: &ServerName) -> Result<String, Trouble> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Version {
            server: Software,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Software {
            name: String,
            version: String,
        }
        let asked = self.client.send_unsigned_stream(server, "/_matrix/federation/v1/version", KEYS);
        let answer = asked.await.map_err(|error| unreached(&error))?;
        let body = answer.whole().await.map_err(|error| unreached(&error.into()))?;
        let Ok(Version { server: Software { name, version } }) = serde_json::from_slice(&body) else {
            return Err(Trouble::new("what answers there is no JSON", ANSWER));
        };
        let shown: String =
            format!("{name} {version}").chars().filter(|letter| !letter.is_control()).take(100).collect();
        Ok(format!("connected, the certificate is valid; it says that it is {}", shown.trim()))
    }

    async fn check_keys(&self, server: &ServerName) -> Result<String, Trouble> {
        match self.keys.refresh(server).await {
            Ok(()) => Ok("its signing keys are published and valid".to_owned()),
            Err(error @ KeyError::BackingOff) => {
                Err(Trouble::new(error.to_string(), "try again in some minutes"))
            }
            Err(error) => Err(Trouble::new(error.to_string(), ANSWER)),
        }
    }

    async fn check_signature(&self, server: &ServerName) -> Result<String, Trouble> {
        // Nobody has this name: what counts is that the question is let in.
        let nobody = UserId::parse(format!("@allod-federation-check:{server}"));
        let nobody = nobody.map_err(|error| Trouble::new(error.to_string(), NAME))?;
        let accepted = "it accepts requests that this server signs".to_owned();
        match self.client.profile(&nobody).await {
            Ok(_) => Ok(accepted),
            Err(error) => match error.status().map(|(status, _)| status.as_u16()) {
                Some(404) => Ok(accepted),
                Some(401) => Err(Trouble::new(error.to_string(), SIGNATURE)),
                Some(403) => Err(Trouble::new(error.to_string(), PARTNER)),
                _ => Err(unreached(&error)),
            },
        }
    }
}

fn describe(route: &Route) -> String {
    let way = match route.step {
        Step::Literal => "by its address",
        Step::Port => "by the port in its name",
        Step::Service => "by an SRV record",
        Step::Name => "by its name, at the usual port",
    };
    let addresses: Vec<String> =
        route.destination.addresses.addresses().iter().map(ToString::to_string).collect();
    let delegated = match &route.delegated {
        Some(name) => format!("its well-known document leads to {name}; "),
        None => String::new(),
    };
    format!("{delegated}found {way}: {}", addresses.join(", "))
}

/// Why a server was not reached, as far as can be told.
fn unreached(error: &ClientError) -> Trouble {
    let what = error.to_string();
    let advice = match error {
        ClientError::Refused(_) => LISTS,
        ClientError::Egress(EgressError::Name(_)) => NAME,
        ClientError::Egress(EgressError::Address(_)) => ADDRESS,
        ClientError::Egress(_) if what.contains("certificate") => CERTIFICATE,
        ClientError::Egress(_) => CONNECTION,
        ClientError::Status { .. } | ClientError::Malformed(_) => ANSWER,
    };
    Trouble { what, advice }
}
