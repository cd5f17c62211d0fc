//! Questions to application services: are they there, do they know a user or alias, whom do they know on other networks.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use ruma::{RoomAliasId, UserId};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Appservices, Called, transport::CallError};
use crate::{
    bridges::{Bridge, BridgeIndex},
    percent::encoded,
};

/// How long an answer to a question is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest text of an answer that is passed on, in bytes.
const QUOTED_BYTES_MAX: usize = 4 * 1024;

/// Why an application service was not reached.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// Its registration names no address.
    #[error("the application service has no URL")]
    NoUrl,
    /// It took too long.
    #[error("the application service did not answer in time")]
    TimedOut,
    /// There was no connection, or it broke off.
    #[error("the application service cannot be reached: {0}")]
    Failed(String),
    /// It answered with something else than success.
    #[error("the application service answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The beginning of the body.
        body: String,
    },
}

/// What is asked of other networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThirdParty {
    /// Rooms.
    Location,
    /// Users.
    User,
}

impl ThirdParty {
    fn in_path(self) -> &'static str {
        match self {
            Self::Location => "location",
            Self::User => "user",
        }
    }
}

impl Appservices {
    /// Asks an application service whether it is there; how long the answer took.
    pub async fn ping(&self, index: BridgeIndex, transaction: Option<&str>) -> Result<Duration, PingError> {
        let bridge = self.bridge(index).filter(|bridge| bridge.registration.url.is_some());
        let bridge = bridge.ok_or(PingError::NoUrl)?;
        let mut body = Map::new();
        if let Some(transaction) = transaction {
            body.insert("transaction_id".to_owned(), transaction.into());
        }
        let body = Bytes::from(Value::Object(body).to_string());
        let began = Instant::now();
        match self.call(bridge, Method::POST, "/_matrix/app/v1/ping", Some(body)).await {
            Ok(called) if called.status.is_success() => {
                self.wake(index);
                Ok(began.elapsed())
            }
            Ok(called) => {
                let quoted = called.body.get(..QUOTED_BYTES_MAX.min(called.body.len())).unwrap_or_default();
                let body = String::from_utf8_lossy(quoted).into_owned();
                Err(PingError::Status { status: called.status, body })
            }
            Err(CallError::TimedOut) => Err(PingError::TimedOut),
            Err(CallError::Failed(error)) => Err(PingError::Failed(error)),
        }
    }

    /// Whether an application service has made a user, asked because nobody else knows one of this name.
    pub async fn makes_user(&self, user_id: &UserId) -> bool {
        let path = format!("/_matrix/app/v1/users/{}", encoded(user_id.as_str()));
        self.any_makes(self.0.sources.bridges.of_user(user_id), &path).await
    }

    /// Whether an application service has made a room with an alias.
    pub async fn makes_alias(&self, alias: &RoomAliasId) -> bool {
        let path = format!("/_matrix/app/v1/rooms/{}", encoded(alias.as_str()));
        self.any_makes(self.0.sources.bridges.of_alias(alias), &path).await
    }

    async fn any_makes(&self, owners: Vec<BridgeIndex>, path: &str) -> bool {
        for index in owners {
            let Some(bridge) = self.bridge(index).filter(|bridge| bridge.registration.url.is_some()) else {
                continue;
            };
            match self.call(bridge, Method::GET, path, None).await {
                Ok(called) if called.status.is_success() => return true,
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(appservice = bridge.registration.id, %error, "a question was not answered");
                }
            }
        }
        false
    }

    /// What application services say of the networks that they connect, by protocol.
    pub async fn protocols(&self) -> Map<String, Value> {
        let mut protocols = Map::new();
        for name in self.protocol_names() {
            if let Some(protocol) = self.protocol(&name).await {
                protocols.insert(name, protocol);
            }
        }
        protocols
    }

    /// What they say of one network, their instances of it together; none if nobody connects it.
    pub async fn protocol(&self, name: &str) -> Option<Value> {
        let path = format!("/_matrix/app/v1/thirdparty/protocol/{}", encoded(name));
        let mut answers = self.ask(|bridge| connects(bridge, name), &path).await.into_iter();
        let mut first = answers.next().filter(Value::is_object)?;
        for other in answers {
            let more = other.get("instances").and_then(Value::as_array).cloned().unwrap_or_default();
            if let Some(instances) = first.get_mut("instances").and_then(Value::as_array_mut) {
                instances.extend(more);
            }
        }
        Some(first)
    }

    /// Rooms or users of a network that have these fields.
    pub async fn look_up(
        &self,
        what: ThirdParty,
        protocol: &str,
        fields: &[(String, String)],
    ) -> Option<Vec<Value>> {
        if !self.protocol_names().iter().any(|name| name == protocol) {
            return None;
        }
        let path =
            format!("/_matrix/app/v1/thirdparty/{}/{}{}", what.in_path(), encoded(protocol), query(fields));
        Some(lists(self.ask(|bridge| connects(bridge, protocol), &path).await))
    }

    /// What stands behind an alias or a user id on other networks.
    pub async fn look_up_matrix(&self, what: ThirdParty, id: &str) -> Vec<Value> {
        let parameter = match what {
            ThirdParty::Location => "alias",
            ThirdParty::User => "userid",
        };
        let fields = [(parameter.to_owned(), id.to_owned())];
        let path = format!("/_matrix/app/v1/thirdparty/{}{}", what.in_path(), query(&fields));
        lists(self.ask(|bridge| bridge.registration.protocols.is_some(), &path).await)
    }

    fn protocol_names(&self) -> Vec<String> {
        let bridges = self.0.sources.bridges.iter();
        let mut names: Vec<String> =
            bridges.flat_map(|(_, bridge)| bridge.registration.protocols.iter().flatten().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The JSON answers of those who may know.
    async fn ask(&self, knows: impl Fn(&Bridge) -> bool, path: &str) -> Vec<Value> {
        let mut answers = Vec::new();
        for (_, bridge) in self.0.sources.bridges.iter() {
            if bridge.registration.url.is_none() || !knows(bridge) {
                continue;
            }
            if let Ok(called) = self.call(bridge, Method::GET, path, None).await
                && called.status.is_success()
            {
                answers.extend(serde_json::from_slice::<Value>(&called.body).ok());
            }
        }
        answers
    }

    async fn call(
        &self,
        bridge: &Bridge,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Called, CallError> {
        let call = self.0.sources.transport.call(bridge, method, path, body);
        tokio::time::timeout(PATIENCE, call).await.unwrap_or(Err(CallError::TimedOut))
    }

    fn bridge(&self, index: BridgeIndex) -> Option<&Bridge> {
        self.0.sources.bridges.get(index)
    }
}

fn connects(bridge: &Bridge, protocol: &str) -> bool {
    bridge.registration.protocols.iter().flatten().any(|name| name == protocol)
}

/// The objects of several lists.
fn lists(answers: Vec<Value>) -> Vec<Value> {
    let lists = answers.into_iter().filter_map(|answer| match answer {
        Value::Array(list) => Some(list),
        _ => None,
    });
    lists.flatten().filter(Value::is_object).collect()
}

fn query(fields: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        fields.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
