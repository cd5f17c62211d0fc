//! Which users have pushers: in memory, so that an event costs nothing for those who have none.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use roaring::RoaringBitmap;

use crate::{
    database::{Database, Error, Range},
    numbers::{DeviceNumber, Hash128, UserNumber},
    tables::push::{Pusher, PusherKey},
};

/// The register.
#[derive(Debug, Default)]
pub(super) struct Register(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    users: RoaringBitmap,
    places: HashMap<UserNumber, Vec<(DeviceNumber, Hash128)>>,
}

impl Register {
    /// Reads all that there are.
    pub(super) async fn load(database: &Database) -> Result<Self, Error> {
        let register = Self::default();
        let mut range = Range::<Pusher>::whole();
        loop {
            let page = database.scan(&range).await?;
            for (key, _) in &page.rows {
                register.insert(*key);
            }
            match page.rows.last() {
                Some((last, _)) if page.more => range = range.continued_after(last),
                _ => return Ok(register),
            }
        }
    }

    /// Reads a user's pushers anew: some may have gone with their devices.
    pub(super) async fn reload(&self, database: &Database, user: UserNumber) -> Result<(), Error> {
        if !self.has(user) {
            return Ok(());
        }
        let rows = database.scan_all(Range::<Pusher>::prefix(&user)).await?;
        let places: Vec<_> = rows.into_iter().map(|((_, device, hash), _)| (device, hash)).collect();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() {
            known.users.remove(user.0);
            known.places.remove(&user);
        } else {
            known.places.insert(user, places);
        }
        Ok(())
    }

    /// Adds a pusher.
    pub(super) fn insert(&self, (user, device, hash): PusherKey) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.users.insert(user.0);
        let places = known.places.entry(user).or_default();
        if !places.contains(&(device, hash)) {
            places.push((device, hash));
        }
    }

    /// Takes a pusher out.
    pub(super) fn remove(&self, (user, device, hash): &PusherKey) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(places) = known.places.get_mut(user) else { return };
        places.retain(|place| place != &(*device, *hash));
        if places.is_empty() {
            known.places.remove(user);
            known.users.remove(user.0);
        }
    }

    /// Whether a user has any.
    pub(super) fn has(&self, user: UserNumber) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).users.contains(user.0)
    }

    /// Of these users, those who have any.
    pub(super) fn among(&self, users: &RoaringBitmap) -> RoaringBitmap {
        &self.0.read().unwrap_or_else(PoisonError::into_inner).users & users
    }

    /// Whether nobody has any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).users.is_empty()
    }

    /// The pushers of a user.
    pub(super) fn of_user(&self, user: UserNumber) -> Vec<PusherKey> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let places = known.places.get(&user).map(Vec::as_slice).unwrap_or_default();
        places.iter().map(|(device, hash)| (user, *device, *hash)).collect()
    }

    /// The pushers for one application and push key.
    #[expect(clippy::iter_over_hash_type, reason = "the keys are sorted")]
    pub(super) fn with_hash(&self, wanted: Hash128) -> Vec<PusherKey> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Vec::new();
        for (user, places) in &known.places {
            let same = places.iter().filter(|(_, hash)| *hash == wanted);
            keys.extend(same.map(|(device, hash)| (*user, *device, *hash)));
        }
        keys.sort_unstable();
        keys
    }
}
