//! Users, local and remote: the numbers that stand for their ids, and the accounts of this server.
//!
//! What hangs on an account (devices, tokens, passwords) belongs to the services above this one, which tell it with
//! [`Users::changed`] when a session may have become something else.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use allod_storage::CommitError;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{
    database::{Corrupt, Database, Error, Range, Write},
    numbers::{Counter, Hash128, UserNumber},
    tables::accounts::{Account, AccountRow, User, UserByHash, UserRow},
};

pub mod names;

/// Ids and numbers kept in memory, each way.
const CACHED_USERS_MAX: usize = 100_000;
/// Users that share a counter of changes.
const EPOCHS: usize = 4096;
/// New users in one commit: three rows and a check each, well below the limit of a batch.
const NEW_USERS_MAX: usize = 500;

/// The users that this server knows.
#[derive(Clone, Debug)]
pub struct Users(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    server_name: OwnedServerName,
    next: Counter,
    numbers: Cache<OwnedUserId, UserNumber>,
    ids: Cache<UserNumber, OwnedUserId>,
    /// How often something changed for users whose number ends alike.
    epochs: Box<[AtomicU64]>,
}

impl Users {
    /// Reads where the numbers stand.
    pub async fn open(database: Database, server_name: OwnedServerName) -> Result<Self, Error> {
        let last = database.scan(&Range::<User>::whole().reversed().limit(1)).await?;
        let highest = last.rows.first().map(|(number, _)| number.0);
        Ok(Self(Arc::new(Inner {
            database,
            server_name,
            next: Counter::after(highest),
            numbers: Cache::new(CACHED_USERS_MAX),
            ids: Cache::new(CACHED_USERS_MAX),
            epochs: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
        })))
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        &self.0.server_name
    }

    /// Whether the user is one of this server's.
    pub fn is_local(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.0.server_name
    }

    /// The number of a user, if the server has ever met them.
    pub async fn number(&self, user_id: &UserId) -> Result<Option<UserNumber>, Error> {
        if let Some(number) = self.0.numbers.get(user_id) {
            return Ok(Some(number));
        }
        let number = self.0.database.get::<UserByHash>(&self.hash(user_id)).await?;
        if let Some(number) = number {
            self.remember(user_id.to_owned(), number);
        }
        Ok(number)
    }

    /// The numbers of many users, in their order.
    pub async fn numbers(&self, user_ids: &[&UserId]) -> Result<Vec<Option<UserNumber>>, Error> {
        let mut numbers: Vec<_> = user_ids.iter().map(|user_id| self.0.numbers.get(*user_id)).collect();
        let missing: Vec<(usize, &UserId)> = user_ids
            .iter()
            .enumerate()
            .filter(|(index, _)| numbers.get(*index).is_some_and(Option::is_none))
            .map(|(index, user_id)| (index, *user_id))
            .collect();
        let keys: Vec<Hash128> = missing.iter().map(|(_, user_id)| self.hash(user_id)).collect();
        let rows = self.0.database.get_all::<UserByHash>(&keys).await?;
        for ((index, user_id), row) in missing.into_iter().zip(rows) {
            if let (Some(number), Some(slot)) = (row, numbers.get_mut(index)) {
                self.remember(user_id.to_owned(), number);
                *slot = Some(number);
            }
        }
        Ok(numbers)
    }

    /// The id behind a number.
    pub async fn id(&self, number: UserNumber) -> Result<Option<OwnedUserId>, Error> {
        Ok(self.ids(&[number]).await?.pop().flatten())
    }

    /// The ids behind many numbers, in their order.
    pub async fn ids(&self, numbers: &[UserNumber]) -> Result<Vec<Option<OwnedUserId>>, Error> {
        let mut ids: Vec<_> = numbers.iter().map(|number| self.0.ids.get(number)).collect();
        let missing: Vec<(usize, UserNumber)> = numbers
            .iter()
            .enumerate()
            .filter(|(index, _)| ids.get(*index).is_some_and(Option::is_none))
            .map(|(index, number)| (index, *number))
            .collect();
        let keys: Vec<UserNumber> = missing.iter().map(|(_, number)| *number).collect();
        let rows = self.0.database.get_all::<User>(&keys).await?;
        for ((index, number), row) in missing.into_iter().zip(rows) {
            let (Some(row), Some(slot)) = (row, ids.get_mut(index)) else { continue };
            let user_id =
                UserId::parse(row.id).map_err(|_| Error::Corrupt("User", Corrupt("not a user id")))?;
            self.remember(user_id.clone(), number);
            *slot = Some(user_id);
        }
        Ok(ids)
    }

    /// The number of a user; one who is met for the first time is given one, in a commit of its own.
    pub async fn number_or_new(&self, user_id: &UserId) -> Result<UserNumber, Error> {
        let numbers = self.numbers_or_new(&[user_id]).await?;
        numbers.first().copied().ok_or(Error::Corrupt("User", Corrupt("a new user has no number")))
    }

    /// The numbers of many users, in their order; those met for the first time are given one, in commits of their own.
    pub async fn numbers_or_new(&self, user_ids: &[&UserId]) -> Result<Vec<UserNumber>, Error> {
        loop {
            let known = self.numbers(user_ids).await?;
            let mut new: Vec<&UserId> = user_ids
                .iter()
                .zip(&known)
                .filter(|(_, number)| number.is_none())
                .map(|(user_id, _)| *user_id)
                .collect();
            if new.is_empty() {
                return Ok(known.into_iter().flatten().collect());
            }
            new.sort_unstable();
            new.dedup();
            new.truncate(NEW_USERS_MAX);
            let mut write = Write::new();
            let mut added = Vec::with_capacity(new.len());
            for user_id in new {
                added.push((user_id.to_owned(), self.add(&mut write, user_id)));
            }
            match self.0.database.commit(write).await {
                Ok(_) => added.into_iter().for_each(|(user_id, number)| self.remember(user_id, number)),
                // Someone else met one of them at the same moment.
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds the rows that give a user a number; the write conflicts if the user has one already.
    pub fn add(&self, write: &mut Write, user_id: &UserId) -> UserNumber {
        let number = UserNumber(self.0.next.next());
        let hash = self.hash(user_id);
        write.absent::<UserByHash>(&hash);
        write.put::<UserByHash>(&hash, &number);
        write.put::<User>(&number, &UserRow { id: user_id.as_str().to_owned() });
        number
    }

    /// The account behind a number; `None` for users of other servers and names without an account.
    pub async fn account(&self, user: UserNumber) -> Result<Option<AccountRow>, Error> {
        self.0.database.get::<Account>(&user).await
    }

    /// The accounts behind many numbers, in their order.
    pub async fn accounts(&self, users: &[UserNumber]) -> Result<Vec<Option<AccountRow>>, Error> {
        self.0.database.get_all::<Account>(users).await
    }

    /// A page of all accounts in the order in which the users were met, behind `after`; whether there are more.
    pub async fn list_accounts(
        &self,
        after: Option<UserNumber>,
        limit: usize,
    ) -> Result<(Vec<(UserNumber, AccountRow)>, bool), Error> {
        let mut range = Range::<Account>::whole().limit(limit);
        if let Some(after) = after {
            range = range.continued_after(&after);
        }
        let page = self.0.database.scan(&range).await?;
        Ok((page.rows, page.more))
    }

    /// A number that becomes another when something about the user's sessions changes. Read it before reading rows, keep
    /// it with what was made of them, and use that only while the number is the same.
    pub fn epoch(&self, user: UserNumber) -> u64 {
        self.epoch_of(user).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// Tells that the user's account, devices or tokens were changed, or may have been: call it after each commit that
    /// does, also after one that failed.
    pub fn changed(&self, user: UserNumber) {
        if let Some(epoch) = self.epoch_of(user) {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn epoch_of(&self, user: UserNumber) -> Option<&AtomicU64> {
        let number = usize::try_from(user.0).unwrap_or_default();
        self.0.epochs.get(number.checked_rem(self.0.epochs.len())?)
    }

    fn hash(&self, user_id: &UserId) -> Hash128 {
        self.0.database.hash("user", user_id.as_str())
    }

    fn remember(&self, user_id: OwnedUserId, number: UserNumber) {
        self.0.ids.insert(number, user_id.clone());
        self.0.numbers.insert(user_id, number);
    }
}
