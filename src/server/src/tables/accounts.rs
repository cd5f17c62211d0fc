//! Tables of accounts, sessions and devices. Ids 10 to 49, and 107.

use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::{DeviceNumber, Hash128, UserNumber};

super::tables! {
    /// The id behind a user's number, for local and remote users.
    User = 10 in ACCOUNTS: UserNumber => UserRow, Contact, Forever;
    /// The number of a user, by the hash of the id.
    UserByHash = 11 in ACCOUNTS: Hash128 => UserNumber, Contact, Forever;
    /// Accounts of this server. The row of a deactivated account stays, so that its name is not given out again.
    Account = 12 in ACCOUNTS: UserNumber => AccountRow, Contact, Forever;
    /// Passwords, hashed. An account without one cannot sign in by password.
    Password = 13 in ACCOUNTS: UserNumber => PasswordRow, Credential, User;
    /// Devices of local users.
    Device = 14 in ACCOUNTS: (UserNumber, DeviceNumber) => DeviceRow, Device, Device;
    /// How often a user has got a new device: two at once are told apart by it.
    DeviceCount = 15 in ACCOUNTS: UserNumber => DeviceCountRow, Operational, User;
    /// Access tokens, by their hash.
    AccessToken = 16 in ACCOUNTS: (UserNumber, DeviceNumber, Hash128) => AccessTokenRow, Credential, Device;
    /// Refresh tokens, by their hash.
    RefreshToken = 17 in ACCOUNTS: (UserNumber, DeviceNumber, Hash128) => RefreshTokenRow, Credential, Device;
    /// Where a device was last seen: at most one write an hour. Goes with its device too.
    DeviceSeen = 18 in ACCOUNTS: (UserNumber, DeviceNumber) => DeviceSeenRow, NetworkAddress, Seconds(SEEN_SECONDS_MAX);
    /// Tokens that allow registration, by their hash.
    RegistrationToken = 19 in ACCOUNTS: Hash128 => RegistrationTokenRow, Credential, Forever;
    /// Tokens by which another service asks who a user is, by their hash.
    OpenIdToken = 20 in ACCOUNTS: (UserNumber, Hash128) => OpenIdTokenRow, Credential, Seconds(OPENID_SECONDS);
    /// Mail addresses of accounts, by their hash.
    Address = 107 in ACCOUNTS: (UserNumber, Hash128) => AddressRow, Contact, User;
    /// How far numbers of a kind have been given out, by kind: 1 = devices.
    NumbersReserved = 21 in OPERATIONAL: u8 => NumbersReservedRow, Operational, Forever;
}

/// How long [`DeviceSeen`] rows are kept, in seconds: 28 days.
pub const SEEN_SECONDS_MAX: u64 = 28 * 24 * 3600;
/// How long an OpenID token is valid, in seconds.
pub const OPENID_SECONDS: u64 = 3600;

/// A row of [`User`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// The full user id.
    pub id: String,
}
impl Stored for UserRow {}

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountKind {
    /// A person's account.
    User,
    /// A guest's.
    Guest,
    /// One that an application service made and acts for.
    Appservice,
}

/// A row of [`Account`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about an account, each set by its own endpoint"
)]
pub struct AccountRow {
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// What it is for.
    pub kind: AccountKind,
    /// A server administrator.
    pub admin: bool,
    /// Locked: nothing but logging out is allowed.
    pub locked: bool,
    /// Suspended: may read, not write.
    pub suspended: bool,
    /// When it was deactivated, in milliseconds since the epoch.
    pub deactivated_ms: Option<u64>,
    /// Deactivated with the wish to be erased.
    pub erased: bool,
}
impl Stored for AccountRow {}

/// A row of [`Address`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRow {
    /// The address, in lower case.
    pub address: String,
    /// When the account got it, in milliseconds since the epoch.
    pub added_ms: u64,
}
impl Stored for AddressRow {}

impl std::fmt::Debug for AddressRow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AddressRow").field("added_ms", &self.added_ms).finish_non_exhaustive()
    }
}

/// A row of [`Password`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordRow {
    /// The hash with its salt and parameters, as a PHC string.
    pub hash: String,
    /// When it was set, in milliseconds since the epoch.
    pub changed_ms: u64,
}
impl Stored for PasswordRow {}

impl std::fmt::Debug for PasswordRow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PasswordRow").field("changed_ms", &self.changed_ms).finish_non_exhaustive()
    }
}

/// A row of [`Device`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// The id that clients know it by.
    pub id: String,
    /// The name that the user gave it.
    pub display_name: Option<String>,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// How often it was signed in to: only tokens of the last sign-in are valid.
    pub login: u32,
}
impl Stored for DeviceRow {}

/// A row of [`DeviceCount`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCountRow {
    /// Devices made so far.
    pub made: u32,
}
impl Stored for DeviceCountRow {}

/// A row of [`AccessToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenRow {
    /// The device's sign-in that it belongs to.
    pub login: u32,
    /// When it expires, in milliseconds since the epoch; a token without stays until it is revoked.
    pub expires_ms: Option<u64>,
    /// The refresh token that it was made from, until the first use of this one revokes that one.
    pub replaces: Option<Hash128>,
}
impl Stored for AccessTokenRow {}

/// A row of [`RefreshToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshTokenRow {
    /// The device's sign-in that it belongs to.
    pub login: u32,
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: Option<u64>,
    /// The access token that it was given out with.
    pub access: Hash128,
    /// The access and refresh token that it was last exchanged for.
    pub next: Option<(Hash128, Hash128)>,
    /// The refresh token that it was made from, until the first use of this one revokes that one.
    pub replaces: Option<Hash128>,
}
impl Stored for RefreshTokenRow {}

/// A row of [`DeviceSeen`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSeenRow {
    /// When, to the hour, in milliseconds since the epoch.
    pub seen_ms: u64,
    /// From where: a network, not a host.
    pub network: Option<String>,
}
impl Stored for DeviceSeenRow {}

/// A row of [`RegistrationToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationTokenRow {
    /// The token: administrators hand it out, so they can read it.
    pub token: String,
    /// How many accounts may be made with it; without, any number.
    pub uses_allowed: Option<u32>,
    /// How many were made with it.
    pub uses: u32,
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: Option<u64>,
}
impl Stored for RegistrationTokenRow {}

/// A row of [`OpenIdToken`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenIdTokenRow {
    /// When it expires, in milliseconds since the epoch.
    pub expires_ms: u64,
}
impl Stored for OpenIdTokenRow {}

/// A row of [`NumbersReserved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumbersReservedRow {
    /// No higher number has been given out.
    pub highest: u32,
}
impl Stored for NumbersReservedRow {}
