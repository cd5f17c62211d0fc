//! Hashing of passwords: slow on purpose, on few threads, and as slow for users who do not exist.
//!
//! **Invariant:** whether an account exists, and whether it has a password, cannot be told from how long a check takes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::Accounts as Config, random::Random, tasks::Tasks};

/// Checks that may wait for one of the few threads; more are refused.
const WAITING_MAX: usize = 256;
/// Longest password, in bytes. A longer one is never right.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Why a password was not hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait already; try again later.
    #[error("too many passwords are being checked")]
    Busy,
    /// The parameters or a stored hash are not usable.
    #[error("password hashing failed: {0}")]
    Hash(String),
}

/// Why a password cannot be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// It has fewer letters than this.
    #[error("the password has fewer than {0} letters")]
    TooShort(u32),
    /// It has more bytes than anyone types.
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
}

/// Hashes and checks passwords.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    argon: Argon2<'static>,
    /// A hash that no password has, checked where there is none.
    decoy: String,
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
    length_min: u32,
    random: Random,
    tasks: Tasks,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Passwords {
    /// Prepares hashing with these costs.
    pub async fn new(config: &Config, random: Random, tasks: Tasks) -> Result<Self, PasswordError> {
        let memory_kib = u32::try_from(config.password_memory.0 >> 10).unwrap_or(u32::MAX);
        let params = Params::new(memory_kib, config.password_iterations, 1, None)
            .map_err(|error| PasswordError::Hash(error.to_string()))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let threads = usize::try_from(config.password_threads.max(1)).unwrap_or(1);
        let decoy_argon = argon.clone();
        let (password, salt) = (random.token(32), random.bytes::<16>());
        let decoy = tasks
            .spawn_blocking(move || hash(&decoy_argon, &password, &salt))
            .await
            .map_err(|error| PasswordError::Hash(error.to_string()))??;
        Ok(Self(Arc::new(Inner {
            argon,
            decoy,
            threads: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
            length_min: config.password_length,
            random,
            tasks,
        })))
    }

    /// Whether a password may be chosen.
    pub fn check_strength(&self, password: &str) -> Result<(), WeakPassword> {
        let letters = u32::try_from(password.chars().count()).unwrap_or(u32::MAX);
        if letters < self.0.length_min.max(1) {
            return Err(WeakPassword::TooShort(self.0.length_min.max(1)));
        }
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(WeakPassword::TooLong);
        }
        Ok(())
    }

    /// The hash to store for a password.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        let argon = self.0.argon.clone();
        let salt = self.0.random.bytes::<16>();
        self.run(move || hash(&argon, &password, &salt)).await?
    }

    /// Whether `password` has the hash `stored`; without one the answer is no, after the same work.
    pub async fn matches(&self, stored: Option<String>, password: String) -> Result<bool, PasswordError> {
        let exists = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.0.decoy.clone());
        let argon = self.0.argon.clone();
        let matches = self.run(move || {
            let fits = password.len() <= PASSWORD_BYTES_MAX && !password.is_empty();
            let password = if fits { password.as_bytes() } else { b"" };
            // The costs are read from the stored hash, so that a change of configuration invalidates no password.
            let parsed =
                PasswordHash::new(&stored).map_err(|error| PasswordError::Hash(error.to_string()))?;
            Ok(argon.verify_password(password, &parsed).is_ok() && fits)
        });
        Ok(matches.await?? && exists)
    }

    /// Does the work on one of the few threads, when it is its turn.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let turn = self.turn().await?;
        let work = move || {
            let result = work();
            // Held by the work itself: that goes on when the request that asked for it has gone.
            drop(turn);
            result
        };
        self.0.tasks.spawn_blocking(work).await.map_err(|error| PasswordError::Hash(error.to_string()))
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        let _waiting = Waiting::enter(&self.0.waiting).ok_or(PasswordError::Busy)?;
        self.0.threads.clone().acquire_owned().await.map_err(|_| PasswordError::Busy)
    }
}

/// Someone who waits for a thread, counted.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Option<Self> {
        let entered = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hash(argon: &Argon2<'_>, password: &str, salt: &[u8]) -> Result<String, PasswordError> {
    let failed = |error: argon2::password_hash::Error| PasswordError::Hash(error.to_string());
    let salt = SaltString::encode_b64(salt).map_err(failed)?;
    Ok(argon.hash_password(password.as_bytes(), &salt).map_err(failed)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passwords() -> Passwords {
        let config = Config::default().with_cheap_passwords();
        Passwords::new(&config, Random::seeded(1), Tasks::new()).await.unwrap()
    }

    #[tokio::test]
    async fn only_the_password_itself_matches() {
        let passwords = passwords().await;
        let stored = passwords.hash("übers3kr1t".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$"));
        assert!(passwords.matches(Some(stored.clone()), "übers3kr1t".to_owned()).await.unwrap());
        for wrong in ["", "ubers3kr1t", "übers3kr1t ", &"x".repeat(PASSWORD_BYTES_MAX + 1)] {
            assert!(!passwords.matches(Some(stored.clone()), wrong.to_owned()).await.unwrap());
        }
        assert!(!passwords.matches(None, "übers3kr1t".to_owned()).await.unwrap());
    }

    /// tuwunel c564d9e2: an account without a password was confirmed with any.
    #[tokio::test]
    async fn a_stored_hash_that_is_none_matches_nothing() {
        let passwords = passwords().await;
        for stored in ["", "*", "$argon2id$", "!"] {
            assert!(
                passwords.matches(Some(stored.to_owned()), "anything".to_owned()).await.is_err(),
                "{stored}"
            );
        }
    }

    #[tokio::test]
    async fn weak_passwords_are_refused() {
        let passwords = passwords().await;
        assert_eq!(passwords.check_strength("short"), Err(WeakPassword::TooShort(8)));
        assert_eq!(passwords.check_strength("longer enough"), Ok(()));
        assert_eq!(passwords.check_strength(&"x".repeat(513)), Err(WeakPassword::TooLong));
    }
}
