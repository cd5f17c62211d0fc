//! What administrators change about an account: locked, suspended, administrator.

use allod_storage::CommitError;

use super::{ATTEMPTS_MAX, AccountError, Accounts};
use crate::{
    audit::{Act, Actor},
    database::Write,
    numbers::UserNumber,
    tables::accounts::{Account, AccountRow, Password, PasswordRow},
};

impl Accounts {
    /// Locks or unlocks an account.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#account-locking>
    pub async fn set_locked(&self, actor: Actor, user: UserNumber, locked: bool) -> Result<(), AccountError> {
        let act = Act::SetLocked { user, locked };
        self.update(actor, user, act, |account| account.locked = locked).await
    }

    /// Suspends an account, or ends that.
    ///
    /// <https://spec.matrix.org/v1.19/client-server-api/#account-suspension>
    pub async fn set_suspended(
        &self,
        actor: Actor,
        user: UserNumber,
        suspended: bool,
    ) -> Result<(), AccountError> {
        let act = Act::SetSuspended { user, suspended };
        self.update(actor, user, act, |account| account.suspended = suspended).await
    }

    /// Makes an account an administrator's, or no longer.
    pub async fn set_admin(&self, actor: Actor, user: UserNumber, admin: bool) -> Result<(), AccountError> {
        let act = Act::SetAdmin { user, admin };
        self.update(actor, user, act, |account| account.admin = admin).await
    }

    /// Makes a deactivated account usable again with a new password. What deactivation deleted does not come back.
    pub async fn reactivate(
        &self,
        actor: Actor,
        user: UserNumber,
        password: String,
    ) -> Result<(), AccountError> {
        let hash = self.hash_password(password).await?;
        for _ in 0..ATTEMPTS_MAX {
            let account = self.0.users.account(user).await?.ok_or(AccountError::NotFound)?;
            let mut write = Write::new();
            write.equals::<Account>(&user, &account);
            write.put::<Account>(&user, &AccountRow { deactivated_ms: None, erased: false, ..account });
            let row = PasswordRow { hash: hash.clone(), changed_ms: self.0.clock.now_ms() };
            write.put::<Password>(&user, &row);
            self.audit(&mut write, actor, Act::Reactivate { user });
            match self.commit(user, write).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }

    /// Changes the row of an active account; nothing is written if it stays the same.
    async fn update(
        &self,
        actor: Actor,
        user: UserNumber,
        act: Act,
        change: impl Fn(&mut AccountRow),
    ) -> Result<(), AccountError> {
        for _ in 0..ATTEMPTS_MAX {
            let account = self.active(user).await?;
            let mut changed = account.clone();
            change(&mut changed);
            if changed == account {
                return Ok(());
            }
            let mut write = Write::new();
            write.equals::<Account>(&user, &account);
            write.put::<Account>(&user, &changed);
            self.audit(&mut write, actor, act.clone());
            match self.commit(user, write).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(CommitError::Conflict(0).into())
    }
}
