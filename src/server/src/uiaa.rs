//! User-interactive authentication: what a client must still show before an operation is done.
//!
//! An attempt is a session in memory, bound to one operation of one user, that remembers which stages are completed. It
//! is used up by the operation that it allows; a restart forgets all of them, and clients begin anew.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api>

use std::sync::Arc;

use quick_cache::sync::Cache;
use ruma::api::{
    client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
    error::{ErrorKind, StandardErrorBody},
};

use crate::{
    accounts::{AccountError, Accounts},
    clock::Clock,
    database::Error,
    numbers::UserNumber,
    random::Random,
    registration_tokens::RegistrationTokens,
};

/// Attempts kept in memory; the least used goes first.
const ATTEMPTS_KEPT_MAX: usize = 10_000;
/// How long a client may take, in milliseconds.
const LIFETIME_MS: u64 = 15 * 60 * 1000;
/// Letters of a session id.
const SESSION_LENGTH: usize = 32;

/// What a client wants to do, and what it must show. An attempt is good for no other operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    endpoint: &'static str,
    /// Hash of what it would be done to, which may be long.
    objects: blake3::Hash,
    user: Option<UserNumber>,
    flows: Vec<Vec<AuthType>>,
}

impl Operation {
    /// An operation of an endpoint on some objects, such as devices; by this user, if that is known. The stages of one of
    /// the flows are to be completed in order.
    pub fn new(
        endpoint: &'static str,
        objects: &[&str],
        user: Option<UserNumber>,
        flows: Vec<Vec<AuthType>>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        for object in objects {
            hasher.update(object.as_bytes()).update(&[0]);
        }
        Self { endpoint, objects: hasher.finalize(), user, flows }
    }

    /// An operation that is confirmed with the password.
    pub fn with_password(endpoint: &'static str, objects: &[&str], user: Option<UserNumber>) -> Self {
        Self::new(endpoint, objects, user, vec![vec![AuthType::Password]])
    }
}

/// What an attempt showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The user whose password was given.
    pub user: Option<UserNumber>,
    /// The registration token that was given; it is not used up yet.
    pub registration_token: Option<String>,
}

/// Why an operation is not allowed, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum UiaaError {
    /// Something is still to be shown; the client is told what.
    #[error("user-interactive authentication is not complete")]
    Incomplete(Box<UiaaInfo>),
    /// The password is right, but another user's.
    #[error("the password is another user's")]
    OtherUser,
    /// A password could not be checked.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl UiaaError {
    /// Whether a stage was refused, such as for a wrong password: to be counted against guessing.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Incomplete(info) => info.auth_error.is_some(),
            Self::OtherUser => true,
            Self::Account(_) | Self::Storage(_) => false,
        }
    }
}

/// An attempt under way.
#[derive(Clone, Debug)]
struct Attempt {
    operation: Operation,
    completed: Vec<AuthType>,
    shown: Shown,
    expires_ms: u64,
}

/// What became of a stage.
enum Stage {
    Passed,
    Refused(&'static str),
}

/// User-interactive authentication.
#[derive(Clone, Debug)]
pub struct Uiaa(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    accounts: Accounts,
    registration_tokens: RegistrationTokens,
    clock: Clock,
    random: Random,
    attempts: Cache<String, Arc<Attempt>>,
}

impl Uiaa {
    /// Authentication against these accounts and registration tokens.
    pub fn new(
        accounts: Accounts,
        registration_tokens: RegistrationTokens,
        clock: Clock,
        random: Random,
    ) -> Self {
        Self(Arc::new(Inner {
            accounts,
            registration_tokens,
            clock,
            random,
            attempts: Cache::new(ATTEMPTS_KEPT_MAX),
        }))
    }

    /// Allows the operation if `auth` completes what it takes; otherwise says what is missing. A request without `auth`
    /// never passes.
    pub async fn allow(&self, operation: Operation, auth: Option<&AuthData>) -> Result<Shown, UiaaError> {
        let Some(auth) = auth else {
            let session = self.0.random.token(SESSION_LENGTH);
            return Err(self.incomplete(session, self.new_attempt(operation), None));
        };
        let (session, mut attempt) = match auth.session() {
            Some(session) => {
                let Some(attempt) = self.resume(session, &operation) else {
                    let session = self.0.random.token(SESSION_LENGTH);
                    let attempt = self.new_attempt(operation);
                    return Err(self.incomplete(session, attempt, Some("The session is unknown or expired")));
                };
                (session.to_owned(), attempt)
            }
            // Some clients know what will be asked for, and show it at once.
            None => (self.0.random.token(SESSION_LENGTH), self.new_attempt(operation)),
        };
        if let Some(stage) = auth.auth_type()
            && !attempt.completed.contains(&stage)
        {
            if !attempt.expects(&stage) {
                return Err(self.incomplete(session, attempt, Some("This stage is not expected now")));
            }
            match self.check(&mut attempt, auth).await? {
                Stage::Passed => attempt.completed.push(stage),
                Stage::Refused(why) => return Err(self.incomplete(session, attempt, Some(why))),
            }
        }
        if attempt.is_complete() {
            // Taken out by one request only, however many come with it at the same time.
            let known = auth.session().is_some();
            if !known || self.0.attempts.remove(&session).is_some() {
                return Ok(attempt.shown);
            }
            let session = self.0.random.token(SESSION_LENGTH);
            let attempt = self.new_attempt(attempt.operation);
            return Err(self.incomplete(session, attempt, Some("The session was used")));
        }
        Err(self.incomplete(session, attempt, None))
    }

    /// Whether a session is known: for the fallback pages.
    pub fn is_known(&self, session: &str) -> bool {
        let now_ms = self.0.clock.now_ms();
        self.0.attempts.get(session).is_some_and(|attempt| attempt.expires_ms > now_ms)
    }

    /// Completes a stage from its fallback page. Returns `None` if there is no such session or the stage is not its next,
    /// else whether the stage passed.
    pub async fn complete_from_page(
        &self,
        session: &str,
        auth: &AuthData,
    ) -> Result<Option<bool>, UiaaError> {
        let Some(attempt) = self.0.attempts.get(session) else { return Ok(None) };
        let mut attempt = Attempt::clone(&attempt);
        let Some(stage) = auth.auth_type().filter(|stage| attempt.expects(stage)) else { return Ok(None) };
        if attempt.expires_ms <= self.0.clock.now_ms() {
            return Ok(None);
        }
        match self.check(&mut attempt, auth).await? {
            Stage::Passed => attempt.completed.push(stage),
            Stage::Refused(_) => return Ok(Some(false)),
        }
        self.0.attempts.insert(session.to_owned(), Arc::new(attempt));
        Ok(Some(true))
    }

    fn new_attempt(&self, operation: Operation) -> Attempt {
        Attempt {
            operation,
            completed: Vec::new(),
            shown: Shown::default(),
            expires_ms: self.0.clock.now_ms().saturating_add(LIFETIME_MS),
        }
    }

    /// The attempt of a session, if it is for this operation.
    fn resume(&self, session: &str, operation: &Operation) -> Option<Attempt> {
        let attempt = self.0.attempts.get(session)?;
        let usable = attempt.operation == *operation && attempt.expires_ms > self.0.clock.now_ms();
        usable.then(|| Attempt::clone(&attempt))
    }

    /// Checks what was given for a stage.
    async fn check(&self, attempt: &mut Attempt, auth: &AuthData) -> Result<Stage, UiaaError> {
        match auth {
            AuthData::Dummy(_) => Ok(Stage::Passed),
            AuthData::Password(given) => {
                let UserIdentifier::Matrix(identifier) = &given.identifier else {
                    return Ok(Stage::Refused("Unknown user or wrong password"));
                };
                let proof = self.0.accounts.check_password(&identifier.user, given.password.clone()).await?;
                let Some(proof) = proof else {
                    return Ok(Stage::Refused("Unknown user or wrong password"));
                };
                if attempt.operation.user.is_some_and(|user| user != proof.user()) {
                    return Err(UiaaError::OtherUser);
                }
                attempt.shown.user = Some(proof.user());
                Ok(Stage::Passed)
            }
            AuthData::RegistrationToken(given) => {
                if !self.0.registration_tokens.is_valid(&given.token).await? {
                    return Ok(Stage::Refused("Invalid registration token"));
                }
                attempt.shown.registration_token = Some(given.token.clone());
                Ok(Stage::Passed)
            }
            // Stages that are offered nowhere.
            _ => Ok(Stage::Refused("This stage is not supported")),
        }
    }

    /// Keeps the attempt, and says what it still lacks.
    fn incomplete(&self, session: String, attempt: Attempt, why: Option<&str>) -> UiaaError {
        let flows = attempt.operation.flows.iter().cloned().map(AuthFlow::new).collect();
        let mut info = UiaaInfo::new(flows);
        info.completed.clone_from(&attempt.completed);
        // Clients expect it even if it is empty.
        info.params = serde_json::value::to_raw_value(&serde_json::Map::new()).ok();
        info.session = Some(session.clone());
        info.auth_error =
            why.map(|why| Box::new(StandardErrorBody::new(ErrorKind::Forbidden, why.to_owned())));
        self.0.attempts.insert(session, Arc::new(attempt));
        UiaaError::Incomplete(Box::new(info))
    }
}

impl Attempt {
    /// Whether the stage is the next of a flow that the completed ones begin.
    fn expects(&self, stage: &AuthType) -> bool {
        self.operation.flows.iter().any(|flow| {
            flow.starts_with(&self.completed)
                && flow.get(self.completed.len()).is_some_and(|next| next == stage)
        })
    }

    fn is_complete(&self) -> bool {
        self.operation.flows.contains(&self.completed)
    }
}

#[cfg(test)]
mod tests;
