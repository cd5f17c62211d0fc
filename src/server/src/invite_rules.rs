//! Whose invitations a user wants (§Invite permission, `m.invite_permission_config`; by user and server, MSC4155).
//!
//! This service only judges. A blocked invitation is refused where it is made, an ignored one is made and not shown.

use allod_matrix::glob::{Glob, Wildcards};
use ruma::UserId;
use serde::Deserialize;
use serde_json::Value;

use crate::{account_data::AccountData, database::Error, numbers::UserNumber};

/// The specification's type of account data.
const STABLE: &str = "m.invite_permission_config";
/// That of MSC4155, which knows more.
const DETAILED: &str = "org.matrix.msc4155.invite_permission_config";
/// Most patterns of a list that count.
const PATTERNS_MAX: usize = 1000;

/// What becomes of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made and shown.
    Allow,
    /// It is made, and its recipient does not see it.
    Ignore,
    /// It is refused.
    Block,
}

/// The rules of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InviteRules {
    block_all: bool,
    detailed: Detailed,
}

/// The content of MSC4155's account data, as far as it is well-formed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Detailed {
    users: [Vec<String>; 3],
    servers: [Vec<String>; 3],
}

/// The verdicts in the order in which lists are asked; the same order in the lists' names.
const ORDER: [Verdict; 3] = [Verdict::Allow, Verdict::Ignore, Verdict::Block];

impl InviteRules {
    /// The rules of a user.
    pub async fn of(account_data: &AccountData, user: UserNumber) -> Result<Self, Error> {
        let stable = account_data.get(user, None, STABLE).await?;
        let detailed = account_data.get(user, None, DETAILED).await?;
        let text = |datum: &Option<crate::account_data::Datum>| {
            datum.as_ref().map(|datum| datum.content.get().to_owned()).unwrap_or_default()
        };
        Ok(Self::read(&text(&stable), &text(&detailed)))
    }

    /// Reads the contents; what is malformed counts as absent.
    fn read(stable: &str, detailed: &str) -> Self {
        #[derive(Default, Deserialize)]
        struct Stable {
            #[serde(default)]
            default_action: Value,
        }
        let stable: Stable = serde_json::from_str(stable).unwrap_or_default();
        let detailed: Value = serde_json::from_str(detailed).unwrap_or_default();
        let list = |name: &str| {
            let patterns = detailed.get(name).and_then(Value::as_array).into_iter().flatten();
            patterns.filter_map(Value::as_str).take(PATTERNS_MAX).map(str::to_owned).collect()
        };
        let lists = |of: &str| ["allowed", "ignored", "blocked"].map(|way| list(&format!("{way}_{of}")));
        Self {
            block_all: stable.default_action.as_str() == Some("block"),
            detailed: Detailed { users: lists("users"), servers: lists("servers") },
        }
    }

    /// Whether they allow every invitation.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// What becomes of an invitation by this user: the first list that names them, and else their server, decides.
    pub fn judge(&self, sender: &UserId) -> Verdict {
        let named = |lists: &[Vec<String>; 3], text: &str| {
            let covers =
                |pattern: &String| Glob::new(pattern, Wildcards::StarAndQuestionMark, false).matches(text);
            ORDER.into_iter().zip(lists).find(|(_, list)| list.iter().any(covers)).map(|(verdict, _)| verdict)
        };
        let Detailed { users, servers } = &self.detailed;
        let verdict = named(users, sender.as_str()).or_else(|| named(servers, sender.server_name().as_str()));
        verdict.unwrap_or(if self.block_all { Verdict::Block } else { Verdict::Allow })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(stable: &Value, detailed: &Value, sender: &str) -> Verdict {
        let rules = InviteRules::read(&stable.to_string(), &detailed.to_string());
        rules.judge(&UserId::parse(sender).unwrap())
    }

    #[test]
    fn the_default_action_blocks_all_or_none() {
        for (content, verdict) in [
            (json!({}), Verdict::Allow),
            (json!({ "default_action": "allow" }), Verdict::Allow),
            (json!({ "default_action": 1 }), Verdict::Allow),
            (json!({ "default_action": "block" }), Verdict::Block),
        ] {
            assert_eq!(judge(&content, &json!({}), "@bob:example.org"), verdict, "{content}");
        }
    }

    #[test]
    fn users_come_before_servers_and_what_allows_before_what_forbids() {
        let lists = json!({
            "allowed_users": ["@friend:*"],
            "ignored_users": ["@bore:evil.example"],
            "blocked_users": ["@friend:evil.example", "@user-?*:example.org"],
            "allowed_servers": ["good.evil.example"],
            "ignored_servers": null,
            "blocked_servers": ["*.evil.example", "evil.example", 3],
        });
        for (sender, verdict) in [
            ("@friend:evil.example", Verdict::Allow),
            ("@bore:evil.example", Verdict::Ignore),
            ("@other:evil.example", Verdict::Block),
            ("@other:very.evil.example", Verdict::Block),
            ("@other:good.evil.example", Verdict::Allow),
            ("@user-1:example.org", Verdict::Block),
            ("@user-:example.org", Verdict::Allow),
            ("@bob:example.org", Verdict::Allow),
        ] {
            assert_eq!(judge(&json!({}), &lists, sender), verdict, "{sender}");
        }
        let block = json!({ "default_action": "block" });
        assert_eq!(judge(&block, &lists, "@friend:example.org"), Verdict::Allow);
    }

    #[test]
    fn what_is_malformed_is_absent() {
        assert!(InviteRules::read("[]", "[1]").is_open());
        assert!(InviteRules::read("", r#"{"blocked_users":{"a":1}}"#).is_open());
    }
}
