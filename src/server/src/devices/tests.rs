//! Devices: names, and what is remembered of their use.

use std::time::Duration;

use super::*;
use crate::accounts::testing::Fixture;

#[tokio::test]
async fn a_device_is_named_and_its_name_told() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    fixture.sign_in(bob, Some("PHONE"), false).await;
    let phone: OwnedDeviceId = "PHONE".into();
    let before = fixture.store.head();
    fixture.devices.rename(bob, &phone, Some("My phone".to_owned())).await.unwrap();
    let device = fixture.devices.find(bob, &phone).await.unwrap().unwrap();
    assert_eq!(device.row.display_name.as_deref(), Some("My phone"));
    assert!(fixture.store.head() > before);
    // The same name again is no change.
    let before = fixture.store.head();
    fixture.devices.rename(bob, &phone, Some("My phone".to_owned())).await.unwrap();
    assert_eq!(fixture.store.head(), before);
    let long = fixture.devices.rename(bob, &phone, Some("x".repeat(256))).await;
    assert!(matches!(long, Err(DeviceError::BadText)));
    let unknown = fixture.devices.rename(bob, "TABLET".into(), None).await;
    assert!(matches!(unknown, Err(DeviceError::NotFound)));
}

#[tokio::test]
async fn ids_that_are_empty_or_long_are_refused() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    for (id, fits) in [("", false), ("x", true), (&*"x".repeat(255), true), (&*"x".repeat(256), false)] {
        let device = WantedDevice { id: Some(id.into()), display_name: None };
        let wanted = crate::sessions::WantedSession { device, refresh: false };
        assert_eq!(fixture.sessions.sign_in(bob, &wanted).await.is_ok(), fits, "{}", id.len());
    }
}

#[tokio::test]
async fn a_device_is_seen_once_an_hour_and_not_shown_after_four_weeks() {
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let device = fixture.sign_in(bob, None, false).await.device;
    let saw = |address: &str| fixture.devices.saw(bob, device, Some(address.parse().unwrap()));
    saw("203.0.113.7");
    saw("198.51.100.7");
    let seen = fixture.devices.last_seen(bob).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].1.network.as_deref(), Some("203.0.113.0"));
    assert_eq!(seen[0].1.seen_ms % 3_600_000, 0);
    fixture.clock.advance(Duration::from_secs(3600));
    saw("198.51.100.7");
    let seen = fixture.devices.last_seen(bob).await.unwrap();
    assert_eq!(seen[0].1.network.as_deref(), Some("198.51.100.0"));
    fixture.clock.advance(Duration::from_secs(29 * 24 * 3600));
    assert!(fixture.devices.last_seen(bob).await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_remembered_where_that_is_switched_off_or_the_device_gone() {
    let fixture = Fixture::with(|config| config.last_seen = false).await;
    let bob = fixture.account("bob").await;
    let device = fixture.sign_in(bob, None, false).await.device;
    fixture.devices.saw(bob, device, None);
    assert!(fixture.devices.last_seen(bob).await.unwrap().is_empty());
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let device = fixture.sign_in(bob, None, false).await.device;
    fixture.devices.saw(bob, device, None);
    fixture.devices.delete(Actor::User(bob), bob, &[device]).await.unwrap();
    fixture.clock.advance(Duration::from_secs(3600));
    fixture.devices.saw(bob, device, None);
    assert!(fixture.devices.last_seen(bob).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_device_has_no_id_of_a_cross_signing_key() {
    use crate::{
        sessions::{SignInError, WantedSession},
        tables::{Stamped, keys::StoredKey},
    };
    let fixture = Fixture::new().await;
    let bob = fixture.account("bob").await;
    let json = r#"{"usage":["master"],"keys":{"ed25519:PUBLIC":"PUBLIC"}}"#.to_owned();
    let mut write = Write::new();
    write.put::<CrossSigningKey>(&(bob, 1), &Stamped::pending(StoredKey { json }));
    fixture.database.commit(write).await.unwrap();
    let sign_in = async |id: &str| {
        let device = WantedDevice { id: Some(id.into()), display_name: None };
        fixture.sessions.sign_in(bob, &WantedSession { device, refresh: false }).await
    };
    let taken = sign_in("PUBLIC").await;
    assert!(matches!(taken, Err(SignInError::Device(DeviceError::IdOfKey))));
    assert!(sign_in("PHONE").await.is_ok());
}
