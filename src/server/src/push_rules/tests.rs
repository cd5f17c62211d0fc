//! Tests of push rules.

use ruma::{
    push::{NewPatternedPushRule, Tweak},
    user_id,
};

use super::*;
use crate::room_lookup::tests::database;

const ALICE: UserNumber = UserNumber(1);

async fn service() -> PushRules {
    PushRules::new(AccountData::new(database().await))
}

fn rule(id: &str) -> NewPushRule {
    NewPushRule::Content(NewPatternedPushRule::new(id.to_owned(), id.to_owned(), vec![Action::Notify]))
}

impl PushRules {
    async fn add(&self, id: &str, after: Option<&str>, before: Option<&str>) -> Result<(), PushRuleError> {
        self.insert(ALICE, user_id!("@alice:a"), rule(id), after, before).await
    }

    async fn content_ids(&self) -> Vec<String> {
        let rules = self.load(ALICE, user_id!("@alice:a")).await.unwrap();
        rules.content.iter().filter(|rule| !rule.default).map(|rule| rule.rule_id.clone()).collect()
    }
}

#[tokio::test]
async fn a_new_user_has_the_default_rules_and_no_others() {
    let rules = service().await;
    let ruleset = rules.load(ALICE, user_id!("@alice:a")).await.unwrap();
    assert!(ruleset.iter().all(AnyPushRuleRef::is_server_default));
    let ids: Vec<_> = ruleset.iter().map(|rule| rule.rule_id().to_owned()).collect();
    assert_eq!(ids.len(), 23, "{ids:?}");
    assert_eq!(ids[0], ".m.rule.master");
    let mut changes = Vec::new();
    rules.complete(ALICE, user_id!("@alice:a"), &mut changes, true).await.unwrap();
    assert!(changes[0].content.get().contains(r#""override":[{"actions":[]"#));
}

#[tokio::test]
async fn rules_are_placed_at_the_top_or_beside_another() {
    let rules = service().await;
    rules.add("a", None, None).await.unwrap();
    rules.add("b", None, None).await.unwrap();
    rules.add("c", Some("b"), None).await.unwrap();
    rules.add("d", None, Some("a")).await.unwrap();
    assert_eq!(rules.content_ids().await, ["b", "c", "d", "a"]);
    for (id, after, before) in [
        (".m.mine", None, None),
        ("e", Some(".m.rule.message"), None),
        ("e", None, Some("unknown")),
        ("e/f", None, None),
    ] {
        let refused = rules.add(id, after, before).await;
        assert!(matches!(refused, Err(PushRuleError::Invalid(_))), "{id}");
    }
}

#[tokio::test]
async fn only_own_rules_are_removed_and_all_can_be_changed() {
    let rules = service().await;
    let user_id = user_id!("@alice:a");
    let master = ".m.rule.master";
    let remove = async |kind, id: &'static str| rules.remove(ALICE, user_id, kind, id).await;
    assert!(matches!(remove(RuleKind::Override, master).await, Err(PushRuleError::ServerDefault)));
    assert!(matches!(remove(RuleKind::Content, "none").await, Err(PushRuleError::NotFound)));
    rules.set_enabled(ALICE, user_id, RuleKind::Override, master, true).await.unwrap();
    let actions = vec![Action::SetTweak(Tweak::Highlight(ruma::push::HighlightTweakValue::Yes))];
    rules.set_actions(ALICE, user_id, RuleKind::Override, master, actions).await.unwrap();
    let rule = rules.get(ALICE, user_id, RuleKind::Override, master).await.unwrap();
    assert!(rule.enabled() && rule.actions().len() == 1);
    rules.add("a", None, None).await.unwrap();
    remove(RuleKind::Content, "a").await.unwrap();
    assert!(rules.content_ids().await.is_empty());
}
