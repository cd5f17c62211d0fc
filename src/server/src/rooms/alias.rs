//! Room aliases of this server, and which rooms the directory shows.

use ruma::RoomAliasId;
use serde_json::Value;

use super::{Append, AppendError, Room, Rooms, send::Caller};
use crate::{
    database::{Error, Range, Write},
    numbers::RoomNumber,
    tables::rooms::{Alias, AliasRecord, Published, RoomAlias},
};

/// Why an alias was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AliasError {
    /// There is no such alias.
    #[error("there is no such room alias")]
    NotFound,
    /// The alias points somewhere already.
    #[error("the room alias is taken")]
    InUse,
    /// The alias is of another server.
    #[error("the room alias belongs to another server")]
    NotOurs,
    /// The caller may not.
    #[error("you may not change this room alias")]
    Forbidden,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Rooms {
    /// Where an alias of this server points.
    pub async fn resolve_alias(&self, alias: &str) -> Result<Option<RoomNumber>, Error> {
        let hash = self.core.database.hash("alias", alias);
        Ok(self.core.database.get::<Alias>(&hash).await?.map(|row| row.room))
    }

    /// Points an alias to a room.
    pub async fn create_alias(
        &self,
        alias: &RoomAliasId,
        room: &Room,
        caller: &Caller,
    ) -> Result<(), AliasError> {
        let mut write = Write::new();
        self.write_alias(&mut write, alias, room.number, caller)?;
        match self.core.database.commit(write).await {
            Ok(_) => Ok(()),
            Err(allod_storage::CommitError::Conflict(_)) => Err(AliasError::InUse),
            Err(error) => Err(Error::from(error).into()),
        }
    }

    /// The rows of a new alias, which must not exist yet.
    pub(crate) fn write_alias(
        &self,
        write: &mut Write,
        alias: &RoomAliasId,
        room: RoomNumber,
        caller: &Caller,
    ) -> Result<(), AliasError> {
        if alias.server_name() != self.core.identity.server_name() {
            return Err(AliasError::NotOurs);
        }
        let hash = self.core.database.hash("alias", alias.as_str());
        write.absent::<Alias>(&hash);
        let row = AliasRecord { alias: alias.to_string(), room, creator: caller.user };
        write.put::<Alias>(&hash, &row);
        write.put::<RoomAlias>(&(room, hash), &alias.to_string());
        Ok(())
    }

    /// Removes an alias. Its maker may, administrators may, and those who may change the room's canonical alias.
    pub async fn delete_alias(
        &self,
        alias: &RoomAliasId,
        caller: &Caller,
        admin: bool,
    ) -> Result<(), AliasError> {
        let hash = self.core.database.hash("alias", alias.as_str());
        let row = self.core.database.get::<Alias>(&hash).await?.ok_or(AliasError::NotFound)?;
        if row.creator != caller.user && !admin {
            let room = self.get(row.room).await?;
            if !self.may_send_state(&room, caller, "m.room.canonical_alias").await? {
                return Err(AliasError::Forbidden);
            }
        }
        let mut write = Write::new();
        write.delete::<Alias>(&hash);
        write.delete::<RoomAlias>(&(row.room, hash));
        self.core.database.commit(write).await.map_err(Error::from)?;
        self.withdraw_alias(row.room, alias, caller).await
    }

    /// Takes a removed alias out of the room's `m.room.canonical_alias`, where the caller has the power to.
    async fn withdraw_alias(
        &self,
        room: RoomNumber,
        alias: &RoomAliasId,
        caller: &Caller,
    ) -> Result<(), AliasError> {
        const KIND: &str = "m.room.canonical_alias";
        let room = self.get(room).await?;
        let Some(mut content) = self.current_content(&room, KIND, "").await? else { return Ok(()) };
        let before = content.clone();
        if let Some(fields) = content.as_object_mut() {
            if fields.get("alias").and_then(Value::as_str) == Some(alias.as_str()) {
                fields.remove("alias");
            }
            if let Some(more) = fields.get_mut("alt_aliases").and_then(Value::as_array_mut) {
                more.retain(|other| other.as_str() != Some(alias.as_str()));
            }
        }
        if content == before || !self.may_send_state(&room, caller, KIND).await? {
            return Ok(());
        }
        let Ok(draft) = self.draft(caller, KIND, Some(""), &content) else { return Ok(()) };
        let append = Append::new(draft, caller.user);
        match self.append(&room, append).await {
            Err(AppendError::Storage(error)) => Err(error.into()),
            // The alias is gone all the same; what the room says of it can be mended by its members.
            _ => Ok(()),
        }
    }

    /// The aliases of this server that point to a room.
    pub async fn aliases(&self, room: RoomNumber) -> Result<Vec<String>, Error> {
        let rows = self.core.database.scan_all(Range::<RoomAlias>::prefix(&room)).await?;
        Ok(rows.into_iter().map(|(_, alias)| alias).collect())
    }

    /// Whether the directory shows a room.
    pub async fn is_published(&self, room: RoomNumber) -> Result<bool, Error> {
        Ok(self.core.database.get::<Published>(&room).await?.is_some())
    }

    /// Shows a room in the directory, or no longer. Administrators may, and those who may change the room's canonical
    /// alias where the server lets users publish.
    pub async fn set_published(
        &self,
        room: &Room,
        caller: &Caller,
        admin: bool,
        published: bool,
    ) -> Result<(), AliasError> {
        let may = admin
            || self.core.options.users_may_publish
                && self.may_send_state(room, caller, "m.room.canonical_alias").await?;
        if !may {
            return Err(AliasError::Forbidden);
        }
        let mut write = Write::new();
        if published {
            write.put::<Published>(&room.number, &());
        } else {
            write.delete::<Published>(&room.number);
        }
        self.core.database.commit(write).await.map_err(Error::from)?;
        Ok(())
    }

    /// Rooms that the directory shows.
    pub async fn published(&self) -> Result<Vec<RoomNumber>, Error> {
        let rows = self.core.database.scan_all(Range::<Published>::whole()).await?;
        Ok(rows.into_iter().map(|(room, ())| room).collect())
    }
}
