//! Tokens of sync: where in the log a client is, and what it knows of what is in memory only.
//!
//! Opaque to clients, never stored. Their form is `s<generation>_<position>_<boot>.<ephemeral>`, and `.<inbox>` behind
//! it if the device's inbox was not delivered up to the position. A `pos` of a sliding sync is such a token, with what it
//! says of the connection behind a `~`; wherever a token of `/sync` is taken, it stands for the same point.

use std::{fmt, str::FromStr};

use allod_storage::Position;

/// A point up to which a client knows everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// The generation of the database's history: in another one the position means nothing.
    pub generation: u32,
    /// All commits up to this one are known.
    pub position: Position,
    /// The run of the server that `ephemeral` belongs to.
    pub boot: u32,
    /// The last change known of typing and presence.
    pub ephemeral: u64,
    /// The device's messages up to this position are known.
    pub inbox: Position,
}

/// The text is not a sync token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sync token of this server")]
pub struct BadSyncToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, position, boot, ephemeral, inbox } = self;
        write!(formatter, "s{generation}_{position}_{boot:x}.{ephemeral}")?;
        if inbox != position {
            write!(formatter, ".{inbox}")?;
        }
        Ok(())
    }
}

impl FromStr for SyncToken {
    type Err = BadSyncToken;

    fn from_str(text: &str) -> Result<Self, BadSyncToken> {
        fn number<T: FromStr>(text: Option<&str>) -> Result<T, BadSyncToken> {
            // `parse` takes a leading `+`, which we never write.
            let text =
                text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).ok_or(BadSyncToken)?;
            text.parse().map_err(|_| BadSyncToken)
        }
        let text = text.split_once('~').map_or(text, |(token, _)| token);
        let mut parts = text.strip_prefix('s').ok_or(BadSyncToken)?.split('_');
        let generation = number(parts.next())?;
        let position = Position::new(number(parts.next())?);
        let mut memory = parts.next().ok_or(BadSyncToken)?.split('.');
        let boot = memory.next().ok_or(BadSyncToken)?;
        if boot.is_empty() || !boot.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadSyncToken);
        }
        let boot = u32::from_str_radix(boot, 16).map_err(|_| BadSyncToken)?;
        let ephemeral = number(memory.next())?;
        let inbox = memory.next().map(|text| number(Some(text))).transpose()?.map_or(position, Position::new);
        if parts.next().is_some() || memory.next().is_some() {
            return Err(BadSyncToken);
        }
        Ok(Self { generation, position, boot, ephemeral, inbox })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let token = SyncToken {
            generation: 3,
            position: Position::new(17),
            boot: 0xab,
            ephemeral: 9,
            inbox: Position::new(17),
        };
        assert_eq!(token.to_string(), "s3_17_ab.9");
        assert_eq!("s3_17_ab.9".parse(), Ok(token));
        assert_eq!("s3_17_ab.9~1f.4".parse(), Ok(token));
        let behind = SyncToken { inbox: Position::new(12), ..token };
        assert_eq!(behind.to_string(), "s3_17_ab.9.12");
        assert_eq!("s3_17_ab.9.12".parse(), Ok(behind));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "s",
            "3_17_ab.9",
            "s3_17_ab",
            "s3_17_.9",
            "s3_17_ab.",
            "s+3_17_ab.9",
            "s3_17_xy.9",
            "s3_17_ab.9.1.2",
            "s3_17_ab.9_1",
            "s3_99999999999999999999_ab.9",
            "s72594_4483_1934",
            "p1_2",
            "s3_17_ab.9.",
        ] {
            assert_eq!(bad.parse::<SyncToken>(), Err(BadSyncToken), "{bad}");
        }
    }
}
