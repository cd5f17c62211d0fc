//! Rate limits: who may send how many requests.
//!
//! Buckets are the generic cell rate algorithm over sharded maps. It is written here rather than taken from `governor`
//! because a failed login must be counted after the attempt and asked about before it, and governor cannot ask without
//! counting; and because the injected clock may step back, which must not lock people out.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use allod_server::{
    clock::Clock,
    config::{self, Live, Rate},
    numbers::UserNumber,
};
use http::Method;
use ruma::{OwnedServerName, ServerName};

use crate::error::{Error, Result};

/// What a request counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not limited.
    Free,
    /// Limited by user, or by address where there is no user.
    Ordinary,
    /// A login attempt.
    Login,
    /// A registration.
    Registration,
    /// A question about a registration token.
    RegistrationToken,
}

impl Class {
    /// The class of an endpoint, from its metadata and path.
    pub(crate) fn of(method: &Method, template: &str, rate_limited: bool) -> Self {
        if method == Method::POST && template.ends_with("/login") {
            Self::Login
        } else if method == Method::POST && template.ends_with("/register") {
            Self::Registration
        } else if template.ends_with("/validity") {
            Self::RegistrationToken
        } else if rate_limited || template.starts_with("/_matrix/key/v2/query") {
            // Whoever asks a notary makes it ask others.
            Self::Ordinary
        } else {
            Self::Free
        }
    }
}

/// How long a handler may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as the configuration says.
    Ordinary,
    /// It waits for news, or for other servers.
    Waiting,
    /// It reads a body of any size, whose sender must be quick enough.
    Endless,
}

/// What waits is given up after this time; greater than any long poll.
const WAITING_TIME_MAX: Duration = Duration::from_secs(300);

impl Patience {
    pub(crate) fn of(template: &str) -> Self {
        let waiting = ["/sync", "/events", "/media/", "/join", "/knock", "/keys/query", "/keys/claim"];
        if template.contains("/media/") && template.contains("/upload") {
            Self::Endless
        } else if waiting.iter().any(|part| template.contains(part)) {
            Self::Waiting
        } else {
            Self::Ordinary
        }
    }

    /// The longest time, if there is one.
    pub(crate) fn time_max(self, limits: &config::Limits) -> Option<Duration> {
        match self {
            Self::Ordinary => Some(limits.request_time.0),
            Self::Waiting => Some(WAITING_TIME_MAX.max(limits.request_time.0)),
            Self::Endless => None,
        }
    }
}

/// All buckets of the server. The rates are the configuration's, as it is at the time.
#[derive(Debug)]
pub struct Limits {
    config: Live,
    clock: Clock,
    requests: Buckets<UserNumber>,
    requests_without_account: Buckets<IpAddr>,
    requests_of_server: Buckets<OwnedServerName>,
    logins: Buckets<IpAddr>,
    failed_logins: Buckets<String>,
    registrations: Buckets<IpAddr>,
    registration_tokens: Buckets<IpAddr>,
}

impl Limits {
    /// Full buckets.
    pub fn new(config: Live, clock: Clock) -> Self {
        Self {
            config,
            clock,
            requests: Buckets::new(),
            requests_without_account: Buckets::new(),
            requests_of_server: Buckets::new(),
            logins: Buckets::new(),
            failed_logins: Buckets::new(),
            registrations: Buckets::new(),
            registration_tokens: Buckets::new(),
        }
    }

    /// Counts a request: 429 if it is one too many.
    pub(crate) fn count(&self, class: Class, user: Option<UserNumber>, address: IpAddr) -> Result<()> {
        let config = self.config.get();
        let rates = &config.limits;
        if !rates.rates {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let from = subscriber(address);
        match (class, user) {
            (Class::Free, _) => Ok(()),
            (Class::Ordinary, Some(user)) => self.requests.take(rates.requests, &user, now),
            (Class::Ordinary, None) => {
                self.requests_without_account.take(rates.requests_without_account, &from, now)
            }
            (Class::Login, _) => self.logins.take(rates.logins, &from, now),
            (Class::Registration, _) => self.registrations.take(rates.registrations, &from, now),
            (Class::RegistrationToken, _) => {
                self.registration_tokens.take(rates.registration_tokens, &from, now)
            }
        }
        .map_err(Error::limit_exceeded)
    }

    /// Counts a request that another server signed: 429 if it is one too many.
    pub(crate) fn count_server(&self, server: &ServerName) -> Result<()> {
        let config = self.config.get();
        if !config.limits.rates {
            return Ok(());
        }
        let (rate, now) = (config.limits.requests_of_server, self.clock.now_ms());
        self.requests_of_server.take(rate, &server.to_owned(), now).map_err(Error::limit_exceeded)
    }

    /// Before a password is checked: 429 if the account has had too many failed logins.
    pub fn check_failed_logins(&self, account: &str) -> Result<()> {
        let config = self.config.get();
        if !config.limits.rates {
            return Ok(());
        }
        let rate = config.limits.failed_logins;
        self.failed_logins.ask(rate, account, self.clock.now_ms()).map_err(Error::limit_exceeded)
    }

    /// After a password was wrong.
    pub fn count_failed_login(&self, account: &str) {
        let rate = self.config.get().limits.failed_logins;
        // A refusal is heard by who asks next.
        let _ = self.failed_logins.take(rate, &account.to_owned(), self.clock.now_ms());
    }
}

/// What one subscriber holds: an IPv4 address, or a /64 of IPv6.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & (u128::MAX << 64)).into()),
    }
}

/// How many maps share the keys, so that few requests wait for one lock.
const SHARDS: usize = 16;
/// A shard drops its full buckets when it has grown to this many, and then to twice what is left.
const SWEEP_AT: usize = 1024;

/// For every key the time at which its bucket is full again.
#[derive(Debug)]
struct Buckets<K> {
    hasher: RandomState,
    shards: [Mutex<Shard<K>>; SHARDS],
}

#[derive(Debug)]
struct Shard<K> {
    full_at_us: HashMap<K, u64>,
    sweep_at: usize,
}

/// A rate as this algorithm counts: what one request costs, and how far a bucket may be behind; in microseconds.
struct Cost {
    one_us: u64,
    tolerance_us: u64,
}

impl Cost {
    fn of(rate: Rate) -> Self {
        let one_us = u64::try_from(rate.interval().as_micros()).unwrap_or(u64::MAX / 4);
        Self { one_us, tolerance_us: one_us.saturating_mul(u64::from(rate.burst.saturating_sub(1))) }
    }

    /// A time further ahead than a bucket can be empty comes from a clock that was set back.
    fn full_at(&self, stored: Option<&u64>, now_us: u64) -> u64 {
        let greatest = now_us.saturating_add(self.tolerance_us).saturating_add(self.one_us);
        stored.filter(|full_at| **full_at <= greatest).map_or(now_us, |full_at| now_us.max(*full_at))
    }

    fn wait(&self, full_at_us: u64, now_us: u64) -> Result<(), Duration> {
        let wait_us = full_at_us.saturating_sub(now_us).saturating_sub(self.tolerance_us);
        if wait_us == 0 { Ok(()) } else { Err(Duration::from_micros(wait_us)) }
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new() -> Self {
        let shard = || Mutex::new(Shard { full_at_us: HashMap::new(), sweep_at: SWEEP_AT });
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| shard()) }
    }

    /// Takes one, or says how long to wait for it.
    fn take(&self, rate: Rate, key: &K, now_ms: u64) -> Result<(), Duration> {
        let (cost, now) = (Cost::of(rate), now_ms.saturating_mul(1000));
        self.in_shard(key, |shard| {
            let full_at = cost.full_at(shard.full_at_us.get(key), now);
            cost.wait(full_at, now)?;
            if shard.full_at_us.len() >= shard.sweep_at {
                shard.full_at_us.retain(|_, full_at| *full_at > now);
                shard.sweep_at = SWEEP_AT.max(shard.full_at_us.len().saturating_mul(2));
            }
            shard.full_at_us.insert(key.clone(), full_at.saturating_add(cost.one_us));
            Ok(())
        })
    }

    /// Whether one could be taken, without taking it.
    fn ask<Q>(&self, rate: Rate, key: &Q, now_ms: u64) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (cost, now) = (Cost::of(rate), now_ms.saturating_mul(1000));
        self.in_shard(key, |shard| cost.wait(cost.full_at(shard.full_at_us.get(key), now), now))
    }

    fn in_shard<Q: Hash + ?Sized>(
        &self,
        key: &Q,
        work: impl FnOnce(&mut Shard<K>) -> Result<(), Duration>,
    ) -> Result<(), Duration> {
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        let index = usize::try_from(self.hasher.hash_one(key) % shards).unwrap_or(0);
        let Some(shard) = self.shards.get(index) else { return Ok(()) };
        work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use allod_server::config::{Config, Period};

    use super::*;

    fn limits(clock: &Clock, enabled: bool) -> Limits {
        let mut config = Config::default();
        config.limits.rates = enabled;
        config.limits.requests = Rate::new(30, Period::Minute, 2);
        config.limits.failed_logins = config.limits.requests;
        Limits::new(Live::new(config), clock.clone())
    }

    fn count(limits: &Limits, user: u32) -> Result<()> {
        limits.count(Class::Ordinary, Some(UserNumber(user)), "1.2.3.4".parse().unwrap())
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let clock = Clock::manual(1_000_000);
        let limits = limits(&clock, true);
        count(&limits, 1).unwrap();
        count(&limits, 1).unwrap();
        assert_eq!(count(&limits, 1).unwrap_err().status().as_u16(), 429);
        count(&limits, 2).unwrap();
        clock.advance(Duration::from_secs(2));
        count(&limits, 1).unwrap();
        assert!(count(&limits, 1).is_err());
    }

    #[test]
    fn switched_off_it_lets_all_through() {
        let limits = limits(&Clock::manual(0), false);
        for _ in 0..100 {
            count(&limits, 1).unwrap();
        }
    }

    #[test]
    fn asking_about_failed_logins_does_not_count() {
        let clock = Clock::manual(1_000_000);
        let limits = limits(&clock, true);
        for _ in 0..10 {
            limits.check_failed_logins("alice").unwrap();
        }
        limits.count_failed_login("alice");
        limits.count_failed_login("alice");
        assert!(limits.check_failed_logins("alice").is_err());
        limits.check_failed_logins("bob").unwrap();
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let (buckets, rate) = (Buckets::new(), Rate::new(1, Period::Second, 1));
        buckets.take(rate, &1, 10_000_000).unwrap();
        buckets.take(rate, &1, 1_000).unwrap();
        assert!(buckets.take(rate, &1, 1_000).is_err());
    }

    #[test]
    fn full_buckets_are_dropped() {
        let (buckets, rate) = (Buckets::new(), Rate::new(1, Period::Second, 1));
        for key in 0..200_000_u64 {
            buckets.take(rate, &key, key).unwrap();
        }
        let kept: usize = buckets.shards.iter().map(|shard| shard.lock().unwrap().full_at_us.len()).sum();
        assert!(kept <= SHARDS * SWEEP_AT, "{kept}");
    }

    #[test]
    fn neighbours_in_one_ipv6_network_share_a_bucket() {
        let subscriber = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(subscriber("2001:db8::1"), subscriber("2001:db8::2"));
        assert_ne!(subscriber("2001:db8::1"), subscriber("2001:db8:0:1::1"));
        assert_eq!(subscriber("::ffff:1.2.3.4"), subscriber("1.2.3.4"));
    }

    #[test]
    fn classes_follow_the_path() {
        let of = |method, path| Class::of(&method, path, false);
        assert_eq!(of(Method::POST, "/_matrix/client/v3/login"), Class::Login);
        assert_eq!(of(Method::GET, "/_matrix/client/v3/login"), Class::Free);
        assert_eq!(of(Method::POST, "/_matrix/client/v3/register"), Class::Registration);
    }
}
