//! Sessions: what a token is worth after everything that can happen to it.

use std::time::Duration;

use super::*;
use crate::{
    accounts::testing::{Fixture, id},
    audit::Actor,
    config::Interval,
    database::Range,
    devices::DeviceError,
    sessions::token::new_token,
};

async fn error(fixture: &Fixture, token: &str) -> &'static str {
    match fixture.sessions.authenticate(token).await {
        Ok(_) => "none",
        Err(AuthenticateError::Unknown { soft_logout: false }) => "unknown",
        Err(AuthenticateError::Unknown { soft_logout: true }) => "soft logout",
        Err(AuthenticateError::Deactivated) => "deactivated",
        Err(AuthenticateError::Storage(_)) => "storage",
    }
}

#[tokio::test]
async fn a_token_says_who_is_calling() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let issued = fixture.sign_in(bob, Some("PHONE"), false).await;
    for _ in 0..2 {
        let session = fixture.sessions.authenticate(&issued.access_token).await.unwrap();
        assert_eq!((session.user, session.user_id), (bob, id("bob")));
        assert_eq!((session.device, session.device_id.as_str()), (issued.device, "PHONE"));
        assert!(!session.guest && !session.admin && !session.locked && !session.suspended);
    }
    assert_eq!((issued.refresh_token, issued.expires_in), (None, None));
}

#[tokio::test]
async fn what_is_no_token_is_nobodys() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let issued = fixture.sign_in(bob, None, true).await;
    let refresh = issued.refresh_token.clone().unwrap();
    let forged = new_token(TokenKind::Access, bob, issued.device, &Random::seeded(99), &fixture.database);
    let token = &issued.access_token;
    let (short, long, cased) = (&token[..token.len() - 1], format!("{token}A"), token.to_uppercase());
    for wrong in ["", " ", "x", "allod_at_", &refresh, &forged.0, short, &long, &cased] {
        assert_eq!(error(&fixture, wrong).await, "unknown", "{wrong}");
    }
}

#[tokio::test]
async fn signing_out_ends_a_session_at_once_and_no_other() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let (one, two) = (fixture.sign_in(bob, None, false).await, fixture.sign_in(bob, None, true).await);
    assert_eq!(error(&fixture, &one.access_token).await, "none");
    fixture.devices.delete(Actor::User(bob), bob, &[one.device]).await.unwrap();
    assert_eq!(error(&fixture, &one.access_token).await, "unknown");
    assert_eq!(error(&fixture, &two.access_token).await, "none");
    fixture.devices.delete_all(Actor::User(bob), bob, None).await.unwrap();
    assert_eq!(error(&fixture, &two.access_token).await, "unknown");
    let refresh = fixture.sessions.refresh(&two.refresh_token.unwrap()).await;
    assert!(matches!(refresh, Err(RefreshError::Unknown { soft_logout: false })));
    let left = fixture.database.scan(&Range::<AccessToken>::whole()).await.unwrap();
    assert!(left.rows.is_empty());
}

#[tokio::test]
async fn signing_in_again_with_a_device_replaces_its_tokens_and_keeps_the_device() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let first = fixture.sign_in(bob, Some("PHONE"), true).await;
    assert_eq!(error(&fixture, &first.access_token).await, "none");
    let second = fixture.sign_in(bob, Some("PHONE"), false).await;
    assert_eq!(first.device, second.device);
    assert_eq!(error(&fixture, &first.access_token).await, "unknown");
    assert!(fixture.sessions.refresh(&first.refresh_token.unwrap()).await.is_err());
    assert_eq!(error(&fixture, &second.access_token).await, "none");
    assert_eq!(fixture.devices.list(bob).await.unwrap().len(), 1);
}

#[tokio::test]
async fn two_sign_ins_with_one_new_device_id_at_once_make_one_device() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let sign_ins = (0..8).map(|_| fixture.sign_in(bob, Some("PHONE"), false));
    let issued = futures_util::future::join_all(sign_ins).await;
    assert_eq!(fixture.devices.list(bob).await.unwrap().len(), 1);
    let mut valid = 0;
    for issued in &issued {
        valid += usize::from(fixture.sessions.authenticate(&issued.access_token).await.is_ok());
    }
    assert_eq!(valid, 1);
}

#[tokio::test]
async fn a_user_has_only_so_many_devices() {
    let fixture = Fixture::with(|config| config.devices = 2).await;
    let bob = fixture.account("bob").await;
    fixture.sign_in(bob, Some("A"), false).await;
    fixture.sign_in(bob, Some("B"), false).await;
    fixture.sign_in(bob, Some("A"), false).await;
    let third = fixture.sessions.sign_in(bob, &WantedSession::default()).await;
    assert!(matches!(third, Err(SignInError::Device(DeviceError::TooMany))));
}

#[tokio::test]
async fn an_old_refresh_token_is_good_until_a_new_token_is_used() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let first = fixture.sign_in(bob, None, true).await;
    assert_eq!(first.expires_in, Some(Duration::from_secs(300)));
    let refresh = first.refresh_token.clone().unwrap();
    // The answer is lost, twice: each time the tokens of the lost answer are taken back.
    let lost = fixture.sessions.refresh(&refresh).await.unwrap();
    let second = fixture.sessions.refresh(&refresh).await.unwrap();
    assert_eq!(error(&fixture, &lost.access_token).await, "unknown");
    assert!(fixture.sessions.refresh(&lost.refresh_token.unwrap()).await.is_err());
    assert_eq!(error(&fixture, &first.access_token).await, "none");
    // The first use of the new access token.
    assert_eq!(error(&fixture, &second.access_token).await, "none");
    assert_eq!(error(&fixture, &first.access_token).await, "unknown");
    assert!(fixture.sessions.refresh(&refresh).await.is_err());
    // The first use of a new refresh token does the same.
    let third = fixture.sessions.refresh(second.refresh_token.as_deref().unwrap()).await.unwrap();
    let fourth = fixture.sessions.refresh(third.refresh_token.as_deref().unwrap()).await.unwrap();
    assert_eq!(error(&fixture, &second.access_token).await, "unknown");
    assert!(fixture.sessions.refresh(second.refresh_token.as_deref().unwrap()).await.is_err());
    assert_eq!(error(&fixture, &fourth.access_token).await, "none");
    assert_eq!(fixture.devices.list(bob).await.unwrap().len(), 1);
    let left = fixture.database.scan(&Range::<RefreshToken>::whole()).await.unwrap();
    assert_eq!(left.rows.len(), 1);
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout() {
    let fixture = Fixture::with(|config| {
        config.lasting_access_token = Some(Interval::seconds(1000));
        config.refresh_token = Some(Interval::seconds(2000));
    })
    .await;
    let bob = fixture.account("bob").await;
    let (plain, refreshed) =
        (fixture.sign_in(bob, None, false).await, fixture.sign_in(bob, None, true).await);
    assert_eq!(error(&fixture, &refreshed.access_token).await, "none");
    fixture.clock.advance(Duration::from_secs(300));
    assert_eq!(error(&fixture, &refreshed.access_token).await, "soft logout");
    assert_eq!(error(&fixture, &plain.access_token).await, "none");
    fixture.clock.advance(Duration::from_secs(700));
    assert_eq!(error(&fixture, &plain.access_token).await, "soft logout");
    let refresh = refreshed.refresh_token.unwrap();
    let next = fixture.sessions.refresh(&refresh).await.unwrap();
    assert_eq!(error(&fixture, &next.access_token).await, "none");
    fixture.clock.advance(Duration::from_secs(2000));
    let expired = fixture.sessions.refresh(&next.refresh_token.unwrap()).await;
    assert!(matches!(expired, Err(RefreshError::Unknown { soft_logout: true })));
}

#[tokio::test]
async fn what_is_done_to_an_account_is_seen_by_its_sessions_at_once() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let issued = fixture.sign_in(bob, None, true).await;
    let token = &issued.access_token;
    let session = || async { fixture.sessions.authenticate(token).await.unwrap() };
    assert!(!session().await.locked);
    let operator = Actor::Operator;
    fixture.accounts.set_locked(operator, bob, true).await.unwrap();
    assert!(session().await.locked);
    assert!(matches!(
        fixture.sessions.refresh(issued.refresh_token.as_deref().unwrap()).await,
        Err(RefreshError::Locked)
    ));
    let again = fixture.sessions.sign_in(bob, &WantedSession::default()).await;
    assert!(matches!(again, Err(SignInError::Locked)));
    fixture.accounts.set_locked(operator, bob, false).await.unwrap();
    fixture.accounts.set_suspended(operator, bob, true).await.unwrap();
    fixture.accounts.set_admin(operator, bob, true).await.unwrap();
    let now = session().await;
    assert!(!now.locked && now.suspended && now.admin);
    fixture.accounts.deactivate(operator, bob, false).await.unwrap();
    assert_eq!(error(&fixture, token).await, "unknown");
    let again = fixture.sessions.sign_in(bob, &WantedSession::default()).await;
    assert!(matches!(again, Err(SignInError::Deactivated)));
}

#[tokio::test]
async fn openid_tokens_tell_one_thing_for_an_hour() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let token = fixture.sessions.new_openid_token(bob).await.unwrap();
    assert_eq!(fixture.sessions.openid_user(&token.token).await.unwrap(), id("bob"));
    assert_eq!(error(&fixture, &token.token).await, "unknown");
    let access = fixture.sign_in(bob, None, false).await.access_token;
    assert!(fixture.sessions.openid_user(&access).await.is_err());
    fixture.clock.advance(token.expires_in);
    assert!(fixture.sessions.openid_user(&token.token).await.is_err());
    let fresh = fixture.sessions.new_openid_token(bob).await.unwrap();
    let left = fixture.database.scan(&Range::<crate::tables::accounts::OpenIdToken>::whole()).await.unwrap();
    assert_eq!(left.rows.len(), 1);
    fixture.accounts.deactivate(Actor::Operator, bob, false).await.unwrap();
    assert!(fixture.sessions.openid_user(&fresh.token).await.is_err());
}

/// continuwuity 7d0686f3, CVE-2023-41335: tokens and passwords where they can be read later.
#[tokio::test]
async fn no_token_or_password_is_stored_or_shown() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let issued = fixture.sign_in(bob, None, true).await;
    let openid = fixture.sessions.new_openid_token(bob).await.unwrap();
    let secrets = [
        issued.access_token.clone(),
        issued.refresh_token.clone().unwrap(),
        openid.token.clone(),
        crate::accounts::testing::PASSWORD.to_owned(),
    ];
    let shown = format!("{issued:?} {openid:?} {:?}", fixture.sessions);
    let mut stored = Vec::new();
    for (space, _) in crate::tables::SPACES {
        let scan = allod_storage::Scan {
            space: *space,
            low: Vec::new(),
            high: vec![0xff; 8],
            reverse: false,
            limit: 1000,
            keys_only: false,
        };
        for row in fixture.store.scan(&scan).await.unwrap().rows {
            stored.extend_from_slice(&row.key);
            stored.extend_from_slice(&row.value);
        }
    }
    assert!(!stored.is_empty());
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()));
        assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}
