//! Other servers: who may be spoken to, where they are, their keys, and requests to and from them.
//!
//! Exists only where the configuration does not switch federation off. What is said in rooms is not its business.

pub mod check;
pub mod client;
pub mod discovery;
pub mod keys;
pub mod membership;
pub mod own_keys;
pub mod policy;
pub mod questions;
#[cfg(test)]
pub(crate) mod testing;
pub mod verify;
pub mod x_matrix;

use crate::{
    clock::Clock,
    config::{FederationMode, Live},
    database::Database,
    egress::{Egress, EgressError, Names},
    identity::Identity,
    tasks::Tasks,
};

use self::{
    client::FederationClient, discovery::Discovery, keys::ServerKeys, own_keys::OwnKeys, policy::Policy,
};

/// What the services of federation are made from.
#[derive(Clone, Debug)]
pub struct FederationSources {
    /// The rows.
    pub database: Database,
    /// The configuration.
    pub config: Live,
    /// The time.
    pub clock: Clock,
    /// The server's name and signing key.
    pub identity: Identity,
    /// Where background tasks are started.
    pub tasks: Tasks,
    /// How names are looked up.
    pub names: Names,
}

/// The services of federation. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Federation {
    /// Who may be spoken to.
    pub policy: Policy,
    /// Requests to other servers.
    pub client: FederationClient,
    /// The signing keys of other servers.
    pub keys: ServerKeys,
    /// The signing keys of this server, as others read them.
    pub own_keys: OwnKeys,
    /// Whom this server has spoken to.
    pub egress: Egress,
}

impl Federation {
    /// Makes the services; none where federation is off.
    pub fn open(sources: FederationSources) -> Result<Option<Self>, EgressError> {
        let FederationSources { database, config, clock, identity, tasks, names } = sources;
        if config.get().federation.mode == FederationMode::Off {
            return Ok(None);
        }
        let egress = Egress::new(config.clone(), clock.clone(), names);
        let policy = Policy::new(config.clone(), identity.server_name().to_owned());
        let discovery = Discovery::new(egress.clone(), clock.clone())?;
        let client = FederationClient::new(&egress, discovery, policy.clone(), identity.clone())?;
        let keys = ServerKeys::new(database, config, clock.clone(), client.clone(), tasks);
        let own_keys = OwnKeys::new(identity, clock);
        Ok(Some(Self { policy, client, keys, own_keys, egress }))
    }
}
