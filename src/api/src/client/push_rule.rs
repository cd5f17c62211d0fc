//! Push rules.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#push-rules-api>

use allod_server::push_rules::PushRuleError;
use ruma::{
    api::client::push::{
        delete_pushrule::v3 as delete, get_pushrule::v3 as get, get_pushrule_actions::v3 as get_actions,
        get_pushrule_enabled::v3 as get_enabled, get_pushrules_all::v3 as get_all,
        get_pushrules_global_scope::v3 as get_global, set_pushrule::v3 as set,
        set_pushrule_actions::v3 as set_actions, set_pushrule_enabled::v3 as set_enabled,
    },
    push::{InsertPushRuleError, Ruleset},
};

use crate::{
    app::App,
    auth::Session,
    endpoint::Routes,
    error::{Error, Result},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .endpoint(get_pushrules_all)
        .endpoint(get_pushrules_global_scope)
        .endpoint(get_pushrule)
        .endpoint(set_pushrule)
        .endpoint(delete_pushrule)
        .endpoint(get_pushrule_enabled)
        .endpoint(set_pushrule_enabled)
        .endpoint(get_pushrule_actions)
        .endpoint(set_pushrule_actions)
}

async fn ruleset(app: &App, caller: &Session) -> Result<Ruleset> {
    let ruleset = app.push_rules.load(caller.user, &caller.user_id).await?;
    Ok(Ruleset::clone(&ruleset))
}

/// `GET /_matrix/client/v3/pushrules/`
async fn get_pushrules_all(app: App, caller: Session, _: get_all::Request) -> Result<get_all::Response> {
    Ok(get_all::Response::new(ruleset(&app, &caller).await?))
}

/// `GET /_matrix/client/v3/pushrules/global/`
async fn get_pushrules_global_scope(
    app: App,
    caller: Session,
    _: get_global::Request,
) -> Result<get_global::Response> {
    Ok(get_global::Response::new(ruleset(&app, &caller).await?))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
async fn get_pushrule(app: App, caller: Session, request: get::Request) -> Result<get::Response> {
    let rule = app.push_rules.get(caller.user, &caller.user_id, request.kind, &request.rule_id).await?;
    Ok(get::Response::new(rule.into()))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
async fn set_pushrule(app: App, caller: Session, request: set::Request) -> Result<set::Response> {
    let set::Request { rule, before, after, .. } = request;
    app.push_rules.insert(caller.user, &caller.user_id, rule, after.as_deref(), before.as_deref()).await?;
    Ok(set::Response::new())
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
async fn delete_pushrule(app: App, caller: Session, request: delete::Request) -> Result<delete::Response> {
    app.push_rules.remove(caller.user, &caller.user_id, request.kind, &request.rule_id).await?;
    Ok(delete::Response::new())
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
async fn get_pushrule_enabled(
    app: App,
    caller: Session,
    request: get_enabled::Request,
) -> Result<get_enabled::Response> {
    let rule = app.push_rules.get(caller.user, &caller.user_id, request.kind, &request.rule_id).await?;
    Ok(get_enabled::Response::new(rule.enabled()))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
async fn set_pushrule_enabled(
    app: App,
    caller: Session,
    request: set_enabled::Request,
) -> Result<set_enabled::Response> {
    let set_enabled::Request { kind, rule_id, enabled, .. } = request;
    app.push_rules.set_enabled(caller.user, &caller.user_id, kind, &rule_id, enabled).await?;
    Ok(set_enabled::Response::new())
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
async fn get_pushrule_actions(
    app: App,
    caller: Session,
    request: get_actions::Request,
) -> Result<get_actions::Response> {
    let rule = app.push_rules.get(caller.user, &caller.user_id, request.kind, &request.rule_id).await?;
    Ok(get_actions::Response::new(rule.actions().to_vec()))
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
async fn set_pushrule_actions(
    app: App,
    caller: Session,
    request: set_actions::Request,
) -> Result<set_actions::Response> {
    let set_actions::Request { kind, rule_id, actions, .. } = request;
    app.push_rules.set_actions(caller.user, &caller.user_id, kind, &rule_id, actions).await?;
    Ok(set_actions::Response::new())
}

impl From<PushRuleError> for Error {
    fn from(error: PushRuleError) -> Self {
        match error {
            PushRuleError::NotFound => Self::not_found("There is no such push rule"),
            PushRuleError::ServerDefault => Self::invalid_param("Default push rules cannot be removed"),
            // The rule that another is placed next to is missing: 404 by the specification.
            PushRuleError::Invalid(InsertPushRuleError::UnknownRuleId) => {
                Self::not_found("There is no push rule to place this one next to")
            }
            PushRuleError::Invalid(error) => Self::invalid_param(error.to_string()),
            PushRuleError::TooMany => Self::forbidden("You have too many push rules"),
            PushRuleError::AccountData(error) => error.into(),
        }
    }
}
