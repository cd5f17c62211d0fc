//! Mail: when it goes, what it tells, and to whom it does not.

use super::*;
use crate::mail::{MailFailure, Mailer};

const ADDRESS: &str = "bob@mail.example";

impl Mailer for Wire {
    fn send(&self, mail: Mail) -> BoxFuture<'_, Result<(), MailFailure>> {
        self.mails.lock().unwrap().push(mail);
        self.changed.notify_waiters();
        let outcome = self.outcomes.lock().unwrap().pop_front();
        match outcome {
            None | Some(Outcome::Rejects(_)) => std::future::ready(Ok(())).boxed(),
            Some(Outcome::Fails) => {
                std::future::ready(Err(MailFailure::Unreachable("away".to_owned()))).boxed()
            }
            Some(Outcome::Refuses) => std::future::ready(Err(MailFailure::Refused("550".to_owned()))).boxed(),
            Some(Outcome::Hangs) => std::future::pending().boxed(),
        }
    }
}

impl Wire {
    /// The subjects of mails, in order.
    fn subjects(&self) -> Vec<String> {
        self.mails.lock().unwrap().iter().map(|mail| mail.subject.clone()).collect()
    }

    fn last_mail(&self) -> Mail {
        self.mails.lock().unwrap().last().cloned().unwrap()
    }
}

impl World {
    /// A server that sends mail, and says in it what `content` allows.
    fn with_mail(&self, content: bool) {
        let mut config = Config::default();
        config.mail.host = Some("smtp.example".to_owned());
        config.mail.from = Some("chat@example.org".to_owned());
        config.mail.content = content;
        drop(self.config.reload(&config));
    }

    async fn set_mail(&self, of: &Caller) -> Result<(), PusherError> {
        let row =
            PusherRow { url: format!("mailto:{ADDRESS}"), app_id: "m.email".to_owned(), ..row(ADDRESS) };
        self.pushers.set(of.user, of.device.unwrap(), row, true).await
    }

    /// Bob has a pusher of mail, and is in a room with Alice.
    async fn with_reader(&self) -> (Caller, Caller, OwnedRoomId) {
        let (alice, bob) = (self.person("alice").await, self.person("bob").await);
        let room = self.room(&alice, &[&bob]).await;
        self.settled().await;
        self.addresses.add(Actor::Operator, bob.user, ADDRESS).await.unwrap();
        self.set_mail(&bob).await.unwrap();
        (alice, bob, room)
    }

    async fn minutes(&self, count: u64) {
        self.later(Duration::from_mins(count)).await;
    }
}

#[tokio::test]
async fn mail_goes_to_addresses_of_ones_own_only() {
    let world = World::new().await;
    let bob = world.person("bob").await;
    assert!(matches!(world.set_mail(&bob).await, Err(PusherError::NoMail)));
    world.with_mail(false);
    assert!(matches!(world.set_mail(&bob).await, Err(PusherError::NotYourAddress)));
    let add = |address: &'static str| world.addresses.add(Actor::Operator, bob.user, address);
    assert!(add("nobody").await.is_err() && add("a@b@c").await.is_err());
    add(" Bob@Mail.example ").await.unwrap();
    add(ADDRESS).await.unwrap();
    let listed = world.addresses.list(bob.user).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.address.as_str()).collect::<Vec<_>>(), [ADDRESS]);
    world.set_mail(&bob).await.unwrap();
    assert_eq!(world.pushers.list(bob.user).await.unwrap()[0].mail_address(), Some(ADDRESS));
}

#[tokio::test]
async fn what_is_unread_for_a_while_is_told_together_and_without_what_it_says() {
    let world = World::new().await;
    world.with_mail(false);
    let (alice, bob, room) = world.with_reader().await;
    world.say(&alice, &room, "a secret").await;
    world.minutes(5).await;
    world.say(&alice, &room, "another secret").await;
    world.minutes(4).await;
    assert_eq!(world.wire.subjects(), [""; 0]);
    world.minutes(1).await;
    assert_eq!(world.wire.subjects(), ["2 unread messages on example.org"]);
    let mail = world.wire.last_mail();
    assert_eq!(mail.to, ADDRESS);
    assert!(!format!("{}{}", mail.text, mail.html).contains("secret"), "{}", mail.text);
    // The next one not before an hour has passed, and not of what is read.
    let three = world.say(&alice, &room, "three").await;
    world.minutes(30).await;
    assert_eq!(world.wire.subjects().len(), 1);
    world.read(&bob, &room, &three).await;
    world.minutes(31).await;
    assert_eq!(world.wire.subjects().len(), 1);
    world.say(&alice, &room, "four").await;
    world.minutes(10).await;
    assert_eq!(world.wire.subjects()[1..], ["1 unread message on example.org"]);
}

#[tokio::test]
async fn mail_says_who_wrote_what_where_it_may() {
    let world = World::new().await;
    world.with_mail(true);
    let (alice, _bob, room) = world.with_reader().await;
    world.say(&alice, &room, "lunch?").await;
    world.minutes(10).await;
    let mail = world.wire.last_mail();
    assert!(mail.text.contains("\nA conversation (1)\n  alice: lunch?\n"), "{}", mail.text);
}

#[tokio::test]
async fn a_mail_that_is_not_taken_goes_later_with_the_same_id() {
    let mut world = World::new().await;
    world.with_mail(false);
    let (alice, bob, room) = world.with_reader().await;
    world.wire.will(&[Outcome::Fails, Outcome::Hangs]);
    world.say(&alice, &room, "one").await;
    world.minutes(10).await;
    world.say(&alice, &room, "two").await;
    world.server.fixture.clock.advance(Duration::from_mins(5));
    world.pushers.look_again();
    world.until("it hangs", |world| world.wire.subjects().len() == 2).await;
    let config = world.config.clone();
    let clock = world.server.fixture.clock.now_ms();
    world = world.killed().await;
    drop(world.config.reload(&config.get()));
    let behind = clock.saturating_sub(world.server.fixture.clock.now_ms());
    world.later(Duration::from_millis(behind)).await;
    world.until("it is taken", |world| world.wire.subjects().len() == 3).await;
    world.settled().await;
    let ids: std::collections::BTreeSet<String> =
        world.wire.mails.lock().unwrap().iter().map(|mail| mail.id.clone()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(world.wire.subjects(), ["1 unread message on example.org"; 3]);
    // What came meanwhile is told once, later.
    world.minutes(61).await;
    assert_eq!(world.wire.subjects()[3..], ["1 unread message on example.org"]);
    world.minutes(600).await;
    assert_eq!(world.wire.subjects().len(), 4);
    assert_eq!(queued(&world.server.fixture.database).await.unwrap(), []);
    // Nothing goes to an address that is the person's no more.
    world.addresses.remove(Actor::User(bob.user), bob.user, ADDRESS).await.unwrap();
    world.say(&alice, &room, "three").await;
    world.settled().await;
    assert_eq!(world.pushers.list(bob.user).await.unwrap(), []);
}

#[tokio::test]
async fn a_mail_that_is_always_refused_is_given_up() {
    let world = World::new().await;
    world.with_mail(false);
    let (alice, _bob, room) = world.with_reader().await;
    world.wire.will(&vec![Outcome::Refuses; 6]);
    world.say(&alice, &room, "one").await;
    for _ in 0..8 {
        world.minutes(61).await;
    }
    assert_eq!(world.wire.subjects().len(), 6);
    assert_eq!(queued(&world.server.fixture.database).await.unwrap(), []);
}
