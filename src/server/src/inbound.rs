//! What other servers send and ask about rooms: transactions, joins and their like through this server, and reading.
//!
//! Events are checked here as far as that needs no room, and handed to the rooms; what they build on is fetched. Every
//! question is bound to one room, to what its access control list says, and to what the asking server may see.

pub mod backfill;
mod edu;
pub mod gaps;
pub mod invite;
pub mod membership;
mod past;
pub mod peers;
pub mod receive;
mod repair;
pub mod serve;
pub mod staging;
pub mod standing;
#[cfg(test)]
mod tests;
mod unverified;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::OwnedServerName;

use self::{
    backfill::Backfills,
    gaps::Gaps,
    peers::Peers,
    repair::{RepairSources, Repairs},
    staging::{Staging, StagingSources},
    standing::ServerSets,
    unverified::{Unverified, UnverifiedSources},
};
use crate::{
    clock::Clock,
    database::{Database, Error},
    federation::verify::Verifier,
    identity::Identity,
    presence::Presence,
    receipts::Receipts,
    rooms::Rooms,
    tasks::Tasks,
    to_device::ToDevice,
    typing::Typing,
    users::Users,
    wake::Wakes,
};

/// What the service is made from.
#[derive(Clone, Debug)]
pub struct InboundSources {
    /// The rows.
    pub database: Database,
    /// The time.
    pub clock: Clock,
    /// The server's name and signing key.
    pub identity: Identity,
    /// Where background tasks are started.
    pub tasks: Tasks,
    /// Users.
    pub users: Users,
    /// Rooms.
    pub rooms: Rooms,
    /// Who types.
    pub typing: Typing,
    /// Receipts.
    pub receipts: Receipts,
    /// Who is online.
    pub presence: Presence,
    /// Messages to devices.
    pub to_device: ToDevice,
    /// Wakes long polls.
    pub wakes: Wakes,
    /// Checks of events.
    pub verifier: Verifier,
    /// Other servers.
    pub peers: Arc<dyn Peers>,
}

/// The service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inbound(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    database: Database,
    clock: Clock,
    identity: Identity,
    tasks: Tasks,
    users: Users,
    rooms: Rooms,
    typing: Typing,
    receipts: Receipts,
    presence: Presence,
    to_device: ToDevice,
    wakes: Wakes,
    verifier: Verifier,
    peers: Arc<dyn Peers>,
    gaps: Gaps,
    staging: Staging,
    unverified: Unverified,
    servers: ServerSets,
    /// One transaction of a server at a time.
    turns: Mutex<HashMap<OwnedServerName, Arc<tokio::sync::Mutex<()>>>>,
    backfills: Backfills,
}

impl Inbound {
    /// Opens the service and goes on with what was received and not yet placed.
    pub async fn open(sources: InboundSources) -> Result<Self, Error> {
        let InboundSources { database, clock, identity, tasks, users, rooms, .. } = sources;
        let InboundSources { typing, receipts, presence, to_device, wakes, verifier, peers, .. } = sources;
        let gaps = Gaps::new(rooms.clone(), verifier.clone(), Arc::clone(&peers), clock.clone());
        let backfills = Backfills::new(rooms.clone(), gaps.clone(), Arc::clone(&peers), clock.clone());
        let repairs = Repairs::start(RepairSources {
            database: database.clone(),
            rooms: rooms.clone(),
            gaps: gaps.clone(),
            backfills: backfills.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            own_name: users.server_name().to_owned(),
        });
        let sources = StagingSources {
            database: database.clone(),
            rooms: rooms.clone(),
            gaps: gaps.clone(),
            repairs,
            tasks: tasks.clone(),
        };
        let staging = Staging::open(sources).await?;
        let unverified = Unverified::start(UnverifiedSources {
            database: database.clone(),
            rooms: rooms.clone(),
            verifier: verifier.clone(),
            staging: staging.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
        });
        Ok(Self(Arc::new(Inner {
            database,
            clock,
            identity,
            tasks,
            users,
            rooms,
            typing,
            receipts,
            presence,
            to_device,
            wakes,
            verifier,
            peers,
            gaps,
            staging,
            unverified,
            servers: ServerSets::default(),
            turns: Mutex::default(),
            backfills,
        })))
    }

    /// Ends when everything that was acknowledged is in its room.
    pub async fn idle(&self) {
        self.0.staging.idle().await;
    }

    /// How many events wait for their rooms, and for how many rooms.
    pub fn waiting(&self) -> (usize, usize) {
        self.0.staging.waiting()
    }

    /// The turn of a server; the entry goes with the last who waits.
    fn turn(&self, server: &ruma::ServerName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(server.to_owned()).or_default())
    }
}
