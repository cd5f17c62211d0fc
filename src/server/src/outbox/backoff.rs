//! When a server that was not reached is tried again.

use std::time::Duration;

use crate::{random::Random, retry};

/// The first pause.
const FIRST: Duration = Duration::from_secs(2);
/// The longest pause. A server that comes back speaks first, which ends the pause.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// How it goes with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    /// Since when it has not been reached, in milliseconds since the epoch.
    pub(super) fail_since_ms: Option<u64>,
    /// When it is tried again, in milliseconds since the epoch.
    pub(super) next_at_ms: u64,
    /// How often in a row it was not reached.
    pub(super) failures: u32,
}

impl Backoff {
    /// It was not reached.
    pub(super) fn failed(&mut self, now_ms: u64, random: &Random) {
        self.fail_since_ms.get_or_insert(now_ms);
        self.failures = self.failures.saturating_add(1);
        let pause = retry::pause(self.failures, FIRST, LONGEST, random);
        self.next_at_ms = now_ms.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
    }

    /// It spoke: it is tried at once.
    pub(super) fn woken(&mut self) {
        self.next_at_ms = 0;
    }

    /// Whether it was reached last time.
    pub(super) fn is_well(&self) -> bool {
        self.failures == 0
    }

    /// How long it is left alone.
    pub(super) fn wait(&self, now_ms: u64) -> Duration {
        if self.is_well() {
            Duration::ZERO
        } else {
            Duration::from_millis(self.next_at_ms.saturating_sub(now_ms))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let random = Random::seeded(1);
        let mut backoff = Backoff::default();
        assert_eq!(backoff.wait(5), Duration::ZERO);
        let mut last = Duration::ZERO;
        for failures in 1..=8 {
            backoff.failed(1_000, &random);
            let (wait, whole) = (backoff.wait(1_000), FIRST * 2_u32.pow(failures - 1));
            assert!(wait >= whole / 2 && wait <= whole && wait * 4 > last, "{failures}: {wait:?}");
            last = wait;
        }
        for failures in [20, 32, 33, 1_000] {
            let mut long = Backoff { failures: failures - 1, ..backoff };
            long.failed(1_000, &random);
            assert!(
                (LONGEST / 2..=LONGEST).contains(&long.wait(1_000)),
                "{failures}: {:?}",
                long.wait(1_000)
            );
        }
        assert_eq!(backoff.fail_since_ms, Some(1_000));
        backoff.woken();
        assert_eq!(backoff.wait(1_000), Duration::ZERO);
        assert!(!backoff.is_well());
    }
}
