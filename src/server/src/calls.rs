//! Where calls go: credentials for TURN servers. The server carries no call itself.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use ruma::UserId;
use sha1::Sha1;

use crate::{
    clock::Clock,
    config::{Live, Secret},
};

/// What a client uses at the TURN servers.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnCredentials {
    /// The name: until when it holds, in seconds since the epoch, and for whom.
    pub username: String,
    /// The password.
    pub password: String,
    /// The servers.
    pub uris: Vec<String>,
    /// How long they hold, in seconds.
    pub ttl: u64,
}

impl std::fmt::Debug for TurnCredentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TurnCredentials").field("uris", &self.uris).finish_non_exhaustive()
    }
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Calls {
    config: Live,
    secret: Option<Secret>,
    clock: Clock,
}

impl Calls {
    /// With the secret that is shared with the TURN servers, if there are any.
    pub fn new(config: Live, secret: Option<Secret>, clock: Clock) -> Self {
        Self { config, secret, clock }
    }

    /// Credentials for a user, by the scheme that TURN servers call the REST API; none where no server is configured.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3voipturnserver>
    pub fn turn_credentials(&self, user: &UserId) -> Option<TurnCredentials> {
        let config = self.config.get();
        let secret = self.secret.as_ref()?;
        if config.calls.turn_uris.is_empty() {
            return None;
        }
        let ttl = config.calls.turn_lifetime.0.as_secs();
        let until = (self.clock.now_ms() / 1000).saturating_add(ttl);
        let username = format!("{until}:{user}");
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).ok()?;
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        Some(TurnCredentials { username, password, uris: config.calls.turn_uris.clone(), ttl })
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::config::Config;

    #[test]
    fn credentials_are_those_that_a_turn_server_computes() {
        let mut config = Config::default();
        let clock = Clock::manual(1_000_000_500);
        let calls = |config: &Config| {
            Calls::new(Live::new(config.clone()), Some(Secret::new("secret")), clock.clone())
        };
        assert_eq!(calls(&config).turn_credentials(user_id!("@a:b")), None);
        config.calls.turn_uris = vec!["turn:turn.example".to_owned()];
        let given = calls(&config).turn_credentials(user_id!("@a:b")).unwrap();
        assert_eq!((given.username.as_str(), given.ttl), ("1086400:@a:b", 86_400));
        // printf %s 1086400:@a:b | openssl dgst -sha1 -hmac secret -binary | base64
        assert_eq!(given.password, "tJolqzZgG03T0huHU4agcNTkN9Y=");
        assert_eq!(given.uris, ["turn:turn.example"]);
    }
}
