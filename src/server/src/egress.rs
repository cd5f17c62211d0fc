//! The gate: every request that this server sends to another machine goes through here.
//!
//! It resolves names itself and connects only to the addresses that it checked, so that a name cannot lead elsewhere
//! between check and connection; it refuses addresses that are not public unless the configuration allows them; it
//! bounds time and size; it keeps a register of whom was spoken to and what for. What the configuration switches off
//! cannot be built: no client, no look-up.

mod address;
mod kept;
mod names;
mod objects;
mod outbound;
mod register;
mod trust;
mod web;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(crate) use self::wire::{WireReader, WireWriter};
pub use self::{
    address::is_allowed,
    names::{NameError, Names, Service},
    outbound::{Answer, Bounds, Destination, Outbound, Prepared},
    register::{Contact, Purpose, Register},
    trust::TrustError,
    web::Web,
};
pub use reqwest::Url;

use crate::{
    clock::Clock,
    config::{FederationMode, Live},
};

/// Why nothing was sent, or no whole answer came.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The configuration has switched this off.
    #[error("{0} is switched off in the configuration")]
    Off(&'static str),
    /// The name leads only to addresses that requests may not go to.
    #[error("{0} is at no public address, nor at one of egress.allowed_networks")]
    Address(String),
    /// The name was not resolved.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What was to be sent is no request.
    #[error("no request can be made of this: {0}")]
    Malformed(String),
    /// No connection, no valid certificate, or it broke off.
    #[error("{0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it took too long")]
    TimedOut,
    /// The answer is larger than it may be.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The certificates to trust cannot be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// Addresses that requests may go to. Only the gate makes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked(Arc<[SocketAddr]>);

impl Checked {
    /// The addresses, in the order in which to try them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }

    /// These and then those.
    #[must_use]
    pub fn followed_by(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(others.0.iter()).copied().collect())
    }
}

/// The gate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Egress {
    config: Live,
    clock: Clock,
    names: Names,
    register: Register,
}

impl Egress {
    /// A gate that has let nothing through yet.
    pub fn new(config: Live, clock: Clock, names: Names) -> Self {
        Self { config, clock, names, register: Register::default() }
    }

    /// Who was spoken to.
    pub fn register(&self) -> &Register {
        &self.register
    }

    /// Where a host is: a name, or a literal address with brackets around IPv6.
    pub async fn addresses(&self, purpose: Purpose, host: &str, port: u16) -> Result<Checked, EgressError> {
        self.permit(purpose)?;
        let found = match literal(host) {
            Some(address) => vec![address],
            None => self.names.addresses(host).await?,
        };
        let config = self.config.get();
        let allowed = &config.egress.allowed_networks;
        let checked: Arc<[SocketAddr]> = found
            .into_iter()
            // Where application services, the object store, the scanner and the mail server are is said by the configuration,
            // mostly within the same machine or network.
            .filter(|address| {
                matches!(purpose, Purpose::Appservice | Purpose::Objects | Purpose::Scanner | Purpose::Mail)
                    || is_allowed(*address, allowed)
            })
            .map(|address| SocketAddr::new(address, port))
            .collect();
        if checked.is_empty() {
            self.refused(purpose, host);
            return Err(EgressError::Address(host.to_owned()));
        }
        Ok(Checked(checked))
    }

    /// Where SRV records say that a service is; empty if there are none.
    pub async fn services(&self, purpose: Purpose, name: &str) -> Result<Vec<Service>, EgressError> {
        self.permit(purpose)?;
        Ok(self.names.services(name).await?)
    }

    /// A client with a pool of connections of its own.
    pub fn outbound(&self, purpose: Purpose) -> Result<Outbound, EgressError> {
        self.permit(purpose)?;
        let trust = trust::load(&self.config.get().federation.certificate_authorities)?;
        Outbound::new(self.clone(), purpose, trust, true)
    }

    /// The same for requests without TLS, which only application services are sent.
    pub fn outbound_in_clear(&self, purpose: Purpose) -> Result<Outbound, EgressError> {
        self.permit(purpose)?;
        Outbound::new(self.clone(), purpose, trust::load(&[])?, purpose != Purpose::Appservice)
    }

    /// A client that speaks without TLS, to peers that tests make.
    #[cfg(test)]
    pub(crate) fn outbound_without_tls(&self, purpose: Purpose) -> Result<Outbound, EgressError> {
        Outbound::new(self.clone(), purpose, trust::load(&[])?, false)
    }

    /// Counts what was refused before anything was sent.
    pub fn refused(&self, purpose: Purpose, host: &str) {
        self.note(purpose, host, |contact| contact.refused = contact.refused.saturating_add(1));
    }

    /// Counts what is sent by other means than a client of the gate's, to an address that it checked.
    pub fn sent(&self, purpose: Purpose, host: &str, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.note(purpose, host, |contact| {
            contact.requests = contact.requests.saturating_add(1);
            contact.bytes_sent = contact.bytes_sent.saturating_add(bytes);
        });
    }

    fn note(&self, purpose: Purpose, host: &str, change: impl FnOnce(&mut Contact)) {
        self.register.note(purpose, host, self.clock.now_ms(), change);
    }

    fn permit(&self, purpose: Purpose) -> Result<(), EgressError> {
        match purpose {
            Purpose::Federation if self.config.get().federation.mode == FederationMode::Off => {
                Err(EgressError::Off("federation"))
            }
            Purpose::Push if !self.config.get().push.enabled => Err(EgressError::Off("push")),
            Purpose::Preview if self.config.get().media.previews.is_empty() => {
                Err(EgressError::Off("previews of links"))
            }
            Purpose::Mail if self.config.get().mail.host.is_none() => Err(EgressError::Off("mail")),
            Purpose::Federation
            | Purpose::Push
            | Purpose::Preview
            | Purpose::Appservice
            | Purpose::Objects
            | Purpose::Scanner
            | Purpose::Mail => Ok(()),
        }
    }
}

/// A literal address, as it stands in a server name or a URL.
fn literal(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    }
}

#[cfg(test)]
mod tests;
