//! What a user keeps of a room when another takes its place: tags, notification settings, direct chats (§Room Upgrades).

use std::sync::Arc;

use ruma::push::{
    AnyPushRuleRef, NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition, RuleKind, Ruleset,
};
use serde_json::Value;

use crate::{
    account_data::{AccountData, AccountDataError},
    database::Error,
    push_rules::{PushRuleError, PushRules},
    rooms::{Room, Rooms, send::Caller},
    tags::TAG_TYPE,
};

/// The type of the datum that lists direct chats.
const DIRECT_TYPE: &str = "m.direct";

/// The service.
#[derive(Clone, Debug)]
pub struct Succession {
    rooms: Rooms,
    account_data: AccountData,
    push_rules: PushRules,
}

impl Succession {
    /// Over the services that hold what is handed down.
    pub fn new(rooms: Rooms, account_data: AccountData, push_rules: PushRules) -> Self {
        Self { rooms, account_data, push_rules }
    }

    /// To be called when the caller has come into a room: if it replaces another, what they have set for the old room
    /// holds for the new one too, unless they have set something there already.
    pub async fn joined(&self, caller: &Caller, room: &Arc<Room>) -> Result<(), Error> {
        let Some(old) = self.rooms.predecessor(room, caller).await? else { return Ok(()) };
        let results =
            [self.hand_down_tags(caller, &old, room).await, self.hand_down_direct(caller, &old, room).await];
        for result in results {
            match result {
                Err(AccountDataError::Database(error)) => return Err(error),
                Err(error) => tracing::debug!(%error, "account data of an upgraded room was not copied"),
                Ok(()) => {}
            }
        }
        match self.hand_down_rules(caller, &old, room).await {
            Err(PushRuleError::AccountData(AccountDataError::Database(error))) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "push rules of an upgraded room were not copied");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn hand_down_tags(&self, caller: &Caller, old: &Room, new: &Room) -> Result<(), AccountDataError> {
        let Some(tags) = self.account_data.get(caller.user, Some(old.number), TAG_TYPE).await? else {
            return Ok(());
        };
        self.account_data
            .update(caller.user, Some(new.number), TAG_TYPE, |there| {
                Ok(there.is_none().then(|| tags.content.get().to_owned()))
            })
            .await
    }

    async fn hand_down_direct(
        &self,
        caller: &Caller,
        old: &Room,
        new: &Room,
    ) -> Result<(), AccountDataError> {
        let (old, new) = (old.room_id.as_str(), new.room_id.as_str());
        self.account_data
            .update(caller.user, None, DIRECT_TYPE, |datum| {
                let content = datum.and_then(|datum| serde_json::from_str(datum.content.get()).ok());
                Ok(content.and_then(|content| with_direct(content, old, new)))
            })
            .await
    }

    async fn hand_down_rules(&self, caller: &Caller, old: &Room, new: &Room) -> Result<(), PushRuleError> {
        let rules =
            self.push_rules.load(caller.user, &caller.user_id).await.map_err(AccountDataError::from)?;
        for kind in [RuleKind::Room, RuleKind::Override] {
            let Some((rule, enabled)) = rule_for(&rules, kind.clone(), old, new) else { continue };
            self.push_rules.insert(caller.user, &caller.user_id, rule, None, None).await?;
            if !enabled {
                let rule_id = new.room_id.as_str();
                self.push_rules.set_enabled(caller.user, &caller.user_id, kind, rule_id, false).await?;
            }
        }
        Ok(())
    }
}

/// The list of direct chats with the new room wherever the old one is; `None` if that changes nothing.
fn with_direct(mut content: Value, old: &str, new: &str) -> Option<String> {
    let mut changed = false;
    for rooms in content.as_object_mut()?.values_mut().filter_map(Value::as_array_mut) {
        let has = |room: &str| rooms.iter().any(|other| other.as_str() == Some(room));
        if has(old) && !has(new) {
            rooms.push(new.into());
            changed = true;
        }
    }
    changed.then(|| content.to_string())
}

/// The rule named after the old room, made one for the new room, which must have none yet; whether it is on.
fn rule_for(rules: &Ruleset, kind: RuleKind, old: &Room, new: &Room) -> Option<(NewPushRule, bool)> {
    if rules.get(kind.clone(), &new.room_id).is_some() {
        return None;
    }
    match rules.get(kind, &old.room_id)? {
        AnyPushRuleRef::Room(rule) => {
            let new = NewSimplePushRule::new(new.room_id.clone(), rule.actions.clone());
            Some((NewPushRule::Room(new), rule.enabled))
        }
        AnyPushRuleRef::Override(rule) => {
            let mut conditions = rule.conditions.clone();
            for condition in &mut conditions {
                if let PushCondition::EventMatch(data) = condition
                    && data.key == "room_id"
                    && data.pattern == old.room_id.as_str()
                {
                    data.pattern = new.room_id.to_string();
                }
            }
            let new = NewConditionalPushRule::new(new.room_id.to_string(), conditions, rule.actions.clone());
            Some((NewPushRule::Override(new), rule.enabled))
        }
        _ => None,
    }
}
