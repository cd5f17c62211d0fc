//! Reports: what users tell the administrators about events, rooms and each other (§Reporting Content).

use allod_storage::Position;
use ruma::{EventId, RoomId, UserId};

use super::{Rooms, access::AccessError, send::Caller};
use crate::{
    database::{Error, Range, Write},
    tables::rooms::{Report, ReportRecord, ReportSubject},
};

/// Longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 4096;

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The server does not know what is reported, or the caller may not see it.
    #[error("there is no such thing, or you may not see it")]
    NotFound,
    /// The reason is too long.
    #[error("the reason is longer than {REASON_BYTES_MAX} bytes")]
    TooLong,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<AccessError> for ReportError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Forbidden => Self::NotFound,
            AccessError::Storage(error) => Self::Storage(error),
        }
    }
}

impl Rooms {
    /// Reports an event that the caller sees as a member of its room.
    pub async fn report_event(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        caller: &Caller,
        reason: Option<&str>,
    ) -> Result<(), ReportError> {
        let view = self.joined_view(room_id, caller).await?;
        let event = self.visible_event(&view, event_id).await?.ok_or(ReportError::NotFound)?;
        let subject = ReportSubject::Event { room: view.room.number, event: event.number };
        self.report(subject, caller, reason).await
    }

    /// Reports a room, which the caller need not be in.
    pub async fn report_room(
        &self,
        room_id: &RoomId,
        caller: &Caller,
        reason: &str,
    ) -> Result<(), ReportError> {
        let room = self.find(room_id).await?.ok_or(ReportError::NotFound)?;
        self.report(ReportSubject::Room { room: room.number }, caller, Some(reason)).await
    }

    /// Reports a user. One whom the server has never met is reported in vain: who exists is not told.
    pub async fn report_user(
        &self,
        user_id: &UserId,
        caller: &Caller,
        reason: &str,
    ) -> Result<(), ReportError> {
        let Some(user) = self.core.users.number(user_id).await? else { return Ok(()) };
        self.report(ReportSubject::User { user }, caller, Some(reason)).await
    }

    /// The reports made after `after`, the oldest first, at most `limit`.
    pub async fn reports(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<(Position, ReportRecord)>, Error> {
        let mut range = Range::<Report>::whole().limit(limit);
        if let Some(after) = after {
            range = range.continued_after(&after);
        }
        Ok(self.core.database.scan(&range).await?.rows)
    }

    async fn report(
        &self,
        subject: ReportSubject,
        caller: &Caller,
        reason: Option<&str>,
    ) -> Result<(), ReportError> {
        let reason = reason.unwrap_or_default();
        if reason.len() > REASON_BYTES_MAX {
            return Err(ReportError::TooLong);
        }
        let record = ReportRecord {
            reporter: caller.user,
            at_ms: self.core.clock.now_ms(),
            subject,
            reason: reason.to_owned(),
        };
        let mut write = Write::new();
        write.put::<Report>(&Position::PENDING, &record);
        self.core.database.commit(write).await.map_err(Error::from)?;
        Ok(())
    }
}
