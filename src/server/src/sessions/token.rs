//! What tokens look like, and how they are found again.
//!
//! A token says which kind it is and which device it belongs to; what makes it valid is the row under its hash. It holds
//! 192 bits of chance, and only the hash is stored: who reads the database can use none.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    database::Database,
    numbers::{DeviceNumber, Hash128, UserNumber},
    random::Random,
};

/// Random bytes of a token.
const RANDOM_BYTES: usize = 24;
/// Bytes of a token before they are written as text: two numbers and the random ones.
const TOKEN_BYTES: usize = 8 + RANDOM_BYTES;

/// What a token is for; its prefix lets programs that look for leaked secrets recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Access,
    Refresh,
    OpenId,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Access => "allod_at_",
            Self::Refresh => "allod_rt_",
            Self::OpenId => "allod_ot_",
        }
    }
}

/// Where a token's row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenPlace {
    pub(crate) user: UserNumber,
    pub(crate) device: DeviceNumber,
    pub(crate) hash: Hash128,
}

/// Makes a token.
pub(crate) fn new_token(
    kind: TokenKind,
    user: UserNumber,
    device: DeviceNumber,
    random: &Random,
    database: &Database,
) -> (String, Hash128) {
    let mut bytes = Vec::with_capacity(TOKEN_BYTES);
    bytes.extend_from_slice(&user.0.to_be_bytes());
    bytes.extend_from_slice(&device.0.to_be_bytes());
    bytes.extend_from_slice(&random.bytes::<RANDOM_BYTES>());
    let token = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(bytes));
    let hash = database.hash("token", &token);
    (token, hash)
}

/// Where the row of a token would be; `None` for a text that is no token of this kind.
pub(crate) fn parse_token(kind: TokenKind, token: &str, database: &Database) -> Option<TokenPlace> {
    // The decoder asks for room to spare.
    let mut bytes = [0; TOKEN_BYTES + 4];
    let length = URL_SAFE_NO_PAD.decode_slice(token.strip_prefix(kind.prefix())?, &mut bytes).ok()?;
    if length != TOKEN_BYTES {
        return None;
    }
    let (user, rest) = bytes.split_first_chunk()?;
    let (device, _) = rest.split_first_chunk()?;
    Some(TokenPlace {
        user: UserNumber(u32::from_be_bytes(*user)),
        device: DeviceNumber(u32::from_be_bytes(*device)),
        hash: database.hash("token", token),
    })
}
