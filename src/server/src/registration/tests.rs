//! Who may make an account, under which name, and how often.

use std::time::Duration;

use super::*;
use crate::{
    accounts::testing::{Fixture, PASSWORD, id},
    registration_tokens::Limits,
};

fn wanted(name: &str) -> Wanted {
    Wanted {
        name: Some(name.to_owned()),
        password: Some(PASSWORD.to_owned()),
        session: Some(WantedSession::default()),
        ..Wanted::default()
    }
}

async fn register(fixture: &Fixture, wanted: Wanted, shown: &Shown) -> Result<Registered, RegisterError> {
    let checked = fixture.registration.check(&wanted).await?;
    fixture.registration.register(checked, wanted, shown).await
}

#[tokio::test]
async fn an_account_is_made_and_signed_in() {
    let fixture = Fixture::new().await;
    let registered = register(&fixture, wanted("User-UPPER"), &Shown::default()).await.unwrap();
    assert_eq!(registered.user_id, id("user-upper"));
    let token = registered.issued.unwrap().access_token;
    assert_eq!(fixture.sessions.authenticate(&token).await.unwrap().user, registered.user);
    let signed_in = fixture.accounts.check_password("user-upper", PASSWORD.to_owned()).await.unwrap();
    assert_eq!(signed_in.unwrap().user(), registered.user);
}

#[tokio::test]
async fn someone_whom_the_server_has_heard_of_can_register() {
    let fixture = Fixture::new().await;
    let number = fixture.users.number_or_new(&id("bob")).await.unwrap();
    let registered = register(&fixture, wanted("bob"), &Shown::default()).await.unwrap();
    assert_eq!(registered.user, number);
}

#[tokio::test]
async fn a_session_or_a_name_may_be_left_out() {
    let fixture = Fixture::new().await;
    let silent = Wanted { session: None, name: None, ..wanted("") };
    let registered = register(&fixture, silent, &Shown::default()).await.unwrap();
    assert!(registered.issued.is_none());
    assert_eq!(registered.user_id.localpart().len(), NAME_LENGTH);
    assert!(fixture.devices.list(registered.user).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_name_at_once_is_given_to_one() {
    let fixture = Fixture::new().await;
    let shown = Shown::default();
    let all = (0..8).map(|_| register(&fixture, wanted("bob"), &shown));
    let outcomes = futures_util::future::join_all(all).await;
    let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let taken = |outcome: &&Result<_, RegisterError>| {
        matches!(outcome, Err(RegisterError::Account(AccountError::NameTaken)))
    };
    assert_eq!((made, outcomes.iter().filter(taken).count()), (1, 7));
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_before_anything_is_shown() {
    let fixture = Fixture::new().await;
    fixture.account("bob").await;
    let refused = |wanted: Wanted| {
        let registration = fixture.registration.clone();
        async move { registration.check(&wanted).await.unwrap_err() }
    };
    assert!(matches!(refused(wanted("bob")).await, RegisterError::Account(AccountError::NameTaken)));
    assert!(matches!(refused(wanted("b,b")).await, RegisterError::Name(NameError::Letters)));
    assert!(matches!(refused(wanted("123")).await, RegisterError::Name(NameError::Reserved)));
    assert!(matches!(refused(wanted("_x")).await, RegisterError::Name(NameError::Reserved)));
    let weak = Wanted { password: Some("weak".to_owned()), ..wanted("alice") };
    assert!(matches!(refused(weak).await, RegisterError::Account(AccountError::WeakPassword(_))));
}

#[tokio::test]
async fn closed_means_closed() {
    let fixture = Fixture::with(|config| {
        config.registration = Mode::Closed;
        config.guests = false;
    })
    .await;
    let registration = &fixture.registration;
    assert!(matches!(registration.check(&wanted("bob")).await, Err(RegisterError::Disabled)));
    assert!(matches!(registration.check_name("bob").await, Err(RegisterError::Disabled)));
    assert!(matches!(registration.is_token_valid("x").await, Err(RegisterError::Disabled)));
    assert!(matches!(registration.register_guest(None).await, Err(RegisterError::Disabled)));
    assert_eq!(Config::default().registration, Mode::Closed);
}

#[tokio::test]
async fn a_token_makes_as_many_accounts_as_it_says() {
    let fixture = Fixture::with(|config| config.registration = Mode::Token).await;
    let limits = Limits { uses_allowed: Some(2), expires_ms: None };
    fixture.tokens.create(Actor::Operator, Some("two".to_owned()), limits).await.unwrap();
    let shown = Shown { user: None, registration_token: Some("two".to_owned()) };
    let names: Vec<String> = (0..6).map(|number| format!("u{number}")).collect();
    let all = names.iter().map(|name| register(&fixture, wanted(name), &shown));
    let outcomes = futures_util::future::join_all(all).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    let row = fixture.tokens.get("two").await.unwrap().unwrap();
    assert_eq!(row.uses, 2);
    assert!(!fixture.registration.is_token_valid("two").await.unwrap());
    fixture.tokens.update(Actor::Operator, "two", Some(None), None).await.unwrap();
    assert!(fixture.registration.is_token_valid("two").await.unwrap());
    let expires_ms = fixture.clock.now_ms() + 1000;
    fixture.tokens.update(Actor::Operator, "two", None, Some(Some(expires_ms))).await.unwrap();
    fixture.clock.advance(Duration::from_secs(1));
    assert!(!fixture.registration.is_token_valid("two").await.unwrap());
    fixture.tokens.delete(Actor::Operator, "two").await.unwrap();
    assert!(fixture.tokens.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn guests_come_in_and_become_users_under_their_own_name() {
    let fixture = Fixture::new().await;
    let guest = fixture.registration.register_guest(Some("browser".to_owned())).await.unwrap();
    assert!(guest.user_id.localpart().bytes().all(|letter| letter.is_ascii_digit()));
    let token = guest.issued.unwrap().access_token;
    let session = fixture.sessions.authenticate(&token).await.unwrap();
    assert!(session.guest);
    let upgrade = |name: Option<&str>, token: &str| Wanted {
        name: name.map(str::to_owned),
        password: Some(PASSWORD.to_owned()),
        guest_token: Some(token.to_owned()),
        session: Some(WantedSession::default()),
    };
    let bob = fixture.account("bob").await;
    let users_token = fixture.sign_in(bob, None, false).await.access_token;
    for wrong in [upgrade(Some("alice"), &token), upgrade(None, "x"), upgrade(None, &users_token)] {
        let refused = fixture.registration.check(&wrong).await;
        assert!(matches!(refused, Err(RegisterError::NotThisGuest)));
    }
    let user = register(&fixture, upgrade(None, &token), &Shown::default()).await.unwrap();
    assert_eq!(user.user, guest.user);
    assert!(!fixture.sessions.authenticate(&token).await.unwrap().guest);
    let again = fixture.registration.check(&upgrade(None, &token)).await;
    assert!(matches!(again, Err(RegisterError::NotThisGuest)));
}

fn signed(nonce: &str, name: &str, admin: bool, secret: &str) -> SharedSecretRequest {
    use hmac::{Hmac, Mac};
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    let kind = if admin { "admin" } else { "notadmin" };
    mac.update(format!("{nonce}\0{name}\0{PASSWORD}\0{kind}").as_bytes());
    SharedSecretRequest {
        nonce: nonce.to_owned(),
        name: name.to_owned(),
        password: PASSWORD.to_owned(),
        admin,
        user_type: None,
        mac: hex::encode(mac.finalize().into_bytes()),
    }
}

#[tokio::test]
async fn the_shared_secret_makes_accounts_even_where_registration_is_closed() {
    let fixture = Fixture::with(|config| config.registration = Mode::Closed).await;
    let shared = fixture.registration.with_shared_secret(Secret::new("hush"), fixture.clock.clone());
    let nonce = shared.nonce();
    let request = signed(&nonce, "Boss", true, "hush");
    let registered = shared.register(request.clone()).await.unwrap();
    assert_eq!(registered.user_id, id("boss"));
    let token = registered.issued.unwrap().access_token;
    assert!(fixture.sessions.authenticate(&token).await.unwrap().admin);
    // A nonce is good once.
    assert!(matches!(shared.register(request).await, Err(SharedSecretError::BadNonce)));
}

#[tokio::test]
async fn what_the_holder_of_the_secret_did_not_sign_is_refused() {
    let fixture = Fixture::new().await;
    let shared = fixture.registration.with_shared_secret(Secret::new("hush"), fixture.clock.clone());
    let forge = |change: fn(&mut SharedSecretRequest)| {
        let mut request = signed(&shared.nonce(), "bob", false, "hush");
        change(&mut request);
        let shared = shared.clone();
        async move { shared.register(request).await.unwrap_err() }
    };
    let changes: [fn(&mut SharedSecretRequest); 5] = [
        |request| request.admin = true,
        |request| request.name = "alice".to_owned(),
        |request| request.user_type = Some("bot".to_owned()),
        |request| request.mac = String::new(),
        |request| request.mac = "zz".to_owned(),
    ];
    for change in changes {
        assert!(matches!(forge(change).await, SharedSecretError::BadMac));
    }
    assert!(matches!(forge(|request| request.name = "a\0b".to_owned()).await, SharedSecretError::Nul));
    assert!(matches!(forge(|request| request.nonce = "x".to_owned()).await, SharedSecretError::BadNonce));
    let late = signed(&shared.nonce(), "bob", false, "hush");
    fixture.clock.advance(Duration::from_secs(60));
    assert!(matches!(shared.register(late).await, Err(SharedSecretError::BadNonce)));
}
