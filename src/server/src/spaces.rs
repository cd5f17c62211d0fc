//! The tree of rooms below a space, over several servers (§Spaces, `GET /rooms/{roomId}/hierarchy`).
//!
//! A page is found by walking the tree again from its root and passing over what earlier pages showed: the token holds
//! no rooms. Rooms that nobody here is in are asked of the servers that links to them name; what those answer is kept
//! for a while, and who of this server's users may see it is decided here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use quick_cache::sync::Cache;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, api::federation::space::get_hierarchy::v1 as federated,
    room::RoomSummary,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    clock::Clock,
    database::Error,
    egress::Bounds,
    federation::client::FederationClient,
    rooms::{
        Rooms,
        hierarchy::{CHILDREN_MAX, HierarchyRoom, LocalSpace, SpaceChild},
        send::Caller,
    },
};

/// Most rooms looked at for one page, those of earlier pages included; the tree ends there.
const ROOMS_EXAMINED_MAX: usize = 5_000;
/// How long one page may wait for other servers in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// What one server's answer may weigh and take.
const ANSWER: Bounds = Bounds::bytes(4 << 20).within(Duration::from_secs(10));
/// Servers that are asked for a room.
const ASKED_MAX: usize = 3;
/// For how long the answer of another server is used, in milliseconds.
const KEPT_MS: u64 = 5 * 60 * 1000;
/// Answers that are kept.
const KEPT_MAX: usize = 2_000;
/// For how long a server that was not reached is not asked again, in milliseconds.
const SILENT_MS: u64 = 60_000;

/// Which part of the tree to show.
#[derive(Clone, Debug)]
pub struct HierarchyQuery {
    /// The token of an earlier page.
    pub from: Option<String>,
    /// Most rooms on the page.
    pub limit: usize,
    /// How many levels below the root are shown; all if there is none.
    pub max_depth: Option<u64>,
    /// Whether only children that are suggested count.
    pub suggested_only: bool,
}

/// A page of the tree, depth first.
#[derive(Clone, Debug, Default)]
pub struct HierarchyPage {
    /// The rooms.
    pub rooms: Vec<HierarchyRoom>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyError {
    /// The server does not know the root, or the caller may not know of it; told alike.
    #[error("you may not see this room")]
    Forbidden,
    /// The token is not one of this server, or `max_depth` or `suggested_only` were others when it was given out.
    #[error("from is not a token of this query")]
    BadToken,
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] Error),
}

impl HierarchyQuery {
    /// The token of the page that begins behind so many rooms.
    fn token(&self, shown: usize) -> String {
        let depth = self.max_depth.map_or_else(|| "-".to_owned(), |depth| depth.to_string());
        format!("h{shown}_{depth}_{}", u8::from(self.suggested_only))
    }

    /// How many rooms earlier pages showed.
    fn passed_over(&self) -> Result<usize, HierarchyError> {
        let Some(from) = &self.from else { return Ok(0) };
        let shown = from.strip_prefix('h').and_then(|rest| rest.split('_').next()?.parse().ok());
        let shown = shown.ok_or(HierarchyError::BadToken)?;
        if self.token(shown) == *from { Ok(shown) } else { Err(HierarchyError::BadToken) }
    }
}

/// What another server says of a space and the rooms right below it.
#[derive(Debug)]
struct Level {
    summary: RoomSummary,
    children: Vec<SpaceChild>,
    known: HashMap<OwnedRoomId, RoomSummary>,
    inaccessible: HashSet<OwnedRoomId>,
}

/// A room that is still to be looked at.
#[derive(Debug)]
struct Waiting {
    room_id: OwnedRoomId,
    depth: u64,
    via: Vec<OwnedServerName>,
    /// The level that names it, if another server said so.
    parent: Option<Arc<Level>>,
}

/// What was found of a room.
#[derive(Debug)]
struct Found {
    summary: RoomSummary,
    children: Vec<SpaceChild>,
    level: Option<Arc<Level>>,
}

/// The trees of spaces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Spaces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rooms: Rooms,
    clock: Clock,
    client: Option<FederationClient>,
    /// What servers answered, by room and whether only suggested rooms were asked for, and when.
    levels: Cache<(OwnedRoomId, bool), (u64, Arc<Level>)>,
    /// Servers that were not reached, and when.
    silent: Cache<OwnedServerName, u64>,
}

impl Spaces {
    /// The service; without a client it shows the rooms of this server only.
    pub fn new(rooms: Rooms, clock: Clock, client: Option<FederationClient>) -> Self {
        let (levels, silent) = (Cache::new(KEPT_MAX), Cache::new(KEPT_MAX));
        Self(Arc::new(Inner { rooms, clock, client, levels, silent }))
    }

    /// A page of the rooms below a space, the space first. Rooms that the caller may not know of are left out, with what
    /// is below them; each room is shown once, so that loops end.
    pub async fn hierarchy(
        &self,
        caller: &Caller,
        space: &RoomId,
        query: &HierarchyQuery,
    ) -> Result<HierarchyPage, HierarchyError> {
        let passed_over = query.passed_over()?;
        let deadline = Instant::now() + PATIENCE;
        let mut page = HierarchyPage::default();
        let mut seen: HashSet<OwnedRoomId> = HashSet::new();
        let via = self.who_knows(caller, space).await?;
        let mut waiting = vec![Waiting { room_id: space.to_owned(), depth: 0, via, parent: None }];
        let mut shown_rooms = 0_usize;
        while let Some(next) = waiting.pop() {
            if seen.len() >= ROOMS_EXAMINED_MAX {
                break;
            }
            if !seen.insert(next.room_id.clone()) {
                continue;
            }
            let Some(found) = self.look(caller, &next, query.suggested_only, deadline).await? else {
                continue;
            };
            if page.rooms.len() >= query.limit {
                page.next = Some(query.token(shown_rooms));
                return Ok(page);
            }
            if query.max_depth.is_none_or(|max| next.depth < max) {
                let unseen = found.children.iter().rev().filter(|child| !seen.contains(&child.room_id));
                waiting.extend(unseen.map(|child| Waiting {
                    room_id: child.room_id.clone(),
                    depth: next.depth.saturating_add(1),
                    via: child.via(),
                    parent: found.level.clone(),
                }));
            }
            if shown_rooms >= passed_over {
                let children = found.children.iter().map(SpaceChild::stripped).collect::<Result<_, _>>()?;
                page.rooms.push(HierarchyRoom { summary: found.summary, children });
            }
            shown_rooms = shown_rooms.saturating_add(1);
        }
        if shown_rooms == 0 { Err(HierarchyError::Forbidden) } else { Ok(page) }
    }

    /// Servers that may know the root: the one that told the caller of it, and that of its name.
    async fn who_knows(&self, caller: &Caller, space: &RoomId) -> Result<Vec<OwnedServerName>, Error> {
        let rooms = &self.0.rooms;
        let told_by = match rooms.find(space).await? {
            Some(room) => rooms.outside(room.number, caller.user).await?.via,
            None => None,
        };
        let named = space.server_name().map(ToOwned::to_owned);
        // This server's own name is refused by the client, as every other that may not be spoken to.
        Ok(told_by.into_iter().chain(named).collect())
    }

    /// What the caller may see of a room, here or elsewhere.
    async fn look(
        &self,
        caller: &Caller,
        wanted: &Waiting,
        suggested_only: bool,
        deadline: Instant,
    ) -> Result<Option<Found>, Error> {
        let rooms = &self.0.rooms;
        match rooms.local_space(caller, &wanted.room_id, suggested_only).await? {
            Some(LocalSpace::Hidden) => return Ok(None),
            Some(LocalSpace::Shown(summary, children)) => {
                return Ok(Some(Found { summary: *summary, children, level: None }));
            }
            None => {}
        }
        let found = match wanted.parent.as_deref() {
            Some(parent) if parent.inaccessible.contains(&wanted.room_id) => return Ok(None),
            Some(parent) => parent.known.get(&wanted.room_id),
            None => None,
        };
        let found = match found {
            // A room that is no space has nothing below it that would have to be asked for.
            Some(summary) if summary.room_type.is_none() => {
                Found { summary: summary.clone(), children: Vec::new(), level: None }
            }
            Some(_) | None => {
                let asking = self.ask(&wanted.room_id, &wanted.via, suggested_only);
                let Ok(Some(level)) = timeout_at(deadline, asking).await else { return Ok(None) };
                Found { summary: level.summary.clone(), children: level.children.clone(), level: Some(level) }
            }
        };
        Ok(rooms.may_see(&found.summary, caller).await?.then_some(found))
    }

    /// What other servers say of a room. That they do not show it is not remembered: it may change any time.
    async fn ask(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        suggested_only: bool,
    ) -> Option<Arc<Level>> {
        let client = self.0.client.as_ref()?;
        let (key, now_ms) = ((room_id.to_owned(), suggested_only), self.0.clock.now_ms());
        if let Some((at_ms, level)) = self.0.levels.get(&key)
            && at_ms.saturating_add(KEPT_MS) > now_ms
        {
            return Some(level);
        }
        let is_silent = |server| {
            self.0.silent.get(server).is_some_and(|at_ms: u64| at_ms.saturating_add(SILENT_MS) > now_ms)
        };
        for server in via.iter().filter(|server| !is_silent(*server)).take(ASKED_MAX) {
            let mut request = federated::Request::new(room_id.to_owned());
            request.suggested_only = suggested_only;
            match client.send_within(server, request, ANSWER).await {
                Ok(answer) if answer.room.summary.room_id == room_id => {
                    let level = Arc::new(Level::read(answer, suggested_only));
                    self.0.levels.insert(key, (now_ms, Arc::clone(&level)));
                    return Some(level);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%room_id, %server, %error, "a server does not show a room of a space");
                    if error.is_unreachable() {
                        self.0.silent.insert(server.clone(), now_ms);
                    }
                }
            }
        }
        None
    }
}

impl Level {
    fn read(answer: federated::Response, suggested_only: bool) -> Self {
        let children = answer.room.children_state.iter();
        let children = children.filter_map(|child| SpaceChild::read_stripped(child.json()));
        let children = children.filter(|child| !suggested_only || child.is_suggested());
        let mut children: Vec<SpaceChild> = children.take(CHILDREN_MAX).collect();
        children.sort_by(SpaceChild::compare);
        let known = answer.children.into_iter().map(|room| (room.room_id.clone(), room));
        Self {
            summary: answer.room.summary,
            children,
            known: known.collect(),
            inaccessible: answer.inaccessible_children.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
