//! Finding users by id or display name (§User Directory).
//!
//! Of this server's users only the profile is searched: what they call themselves in one room is that room's business. Of
//! others it is what they show in rooms of the caller's. Names are in no index, so that no key holds one: a search reads the
//! accounts, and the members of the caller's rooms, in turn, up to a limit.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedUserId;

use crate::{
    database::Error,
    numbers::{RoomNumber, UserNumber},
    profiles::{MemberProfile, Profiles},
    rooms::{Rooms, send::Caller},
    tables::{
        accounts::{AccountKind, AccountRow},
        rooms::Membership,
    },
    users::Users,
};

/// Most results of a search.
pub const RESULTS_MAX: usize = 50;
/// Longest search term that counts, in bytes.
const TERM_BYTES_MAX: usize = 256;
/// Accounts read in one step.
const CHUNK_ACCOUNTS: usize = 500;
/// Most accounts read for a search; those who came later are not found.
const ACCOUNTS_READ_MAX: usize = 50_000;
/// Most members of the caller's rooms read for a search.
const MEMBERS_READ_MAX: usize = 5_000;
/// Most users whose name fits, of whom it is asked whether the caller may know of them.
const MATCHES_MAX: usize = 2_000;

/// A user who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUser {
    /// The user's id.
    pub user_id: OwnedUserId,
    /// Their display name and avatar.
    pub profile: MemberProfile,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The users, those whose name fits best first.
    pub users: Vec<FoundUser>,
    /// Whether there are, or may be, more.
    pub limited: bool,
}

/// The service.
#[derive(Clone, Debug)]
pub struct UserDirectory {
    users: Users,
    profiles: Profiles,
    rooms: Rooms,
}

/// How well a name fits, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Whole,
    Beginning,
    Part,
}

struct Match {
    fit: Fit,
    user: UserNumber,
    found: FoundUser,
}

impl UserDirectory {
    /// Over the services that know the users.
    pub fn new(users: Users, profiles: Profiles, rooms: Rooms) -> Self {
        Self { users, profiles, rooms }
    }

    /// Users whose id or display name holds every word of `term`, whatever the case: those who share a room with the
    /// caller, and those in rooms that everybody may read or join, or that the directory shows.
    pub async fn search(&self, caller: &Caller, term: &str, limit: usize) -> Result<Found, Error> {
        let term = term.trim().to_lowercase();
        let limit = limit.min(RESULTS_MAX);
        let mut found = Found::default();
        if term.is_empty() || term.len() > TERM_BYTES_MAX || limit == 0 {
            return Ok(found);
        }
        let own: BTreeSet<RoomNumber> =
            self.rooms.rooms_of(caller.user, Membership::Join).await?.into_iter().collect();
        let (mut matches, complete) = self.matches(&term).await?;
        let (others, all) = self.matches_elsewhere(&own, &term).await?;
        matches.extend(others);
        found.limited = !(complete && all);
        matches.sort_by(|left, right| left.fit.cmp(&right.fit).then(left.user.cmp(&right.user)));
        let mut sight = Sight { caller: caller.user, own, public: BTreeMap::new() };
        for candidate in matches {
            if self.rooms.is_ours(&candidate.found.user_id)
                && !self.may_know(candidate.user, &mut sight).await?
            {
                continue;
            }
            if found.users.len() >= limit {
                found.limited = true;
                break;
            }
            found.users.push(candidate.found);
        }
        Ok(found)
    }

    /// The users of other servers in these rooms whose name fits; whether these are all.
    async fn matches_elsewhere(
        &self,
        rooms: &BTreeSet<RoomNumber>,
        term: &str,
    ) -> Result<(Vec<Match>, bool), Error> {
        let words: Vec<&str> = term.split_whitespace().collect();
        let mut matches: BTreeMap<UserNumber, Match> = BTreeMap::new();
        let mut left = MEMBERS_READ_MAX;
        for room in rooms {
            let room = self.rooms.get(*room).await?;
            let mut members = self.rooms.member_rows(room.number, Membership::Join).await?;
            let complete = members.len() <= left;
            members.truncate(left);
            left = left.saturating_sub(members.len());
            for chunk in members.chunks(CHUNK_ACCOUNTS) {
                let numbers: Vec<_> = chunk.iter().map(|(_, event)| *event).collect();
                let events = self.rooms.events().load_many(room.number, &numbers).await?;
                for ((user, _), event) in chunk.iter().zip(events) {
                    let user_id =
                        event.record.state_key.as_deref().and_then(|id| OwnedUserId::try_from(id).ok());
                    let Some(user_id) = user_id.filter(|user_id| !self.rooms.is_ours(user_id)) else {
                        continue;
                    };
                    let profile: MemberProfile = event.pdu(&room)?.content_as().unwrap_or_default();
                    if let Some(fit) = fit(&user_id, profile.displayname.as_deref(), term, &words) {
                        let found = FoundUser { user_id, profile };
                        matches.entry(*user).or_insert(Match { fit, user: *user, found });
                    }
                }
            }
            if !complete {
                return Ok((matches.into_values().collect(), false));
            }
        }
        Ok((matches.into_values().collect(), true))
    }

    /// The users of this server whose name fits, whether or not the caller may know of them; whether these are all.
    async fn matches(&self, term: &str) -> Result<(Vec<Match>, bool), Error> {
        let words: Vec<&str> = term.split_whitespace().collect();
        let mut matches = Vec::new();
        let (mut after, mut read) = (None, 0_usize);
        loop {
            let (accounts, more) = self.users.list_accounts(after, CHUNK_ACCOUNTS).await?;
            after = accounts.last().map(|(user, _)| *user);
            read = read.saturating_add(accounts.len());
            let shown = accounts.iter().filter(|(_, account)| is_shown(account));
            let users: Vec<UserNumber> = shown.map(|(user, _)| *user).collect();
            let ids = self.users.ids(&users).await?;
            let profiles = self.profiles.member_profiles(&users).await?;
            for ((user, user_id), profile) in users.into_iter().zip(ids).zip(profiles) {
                let Some(user_id) = user_id else { continue };
                if let Some(fit) = fit(&user_id, profile.displayname.as_deref(), term, &words) {
                    matches.push(Match { fit, user, found: FoundUser { user_id, profile } });
                }
            }
            if matches.len() >= MATCHES_MAX || read >= ACCOUNTS_READ_MAX {
                return Ok((matches, !more));
            }
            if !more {
                return Ok((matches, true));
            }
        }
    }

    async fn may_know(&self, user: UserNumber, sight: &mut Sight) -> Result<bool, Error> {
        let rooms = self.rooms.rooms_of(user, Membership::Join).await?;
        // The caller is no news to themselves: they are shown where anybody would see them.
        if user != sight.caller && rooms.iter().any(|room| sight.own.contains(room)) {
            return Ok(true);
        }
        for room in rooms {
            let public = match sight.public.get(&room) {
                Some(public) => *public,
                None => self.is_public(room).await?,
            };
            sight.public.insert(room, public);
            if public {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_public(&self, room: RoomNumber) -> Result<bool, Error> {
        if self.rooms.is_published(room).await? {
            return Ok(true);
        }
        let room = self.rooms.get(room).await?;
        let shown = self.rooms.shown_state(&room).await?;
        Ok(shown.is_world_readable() || shown.join_rule() == "public")
    }
}

/// The caller's rooms, and what was learnt of others.
struct Sight {
    /// Who asks.
    caller: UserNumber,
    own: BTreeSet<RoomNumber>,
    public: BTreeMap<RoomNumber, bool>,
}

fn is_shown(account: &AccountRow) -> bool {
    account.deactivated_ms.is_none() && account.kind != AccountKind::Guest
}

/// How well a user's names fit a term in lower case; `None` if a word of it is in neither.
fn fit(user_id: &ruma::UserId, displayname: Option<&str>, term: &str, words: &[&str]) -> Option<Fit> {
    let id = user_id.as_str().to_lowercase();
    let name = displayname.unwrap_or_default().to_lowercase();
    if !words.iter().all(|word| id.contains(word) || name.contains(word)) {
        return None;
    }
    let localpart = user_id.localpart().to_lowercase();
    let names = [id.as_str(), localpart.as_str(), name.as_str()];
    Some(if names.contains(&term) {
        Fit::Whole
    } else if names.iter().any(|name| name.starts_with(term)) {
        Fit::Beginning
    } else {
        Fit::Part
    })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn names_fit_in_any_case_and_order() {
        let fit = |term: &str| {
            let term = term.to_lowercase();
            let words: Vec<_> = term.split_whitespace().collect();
            super::fit(user_id!("@user-1:example.org"), Some("Älice Cooper"), &term, &words)
        };
        for (term, expected) in [
            ("älice COOPER", Some(Fit::Whole)),
            ("USER-1", Some(Fit::Whole)),
            ("@user-1:example.org", Some(Fit::Whole)),
            ("älice c", Some(Fit::Beginning)),
            ("@user", Some(Fit::Beginning)),
            ("cooper älice", Some(Fit::Part)),
            ("cooper user", Some(Fit::Part)),
            ("Freddy", None),
            ("älice freddy", None),
        ] {
            assert_eq!(fit(term), expected, "{term}");
        }
    }
}
