//! Who is calling: from the request's token to the type that a handler asks for.
//!
//! Which types a handler may take as its caller follows from the endpoint's authentication scheme in ruma's metadata
//! ([`Caller`] is implemented for pairs of scheme and type), so a handler that forgets authentication does not compile.

use std::ops::Deref;

pub use allod_server::sessions::Session;
use allod_server::{
    bridges::{Bridge, BridgeIndex},
    sessions::{ActError, AuthenticateError},
};
use http::{StatusCode, header, request::Parts};
use ruma::{
    OwnedDeviceId, OwnedServerName, ServerName, UserId,
    api::{
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceToken as AppserviceTokenRequired,
            AppserviceTokenOptional, NoAccessToken, NoAuthentication,
        },
        error::ErrorKind,
        federation::authentication::ServerSignatures,
    },
};

use crate::{
    address::Client,
    app::App,
    error::{Error, Result},
};

/// Whether an access token is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Not looked at.
    Ignored,
    /// Checked if it is there.
    Optional,
    /// Must be there.
    Required,
    /// Not looked at: the request must be signed by another server.
    Signed,
}

/// What is known about who sent a request.
#[derive(Debug)]
pub struct Identity {
    /// The session of the access token, where one was looked for and found.
    pub session: Option<Session>,
    /// The server that signed the request, where a signature was looked for.
    pub origin: Option<OwnedServerName>,
    /// The token, unchecked, where the scheme is an application service's.
    pub token: Option<String>,
    /// Where the request comes from.
    pub client: Client,
}

/// A type that may stand for the caller in a handler whose endpoint has the authentication scheme `Scheme`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the caller of an endpoint whose authentication is `{Scheme}`",
    label = "see the table in the module documentation of endpoint.rs"
)]
pub trait Caller<Scheme>: Sized + Send + 'static {
    /// Whether the access token is checked before [`Caller::admit`].
    const TOKEN: Token;

    /// Lets the caller in or refuses it.
    fn admit(identity: Identity) -> Result<Self>;
}

/// A scheme of ours, for routes that have no ruma metadata ([`Routes::route`]): the handler's caller type decides.
///
/// [`Routes::route`]: crate::endpoint::Routes::route
#[derive(Debug)]
pub struct Unspecified;

macro_rules! session_wrapper {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name(pub Session);

        impl Deref for $name {
            type Target = Session;
            fn deref(&self) -> &Session {
                &self.0
            }
        }
    };
}

session_wrapper!(
    /// A user who is not suspended: for what suspension forbids, such as sending events and inviting.
    Active
);
session_wrapper!(
    /// A user or a guest: for the endpoints of the spec's guest list.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#guest-access>
    Guest
);
session_wrapper!(
    /// Anyone with a token, even if the account is locked: for logging out.
    Locked
);
session_wrapper!(
    /// A server administrator.
    Admin
);

/// For an endpoint with optional authentication that answers all alike: the token is not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Anyone;

/// An application service's token, unchecked: of what only those may ask, and of `/login` and `/register`.
#[derive(Clone, Debug)]
pub struct AppserviceToken(pub Option<String>);

impl Active {
    /// Refuses a suspended user: for handlers where it depends on the request.
    pub fn require(session: &Session) -> Result<()> {
        if session.suspended { Err(Error::user_suspended()) } else { Ok(()) }
    }
}

/// Callers known by their access token, under one scheme.
macro_rules! session_callers {
    ($scheme:ty) => {
        impl Caller<$scheme> for Session {
            const TOKEN: Token = Token::Required;
            fn admit(identity: Identity) -> Result<Self> {
                refuse_guest(refuse_locked(session(identity)?)?)
            }
        }

        impl Caller<$scheme> for Active {
            const TOKEN: Token = Token::Required;
            fn admit(identity: Identity) -> Result<Self> {
                let session = refuse_guest(refuse_locked(session(identity)?)?)?;
                Active::require(&session)?;
                Ok(Self(session))
            }
        }

        impl Caller<$scheme> for Guest {
            const TOKEN: Token = Token::Required;
            fn admit(identity: Identity) -> Result<Self> {
                refuse_locked(session(identity)?).map(Self)
            }
        }

        impl Caller<$scheme> for Locked {
            const TOKEN: Token = Token::Required;
            fn admit(identity: Identity) -> Result<Self> {
                session(identity).map(Self)
            }
        }

        impl Caller<$scheme> for Admin {
            const TOKEN: Token = Token::Required;
            fn admit(identity: Identity) -> Result<Self> {
                let session = refuse_locked(session(identity)?)?;
                if session.admin {
                    Ok(Self(session))
                } else {
                    Err(Error::forbidden("You are not a server administrator"))
                }
            }
        }
    };
}

session_callers!(AccessToken);
session_callers!(Unspecified);

/// Callers without authentication, under one scheme.
macro_rules! anonymous_callers {
    ($scheme:ty) => {
        impl Caller<$scheme> for () {
            const TOKEN: Token = Token::Ignored;
            fn admit(_: Identity) -> Result<Self> {
                Ok(())
            }
        }
    };
}

anonymous_callers!(NoAccessToken);
anonymous_callers!(NoAuthentication);
anonymous_callers!(Unspecified);

impl Caller<AccessTokenOptional> for Anyone {
    const TOKEN: Token = Token::Ignored;
    fn admit(_: Identity) -> Result<Self> {
        Ok(Self)
    }
}

/// Callers who may name themselves, under one scheme.
macro_rules! optional_callers {
    ($scheme:ty) => {
        impl Caller<$scheme> for Option<Session> {
            const TOKEN: Token = Token::Optional;
            fn admit(identity: Identity) -> Result<Self> {
                identity.session.map(|session| refuse_guest(refuse_locked(session)?)).transpose()
            }
        }

        impl Caller<$scheme> for Option<Guest> {
            const TOKEN: Token = Token::Optional;
            fn admit(identity: Identity) -> Result<Self> {
                identity.session.map(|session| refuse_locked(session).map(Guest)).transpose()
            }
        }
    };
}

optional_callers!(AccessTokenOptional);
// For what the spec leaves open to all and a configuration may close.
optional_callers!(NoAccessToken);

/// Callers whose token the handler looks at, under one scheme.
macro_rules! token_callers {
    ($scheme:ty) => {
        impl Caller<$scheme> for AppserviceToken {
            const TOKEN: Token = Token::Ignored;
            fn admit(identity: Identity) -> Result<Self> {
                Ok(Self(identity.token))
            }
        }
    };
}

token_callers!(AppserviceTokenOptional);
token_callers!(AppserviceTokenRequired);

/// The server that signed the request, and that this server talks to.
#[derive(Clone, Debug)]
pub struct Origin(pub OwnedServerName);

impl Deref for Origin {
    type Target = ServerName;
    fn deref(&self) -> &ServerName {
        &self.0
    }
}

impl Caller<ServerSignatures> for Origin {
    const TOKEN: Token = Token::Signed;
    fn admit(identity: Identity) -> Result<Self> {
        identity.origin.map(Self).ok_or_else(|| Error::unauthorized("The request is not signed"))
    }
}

/// Any caller, and where the request comes from.
impl<Scheme, C: Caller<Scheme>> Caller<Scheme> for (C, Client) {
    const TOKEN: Token = C::TOKEN;
    fn admit(identity: Identity) -> Result<Self> {
        let client = identity.client.clone();
        Ok((C::admit(identity)?, client))
    }
}

/// Finds out who sent the request, as far as the endpoint wants to know.
pub(crate) async fn identify(app: &App, parts: &Parts, client: Client, wanted: Token) -> Result<Identity> {
    let token = token(parts);
    let session = match (wanted, &token) {
        (Token::Ignored | Token::Signed, _) | (Token::Optional, None) => None,
        (Token::Required, None) => return Err(Error::missing_token()),
        (Token::Optional | Token::Required, Some(token)) => Some(authenticate(app, token, parts).await?),
    };
    Ok(Identity { session, origin: None, token, client })
}

async fn authenticate(app: &App, token: &str, parts: &Parts) -> Result<Session> {
    // Never asked of the store: an empty token has matched rows without one elsewhere (CVE-2023-32682).
    if token.trim().is_empty() {
        return Err(Error::unknown_token(false));
    }
    match app.bridges.by_token(token) {
        Some((index, bridge)) => act_as(app, index, bridge, parts).await,
        None => app.sessions.authenticate(token).await.map_err(Error::from),
    }
}

/// The user for whom an application service acts: the one that it names, or itself.
///
/// <https://spec.matrix.org/v1.19/application-service-api/#identity-assertion>
async fn act_as(app: &App, index: BridgeIndex, bridge: &Bridge, parts: &Parts) -> Result<Session> {
    let parameter = |names: [&str; 2]| {
        let mut pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        pairs.find(|(key, _)| names.contains(&&**key)).map(|(_, value)| value.into_owned())
    };
    let user_id = match parameter(["user_id", "org.matrix.msc2409.user_id"]) {
        Some(user_id) => UserId::parse(user_id).map_err(|_| Error::invalid_param("user_id is no user id"))?,
        None => bridge.sender.clone(),
    };
    if !app.users.is_local(&user_id) || !bridge.has_user(&user_id) {
        return Err(Error::forbidden("The user is not one of this application service's"));
    }
    let device = parameter(["device_id", "org.matrix.msc3202.device_id"]).map(OwnedDeviceId::from);
    let is_sender = user_id == bridge.sender;
    Ok(app.sessions.act_as(index, &user_id, is_sender, device.as_deref()).await?)
}

impl From<ActError> for Error {
    fn from(error: ActError) -> Self {
        match error {
            ActError::UnknownUser => Self::forbidden("The application service has not registered this user"),
            ActError::Deactivated => Self::forbidden("The user is deactivated"),
            ActError::UnknownDevice => {
                Self::new(StatusCode::BAD_REQUEST, ErrorKind::UnknownDevice, "The user has no such device")
            }
            ActError::Storage(error) => error.into(),
        }
    }
}

/// The bearer token: from the header, or from the query while versions up to v1.19 are advertised.
fn token(parts: &Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        return value.to_str().ok().and_then(bearer).map(str::to_owned);
    }
    if !parts.uri.query().unwrap_or_default().contains("access_token=") {
        return None;
    }
    let request = http::Request::builder().uri(&parts.uri).body(()).ok()?;
    ruma::api::auth_scheme::extract_bearer_or_query_token(&request).ok()?
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn session(identity: Identity) -> Result<Session> {
    identity.session.ok_or_else(Error::missing_token)
}

fn refuse_locked(session: Session) -> Result<Session> {
    if session.locked { Err(Error::user_locked()) } else { Ok(session) }
}

fn refuse_guest(session: Session) -> Result<Session> {
    if session.guest { Err(Error::guest_access_forbidden()) } else { Ok(session) }
}

impl From<AuthenticateError> for Error {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Unknown { soft_logout } => Self::unknown_token(soft_logout),
            // The token of an account that is gone is a token that is gone: the client forgets it.
            AuthenticateError::Deactivated => Self::unknown_token(false),
            AuthenticateError::Storage(error) => error.into(),
        }
    }
}
