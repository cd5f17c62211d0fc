//! Tests of filters.

use super::*;
use crate::room_lookup::tests::database;

const ALICE: UserNumber = UserNumber(1);

fn filter(limit: usize) -> FilterDefinition {
    serde_json::from_value(serde_json::json!({ "room": { "timeline": { "limit": limit } } })).unwrap()
}

#[tokio::test]
async fn equal_filters_are_one_filter_and_belong_to_their_user() {
    let filters = Filters::new(database().await);
    let id = filters.create(ALICE, &filter(1)).await.unwrap();
    assert_eq!(filters.create(ALICE, &filter(1)).await.unwrap(), id);
    assert_ne!(filters.create(ALICE, &filter(2)).await.unwrap(), id);
    let stored = filters.get(ALICE, &id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&*stored).unwrap(), serde_json::to_string(&filter(1)).unwrap());
    assert!(filters.get(UserNumber(2), &id).await.unwrap().is_none());
    assert!(filters.get(ALICE, "0").await.unwrap().is_none());
    assert!(!id.starts_with('{'));
}

#[tokio::test]
async fn there_is_an_end_to_filters() {
    let filters = Filters::new(database().await);
    for limit in 1..=FILTERS_PER_USER_MAX {
        filters.create(ALICE, &filter(limit)).await.unwrap();
    }
    let refused = filters.create(ALICE, &filter(FILTERS_PER_USER_MAX + 1)).await;
    assert!(matches!(refused, Err(FilterError::TooMany)));
    filters.create(ALICE, &filter(1)).await.unwrap();
}
