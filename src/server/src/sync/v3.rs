//! `GET /sync`: long polls over what changed since a token.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#syncing>

use std::{sync::Arc, time::Duration};

use allod_storage::Position;
use ruma::{api::client::filter::FilterDefinition, presence::PresenceState};

use self::filter::SyncFilter;
pub use self::streamed::{Parts, SyncBody, Unfinished};
use super::{Inner, Sync, json::Json, token::SyncToken};
use crate::{database::Error, rooms::send::Caller};

mod answer;
mod extras;
mod filter;
mod joined;
mod outside;
mod partial;
mod streamed;

pub(super) use self::answer::bare_event;

/// Longest time that a sync waits, whatever the client says: below the time after which handlers are given up.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Most events in a timeline, whatever the client says.
pub const TIMELINE_LIMIT_MAX: usize = 100;

/// The filter that a client names.
#[derive(Clone, Debug, Default)]
pub enum FilterChoice {
    /// None.
    #[default]
    None,
    /// One that it stored.
    Stored(String),
    /// One in the request.
    Inline(Box<FilterDefinition>),
}

/// Where the state stands that a sync tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatePlace {
    /// `state`: before the timeline.
    #[default]
    Before,
    /// `state_after`: at the end of the timeline.
    After,
    /// The same under the name that MSC4222 had before it was accepted.
    AfterUnstable,
}

/// A sync that a client asks for.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who asks; the device is known.
    pub caller: Caller,
    /// What it wants to see.
    pub filter: FilterChoice,
    /// The last answer's token.
    pub since: Option<String>,
    /// All state of all joined rooms.
    pub full_state: bool,
    /// How long to wait if there is nothing.
    pub timeout: Duration,
    /// Where the state stands.
    pub state: StatePlace,
    /// What the user is shown as meanwhile.
    pub presence: PresenceState,
}

/// Why a sync was refused.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The token is not one of ours.
    #[error("not a sync token of this server")]
    BadToken,
    /// The user has no such filter.
    #[error("there is no such filter")]
    UnknownFilter,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl Sync {
    /// Answers a sync, as JSON: at once if there is something to tell, else when there is or the time is up. Nothing is
    /// lost if it is cancelled.
    pub async fn v3(&self, request: SyncRequest) -> Result<SyncBody, SyncError> {
        let inner = &self.0;
        let since = request.since.as_deref().map(str::parse::<SyncToken>).transpose();
        let since = since.map_err(|_| SyncError::BadToken)?;
        let filter = inner.filter(&request).await?;
        let user = request.caller.user;
        // First register, then read: what happens in between wakes.
        let mut rooms = inner.memberships.current(user).await?;
        let waiter = inner.sources.wakes.register(user, &rooms.joined);
        let presence = &inner.sources.presence;
        let _syncing =
            presence.syncing(user, &request.caller.user_id, Arc::clone(&rooms.joined), &request.presence);
        let with_presence = !filter.presence.is_closed();
        let waits = !request.full_state && !request.timeout.is_zero();
        let deadline = tokio::time::sleep(request.timeout.min(TIMEOUT_MAX));
        tokio::pin!(deadline);
        let mut since = since;
        // What was committed before the request is told.
        inner.activity.reach(inner.sources.database.store().head()).await;
        loop {
            let known = since.filter(|since| inner.is_current(since));
            if (known.is_none() || request.full_state) && rooms.joined.len() > streamed::ROOMS_MIN {
                return Ok(SyncBody::Parts(self.stream(request, filter, since, known)));
            }
            if let Some(known) = known.filter(|_| !request.full_state)
                && let Some(next) = inner.quiet(&request.caller, known, &rooms, with_presence)
            {
                since = Some(next);
                if !waits {
                    return Ok(SyncBody::Whole(inner.empty_answer(&request, next).await?));
                }
                tokio::select! {
                    () = waiter.woken() => continue,
                    () = &mut deadline => {
                        return Ok(SyncBody::Whole(inner.empty_answer(&request, next).await?));
                    }
                    () = inner.stopping.cancelled() => return Ok(SyncBody::Whole(unchanged(since))),
                }
            }
            // Boxed, so that a sleeping waiter does not keep the space that answering takes.
            let answer = Box::pin(inner.answer(&request, &filter, since, known, Json::new()));
            let answer = tokio::select! {
                answer = answer => answer?,
                () = inner.stopping.cancelled() => return Ok(SyncBody::Whole(unchanged(since))),
            };
            if !waits || known.is_none() || answer.tells {
                return Ok(SyncBody::Whole(answer.body));
            }
            // What was found empty need not be looked at again.
            since = Some(answer.next);
            let others = rooms.joined != answer.rooms.joined;
            rooms = answer.rooms;
            if others {
                waiter.set_rooms(&rooms.joined);
                // What happened meanwhile in a new room woke nobody.
                continue;
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = &mut deadline => return Ok(SyncBody::Whole(answer.body)),
                () = inner.stopping.cancelled() => return Ok(SyncBody::Whole(unchanged(since))),
            }
        }
    }
}

impl Inner {
    async fn filter(&self, request: &SyncRequest) -> Result<SyncFilter, SyncError> {
        let stored;
        let default = FilterDefinition::default();
        let definition = match &request.filter {
            FilterChoice::None => &default,
            FilterChoice::Inline(definition) => definition,
            FilterChoice::Stored(id) => {
                let found = self.sources.filters.get(request.caller.user, id).await?;
                stored = found.ok_or(SyncError::UnknownFilter)?;
                &*stored
            }
        };
        Ok(SyncFilter::new(definition, TIMELINE_LIMIT_MAX))
    }

    /// Whether the token names a position of this database's history; else the answer is one to a first sync.
    fn is_current(&self, token: &SyncToken) -> bool {
        let store = self.sources.database.store();
        token.generation == store.generation() && token.position <= store.head()
    }
}

/// An answer that tells nothing. Without a token, one that leads to a first sync.
fn unchanged(since: Option<SyncToken>) -> Vec<u8> {
    const NOTHING: SyncToken =
        SyncToken { generation: 0, position: Position::ZERO, boot: 0, ephemeral: 0, inbox: Position::ZERO };
    let mut json = Json::new();
    json.open();
    json.member("next_batch", &since.unwrap_or(NOTHING).to_string());
    json.close();
    json.finish()
}
