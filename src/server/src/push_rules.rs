//! Push rules: which events a user is notified of.
//!
//! Kept as the account datum `m.push_rules`, which only this service writes. What is stored is merged with today's
//! default rules when it is read, so that a new default reaches users who once changed a rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use allod_storage::Position;
use quick_cache::unsync::Cache;
use ruma::{
    OwnedUserId, UserId,
    events::push_rules::PushRulesEventContent,
    push::{
        Action, AnyPushRule, AnyPushRuleRef, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind,
        Ruleset,
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    account_data::{AccountData, AccountDataError, Datum},
    database::Error,
    numbers::UserNumber,
};

mod legacy;
mod polls;

/// The type of the datum that holds the rules.
pub const PUSH_RULES_TYPE: &str = "m.push_rules";
/// Most rules that a user may have, defaults included.
pub const RULES_PER_USER_MAX: usize = 2_000;
/// Longest rules of a user together, as JSON, in bytes.
pub const RULES_BYTES_MAX: usize = 512 * 1024;
/// Parsed rulesets kept in memory.
const CACHED_RULESETS_MAX: usize = 4_096;

/// Why push rules were not changed.
#[derive(Debug, thiserror::Error)]
pub enum PushRuleError {
    /// There is no such rule.
    #[error("there is no such push rule")]
    NotFound,
    /// Default rules cannot be removed.
    #[error("default rules cannot be removed")]
    ServerDefault,
    /// The rule cannot stand there or be named so.
    #[error(transparent)]
    Invalid(#[from] InsertPushRuleError),
    /// The user has as many rules as a user may have.
    #[error("too many push rules")]
    TooMany,
    /// Writing failed.
    #[error(transparent)]
    AccountData(#[from] AccountDataError),
}

/// What decides whom events notify, for one user.
#[derive(Clone, Debug, Default)]
pub struct Preferences {
    epoch: u64,
    /// The user's rules; `None` for the defaults.
    pub rules: Option<Arc<Ruleset>>,
    /// Whom the user ignores.
    pub ignored: BTreeSet<OwnedUserId>,
}

/// The content of `m.ignored_user_list`.
#[derive(Default, Deserialize)]
struct IgnoredUserList {
    #[serde(default)]
    ignored_users: BTreeMap<OwnedUserId, serde_json::Value>,
}

/// The service of push rules.
#[derive(Clone, Debug)]
pub struct PushRules {
    account_data: AccountData,
    cache: Arc<Mutex<Parsed>>,
}

/// Parsed rulesets. A reader keeps what it parsed only if nobody wrote since before it read.
#[derive(Debug)]
struct Parsed {
    writes: u64,
    rulesets: Cache<UserNumber, Arc<Ruleset>>,
}

impl PushRules {
    /// Over account data.
    pub fn new(account_data: AccountData) -> Self {
        let parsed = Parsed { writes: 0, rulesets: Cache::new(CACHED_RULESETS_MAX) };
        Self { account_data, cache: Arc::new(Mutex::new(parsed)) }
    }

    /// The rules of a local user.
    pub async fn load(&self, user: UserNumber, user_id: &UserId) -> Result<Arc<Ruleset>, Error> {
        let writes = {
            let cache = self.cache();
            if let Some(ruleset) = cache.rulesets.get(&user) {
                return Ok(Arc::clone(ruleset));
            }
            cache.writes
        };
        let datum = self.account_data.get(user, None, PUSH_RULES_TYPE).await?;
        let ruleset = Arc::new(effective(datum.as_ref(), user_id));
        let mut cache = self.cache();
        if cache.writes == writes {
            cache.rulesets.insert(user, Arc::clone(&ruleset));
        }
        Ok(ruleset)
    }

    /// What decides whom events notify, for one user.
    pub async fn preferences(&self, user: UserNumber, user_id: &UserId) -> Result<Preferences, Error> {
        let epoch = self.account_data.notifying_epoch_of(user);
        let stored = self.account_data.get(user, None, PUSH_RULES_TYPE).await?;
        let rules = stored.map(|datum| Arc::new(effective(Some(&datum), user_id)));
        let ignored = self.account_data.get(user, None, "m.ignored_user_list").await?;
        let ignored: IgnoredUserList =
            ignored.and_then(|datum| serde_json::from_str(datum.content.get()).ok()).unwrap_or_default();
        let ignored = ignored.ignored_users.into_keys().filter(|other| other != user_id).collect();
        Ok(Preferences { epoch, rules, ignored })
    }

    /// A number that becomes another when anybody's preferences change.
    pub fn epoch(&self) -> u64 {
        self.account_data.notifying_epoch()
    }

    /// Whether a user's preferences may be others than these.
    pub fn changed(&self, user: UserNumber, preferences: &Preferences) -> bool {
        self.account_data.notifying_epoch_of(user) != preferences.epoch
    }

    /// The rules of users who never changed any; `user_id` stands in some of them.
    pub fn defaults(user_id: &UserId) -> Ruleset {
        effective(None, user_id)
    }

    /// The content of `m.push_rules` as the user's clients see it.
    pub async fn content(&self, user: UserNumber, user_id: &UserId) -> Result<Box<RawValue>, Error> {
        let ruleset = self.load(user, user_id).await?;
        Ok(to_content(&ruleset).and_then(|json| RawValue::from_string(json).ok()).unwrap_or_default())
    }

    /// Makes `changes` of global account data say what the rules really are: stored rules are merged with the
    /// defaults, and the first sync of a user (`initial`) always has rules.
    pub async fn complete(
        &self,
        user: UserNumber,
        user_id: &UserId,
        changes: &mut Vec<Datum>,
        initial: bool,
    ) -> Result<(), Error> {
        let stored =
            changes.iter_mut().find(|datum| datum.room.is_none() && datum.event_type == PUSH_RULES_TYPE);
        if let Some(datum) = stored {
            datum.content = self.content(user, user_id).await?;
        } else if initial {
            changes.push(Datum {
                room: None,
                event_type: PUSH_RULES_TYPE.to_owned(),
                content: self.content(user, user_id).await?,
                position: Position::ZERO,
            });
        }
        Ok(())
    }

    /// One rule.
    pub async fn get(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
    ) -> Result<AnyPushRule, PushRuleError> {
        let ruleset = self.load(user, user_id).await.map_err(AccountDataError::from)?;
        ruleset.get(kind, rule_id).map(AnyPushRuleRef::to_owned).ok_or(PushRuleError::NotFound)
    }

    /// Adds a rule, or replaces the one of its kind and id.
    pub async fn insert(
        &self,
        user: UserNumber,
        user_id: &UserId,
        rule: NewPushRule,
        after: Option<&str>,
        before: Option<&str>,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| {
            rules.insert(rule.clone(), after, before)?;
            if rules.iter().count() > RULES_PER_USER_MAX {
                return Err(PushRuleError::TooMany);
            }
            Ok(())
        })
        .await
    }

    /// Removes a rule that the user made.
    pub async fn remove(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| {
            rules.remove(kind.clone(), rule_id).map_err(|error| match error {
                RemovePushRuleError::ServerDefault => PushRuleError::ServerDefault,
                _ => PushRuleError::NotFound,
            })
        })
        .await
    }

    /// Turns a rule on or off.
    pub async fn set_enabled(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| {
            rules.set_enabled(kind.clone(), rule_id, enabled).map_err(|_| PushRuleError::NotFound)
        })
        .await
    }

    /// Changes what a rule does.
    pub async fn set_actions(
        &self,
        user: UserNumber,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        actions: Vec<Action>,
    ) -> Result<(), PushRuleError> {
        self.change(user, user_id, |rules| {
            rules.set_actions(kind.clone(), rule_id, actions.clone()).map_err(|_| PushRuleError::NotFound)
        })
        .await
    }

    async fn change(
        &self,
        user: UserNumber,
        user_id: &UserId,
        mut change: impl FnMut(&mut Ruleset) -> Result<(), PushRuleError>,
    ) -> Result<(), PushRuleError> {
        let changed = self
            .account_data
            .update(user, None, PUSH_RULES_TYPE, |datum| {
                let mut rules = effective(datum, user_id);
                change(&mut rules)?;
                let content = to_content(&rules).filter(|content| content.len() <= RULES_BYTES_MAX);
                content.map(Some).ok_or(PushRuleError::TooMany)
            })
            .await;
        // Also after an error: the outcome may be unknown.
        let mut cache = self.cache();
        cache.writes = cache.writes.wrapping_add(1);
        cache.rulesets.remove(&user);
        changed
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Parsed> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_content(rules: &Ruleset) -> Option<String> {
    serde_json::to_string(&PushRulesEventContent::new(rules.clone())).ok()
}

/// Stored rules (none if none are stored) over today's defaults.
fn effective(datum: Option<&Datum>, user_id: &UserId) -> Ruleset {
    let mut defaults = Ruleset::server_default(user_id);
    // Thread subscriptions (MSC4306) are not served, so their rules would never match.
    defaults.postcontent.clear();
    legacy::add_to(&mut defaults, user_id);
    polls::add(&mut defaults);
    let Some(datum) = datum else { return defaults };
    match serde_json::from_str::<PushRulesEventContent>(datum.content.get()) {
        Ok(mut stored) => {
            stored.global.postcontent.clear();
            stored.global.update_with_server_default(defaults);
            stored.global
        }
        Err(error) => {
            tracing::warn!(%error, "stored push rules do not parse; using the defaults");
            defaults
        }
    }
}

#[cfg(test)]
mod tests;
