//! What this server asks others in the name of its users: profiles, aliases, directories, keys.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use ruma::{
    OwnedDeviceId, OwnedServerName, OwnedUserId, RoomAliasId, ServerName, UserId,
    api::federation::{
        directory::get_public_rooms_filtered::v1 as public_rooms,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
        query::{get_profile_information::v1 as profile, get_room_information::v1 as directory},
    },
};

use super::client::{ClientError, FederationClient, ORDINARY};
use crate::{config::Refusable, egress::Bounds};

/// How long a client waits for another server.
const PATIENCE: Duration = Duration::from_secs(30);
/// The least that a server is given, whatever a client wishes, and the most.
const PATIENCE_FOR_KEYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Servers asked at the same time for one request.
const SERVERS_AT_ONCE: usize = 50;
/// What a profile may weigh.
const PROFILE: Bounds = Bounds::bytes(256 << 10).within(PATIENCE);

/// What each of several servers answered, or why it did not.
pub type Answers<T> = Vec<(OwnedServerName, Result<T, ClientError>)>;

impl FederationClient {
    /// The profile of a user of another server.
    pub async fn profile(&self, user_id: &UserId) -> Result<profile::Response, ClientError> {
        self.permits(user_id.server_name(), Refusable::Profiles)?;
        let request = profile::Request::new(user_id.to_owned());
        self.send_within(user_id.server_name(), request, PROFILE).await
    }

    /// Where an alias of another server points, and who may be asked for the room.
    pub async fn resolve_alias(&self, alias: &RoomAliasId) -> Result<directory::Response, ClientError> {
        let request = directory::Request::new(alias.to_owned());
        self.send_within(alias.server_name(), request, ORDINARY.within(PATIENCE)).await
    }

    /// A page of another server's room directory.
    pub async fn public_rooms(
        &self,
        server: &ServerName,
        request: public_rooms::Request,
    ) -> Result<public_rooms::Response, ClientError> {
        self.permits(server, Refusable::Directory)?;
        self.send_within(server, request, ORDINARY.within(PATIENCE)).await
    }

    /// The keys of users of other servers.
    pub async fn query_keys(
        &self,
        wanted: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
        patience: Duration,
    ) -> Answers<get_keys::Response> {
        let bounds = ORDINARY.within(patience.clamp(PATIENCE_FOR_KEYS.0, PATIENCE_FOR_KEYS.1));
        let asked = by_server(wanted).into_iter().map(|(server, device_keys)| async move {
            let answer = self.send_within(&server, get_keys::Request::new(device_keys), bounds).await;
            (server, answer)
        });
        stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE).collect().await
    }

    /// One-time keys of devices of other servers.
    pub async fn claim_keys(
        &self,
        wanted: claim_keys::OneTimeKeyClaims,
        patience: Duration,
    ) -> Answers<claim_keys::Response> {
        let bounds = ORDINARY.within(patience.clamp(PATIENCE_FOR_KEYS.0, PATIENCE_FOR_KEYS.1));
        let asked = by_server(wanted).into_iter().map(|(server, keys)| async move {
            let answer = self.send_within(&server, claim_keys::Request::new(keys), bounds).await;
            (server, answer)
        });
        stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE).collect().await
    }
}

/// Each server's part of what is wanted: it is asked for its own users only.
fn by_server<T>(wanted: BTreeMap<OwnedUserId, T>) -> BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> {
    let mut servers: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>> = BTreeMap::new();
    for (user_id, of_user) in wanted {
        servers.entry(user_id.server_name().to_owned()).or_default().insert(user_id, of_user);
    }
    servers
}
