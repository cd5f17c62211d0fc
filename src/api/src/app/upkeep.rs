//! What the server does by itself, started once its services are there.

use allod_server::{
    delayed_events::DelayedEvents,
    guests::Guests,
    housekeeping::{self, erasure::Erasure, sweep::Sweeper},
    rooms::Rooms,
    users::Users,
};

use super::Base;

/// Starts housekeeping, the removal of guests, and the sending of delayed events, which clients make.
pub(super) fn start(base: &Base, users: &Users, rooms: &Rooms) -> DelayedEvents {
    let Base { database, config, clock, random, tasks, .. } = base.clone();
    let now = config.get();
    let erasure = Erasure::new(database.clone(), clock.clone(), now.storage.erase_within.0);
    housekeeping::start(Sweeper::new(database.clone(), clock.clone()), erasure, &tasks);
    let guests = Guests::new(rooms.clone(), users.clone(), now.accounts.guests);
    guests.start(database.store(), &tasks);
    let delayed_events = DelayedEvents::new(database, rooms.clone(), users.clone(), clock, random);
    delayed_events.start(&tasks);
    delayed_events
}
