//! Deletes rooms, step by step, as a task that goes on over restarts.
//!
//! What is to be done is a row of each room ([`RoomDeletionRow`]); every step writes down how far it is, with what it does.
//! One room is deleted after the other. What the steps do to a room's rows is in [`rooms::delete`](crate::rooms::delete).

use std::{sync::Arc, time::Duration};

use allod_storage::CommitError;
use futures_util::future::join_all;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    database::{Corrupt, Database, Error, Range, Write, cursor},
    federation::membership::RemoteMembership,
    numbers::{RoomNumber, UserNumber},
    outbox::Outbox,
    random::Random,
    rooms::{
        Rooms,
        delete::{DeletionError, DeletionWish},
        membership::MembershipOptions,
        send::Caller,
    },
    tables::{
        accounts::Account,
        deleted::{DeletionStep, RoomDeletion, RoomDeletionRow},
        rooms::RoomMember,
    },
    tasks::Tasks,
};

/// Members that leave at once.
const LEAVING_AT_ONCE: usize = 32;
/// How often all who are still in the room are told to leave; who is in it then is taken out without an event.
const ROUNDS_MAX: u8 = 3;
/// How long is waited for the servers in the room to be told, in milliseconds. One that is not reached for longer finds the
/// room unknown when it comes back.
const TELLING_MS_MAX: u64 = 300_000;
/// How long is waited before it is looked again whether they are.
const TELLING_PAUSE: Duration = Duration::from_millis(200);
/// How long requests may take that began before the room was unknown.
const REST: Duration = Duration::from_secs(2);
/// Users whose rows go in one commit.
const USERS_AT_ONCE: usize = 100;
/// How often rows are looked for that were written meanwhile.
const SWEEPS_MAX: usize = 5;
/// How long is waited after a failure of the machine.
const PAUSE: Duration = Duration::from_secs(5);
/// Letters of the name of a deletion.
const ID_LETTERS: usize = 16;

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct RoomDeletionSources {
    /// The rows.
    pub database: Database,
    /// Rooms.
    pub rooms: Rooms,
    /// How members leave, also rooms of other servers that they are invited to.
    pub memberships: RemoteMembership,
    /// What is sent to other servers; none where federation is off.
    pub outbox: Option<Outbox>,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
    /// Where the task is started.
    pub tasks: Tasks,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Which administrator it is; none for whoever may use the machine.
    pub by: Option<UserNumber>,
    /// Whether nobody of this server may enter the room again.
    pub block: bool,
    /// Whether what is stored of it goes; else its members leave, and that is all.
    pub purge: bool,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RoomDeletions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sources: RoomDeletionSources,
    /// Tells the task that there is something to do.
    changed: Notify,
}

/// Whether a room's deletion can go on at once.
enum Progress {
    GoesOn,
    /// It is done, or the server is stopping.
    Ends,
}

impl RoomDeletions {
    /// Starts the task, which goes on with what is not done yet.
    pub fn start(sources: RoomDeletionSources) -> Self {
        let tasks = sources.tasks.clone();
        let service = Self(Arc::new(Inner { sources, changed: Notify::new() }));
        let (inner, stopping) = (Arc::clone(&service.0), tasks.stopping().clone());
        tasks.spawn("room deletion", async move {
            loop {
                let failed = inner.work().await.inspect_err(|error| {
                    tracing::warn!(%error, "a room could not be deleted; trying again");
                });
                tokio::select! {
                    () = inner.changed.notified() => {}
                    () = tokio::time::sleep(PAUSE), if failed.is_err() => {}
                    () = stopping.cancelled() => return,
                }
            }
        });
        service
    }

    /// Has a room deleted. Answers at once; the rest is done by and by.
    pub async fn delete(&self, wanted: Wanted) -> Result<RoomDeletionRow, DeletionError> {
        let Wanted { room_id, by, block, purge } = wanted;
        let delete_id = self.0.sources.random.token(ID_LETTERS);
        let wish = DeletionWish { room_id, by, block, purge, delete_id };
        let row = self.0.sources.rooms.begin_deletion(&wish).await?;
        self.0.changed.notify_one();
        Ok(row)
    }

    /// The deletion with this name.
    pub async fn get(&self, delete_id: &str) -> Result<Option<RoomDeletionRow>, Error> {
        Ok(self.all().await?.into_iter().find(|row| row.delete_id == delete_id))
    }

    /// The deletions of a room, the latest last.
    pub async fn of_room(&self, room_id: &RoomId) -> Result<Vec<RoomDeletionRow>, Error> {
        let mut rows = self.all().await?;
        rows.retain(|row| row.room_id == room_id.as_str());
        Ok(rows)
    }

    /// All deletions, also those that are done.
    pub async fn all(&self) -> Result<Vec<RoomDeletionRow>, Error> {
        Ok(self.0.sources.rooms.deletions().await?.into_iter().map(|(_, row)| row).collect())
    }
}

impl Inner {
    /// Deletes all rooms that are to be. One that cannot be deleted holds up no other.
    async fn work(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for (room, row) in self.sources.rooms.deletions().await? {
            if row.step != DeletionStep::Done
                && let Err(error) = self.run(room, row).await
            {
                tracing::debug!(room = room.0, %error, "a room could not be deleted");
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn run(&self, room: RoomNumber, mut row: RoomDeletionRow) -> Result<(), Error> {
        while !self.sources.tasks.stopping().is_cancelled() {
            let progress = match row.step {
                DeletionStep::Leaving => self.leave(room, &mut row).await?,
                DeletionStep::Telling => self.tell(room, &mut row).await?,
                DeletionStep::Closing => self.close(room, &mut row).await?,
                DeletionStep::Members => self.hide_from_members(room, &mut row).await?,
                DeletionStep::Accounts => self.hide_from_accounts(room, &mut row).await?,
                DeletionStep::Resting => self.rest(room, &mut row).await?,
                DeletionStep::Files => self.let_files_go(room, &mut row).await?,
                DeletionStep::Rows => self.delete_rows(room, &mut row).await?,
                DeletionStep::Done => Progress::Ends,
            };
            if matches!(progress, Progress::Ends) {
                break;
            }
        }
        Ok(())
    }

    /// Some members leave; the next step follows when none are left, or will not leave.
    async fn leave(&self, number: RoomNumber, row: &mut RoomDeletionRow) -> Result<Progress, Error> {
        let rooms = &self.sources.rooms;
        let room_id = rooms.get(number).await?.room_id.clone();
        let members = rooms.local_members(number).await?;
        row.members = row.members.max(row.left.saturating_add(count(members.len())));
        for chunk in members.chunks(LEAVING_AT_ONCE) {
            if self.sources.tasks.stopping().is_cancelled() {
                return Ok(Progress::Ends);
            }
            let left = join_all(chunk.iter().map(|member| self.leave_as(&room_id, member))).await;
            let left = left.into_iter().filter(|left| *left).count();
            row.left = row.left.saturating_add(count(left));
            self.note(number, row, Write::new()).await?;
        }
        row.rounds = row.rounds.saturating_add(1);
        let still_in = rooms.local_members(number).await?.len();
        if still_in == 0 || row.rounds >= ROUNDS_MAX {
            row.failed = count(still_in);
            row.told = self.sources.database.store().head().get();
            self.enter(row, DeletionStep::Telling);
        }
        self.note(number, row, Write::new()).await
    }

    /// Whether a member has left.
    async fn leave_as(&self, room_id: &RoomId, member: &Caller) -> bool {
        let options = MembershipOptions {
            reason: Some("The room was deleted by the administrators of the server".to_owned()),
            is_direct: None,
        };
        let left = self.sources.memberships.leave(room_id, member, &options).await;
        left.inspect_err(|error| tracing::info!(%room_id, %error, "a member cannot leave a room")).is_ok()
    }

    /// Waits until the other servers are told, or cannot be.
    async fn tell(&self, number: RoomNumber, row: &mut RoomDeletionRow) -> Result<Progress, Error> {
        let late = self.sources.clock.now_ms() >= row.since_ms.saturating_add(TELLING_MS_MAX);
        let told = self.sources.outbox.as_ref().is_none_or(|outbox| outbox.told_up_to() >= row.told);
        if told || late {
            self.enter(row, DeletionStep::Closing);
            return self.note(number, row, Write::new()).await;
        }
        self.pause(TELLING_PAUSE).await;
        Ok(Progress::GoesOn)
    }

    /// The room becomes unknown, unless somebody has come back into it.
    async fn close(&self, number: RoomNumber, row: &mut RoomDeletionRow) -> Result<Progress, Error> {
        let room = self.sources.rooms.get(number).await?;
        let may_stay = row.rounds >= ROUNDS_MAX;
        let mut after = row.clone();
        self.enter(&mut after, if row.purge { DeletionStep::Members } else { DeletionStep::Done });
        if self.sources.rooms.shut(&room, &after, may_stay).await? {
            *row = after;
        } else if !may_stay && !self.sources.rooms.local_members(number).await?.is_empty() {
            self.enter(row, DeletionStep::Leaving);
            self.note(number, row, Write::new()).await?;
        }
        Ok(Progress::GoesOn)
    }

    async fn hide_from_members(
        &self,
        number: RoomNumber,
        row: &mut RoomDeletionRow,
    ) -> Result<Progress, Error> {
        let range = behind(Range::<RoomMember>::prefix(&number), row).limit(USERS_AT_ONCE);
        let page = self.sources.database.scan(&range).await?;
        let users: Vec<UserNumber> = page.rows.iter().map(|((_, user), _)| *user).collect();
        let next = page.rows.last().map(|(key, _)| cursor::<RoomMember>(key));
        self.hide_from(number, row, &users, next, DeletionStep::Accounts).await
    }

    async fn hide_from_accounts(
        &self,
        number: RoomNumber,
        row: &mut RoomDeletionRow,
    ) -> Result<Progress, Error> {
        let range = behind(Range::<Account>::whole(), row).limit(USERS_AT_ONCE);
        let page = self.sources.database.scan(&range).await?;
        let users: Vec<UserNumber> = page.rows.iter().map(|(user, _)| *user).collect();
        let next = page.rows.last().map(|(user, _)| cursor::<Account>(user));
        self.hide_from(number, row, &users, next, DeletionStep::Resting).await
    }

    /// Takes away what a page of users have of the room; behind the last page comes another step.
    async fn hide_from(
        &self,
        number: RoomNumber,
        row: &mut RoomDeletionRow,
        users: &[UserNumber],
        next: Option<Vec<u8>>,
        step: DeletionStep,
    ) -> Result<Progress, Error> {
        let mut write = Write::new();
        self.sources.rooms.hide_from(number, users, &mut write).await?;
        let before = row.clone();
        match next {
            Some(next) => row.cursor = Some(next),
            None => self.enter(row, step),
        }
        match self.note(number, row, write).await {
            // Somebody's account data changed at the same time.
            Err(Error::Commit(CommitError::Conflict(_))) => {
                *row = before;
                Ok(Progress::GoesOn)
            }
            outcome => outcome,
        }
    }

    async fn rest(&self, number: RoomNumber, row: &mut RoomDeletionRow) -> Result<Progress, Error> {
        self.pause(REST).await;
        self.enter(row, DeletionStep::Files);
        self.note(number, row, Write::new()).await
    }

    async fn let_files_go(&self, number: RoomNumber, row: &mut RoomDeletionRow) -> Result<Progress, Error> {
        let mut write = Write::new();
        let files = self.sources.rooms.loosen_files(number, &mut write).await?;
        row.files = row.files.saturating_add(files);
        if files == 0 {
            self.enter(row, DeletionStep::Rows);
        }
        self.note(number, row, write).await
    }

    async fn delete_rows(&self, number: RoomNumber, row: &mut RoomDeletionRow) -> Result<Progress, Error> {
        for _ in 0..SWEEPS_MAX {
            let left = self.sources.rooms.delete_rows(number).await?;
            if left.is_empty() {
                self.enter(row, DeletionStep::Done);
                self.note(number, row, Write::new()).await?;
                self.sources.rooms.deletion_is_done(number);
                tracing::info!(delete_id = row.delete_id, members = row.left, "a room was deleted");
                return Ok(Progress::Ends);
            }
            tracing::debug!(room = number.0, tables = ?left, "rows came while a room was deleted");
            self.pause(TELLING_PAUSE).await;
        }
        Err(Error::Corrupt("RoomDeletion", Corrupt("rows of a deleted room keep coming")))
    }

    /// The row says that another step comes now.
    fn enter(&self, row: &mut RoomDeletionRow, step: DeletionStep) {
        row.step = step;
        row.since_ms = self.sources.clock.now_ms();
        row.cursor = None;
        row.finished_ms = (step == DeletionStep::Done).then_some(row.since_ms);
    }

    /// Commits what was done, with how far it is.
    async fn note(
        &self,
        number: RoomNumber,
        row: &RoomDeletionRow,
        mut write: Write,
    ) -> Result<Progress, Error> {
        write.put::<RoomDeletion>(&number, row);
        self.sources.database.commit(write).await?;
        Ok(Progress::GoesOn)
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.sources.tasks.stopping().cancelled() => {}
        }
    }
}

/// The rest of a range behind the row's cursor.
fn behind<T: crate::tables::Table>(range: Range<T>, row: &RoomDeletionRow) -> Range<T> {
    match &row.cursor {
        Some(cursor) => range.resumed_after(cursor),
        None => range,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
