//! The stages of user-interactive authentication, in all the ways that clients go through them.

use std::time::Duration;

use ruma::api::client::uiaa::{
    Dummy, FallbackAcknowledgement, MatrixUserIdentifier, Password, RegistrationToken,
};

use super::*;
use crate::{
    accounts::testing::{Fixture, PASSWORD},
    audit::Actor,
    registration_tokens::Limits,
};

fn incomplete(outcome: Result<Shown, UiaaError>) -> UiaaInfo {
    match outcome {
        Err(UiaaError::Incomplete(info)) => *info,
        other => panic!("{other:?}"),
    }
}

fn password(user: &str, password: &str, session: Option<&str>) -> AuthData {
    let identifier = UserIdentifier::Matrix(MatrixUserIdentifier::new(user.to_owned()));
    let mut data = Password::new(identifier, password.to_owned());
    data.session = session.map(str::to_owned);
    AuthData::Password(data)
}

fn dummy(session: Option<&str>) -> AuthData {
    let mut data = Dummy::new();
    data.session = session.map(str::to_owned);
    AuthData::Dummy(data)
}

fn of(user: UserNumber) -> Operation {
    Operation::with_password("devices", &["PHONE"], Some(user))
}

#[tokio::test]
async fn a_request_that_shows_nothing_never_passes() {
    let fixture = Fixture::new().await;
    let open = Operation::new("register", &[], None, vec![vec![AuthType::Dummy]]);
    let info = incomplete(fixture.uiaa.allow(open.clone(), None).await);
    assert_eq!(info.flows.len(), 1);
    assert!(info.completed.is_empty() && info.auth_error.is_none());
    assert_eq!(info.params.as_ref().map(|params| params.get()), Some("{}"));
    let session = info.session.unwrap();
    fixture.uiaa.allow(open.clone(), Some(&dummy(Some(&session)))).await.unwrap();
    // Used up.
    let again = incomplete(fixture.uiaa.allow(open.clone(), Some(&dummy(Some(&session)))).await);
    assert!(again.auth_error.is_some());
    // What will be asked for may be shown at once.
    fixture.uiaa.allow(open, Some(&dummy(None))).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_may_be_corrected() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let info = incomplete(fixture.uiaa.allow(of(bob), Some(&password("bob", "wrong", None))).await);
    assert_eq!(info.auth_error.as_ref().unwrap().kind, ErrorKind::Forbidden);
    let session = info.session.unwrap();
    let shown =
        fixture.uiaa.allow(of(bob), Some(&password("@bob:example.org", PASSWORD, Some(&session)))).await;
    assert_eq!(shown.unwrap().user, Some(bob));
}

#[tokio::test]
async fn only_the_users_own_password_counts() {
    let fixture = Fixture::new().await;
    let (bob, _) = (fixture.account("bob").await, fixture.account("alice").await);
    let other = fixture.uiaa.allow(of(bob), Some(&password("alice", PASSWORD, None))).await;
    assert!(matches!(other, Err(UiaaError::OtherUser)));
    let anyone = Operation::with_password("account/password", &[], None);
    assert_eq!(
        fixture.uiaa.allow(anyone, Some(&password("bob", PASSWORD, None))).await.unwrap().user,
        Some(bob)
    );
}

#[tokio::test]
async fn an_attempt_is_good_for_one_operation_of_one_user() {
    let fixture = Fixture::new().await;
    let (bob, alice) = (fixture.account("bob").await, fixture.account("alice").await);
    let flows = vec![vec![AuthType::Password, AuthType::Dummy]];
    let operation =
        |endpoint, object: &'static str, user| Operation::new(endpoint, &[object], Some(user), flows.clone());
    let begun = operation("devices", "A", bob);
    let info = incomplete(fixture.uiaa.allow(begun.clone(), Some(&password("bob", PASSWORD, None))).await);
    assert_eq!(info.completed, [AuthType::Password]);
    let session = info.session.unwrap();
    for other in
        [operation("devices", "B", bob), operation("deactivate", "A", bob), operation("devices", "A", alice)]
    {
        let refused = incomplete(fixture.uiaa.allow(other, Some(&dummy(Some(&session)))).await);
        assert!(refused.completed.is_empty() && refused.session.as_deref() != Some(&session));
    }
    let shown = fixture.uiaa.allow(begun, Some(&dummy(Some(&session)))).await.unwrap();
    assert_eq!(shown.user, Some(bob));
}

#[tokio::test]
async fn stages_come_in_order_and_unknown_ones_never() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let flows = vec![vec![AuthType::Password, AuthType::Dummy]];
    let operation = Operation::new("x", &[], Some(bob), flows);
    let early = incomplete(fixture.uiaa.allow(operation.clone(), Some(&dummy(None))).await);
    assert!(early.completed.is_empty() && early.auth_error.is_some());
    let token = AuthData::RegistrationToken(RegistrationToken::new("x".to_owned()));
    assert!(incomplete(fixture.uiaa.allow(operation.clone(), Some(&token)).await).auth_error.is_some());
    let odd = AuthData::new("m.login.odd", None, serde_json::Map::new()).unwrap();
    assert!(incomplete(fixture.uiaa.allow(operation, Some(&odd)).await).auth_error.is_some());
}

#[tokio::test]
async fn an_attempt_expires() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let session = incomplete(fixture.uiaa.allow(of(bob), None).await).session.unwrap();
    fixture.clock.advance(Duration::from_secs(900));
    assert!(!fixture.uiaa.is_known(&session));
    let late = password("bob", PASSWORD, Some(&session));
    let info = incomplete(fixture.uiaa.allow(of(bob), Some(&late)).await);
    assert_ne!(info.session.as_deref(), Some(&*session));
}

#[tokio::test]
async fn a_stage_completed_on_a_page_is_acknowledged() {
    let fixture = Fixture::new().await;
    fixture.tokens.create(Actor::Operator, Some("friends".to_owned()), Limits::default()).await.unwrap();
    let operation = Operation::new("register", &[], None, vec![vec![AuthType::RegistrationToken]]);
    let session = incomplete(fixture.uiaa.allow(operation.clone(), None).await).session.unwrap();
    let acknowledge = || AuthData::FallbackAcknowledgement(FallbackAcknowledgement::new(session.clone()));
    let early = incomplete(fixture.uiaa.allow(operation.clone(), Some(&acknowledge())).await);
    assert!(early.completed.is_empty());
    let token = |token: &str| AuthData::RegistrationToken(RegistrationToken::new(token.to_owned()));
    let page = |auth: AuthData| {
        let (uiaa, session) = (fixture.uiaa.clone(), session.clone());
        async move { uiaa.complete_from_page(&session, &auth).await.unwrap() }
    };
    assert_eq!(page(dummy(None)).await, None);
    assert_eq!(page(token("enemies")).await, Some(false));
    assert_eq!(page(token("friends")).await, Some(true));
    let shown = fixture.uiaa.allow(operation, Some(&acknowledge())).await.unwrap();
    assert_eq!(shown.registration_token.as_deref(), Some("friends"));
}
