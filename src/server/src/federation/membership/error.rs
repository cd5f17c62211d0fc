//! Why a membership that needs other servers was not changed.

use http::StatusCode;

use super::template::TemplateError;
use crate::{
    database::Error,
    federation::client::ClientError,
    rooms::{AppendError, adopt::AdoptError, ingest::IngestError, membership::MembershipError},
};

/// Why a membership was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// This server itself refuses.
    #[error(transparent)]
    Here(#[from] MembershipError),
    /// Nothing is known of the room or alias.
    #[error("{0}")]
    NotFound(&'static str),
    /// The other server does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// None of the servers that were asked could let the user in.
    #[error("no server that was asked can let you into this room")]
    UnableToAuthorise,
    /// The room has a version that one of the two servers does not know.
    #[error("the room's version {0} is not supported")]
    IncompatibleVersion(String),
    /// This server does not speak to that one.
    #[error("this server does not talk to that one")]
    Refused,
    /// The other server was not reached, or is in trouble.
    #[error("the other server cannot be reached: {0}")]
    Unreachable(String),
    /// What the other server says makes no sense.
    #[error("the other server's answer is wrong: {0}")]
    BadAnswer(String),
    /// The server is stopping.
    #[error("the server could not finish")]
    Interrupted,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl RemoteError {
    /// Which of several servers' refusals says most: the greatest is told.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Storage(_) | Self::Interrupted => 9,
            Self::IncompatibleVersion(_) => 8,
            Self::Forbidden(_) => 7,
            Self::UnableToAuthorise => 6,
            Self::Here(_) => 5,
            Self::NotFound(_) => 4,
            Self::BadAnswer(_) => 3,
            Self::Unreachable(_) => 2,
            Self::Refused => 1,
        }
    }

    /// Whether the room does not let the user in, as far as the server knows that says so.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Forbidden(_)
                | Self::UnableToAuthorise
                | Self::Here(
                    MembershipError::Forbidden(_) | MembershipError::Append(AppendError::Forbidden(_))
                )
        )
    }

    /// Whether it says more than that no server was found that knows.
    pub(super) fn says_more(&self) -> bool {
        self.is_refusal() || self.is_final()
    }

    /// Whether no other server needs to be asked.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Interrupted | Self::IncompatibleVersion(_))
    }
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct ErrorBody {
    room_version: Option<String>,
}

impl From<ClientError> for RemoteError {
    /// Another server's error is translated, never relayed: a client must not take it for one of this server's.
    fn from(error: ClientError) -> Self {
        let ClientError::Status { status, errcode, body, .. } = &error else {
            return match error {
                ClientError::Refused(_) => Self::Refused,
                ClientError::Malformed(reason) => Self::BadAnswer(reason),
                ClientError::Egress(_) | ClientError::Status { .. } => Self::Unreachable(error.to_string()),
            };
        };
        match (*status, errcode.as_str()) {
            (_, "M_INCOMPATIBLE_ROOM_VERSION") => {
                let body: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
                Self::IncompatibleVersion(body.room_version.unwrap_or_else(|| "unknown".to_owned()))
            }
            (_, "M_UNSUPPORTED_ROOM_VERSION") => Self::IncompatibleVersion("unknown".to_owned()),
            (_, "M_UNABLE_TO_AUTHORISE_JOIN" | "M_UNABLE_TO_GRANT_JOIN") => Self::UnableToAuthorise,
            (StatusCode::FORBIDDEN, _) => Self::Forbidden("The other server does not allow this".to_owned()),
            (StatusCode::NOT_FOUND, _) => Self::NotFound("The other server does not know the room"),
            _ if status.is_client_error() => Self::BadAnswer(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<TemplateError> for RemoteError {
    fn from(error: TemplateError) -> Self {
        Self::BadAnswer(error.to_string())
    }
}

impl From<AppendError> for RemoteError {
    fn from(error: AppendError) -> Self {
        Self::Here(error.into())
    }
}

impl From<AdoptError> for RemoteError {
    fn from(error: AdoptError) -> Self {
        match error {
            AdoptError::Unsupported => Self::IncompatibleVersion("unknown".to_owned()),
            AdoptError::Forbidden(_) => Self::Forbidden("The room does not let you in".to_owned()),
            AdoptError::Invalid(_) | AdoptError::Missing(_) => Self::BadAnswer(error.to_string()),
            AdoptError::Ingest(error) => error.into(),
            AdoptError::Storage(error) => Self::Storage(error),
        }
    }
}

impl From<IngestError> for RemoteError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Busy => Self::Here(AppendError::Busy.into()),
            IngestError::TooMany => Self::BadAnswer(error.to_string()),
            IngestError::Interrupted => Self::Interrupted,
            IngestError::Storage(error) => Self::Storage(error),
        }
    }
}
