//! Many rooms made up at random, each resolved by us and by ruma.

use proptest::prelude::*;

use super::random::{Dice, Plan, agree, make};

/// All that is served, and the versions whose rules for joins and power levels differ.
const VERSIONS: [&str; 8] = ["3", "6", "7", "8", "9", "10", "11", "12"];

fn any_plan(sizes: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Plan> {
    (prop::sample::select(VERSIONS.to_vec()), sizes, any::<u64>(), prop::bool::weighted(0.3))
        .prop_map(|(version, size, seed, wild)| Plan { version, size, seed, wild })
}

/// A room made up, each merge of its forks compared on the way; in the end all its forks at once,
/// the result with itself, and the result with what it came from.
fn check(plan: Plan) {
    let (room, ends) = make(plan);
    let mut dice = Dice(plan.seed ^ 1);
    let states: Vec<_> = ends.iter().map(|end| room.event(*end).after.clone()).collect();
    let Some(resolved) = agree(&room, &states, &mut dice) else { return };
    assert_eq!(room.resolve(&[&resolved, &resolved]), resolved);
    let mut again = states;
    again.push(resolved.into());
    agree(&room, &again, &mut dice);
    // States from anywhere in the room, which no honest server would resolve.
    let anywhere: Vec<_> =
        (0..2 + dice.below(3)).map(|_| room.events[dice.below(room.events.len())].after.clone()).collect();
    agree(&room, &anywhere, &mut dice);
}

/// Rooms that we and ruma once resolved differently.
#[test]
fn rooms_that_differed_once() {
    for plan in [
        Plan { version: "3", size: 100, seed: 9_109_279_291_849_535_852, wild: false },
        Plan { version: "7", size: 168, seed: 17_571_010_463_223_700_711, wild: false },
        Plan { version: "7", size: 658, seed: 12_913_546_249_446_538_632, wild: false },
    ] {
        check(plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_ruma(plan in any_plan(10..=200)) {
        check(plan);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Twenty minutes of a core: `cargo test --profile quick --workspace --lib -- --ignored resolve_many`.
    #[test]
    #[ignore = "ten thousand rooms of up to two thousand events"]
    fn resolve_many(plan in any_plan(10..=2_000)) {
        check(plan);
    }
}
