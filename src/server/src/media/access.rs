//! Files that not everybody with an account may fetch: attached to an event, or to nothing yet (MSC3911).
//!
//! Who may read the event may fetch the file. What is uploaded in the ordinary way is never restricted.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/3911>

use ruma::{EventId, MxcUri, OwnedMxcUri, ServerName};
use serde_json::{Value, json};

use super::{ContentError, Description, Media, UploadError, Wanted, is_conflict};
use crate::{
    database::{Error, Write},
    numbers::{EventNumber, Hash128, RoomNumber, UserNumber},
    rooms::{
        Rooms,
        send::{AttachedMedia, Caller},
    },
    tables::media::{MediaFile, MediaRestriction, MediaRow, Restriction, WaitingScan},
};

/// Most files that are attached to one event.
const ATTACHED_MAX: usize = 100;
/// What the restrictions of a file are called in answers to other servers, and will be.
const RESTRICTIONS: [&str; 2] = ["org.matrix.msc3911.restrictions", "restrictions"];

/// Who wants a file.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// Someone with an account.
    User(&'a Caller),
    /// Another server, for someone of its own.
    Server(&'a ServerName),
    /// Anyone.
    Anyone,
}

/// Why files are not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// This is no file that its uploader can attach.
    #[error("{0} is no restricted file of yours")]
    NotAttachable(String),
    /// It is attached to something else.
    #[error("{0} is attached to something already")]
    Attached(String),
    /// Too many at once.
    #[error("at most {ATTACHED_MAX} files can be attached to an event")]
    TooMany,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

/// Why a file is not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be read.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The copy is not taken.
    #[error(transparent)]
    Upload(#[from] UploadError),
}

impl Media {
    /// A file and who may fetch it, as of one moment.
    pub(super) async fn file(&self, key: Hash128) -> Result<(Option<MediaRow>, Option<Restriction>), Error> {
        self.0.database.get_two::<MediaFile, MediaRestriction>(&key, &key).await
    }

    /// The same, and whether the scanner has not found it clean yet.
    pub(super) async fn held_file(
        &self,
        key: Hash128,
    ) -> Result<(Option<MediaRow>, Option<Restriction>, bool), Error> {
        let database = &self.0.database;
        let found = database.get_three::<MediaFile, MediaRestriction, WaitingScan>(&key, &key, &key).await?;
        Ok((found.0, found.1, found.2.is_some()))
    }

    /// Whether a file may be fetched by who wants it.
    pub(super) async fn may_read(
        &self,
        key: Hash128,
        row: &MediaRow,
        restriction: &Restriction,
        asker: Asker<'_>,
    ) -> Result<bool, Error> {
        match (restriction, asker) {
            (Restriction::Unknown, _) | (_, Asker::Anyone) | (Restriction::Unattached, Asker::Server(_)) => {
                Ok(false)
            }
            (Restriction::Unattached, Asker::User(caller)) => Ok(row.uploader == Some(caller.user)),
            (Restriction::Profile(_), Asker::User(_) | Asker::Server(_)) => Ok(true),
            (Restriction::Event { room, event_id }, Asker::User(caller)) => {
                let Ok(id) = EventId::parse(event_id.as_str()) else { return Ok(false) };
                let Some(place) = self.0.rooms.readable(caller, *room, &id).await? else { return Ok(false) };
                if room.is_none() {
                    self.bind(key, restriction, place).await?;
                }
                Ok(true)
            }
            (Restriction::Event { room, event_id }, Asker::Server(server)) => {
                let (Some(room), Ok(id)) = (room, EventId::parse(event_id.as_str())) else {
                    return Ok(false);
                };
                self.0.rooms.readable_by_server(server, *room, &id).await
            }
        }
    }

    /// Notes where the event is that another server's file is attached to, so that the file goes with it.
    async fn bind(
        &self,
        key: Hash128,
        restriction: &Restriction,
        place: (RoomNumber, EventNumber),
    ) -> Result<(), Error> {
        let Restriction::Event { event_id, .. } = restriction else { return Ok(()) };
        let mut write = Write::new();
        write.equals::<MediaRestriction>(&key, restriction);
        let found = Restriction::Event { room: Some(place.0), event_id: event_id.clone() };
        write.put::<MediaRestriction>(&key, &found);
        Rooms::bind_media(place, key, &mut write);
        match self.0.database.commit(write).await {
            Err(error) if !is_conflict(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The files at these addresses, to be attached to an event of their uploader's. Whether one is attached to
    /// something else is found out by the event's commit.
    pub async fn attachable(
        &self,
        caller: &Caller,
        addresses: &[String],
    ) -> Result<Vec<AttachedMedia>, AttachError> {
        if addresses.len() > ATTACHED_MAX {
            return Err(AttachError::TooMany);
        }
        let mut attached = Vec::with_capacity(addresses.len());
        for address in addresses {
            let (key, _) = self.own_restricted(caller, address).await?;
            if !attached.contains(&AttachedMedia(key)) {
                attached.push(AttachedMedia(key));
            }
        }
        Ok(attached)
    }

    async fn own_restricted(
        &self,
        caller: &Caller,
        address: &str,
    ) -> Result<(Hash128, Restriction), AttachError> {
        let no = || AttachError::NotAttachable(address.to_owned());
        let uri = <&MxcUri>::from(address);
        let (server, media_id) = uri.parts().map_err(|_| no())?;
        if *server != *self.0.server_name {
            return Err(no());
        }
        let key = self.key(server, media_id);
        let (Some(row), Some(restriction)) = self.file(key).await? else { return Err(no()) };
        if row.uploader != Some(caller.user) {
            return Err(no());
        }
        Ok((key, restriction))
    }

    /// Attaches the picture of a profile to it, if it is a restricted file; others are left as they are.
    pub async fn attach_to_profile(&self, caller: &Caller, address: &str) -> Result<(), AttachError> {
        let Ok((key, restriction)) = self.own_restricted(caller, address).await else { return Ok(()) };
        let profile = Restriction::Profile(caller.user_id.to_string());
        match restriction {
            Restriction::Unattached => {
                let mut write = Write::new();
                write.equals::<MediaRestriction>(&key, &restriction);
                write.put::<MediaRestriction>(&key, &profile);
                match self.0.database.commit(write).await {
                    Err(error) if is_conflict(&error) => Err(AttachError::Attached(address.to_owned())),
                    outcome => Ok(outcome.map(drop).map_err(Error::from)?),
                }
            }
            restriction if restriction == profile => Ok(()),
            Restriction::Event { .. } | Restriction::Profile(_) | Restriction::Unknown => {
                Err(AttachError::Attached(address.to_owned()))
            }
        }
    }

    /// Makes a new restricted file of one that the caller may fetch: for forwarding it.
    pub async fn copy(&self, uploader: UserNumber, wanted: Wanted<'_>) -> Result<OwnedMxcUri, CopyError> {
        let content = self.content(wanted).await?;
        let mut upload = self.upload_restricted(uploader, content.bytes).await?;
        let mut reader = self.read(&content, 0, content.bytes).await?;
        while let Some(piece) = reader.chunk().await.map_err(ContentError::Io)? {
            upload.write(&piece).await?;
        }
        let description = Description { content_type: content.content_type, file_name: content.file_name };
        Ok(upload.finish(description).await?)
    }

    /// Whether a file waits for being attached to something.
    pub(super) async fn is_unattached(&self, key: Hash128) -> Result<bool, Error> {
        let restriction = self.0.database.get::<MediaRestriction>(&key).await?;
        Ok(restriction == Some(Restriction::Unattached))
    }
}

/// What other servers are told of who may fetch a file.
pub(super) fn to_json(restriction: Option<&Restriction>) -> Value {
    let restrictions = match restriction {
        None => return json!({}),
        Some(Restriction::Event { event_id, .. }) => json!({ "event_id": event_id }),
        Some(Restriction::Profile(user_id)) => json!({ "profile_user_id": user_id }),
        Some(Restriction::Unattached | Restriction::Unknown) => json!({}),
    };
    json!({ "org.matrix.msc3911.restrictions": restrictions })
}

/// What another server says of who may fetch a file.
pub(super) fn from_json(json: &[u8]) -> Option<Restriction> {
    let value = serde_json::from_slice::<Value>(json).ok()?;
    let restrictions = RESTRICTIONS.iter().find_map(|name| value.get(name))?;
    let field =
        |name: &str| restrictions.get(name).map(|value| value.as_str().unwrap_or_default().to_owned());
    Some(match (field("event_id"), field("profile_user_id")) {
        (Some(event_id), None) => Restriction::Event { room: None, event_id },
        (None, Some(user_id)) => Restriction::Profile(user_id),
        (Some(_), Some(_)) | (None, None) => Restriction::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_for_nobody() {
        let event = |event_id: &str| Restriction::Event { room: None, event_id: event_id.to_owned() };
        for (json, expected) in [
            ("", None),
            ("{}", None),
            (r#"{"other":1}"#, None),
            (r#"{"restrictions":{"event_id":"$a"}}"#, Some(event("$a"))),
            (r#"{"org.matrix.msc3911.restrictions":{"event_id":"$a"}}"#, Some(event("$a"))),
            (r#"{"restrictions":{"profile_user_id":"@a:b"}}"#, Some(Restriction::Profile("@a:b".into()))),
            (r#"{"restrictions":{"event_id":"$a","profile_user_id":"@a:b"}}"#, Some(Restriction::Unknown)),
            (r#"{"restrictions":{}}"#, Some(Restriction::Unknown)),
            (r#"{"restrictions":null}"#, Some(Restriction::Unknown)),
            (r#"{"restrictions":{"event_id":7}}"#, Some(event(""))),
        ] {
            assert_eq!(from_json(json.as_bytes()), expected, "{json}");
        }
        for restriction in [None, Some(event("$a")), Some(Restriction::Profile("@a:b".into()))] {
            let json = to_json(restriction.as_ref()).to_string();
            assert_eq!(from_json(json.as_bytes()), restriction, "what is sent is read");
        }
    }
}
