//! Guests leave rooms that no longer let guests in (§Guest Access).
//!
//! Nothing is written down for it: whoever is left behind when the server stops is found when it starts, since guests and
//! their rooms are in the database. In between the log tells of each change.

use allod_storage::{Hint, Store};

use crate::{
    database::Error,
    log::Happened,
    numbers::{EventNumber, RoomNumber, UserNumber},
    rooms::{
        AppendError, Rooms,
        membership::{MembershipError, MembershipOptions},
        send::Caller,
    },
    tables::{accounts::AccountKind, rooms::Membership},
    tasks::Tasks,
    users::Users,
};

/// Accounts read in one step.
const CHUNK_ACCOUNTS: usize = 500;

/// The service.
#[derive(Clone, Debug)]
pub struct Guests {
    rooms: Rooms,
    users: Users,
    /// Whether guests may come in now; if not, only those of before are looked after.
    admitted: bool,
}

impl Guests {
    /// Over the rooms that guests are in.
    pub fn new(rooms: Rooms, users: Users, admitted: bool) -> Self {
        Self { rooms, users, admitted }
    }

    /// Starts the task. It ends by itself on a server that has no guests.
    pub fn start(self, store: &Store, tasks: &Tasks) {
        // Before the rooms are gone through, so that no change falls in between.
        let mut subscription = store.subscribe();
        let stopping = tasks.stopping().clone();
        tasks.spawn("guests", async move {
            match self.leave_closed_rooms().await {
                Ok(0) if !self.admitted => return,
                outcome => report(outcome.map(drop)),
            }
            loop {
                let hint = tokio::select! {
                    hint = subscription.recv() => hint,
                    () = stopping.cancelled() => return,
                };
                match hint {
                    Some(Hint::Record(record)) => {
                        for happened in record.entries.iter().filter_map(Happened::decode) {
                            if let Happened::Event { room, event } = happened {
                                report(self.follow(room, event).await);
                            }
                        }
                    }
                    Some(Hint::Lagged) => report(self.leave_closed_rooms().await.map(drop)),
                    None => return,
                }
            }
        });
    }

    /// Has guests leave all rooms that do not let them in; how many guests there are.
    pub async fn leave_closed_rooms(&self) -> Result<usize, Error> {
        let (mut after, mut guests) = (None, 0_usize);
        loop {
            let (accounts, more) = self.users.list_accounts(after, CHUNK_ACCOUNTS).await?;
            after = accounts.last().map(|(user, _)| *user);
            for (user, _) in accounts.iter().filter(|(_, account)| account.kind == AccountKind::Guest) {
                guests = guests.saturating_add(1);
                for room in self.rooms.rooms_of(*user, Membership::Join).await? {
                    if self.is_closed(room).await? {
                        self.leave(room, *user).await?;
                    }
                }
            }
            if !more {
                return Ok(guests);
            }
        }
    }

    async fn follow(&self, room: RoomNumber, event: EventNumber) -> Result<(), Error> {
        let event = self.rooms.events().load(room, event).await?;
        if event.record.kind != "m.room.guest_access" || !self.is_closed(room).await? {
            return Ok(());
        }
        let members = self.rooms.members(room, Membership::Join).await?;
        let accounts = self.users.accounts(&members).await?;
        for (user, account) in members.into_iter().zip(accounts) {
            if account.is_some_and(|account| account.kind == AccountKind::Guest) {
                self.leave(room, user).await?;
            }
        }
        Ok(())
    }

    async fn is_closed(&self, room: RoomNumber) -> Result<bool, Error> {
        let room = self.rooms.get(room).await?;
        match self.rooms.check_guest_access(&room.room_id).await {
            Err(MembershipError::GuestsForbidden) => Ok(true),
            Err(MembershipError::Storage(error)) => Err(error),
            _ => Ok(false),
        }
    }

    async fn leave(&self, room: RoomNumber, user: UserNumber) -> Result<(), Error> {
        let Some(user_id) = self.users.id(user).await? else { return Ok(()) };
        let caller = Caller { user_id, user, device: None };
        let room = self.rooms.get(room).await?;
        match self.rooms.leave(&room.room_id, &caller, &MembershipOptions::default()).await {
            Err(MembershipError::Storage(error) | MembershipError::Append(AppendError::Storage(error))) => {
                Err(error)
            }
            // Whoever cannot leave was banned or has left in the meantime.
            _ => Ok(()),
        }
    }
}

fn report(outcome: Result<(), Error>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "guests could not leave a room that lets none in; they will at the next start");
    }
}
