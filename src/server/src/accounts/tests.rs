//! Accounts: passwords, deactivation, and what the audit trail says of it.

use super::{
    testing::{Fixture, PASSWORD, id},
    *,
};
use crate::{
    database::Range,
    sessions::{SignInError, WantedSession},
    tables::accounts::AccessToken,
};

async fn check(fixture: &Fixture, name: &str, password: &str) -> Option<UserNumber> {
    fixture.accounts.check_password(name, password.to_owned()).await.unwrap().map(|proof| proof.user())
}

#[tokio::test]
async fn passwords_are_checked_by_name_or_id() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    for name in ["bob", "@bob:example.org", "BOB", "@BOB:example.org"] {
        assert_eq!(check(&fixture, name, PASSWORD).await, Some(bob), "{name}");
    }
    for name in ["alice", "@bob:example.com", "@bob", "", "@:example.org", "bob "] {
        let expected = (name == "@bob").then_some(bob);
        assert_eq!(check(&fixture, name, PASSWORD).await, expected, "{name}");
    }
    for password in ["", " ", "correct horse ", "Correct horse", "\0"] {
        assert_eq!(check(&fixture, "bob", password).await, None, "{password}");
    }
}

/// tuwunel c564d9e2: an account without a password was confirmed with any.
#[tokio::test]
async fn tuwunel_c564d9e2_accounts_without_a_password_have_none() {
    let fixture = Fixture::new().await;
    let new = NewAccount { user_id: id("sso"), kind: AccountKind::User, admin: false, password_hash: None };
    let sso = fixture.accounts.create(Actor::Operator, &new).await.unwrap();
    assert!(!fixture.accounts.has_password(sso).await.unwrap());
    for password in ["", "*", "x", PASSWORD] {
        assert_eq!(check(&fixture, "sso", password).await, None, "{password:?}");
    }
}

/// SEC16: a deactivated user signed in.
#[tokio::test]
async fn sec16_deactivated_accounts_are_closed_and_their_names_taken() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    fixture.sign_in(bob, None, true).await;
    fixture.accounts.deactivate(Actor::User(bob), bob, true).await.unwrap();
    assert_eq!(check(&fixture, "bob", PASSWORD).await, None);
    assert!(!fixture.accounts.is_free(&id("bob")).await.unwrap());
    let taken = NewAccount { user_id: id("bob"), kind: AccountKind::User, admin: false, password_hash: None };
    let taken = fixture.accounts.create(Actor::Operator, &taken).await;
    assert!(matches!(taken, Err(AccountError::NameTaken)));
    let account = fixture.users.account(bob).await.unwrap().unwrap();
    assert!(account.erased && account.deactivated_ms.is_some());
    assert!(fixture.database.scan(&Range::<AccessToken>::whole()).await.unwrap().rows.is_empty());
    assert!(fixture.devices.list(bob).await.unwrap().is_empty());
    let operator = Actor::Operator;
    for refused in [
        fixture.accounts.set_password(operator, bob, "another password".to_owned(), true, None).await,
        fixture.accounts.set_locked(operator, bob, true).await,
        fixture.accounts.set_admin(operator, bob, true).await,
    ] {
        assert!(matches!(refused, Err(AccountError::NotFound)));
    }
    fixture.accounts.reactivate(operator, bob, "another password".to_owned()).await.unwrap();
    assert_eq!(check(&fixture, "bob", "another password").await, Some(bob));
    assert_eq!(check(&fixture, "bob", PASSWORD).await, None);
}

#[tokio::test]
async fn a_new_password_signs_out_all_but_the_calling_device() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let (one, two) = (fixture.sign_in(bob, None, false).await, fixture.sign_in(bob, None, false).await);
    let set = |password: &str, sign_out| {
        fixture.accounts.set_password(Actor::User(bob), bob, password.to_owned(), sign_out, Some(one.device))
    };
    assert!(matches!(set("short", true).await, Err(AccountError::WeakPassword(_))));
    set("a new password", false).await.unwrap();
    assert!(fixture.sessions.authenticate(&two.access_token).await.is_ok());
    set("a newer password", true).await.unwrap();
    assert!(fixture.sessions.authenticate(&one.access_token).await.is_ok());
    assert!(fixture.sessions.authenticate(&two.access_token).await.is_err());
    assert_eq!(check(&fixture, "bob", "a newer password").await, Some(bob));
    assert_eq!(check(&fixture, "bob", PASSWORD).await, None);
}

#[tokio::test]
async fn nobody_signs_in_with_a_password_that_is_changed_at_the_same_moment() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let proof = fixture.accounts.check_password("bob", PASSWORD.to_owned()).await.unwrap().unwrap();
    let wanted = WantedSession::default();
    fixture.sessions.sign_in_by_password(&proof, &wanted).await.unwrap();
    let operator = Actor::Operator;
    fixture.accounts.set_password(operator, bob, "a new password".to_owned(), true, None).await.unwrap();
    let late = fixture.sessions.sign_in_by_password(&proof, &wanted).await;
    assert!(matches!(late, Err(SignInError::PasswordChanged)));
    assert!(fixture.devices.list(bob).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_audit_trail_tells_what_was_done() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    check(&fixture, "bob", "wrong").await;
    check(&fixture, "nobody", "wrong").await;
    let issued = fixture.sign_in(bob, None, false).await;
    fixture.accounts.set_locked(Actor::Operator, bob, true).await.unwrap();
    fixture.accounts.set_locked(Actor::Operator, bob, true).await.unwrap();
    fixture.devices.delete_all(Actor::User(bob), bob, None).await.unwrap();
    let acts: Vec<Act> = fixture.audit().await.into_iter().map(|entry| entry.act).collect();
    let device = issued.device;
    assert_eq!(
        acts,
        [
            Act::CreateAccount { user: bob, admin: false },
            Act::FailSignIn { user: Some(bob) },
            Act::FailSignIn { user: None },
            Act::SignIn { user: bob, device },
            Act::SetLocked { user: bob, locked: true },
            Act::DeleteDevices { user: bob, devices: vec![device] },
        ]
    );
}

#[tokio::test]
async fn accounts_are_listed_in_pages_without_remote_users() {
    let fixture = Fixture::new().await;
    let remote = ruma::user_id!("@remote:example.com");
    fixture.users.number_or_new(remote).await.unwrap();
    let users = [fixture.account("a").await, fixture.account("b").await, fixture.account("c").await];
    let (first, more) = fixture.users.list_accounts(None, 2).await.unwrap();
    assert_eq!((first.iter().map(|(user, _)| *user).collect::<Vec<_>>(), more), (users[..2].to_vec(), true));
    let (second, more) = fixture.users.list_accounts(Some(users[1]), 2).await.unwrap();
    assert_eq!((second.len(), second[0].0, more), (1, users[2], false));
}

#[tokio::test]
async fn numbers_survive_a_restart_and_are_never_given_twice() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let first = fixture.sign_in(bob, None, false).await;
    fixture.devices.delete_all(Actor::User(bob), bob, None).await.unwrap();
    let again = Fixture::over(fixture.store.clone(), |_| {}).await;
    assert_eq!(again.users.number(&id("bob")).await.unwrap(), Some(bob));
    assert_eq!(again.users.id(bob).await.unwrap(), Some(id("bob")));
    assert!(again.account("alice").await > bob);
    let second = again.sessions.sign_in(bob, &WantedSession::default()).await.unwrap();
    assert!(second.device > first.device);
}

#[tokio::test]
async fn many_users_met_at_once_get_one_number_each() {
    let fixture = Fixture::new().await;
    let ids: Vec<OwnedUserId> = (0..1200).map(|number| id(&format!("u{number}"))).collect();
    let ids: Vec<&UserId> = ids.iter().chain(ids.first()).map(|id| &**id).collect();
    let (one, two) = tokio::join!(fixture.users.numbers_or_new(&ids), fixture.users.numbers_or_new(&ids));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!(one.first(), one.last());
    let distinct: std::collections::BTreeSet<_> = one.iter().collect();
    assert_eq!(distinct.len(), 1200);
}
