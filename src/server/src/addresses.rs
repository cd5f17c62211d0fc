//! Mail addresses of accounts: where people may have mail sent.
//!
//! An administrator gives them to an account and so vouches for them; nobody adds an address of their own, so that no mail goes
//! to people who never asked. They are for mail alone: nobody signs in or is found by one.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use allod_storage::CommitError;

use crate::{
    audit::{Act, Actor, Audited},
    clock::Clock,
    database::{Database, Error, Range, Write},
    mail::is_address,
    numbers::{Hash128, UserNumber},
    tables::accounts::{Account, Address, AddressRow},
};

/// Addresses of one account.
pub const ADDRESSES_MAX: usize = 20;

/// Why an address was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is none.
    #[error("this is no mail address")]
    Malformed,
    /// The account has as many as an account may have.
    #[error("the account has too many addresses")]
    TooMany,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl From<CommitError> for AddressError {
    fn from(error: CommitError) -> Self {
        Self::Storage(error.into())
    }
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Addresses {
    database: Database,
    clock: Clock,
}

impl Addresses {
    /// Over the rows.
    pub fn new(database: Database, clock: Clock) -> Self {
        Self { database, clock }
    }

    /// An account's addresses.
    pub async fn list(&self, user: UserNumber) -> Result<Vec<AddressRow>, Error> {
        let rows = self.database.scan_all(Range::<Address>::prefix(&user)).await?;
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    /// Whether an account has an address.
    pub async fn has(&self, user: UserNumber, address: &str) -> Result<bool, Error> {
        Ok(self.database.get::<Address>(&(user, self.hash(&folded(address)))).await?.is_some())
    }

    /// Gives an account an address; one that it has already stays as it is.
    pub async fn add(&self, actor: Actor, user: UserNumber, address: &str) -> Result<(), AddressError> {
        let address = folded(address);
        if !is_address(&address) {
            return Err(AddressError::Malformed);
        }
        if self.has(user, &address).await? {
            return Ok(());
        }
        if self.list(user).await?.len() >= ADDRESSES_MAX {
            return Err(AddressError::TooMany);
        }
        let key = (user, self.hash(&address));
        let mut write = Write::new();
        write.exists::<Account>(&user);
        write.put::<Address>(&key, &AddressRow { address, added_ms: self.clock.now_ms() });
        self.audit(&mut write, actor, Act::AddAddress { user });
        self.database.commit(write).await?;
        Ok(())
    }

    /// Takes an address away; whether it was there.
    pub async fn remove(&self, actor: Actor, user: UserNumber, address: &str) -> Result<bool, Error> {
        if !self.has(user, address).await? {
            return Ok(false);
        }
        let key = (user, self.hash(&folded(address)));
        let mut write = Write::new();
        write.delete::<Address>(&key);
        write.erase::<Address>(&key);
        self.audit(&mut write, actor, Act::RemoveAddress { user });
        self.database.commit(write).await?;
        Ok(true)
    }

    fn hash(&self, folded: &str) -> Hash128 {
        self.database.hash("address", folded)
    }

    fn audit(&self, write: &mut Write, actor: Actor, act: Act) {
        write.audit(Audited { at_ms: self.clock.now_ms(), actor, act }.encode());
    }
}

/// An address as it is compared and kept: the specification asks for one case.
fn folded(address: &str) -> String {
    address.trim().to_lowercase()
}
