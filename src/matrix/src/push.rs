//! Push rules: which rule matches an event for a user (§Push Rules).
//!
//! ruma's own evaluation flattens the event anew for every user, compiles a regex per pattern and
//! panics or recurses deeply on hostile patterns; this one parses the event once and matches in
//! bounded time ([`crate::glob`]). A property test holds the two together.

use std::ops::RangeBounds as _;

use ruma::{
    UserId,
    push::{
        Action, AnyPushRuleRef, ConditionalPushRule, PatternedPushRule, PredefinedContentRuleId,
        PredefinedOverrideRuleId, PushCondition, PushConditionRoomCtx, Ruleset, ScalarJsonValue,
    },
};
use serde_json::Value;

use crate::glob::{Glob, Wildcards};

/// An event in client format, parsed once for all its recipients.
#[derive(Clone, Debug)]
pub struct PushEvent {
    event: Value,
    has_mentions: bool,
}

/// The rule that matched and what it wants.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    /// The id of the rule.
    pub rule_id: &'a str,
    /// Its actions.
    pub actions: &'a [Action],
    /// Whether the event counts as a notification.
    pub notify: bool,
    /// Whether it counts as a highlight.
    pub highlight: bool,
}

impl PushEvent {
    /// Reads an event in client format.
    pub fn new(json: &[u8]) -> Result<Self, serde_json::Error> {
        let event: Value = serde_json::from_slice(json)?;
        let has_mentions = event.get("content").is_some_and(|c| c.get("m.mentions").is_some());
        Ok(Self { event, has_mentions })
    }

    /// The value at a path such as `content.m\.mentions.room` (§Conditions for push rules).
    fn get(&self, path: &str) -> Option<&Value> {
        let mut value = &self.event;
        for part in split_path(path) {
            value = value.as_object()?.get(&part)?;
        }
        Some(value)
    }

    fn get_str(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }
}

/// The first rule that matches, or `None`, also for the user's own events.
///
/// Content of other servers that does not match any type is no error: it just matches nothing.
pub fn evaluate<'a>(
    rules: &'a Ruleset,
    event: &PushEvent,
    context: &PushConditionRoomCtx,
) -> Option<Verdict<'a>> {
    if event.get_str("sender") == Some(context.user_id.as_str()) {
        return None;
    }
    let rule = rules.into_iter().find(|rule| applies(*rule, event, context))?;
    Some(Verdict {
        rule_id: rule.rule_id(),
        actions: rule.actions(),
        notify: rule.triggers_notification(),
        highlight: rule.triggers_highlight(),
    })
}

fn applies(rule: AnyPushRuleRef<'_>, event: &PushEvent, context: &PushConditionRoomCtx) -> bool {
    if !rule.enabled() {
        return false;
    }
    match rule {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => {
            conditional_applies(rule, event, context)
        }
        AnyPushRuleRef::Content(rule) => content_applies(rule, event),
        AnyPushRuleRef::Room(rule) => rule.rule_id == context.room_id,
        AnyPushRuleRef::Sender(rule) => event.get_str("sender") == Some(rule.rule_id.as_str()),
        // A kind of rule that we do not know.
        _ => false,
    }
}

fn conditional_applies(
    rule: &ConditionalPushRule,
    event: &PushEvent,
    context: &PushConditionRoomCtx,
) -> bool {
    // Gone from the specification in 1.17, but users may have stored them.
    #[expect(deprecated, reason = "rules that older clients and servers have stored")]
    let legacy = [PredefinedOverrideRuleId::RoomNotif, PredefinedOverrideRuleId::ContainsDisplayName]
        .iter()
        .any(|id| rule.rule_id == id.as_str());
    if legacy && event.has_mentions {
        return false;
    }
    rule.conditions.iter().all(|condition| condition_applies(condition, event, context))
}

fn content_applies(rule: &PatternedPushRule, event: &PushEvent) -> bool {
    #[expect(deprecated, reason = "a rule that older clients and servers have stored")]
    let legacy = rule.rule_id == PredefinedContentRuleId::ContainsUserName.as_str();
    !(legacy && event.has_mentions)
        && event.get_str("content.body").is_some_and(|body| matches(body, &rule.pattern, true))
}

fn condition_applies(condition: &PushCondition, event: &PushEvent, context: &PushConditionRoomCtx) -> bool {
    match condition {
        PushCondition::EventMatch(data) => {
            let value = match data.key.as_str() {
                "room_id" => Some(context.room_id.as_str()),
                key => event.get_str(key),
            };
            let words = data.key == "content.body";
            value.is_some_and(|value| matches(value, &data.pattern, words))
        }
        PushCondition::RoomMemberCount(data) => data.is.contains(&context.member_count),
        PushCondition::SenderNotificationPermission(data) => {
            let sender = event.get_str("sender").and_then(|id| <&UserId>::try_from(id).ok());
            let levels = context.power_levels.as_ref();
            sender
                .zip(levels)
                .is_some_and(|(sender, levels)| levels.has_sender_notification_permission(sender, &data.key))
        }
        PushCondition::EventPropertyIs(data) => {
            event.get(&data.key).is_some_and(|value| is_scalar(value, &data.value))
        }
        PushCondition::EventPropertyContains(data) => event
            .get(&data.key)
            .and_then(Value::as_array)
            .is_some_and(|items| items.iter().any(|item| is_scalar(item, &data.value))),
        #[expect(deprecated, reason = "rules that older clients and servers have stored")]
        PushCondition::ContainsDisplayName => contains_name(event, &context.user_display_name),
        // Unknown conditions never match.
        _ => false,
    }
}

/// Whether the body names the user; wildcards in a display name mean themselves.
fn contains_name(event: &PushEvent, name: &str) -> bool {
    let Some(body) = event.get_str("content.body") else { return false };
    if name.is_empty() {
        return false;
    }
    // No pattern can quote a star, so stand-ins take the place of wildcards on both sides.
    let quote = |text: &str| text.replace('*', "\u{e000}").replace('?', "\u{e001}");
    Glob::new(&quote(name), Wildcards::Star, true).matches_words(&quote(body))
}

/// Whether a value is exactly this scalar.
fn is_scalar(value: &Value, scalar: &ScalarJsonValue) -> bool {
    match (value, scalar) {
        (Value::Null, ScalarJsonValue::Null) => true,
        (Value::Bool(a), ScalarJsonValue::Bool(b)) => a == b,
        (Value::Number(a), ScalarJsonValue::Integer(b)) => a.as_i64() == Some((*b).into()),
        (Value::String(a), ScalarJsonValue::String(b)) => a == b,
        _ => false,
    }
}

/// Matches a glob, as a whole or by words, ignoring case.
fn matches(value: &str, pattern: &str, words: bool) -> bool {
    if !words && !pattern.contains(['*', '?']) {
        return value == pattern || value.to_lowercase() == pattern.to_lowercase();
    }
    let glob = Glob::new(pattern, Wildcards::StarAndQuestionMark, true);
    if words { glob.matches_words(value) } else { glob.matches(value) }
}

/// Splits a path at its dots; a backslash quotes a dot or a backslash.
pub(crate) fn split_path(path: &str) -> Vec<String> {
    let mut parts = vec![];
    let mut part = String::new();
    let mut chars = path.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '.' => parts.push(std::mem::take(&mut part)),
            '\\' => match chars.next_if(|next| matches!(next, '.' | '\\')) {
                Some(quoted) => part.push(quoted),
                None => part.push('\\'),
            },
            _ => part.push(char),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests;
