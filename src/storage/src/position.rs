//! The place of a commit in the log.

use std::fmt;

/// The place of a commit in its shard's log: 1 for the first commit, and one more for each that follows, without a gap.
///
/// A reader that has seen position `p` can see all that was committed at `1..=p`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);
    /// Stands in keys and values for the position that the commit will be given.
    pub const PENDING: Self = Self(u64::MAX);

    /// The position with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number of this position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
