//! Tokens of `/messages` and its like: a point in a room's order of depth, and up to where the reader knows what arrived.

use std::{fmt, str::FromStr};

use crate::numbers::EventNumber;

/// A point just before one event in the order of (depth, number); what comes before it is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PaginationToken {
    /// Depth of the event behind the point.
    pub depth: u64,
    /// Its number.
    pub number: EventNumber,
    /// What arrived in the room from this position on is known to the reader, wherever it stands in the order of depth;
    /// going back shows all else. Zero where that does not matter.
    pub arrived: u64,
    /// Whether the reader comes from an earlier page, so that what stands before the point in the order of depth and is not
    /// known has been shown.
    pub goes_on: bool,
}

impl PaginationToken {
    /// Before the first event.
    pub const START: Self = Self { depth: 0, number: EventNumber(0), arrived: 0, goes_on: false };
    /// Behind the last event.
    pub const END: Self = Self { depth: u64::MAX, number: EventNumber(u32::MAX), arrived: 0, goes_on: false };

    /// The point just before this event.
    pub const fn before(depth: u64, number: EventNumber) -> Self {
        Self { depth, number, arrived: 0, goes_on: false }
    }

    /// The point just behind this event.
    pub const fn behind(depth: u64, number: EventNumber) -> Self {
        Self { depth, number: EventNumber(number.0.saturating_add(1)), arrived: 0, goes_on: false }
    }

    /// The same point, for a reader who knows what arrived from there on.
    #[must_use]
    pub const fn knowing_from(self, arrived: u64) -> Self {
        Self { arrived, ..self }
    }

    /// The same point, for a reader who comes from an earlier page.
    #[must_use]
    pub const fn going_on(self) -> Self {
        Self { goes_on: self.arrived > 0, ..self }
    }
}

impl fmt::Display for PaginationToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "p{}_{}", self.depth, self.number.0)?;
        if self.arrived > 0 {
            write!(formatter, "{}{}", if self.goes_on { "_c" } else { "_" }, self.arrived)?;
        }
        Ok(())
    }
}

/// The text is not a pagination token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pagination token of this server")]
pub struct BadToken;

impl FromStr for PaginationToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let (depth, rest) = text.strip_prefix('p').and_then(|rest| rest.split_once('_')).ok_or(BadToken)?;
        let (number, arrived) = rest.split_once('_').unwrap_or((rest, "0"));
        let (goes_on, arrived) = match arrived.strip_prefix('c') {
            Some(arrived) => (true, arrived),
            None => (false, arrived),
        };
        let depth = depth.parse().map_err(|_| BadToken)?;
        let number = number.parse().map_err(|_| BadToken)?;
        let arrived = arrived.parse().map_err(|_| BadToken)?;
        Ok(Self { depth, number: EventNumber(number), arrived, goes_on })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let point = PaginationToken::behind(7, EventNumber(3));
        for token in [
            PaginationToken::START,
            PaginationToken::END,
            point,
            point.knowing_from(12),
            point.knowing_from(12).going_on(),
        ] {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        for bad in
            ["", "p", "p1", "p1_", "p_1", "s1_1", "p-1_1", "p1_99999999999", "p1_1_", "p1_1_x", "p1_1_1_1"]
        {
            assert_eq!(bad.parse::<PaginationToken>(), Err(BadToken));
        }
    }
}
