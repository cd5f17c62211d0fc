//! Default rules for polls (MSC3930, unstable): votes are silent, a poll's beginning and end notify as messages do.

use ruma::push::{
    Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData, PushCondition,
    RoomMemberCountConditionData, RoomMemberCountIs, Ruleset, SoundTweakValue, Tweak,
};
use ruma::uint;

/// Adds the rules behind the other defaults.
pub(super) fn add(rules: &mut Ruleset) {
    rules.override_.insert(rule("poll_response", vec![is_type("response")], Vec::new()));
    for kind in ["start", "end"] {
        let two = RoomMemberCountConditionData::new(RoomMemberCountIs::from(uint!(2)));
        let conditions = vec![PushCondition::RoomMemberCount(two), is_type(kind)];
        let sound = Action::SetTweak(Tweak::Sound(SoundTweakValue::Default));
        let one_to_one = rule(&format!("poll_{kind}_one_to_one"), conditions, vec![Action::Notify, sound]);
        rules.underride.insert(one_to_one);
    }
    for kind in ["start", "end"] {
        rules.underride.insert(rule(&format!("poll_{kind}"), vec![is_type(kind)], vec![Action::Notify]));
    }
}

fn rule(name: &str, conditions: Vec<PushCondition>, actions: Vec<Action>) -> ConditionalPushRule {
    let rule_id = format!(".org.matrix.msc3930.rule.{name}");
    ConditionalPushRuleInit { actions, default: true, enabled: true, rule_id, conditions }.into()
}

fn is_type(kind: &str) -> PushCondition {
    let pattern = format!("org.matrix.msc3381.poll.{kind}");
    PushCondition::EventMatch(EventMatchConditionData::new("type".to_owned(), pattern))
}
