//! Tables of profiles. Ids 105 to 109.

use serde::{Deserialize, Serialize};

use super::Stored;
use crate::numbers::UserNumber;

super::tables! {
    /// What a local user shows of themselves.
    Profile = 105 in ACCOUNTS: UserNumber => ProfileRecord, Contact, User;
}

/// Value of [`Profile`]: field names and JSON values, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// The fields.
    pub fields: Vec<(String, String)>,
}
impl Stored for ProfileRecord {}
