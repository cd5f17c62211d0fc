//! Heroes: the members that clients name a room after when it has no name (§Syncing, `m.heroes`).

/// Most heroes of a room.
pub const HEROES_MAX: usize = 5;

/// A member who may be a hero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<Id> {
    /// Who it is.
    pub id: Id,
    /// Whether they have joined or are invited.
    pub present: bool,
    /// Whether they have left or are banned.
    pub gone: bool,
    /// When that came to be, in any unit.
    pub since: u64,
}

/// The first who joined or were invited, the reader left out; if there are none, the first who left or were banned.
pub fn choose<Id: Copy + PartialEq>(
    candidates: impl IntoIterator<Item = Candidate<Id>>,
    reader: Id,
) -> Vec<Id> {
    let others = candidates.into_iter().filter(|candidate| candidate.id != reader);
    let (present, absent): (Vec<_>, Vec<_>) = others.partition(|candidate| candidate.present);
    let mut chosen = if present.is_empty() {
        absent.into_iter().filter(|candidate| candidate.gone).collect()
    } else {
        present
    };
    chosen.sort_by_key(|candidate| candidate.since);
    chosen.truncate(HEROES_MAX);
    chosen.into_iter().map(|candidate| candidate.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u32, since: u64, present: bool) -> Candidate<u32> {
        Candidate { id, present, gone: !present, since }
    }

    #[test]
    fn those_who_are_there_come_before_those_who_were() {
        let all = [member(1, 9, true), member(2, 3, true), member(3, 1, false), member(4, 5, true)];
        assert_eq!(choose(all, 4), [2, 1]);
        assert_eq!(choose([member(1, 9, true), member(3, 1, false), member(5, 0, false)], 1), [5, 3]);
        assert_eq!(choose([member(1, 9, true)], 1), [0; 0]);
        let knock = Candidate { id: 2, present: false, gone: false, since: 1 };
        assert_eq!(choose([knock], 1), [0; 0]);
    }

    #[test]
    fn there_are_at_most_five() {
        let many = (0..20).map(|id| member(id, 100 - u64::from(id), true));
        assert_eq!(choose(many, 19), [18, 17, 16, 15, 14]);
    }
}
