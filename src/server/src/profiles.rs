//! Profiles of local users: display name, avatar, and other fields.

use ruma::UserId;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    database::{Database, Error, Write},
    named_media,
    numbers::UserNumber,
    tables::profiles::{Profile, ProfileRecord},
    users::Users,
};

/// Longest name of a field, in bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 255;
/// Largest profile, in bytes of JSON.
pub const PROFILE_BYTES_MAX: usize = 64 * 1024;

/// Why a profile was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The field's name is too long.
    #[error("the name of the profile field is longer than {FIELD_NAME_BYTES_MAX} bytes")]
    KeyTooLarge,
    /// The profile would be too large.
    #[error("the profile would be larger than {PROFILE_BYTES_MAX} bytes")]
    TooLarge,
    /// A display name or avatar is not a string.
    #[error("{0} must be a string")]
    NotAString(&'static str),
    /// There is no such user here.
    #[error("there is no such user")]
    NotFound,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// The service.
#[derive(Clone, Debug)]
pub struct Profiles {
    database: Database,
    users: Users,
}

/// The fields of a profile that member events repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct MemberProfile {
    /// `displayname`
    pub displayname: Option<String>,
    /// `avatar_url`
    pub avatar_url: Option<String>,
}

impl Profiles {
    /// Opens the service.
    pub fn new(database: Database, users: Users) -> Self {
        Self { database, users }
    }

    /// All fields of a local user's profile; `None` if there is no such user.
    pub async fn get(&self, user_id: &UserId) -> Result<Option<Map<String, Value>>, Error> {
        let Some(user) = self.users.number(user_id).await? else { return Ok(None) };
        if self.users.account(user).await?.is_none() {
            return Ok(None);
        }
        let record = self.database.get::<Profile>(&user).await?.unwrap_or_default();
        let fields = record.fields.into_iter().filter_map(|(name, json)| {
            let value = serde_json::from_str(&json).ok()?;
            Some((name, value))
        });
        Ok(Some(fields.collect()))
    }

    /// What the user's member events say of them.
    pub async fn member_profile(&self, user: UserNumber) -> Result<MemberProfile, Error> {
        Ok(member_profile(self.database.get::<Profile>(&user).await?.as_ref()))
    }

    /// The same of many users, in their order.
    pub async fn member_profiles(&self, users: &[UserNumber]) -> Result<Vec<MemberProfile>, Error> {
        let records = self.database.get_all::<Profile>(users).await?;
        Ok(records.iter().map(|record| member_profile(record.as_ref())).collect())
    }

    /// Sets a field, or removes it with `None`. Returns whether member events must follow.
    pub async fn set(
        &self,
        user: UserNumber,
        name: &str,
        value: Option<&RawValue>,
    ) -> Result<bool, ProfileError> {
        if name.len() > FIELD_NAME_BYTES_MAX {
            return Err(ProfileError::KeyTooLarge);
        }
        let in_member_events = matches!(name, "displayname" | "avatar_url");
        let json = normal(name, value)?;
        for write in named_media::keep(&self.database, user, json.as_deref().unwrap_or_default()) {
            self.database.commit(write).await.map_err(Error::from)?;
        }
        loop {
            let before = self.database.get::<Profile>(&user).await?;
            let mut after = before.clone().unwrap_or_default();
            after.fields.retain(|(field, _)| field != name);
            if let Some(json) = &json {
                after.fields.push((name.to_owned(), json.clone()));
                after.fields.sort();
            }
            if before.as_ref() == Some(&after) || (before.is_none() && after.fields.is_empty()) {
                return Ok(false);
            }
            check_size(&after)?;
            let mut write = Write::new();
            match &before {
                Some(before) => write.equals::<Profile>(&user, before),
                None => write.absent::<Profile>(&user),
            };
            write.put::<Profile>(&user, &after);
            match self.database.commit(write).await {
                Ok(_) => return Ok(in_member_events),
                Err(allod_storage::CommitError::Conflict(_)) => {}
                Err(error) => return Err(Error::from(error).into()),
            }
        }
    }
}

fn member_profile(record: Option<&ProfileRecord>) -> MemberProfile {
    let text = |name: &str| {
        let (_, json) = record?.fields.iter().find(|(field, _)| field == name)?;
        serde_json::from_str::<String>(json).ok().filter(|text| !text.is_empty())
    };
    MemberProfile { displayname: text("displayname"), avatar_url: text("avatar_url") }
}

/// The JSON to store; `None` removes the field. Clients clear a name or avatar with null or an empty string.
fn normal(name: &str, value: Option<&RawValue>) -> Result<Option<String>, ProfileError> {
    let Some(value) = value else { return Ok(None) };
    let field = match name {
        "displayname" => "displayname",
        "avatar_url" => "avatar_url",
        _ => return Ok(Some(value.get().to_owned())),
    };
    match serde_json::from_str::<Value>(value.get()) {
        Ok(Value::Null) => Ok(None),
        Ok(Value::String(text)) if text.is_empty() => Ok(None),
        Ok(Value::String(_)) => Ok(Some(value.get().to_owned())),
        _ => Err(ProfileError::NotAString(field)),
    }
}

fn check_size(profile: &ProfileRecord) -> Result<(), ProfileError> {
    let bytes: usize = profile
        .fields
        .iter()
        .map(|(name, json)| name.len().saturating_add(json.len()).saturating_add(4))
        .sum();
    if bytes > PROFILE_BYTES_MAX { Err(ProfileError::TooLarge) } else { Ok(()) }
}
