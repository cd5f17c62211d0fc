//! Default rules that the specification had until 1.17, for messages of clients that do not say whom they mention.
//!
//! They do not apply to messages that do (`m.mentions`).
#![expect(deprecated, reason = "these rules are the deprecated ones")]

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData, HighlightTweakValue,
        PatternedPushRule, PatternedPushRuleInit, PredefinedContentRuleId, PredefinedOverrideRuleId,
        PushCondition, Ruleset, SenderNotificationPermissionConditionData, SoundTweakValue, Tweak,
    },
};

/// Adds the rules at their places among the default rules.
pub(super) fn add_to(rules: &mut Ruleset, user_id: &UserId) {
    let sound = || Action::SetTweak(Tweak::Sound(SoundTweakValue::Default));
    let highlight = || Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes));
    let override_rule = |id: PredefinedOverrideRuleId, actions, conditions| {
        ConditionalPushRule::from(ConditionalPushRuleInit {
            actions,
            default: true,
            enabled: true,
            rule_id: id.to_string(),
            conditions,
        })
    };
    let name = override_rule(
        PredefinedOverrideRuleId::ContainsDisplayName,
        vec![Action::Notify, sound(), highlight()],
        vec![PushCondition::ContainsDisplayName],
    );
    let room = override_rule(
        PredefinedOverrideRuleId::RoomNotif,
        vec![Action::Notify, highlight()],
        vec![
            PushCondition::EventMatch(EventMatchConditionData::new(
                "content.body".to_owned(),
                "@room".to_owned(),
            )),
            PushCondition::SenderNotificationPermission(SenderNotificationPermissionConditionData::new(
                "room".into(),
            )),
        ],
    );
    for (rule, behind) in
        [(name, PredefinedOverrideRuleId::IsUserMention), (room, PredefinedOverrideRuleId::IsRoomMention)]
    {
        let place = rules.override_.iter().position(|rule| rule.rule_id == behind.as_str());
        let place = place.map_or(rules.override_.len(), |index| index.saturating_add(1));
        rules.override_.shift_insert(place, rule);
    }
    rules.content.insert(PatternedPushRule::from(PatternedPushRuleInit {
        actions: vec![Action::Notify, sound(), highlight()],
        default: true,
        enabled: true,
        rule_id: PredefinedContentRuleId::ContainsUserName.to_string(),
        pattern: user_id.localpart().to_owned(),
    }));
}
