//! Range reads and range deletions.

use super::{POINT, QUEUE, RANGE, batch, get, key, put};
use crate::{Error, KEY_BYTES_MAX, KeyRange, Op, PAGE_BYTES_MAX, Row, Scan, Space, Store, VALUE_BYTES_MAX};

/// All rows of a space, page by page.
pub(super) async fn all(store: &Store, space: Space) -> Vec<Row> {
    let scan =
        Scan { space, low: Vec::new(), high: Vec::new(), reverse: false, limit: 1000, keys_only: false };
    collect(store, scan).await
}

async fn collect(store: &Store, scan: Scan) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut next = Some(scan);
    while let Some(scan) = next {
        let page = store.scan(&scan).await.unwrap();
        next = scan.after(&page);
        assert!(page.rows.len() <= scan.limit);
        rows.extend(page.rows);
    }
    rows
}

fn keys(rows: &[Row]) -> Vec<&[u8]> {
    rows.iter().map(|row| row.key.as_ref()).collect()
}

pub(super) async fn bounds(store: &Store) {
    let stored: [&[u8]; 6] = [&[], &[0], &[0, 0], &[1], &[1, 255], &[255, 255]];
    let ops = stored.map(|bytes| put(RANGE, bytes, bytes));
    store.commit(batch(ops)).await.unwrap();
    store.commit(batch([put(POINT, [1], []), put(QUEUE, [1], [])])).await.unwrap();
    let mut cuts: Vec<Vec<u8>> = stored.map(<[u8]>::to_vec).to_vec();
    cuts.extend([vec![0, 1], vec![2], vec![255], vec![255; KEY_BYTES_MAX + 1]]);
    let (mut scans, mut pages) = (Vec::new(), Vec::new());
    for low in &cuts {
        for high in &cuts {
            for limit in [0, 1, 2, 1000] {
                let inside = |bytes: &&&[u8]| {
                    **bytes >= low.as_slice() && (high.is_empty() || **bytes < high.as_slice())
                };
                let mut expected: Vec<&[u8]> = stored.iter().filter(inside).copied().collect();
                let more = expected.len() > limit;
                let mut scan = Scan {
                    space: RANGE,
                    low: low.clone(),
                    high: high.clone(),
                    reverse: false,
                    limit,
                    keys_only: false,
                };
                let page = store.scan(&scan).await.unwrap();
                let count = limit.min(expected.len());
                assert_eq!((keys(&page.rows), page.more), (expected[..count].to_vec(), more), "{scan:?}");
                assert!(page.rows.iter().all(|row| row.key == row.value));
                scans.push(scan.clone());
                pages.push(page);
                expected.reverse();
                scan.reverse = true;
                scan.keys_only = true;
                let page = store.scan(&scan).await.unwrap();
                assert_eq!((keys(&page.rows), page.more), (expected[..count].to_vec(), more), "{scan:?}");
                assert!(page.rows.iter().all(|row| row.value.is_empty()));
                scans.push(scan);
                pages.push(page);
            }
        }
    }
    assert_eq!(store.scan_many(&scans).await.unwrap(), pages);
}

pub(super) async fn pages(store: &Store) {
    let names: Vec<[u8; 2]> = (0..700_u16).map(|number| (number * 3).to_be_bytes()).collect();
    for chunk in names.chunks(100) {
        store
            .commit(batch(chunk.iter().map(|name| put(RANGE, name, name)).collect::<Vec<_>>()))
            .await
            .unwrap();
    }
    let low = 30_u16.to_be_bytes().to_vec();
    let high = 1500_u16.to_be_bytes().to_vec();
    let mut expected: Vec<&[u8]> = names[10..500].iter().map(<[u8; 2]>::as_slice).collect();
    for limit in [1, 7, 245, 490, 1000] {
        let scan = Scan {
            space: RANGE,
            low: low.clone(),
            high: high.clone(),
            reverse: false,
            limit,
            keys_only: false,
        };
        assert_eq!(keys(&collect(store, scan.clone()).await), expected);
        expected.reverse();
        assert_eq!(keys(&collect(store, Scan { reverse: true, ..scan }).await), expected);
        expected.reverse();
    }
}

/// A page of large values ends early, and says that there is more.
pub(super) async fn large_pages(store: &Store) {
    let rows = PAGE_BYTES_MAX / VALUE_BYTES_MAX + 20;
    for number in 0..rows {
        let name = u32::try_from(number).unwrap().to_be_bytes();
        store.commit(batch([put(RANGE, name, vec![1; VALUE_BYTES_MAX])])).await.unwrap();
    }
    for reverse in [false, true] {
        let scan =
            Scan { space: RANGE, low: Vec::new(), high: Vec::new(), reverse, limit: 1000, keys_only: false };
        let page = store.scan(&scan).await.unwrap();
        assert!(page.more);
        assert!(page.rows.len() < rows);
        assert_eq!(collect(store, scan.clone()).await.len(), rows);
        let page = store.scan(&Scan { keys_only: true, ..scan }).await.unwrap();
        assert_eq!((page.rows.len(), page.more), (rows, false));
    }
}

/// The bounds of a deletion, and what it leaves.
type Deletion<'a> = (&'a [u8], &'a [u8], &'a [&'a [u8]]);

pub(super) async fn delete_range(store: &Store) {
    let last = [255; KEY_BYTES_MAX];
    let fill = || {
        let rows: [&[u8]; 6] = [&[], &[1], &[1, 0], &[2], &[3], &last];
        [RANGE, QUEUE]
            .into_iter()
            .flat_map(move |space| rows.map(|bytes| put(space, bytes, [1])))
            .collect::<Vec<_>>()
    };
    let range = |low: &[u8], high: &[u8]| Op::DeleteRange { low: key(RANGE, low), high: high.to_vec() };
    let cases: [Deletion<'_>; 7] = [
        (&[1], &[3], &[&[], &[3], &last]),
        (&[1, 0], &[1, 0, 0], &[&[], &[1], &[2], &[3], &last]),
        (&[], &[1], &[&[1], &[1, 0], &[2], &[3], &last]),
        (&[2], &[], &[&[], &[1], &[1, 0]]),
        (&[], &[], &[]),
        (&[3], &[1], &[&[], &[1], &[1, 0], &[2], &[3], &last]),
        (&[1], &[1], &[&[], &[1], &[1, 0], &[2], &[3], &last]),
    ];
    for (low, high, left) in cases {
        store.commit(batch(fill())).await.unwrap();
        store.commit(batch([range(low, high)])).await.unwrap();
        assert_eq!(keys(&all(store, RANGE).await), left, "{low:?}..{high:?}");
        assert_eq!(all(store, QUEUE).await.len(), 6, "another space is not touched");
        let found = get(store, RANGE, [1, 0]).await;
        assert_eq!(found.is_some(), left.contains(&[1, 0].as_slice()));
    }
    // A row put later into a deleted range is there.
    store.commit(batch([range(&[], &[])])).await.unwrap();
    store.commit(batch([put(RANGE, [2], [2])])).await.unwrap();
    assert_eq!(get(store, RANGE, [2]).await, Some(vec![2]));
}

/// Compaction changes nothing that can be read, whatever its bounds.
pub(super) async fn compaction(store: &Store) {
    let name = |number: u16| number.to_be_bytes();
    for chunk in 0..4 {
        let rows = (chunk * 100..chunk * 100 + 100).map(|number| put(RANGE, name(number), name(number)));
        store.commit(batch(rows.collect::<Vec<_>>())).await.unwrap();
    }
    let deleted = Op::DeleteRange { low: key(RANGE, name(50)), high: name(150).to_vec() };
    store.commit(batch([deleted, put(RANGE, name(200), [1])])).await.unwrap();
    let before = all(store, RANGE).await;
    assert_eq!(before.len(), 300);
    let range = |low: &[u8], high: &[u8]| KeyRange { space: RANGE, low: low.to_vec(), high: high.to_vec() };
    let last = [255; KEY_BYTES_MAX + 1];
    for ranges in [
        vec![],
        vec![range(&name(50), &name(150))],
        vec![range(&[], &name(60)), range(&name(199), &name(201)), KeyRange::whole(POINT)],
        vec![range(&name(300), &[]), range(&name(9), &name(3)), range(&last, &last)],
        vec![KeyRange::whole(RANGE)],
    ] {
        store.compact_ranges(&ranges).await.unwrap();
        assert_eq!(all(store, RANGE).await, before, "{ranges:?}");
    }
    let undeclared = KeyRange::whole(Space { id: 99, name: "undeclared" });
    assert!(matches!(store.compact_ranges(&[undeclared]).await, Err(Error::TooLarge(_))));
    let too_long = range(&[0; KEY_BYTES_MAX + 2], &[]);
    assert!(matches!(store.compact_ranges(&[too_long]).await, Err(Error::TooLarge(_))));
}
