//! Room tags: the datum `m.tag` of a room's account data.

use ruma::events::tag::{TagInfo, Tags as TagMap};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    account_data::{AccountData, AccountDataError, Datum},
    database::Error,
    numbers::{RoomNumber, UserNumber},
};

/// The type of the datum that holds the tags.
pub const TAG_TYPE: &str = "m.tag";
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 255;
/// Most tags that a user may give a room.
pub const TAGS_PER_ROOM_MAX: usize = 100;

/// Why a tag was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The tag is too long.
    #[error("the tag is too long")]
    TooLong,
    /// The room has as many tags as a room may have.
    #[error("too many tags")]
    TooMany,
    /// Writing failed.
    #[error(transparent)]
    AccountData(#[from] AccountDataError),
}

/// The content of `m.tag`, with whatever clients put into it.
#[derive(Default, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    tags: Map<String, Value>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// The service of tags.
#[derive(Clone, Debug)]
pub struct Tags {
    account_data: AccountData,
}

impl Tags {
    /// Over account data.
    pub fn new(account_data: AccountData) -> Self {
        Self { account_data }
    }

    /// The tags of a room that are well formed.
    pub async fn get(&self, user: UserNumber, room: RoomNumber) -> Result<TagMap, Error> {
        let datum = self.account_data.get(user, Some(room), TAG_TYPE).await?;
        let tags = content(datum.as_ref()).tags.into_iter();
        Ok(tags.filter_map(|(tag, info)| Some((tag.into(), serde_json::from_value(info).ok()?))).collect())
    }

    /// Gives a room a tag, or changes it.
    pub async fn set(
        &self,
        user: UserNumber,
        room: RoomNumber,
        tag: &str,
        info: &TagInfo,
    ) -> Result<(), TagError> {
        if tag.len() > TAG_BYTES_MAX {
            return Err(TagError::TooLong);
        }
        let info = serde_json::to_value(info).unwrap_or_default();
        self.account_data
            .update(user, Some(room), TAG_TYPE, |datum| {
                let mut content = content(datum);
                content.tags.insert(tag.to_owned(), info.clone());
                if content.tags.len() > TAGS_PER_ROOM_MAX {
                    return Err(TagError::TooMany);
                }
                Ok(serde_json::to_string(&content).ok())
            })
            .await
    }

    /// Takes a tag from a room; nothing happens if it has none.
    pub async fn remove(&self, user: UserNumber, room: RoomNumber, tag: &str) -> Result<(), TagError> {
        self.account_data
            .update(user, Some(room), TAG_TYPE, |datum| {
                let mut content = content(datum);
                let removed = content.tags.remove(tag);
                Ok(removed.and_then(|_| serde_json::to_string(&content).ok()))
            })
            .await
    }
}

fn content(datum: Option<&Datum>) -> Content {
    datum.and_then(|datum| serde_json::from_str(datum.content.get()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room_lookup::tests::database;

    #[tokio::test]
    async fn tags_come_and_go_and_other_fields_stay() {
        let (alice, room) = (UserNumber(1), RoomNumber(7));
        let data = AccountData::new(database().await);
        let tags = Tags::new(data.clone());
        data.set(alice, Some(room), TAG_TYPE, r#"{"x":1}"#).await.unwrap();
        tags.set(alice, room, "u.work", &TagInfo::new()).await.unwrap();
        tags.set(alice, room, "m.favourite", &TagInfo::new()).await.unwrap();
        tags.remove(alice, room, "u.work").await.unwrap();
        tags.remove(alice, room, "u.none").await.unwrap();
        assert_eq!(tags.get(alice, room).await.unwrap().len(), 1);
        let datum = data.get(alice, Some(room), TAG_TYPE).await.unwrap().unwrap();
        assert_eq!(datum.content.get(), r#"{"tags":{"m.favourite":{}},"x":1}"#);
        let long = tags.set(alice, room, &"x".repeat(256), &TagInfo::new()).await;
        assert!(matches!(long, Err(TagError::TooLong)));
    }
}
