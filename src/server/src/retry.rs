//! How long to wait before something is tried again that did not work.

use std::time::Duration;

use crate::random::Random;

/// Doubles with every failure from the first pause to the longest, and lies between half of that and all of it, so that
/// many do not come back at once.
pub fn pause(failures: u32, first: Duration, longest: Duration, random: &Random) -> Duration {
    let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = u64::try_from(doubled.min(longest).as_millis()).unwrap_or(u64::MAX);
    let half = whole / 2;
    let chance = u64::from_be_bytes(random.bytes());
    Duration::from_millis(half.saturating_add(chance.checked_rem(half.max(1)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let random = Random::seeded(1);
        let (first, longest) = (Duration::from_secs(2), Duration::from_secs(600));
        for failures in 1..40 {
            let wait = pause(failures, first, longest, &random);
            let whole =
                first.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(longest);
            assert!(wait >= whole / 2 && wait <= whole, "{failures}: {wait:?}");
        }
    }
}
