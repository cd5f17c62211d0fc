//! Globs (`*` any text, `?` one character), whole-text and by words.
//!
//! Others write the patterns and the texts, so time is bounded: a bit-parallel automaton takes
//! one step of `pattern length / 64` words per character, whatever the pattern (CVE-2021-29471,
//! CVE-2023-45129).

use std::collections::BTreeMap;

/// A compiled glob.
#[derive(Clone, Debug)]
pub struct Glob {
    /// For each character of the pattern: at which places it stands.
    places: BTreeMap<char, Vec<u64>>,
    /// The places of `?`.
    any: Vec<u64>,
    /// The states with a `*` before the next character: they stay alive.
    loops: Vec<u64>,
    /// The number of characters to match, without stars.
    length: usize,
    ignore_case: bool,
}

/// Which characters are special.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wildcards {
    /// `*` only, as in filters.
    Star,
    /// `*` and `?`, as in server ACLs and push rules.
    StarAndQuestionMark,
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &str, wildcards: Wildcards, ignore_case: bool) -> Self {
        let folded = if ignore_case { pattern.to_lowercase() } else { pattern.to_owned() };
        let length = folded.chars().filter(|char| *char != '*').count();
        let words = length / 64 + 1;
        let mut glob =
            Self { places: BTreeMap::new(), any: vec![0; words], loops: vec![0; words], length, ignore_case };
        let mut place = 0;
        for char in folded.chars() {
            match char {
                '*' => set(&mut glob.loops, place),
                '?' if wildcards == Wildcards::StarAndQuestionMark => {
                    set(&mut glob.any, place);
                    place += 1;
                }
                _ => {
                    set(glob.places.entry(char).or_insert_with(|| vec![0; words]), place);
                    place += 1;
                }
            }
        }
        glob
    }

    /// Whether the pattern covers the whole text.
    pub fn matches(&self, text: &str) -> bool {
        let folded = self.fold(text);
        let mut alive = self.start();
        for char in folded.as_deref().unwrap_or(text).chars() {
            self.step(&mut alive, char);
            if alive.iter().all(|word| *word == 0) {
                return false;
            }
        }
        get(&alive, self.length)
    }

    /// Whether the pattern covers a part of the text that begins and ends at word boundaries:
    /// the ends of the text and everywhere but between two of `A-Z a-z 0-9 _`.
    ///
    /// §Conditions for push rules, `event_match` on `content.body`. An empty pattern matches an
    /// empty text only.
    pub fn matches_words(&self, text: &str) -> bool {
        let folded = self.fold(text);
        let text = folded.as_deref().unwrap_or(text);
        if self.length == 0 && !get(&self.loops, 0) {
            return text.is_empty();
        }
        let mut alive = vec![0; self.loops.len()];
        let mut before = None;
        for char in text.chars() {
            if is_boundary(before, Some(char)) {
                set(&mut alive, 0);
                if get(&alive, self.length) {
                    return true;
                }
            }
            self.step(&mut alive, char);
            // A match may end here only if the next character lets it; checked on its turn.
            before = Some(char);
        }
        if is_boundary(before, None) && self.length == 0 {
            return true;
        }
        get(&alive, self.length)
    }

    fn fold(&self, text: &str) -> Option<String> {
        self.ignore_case.then(|| text.to_lowercase())
    }

    /// Only the first state alive.
    fn start(&self) -> Vec<u64> {
        let mut alive = vec![0; self.loops.len()];
        set(&mut alive, 0);
        alive
    }

    /// Reads one character: states before a place where it fits move on, looping ones stay.
    fn step(&self, alive: &mut [u64], char: char) {
        let places = self.places.get(&char);
        let mut carry = 0;
        for (index, word) in alive.iter_mut().enumerate() {
            let place = places.and_then(|places| places.get(index)).copied().unwrap_or(0);
            let any = self.any.get(index).copied().unwrap_or(0);
            let loops = self.loops.get(index).copied().unwrap_or(0);
            let moving = *word & (place | any);
            *word = (moving << 1) | carry | (*word & loops);
            carry = moving >> 63;
        }
    }
}

/// Whether a word may begin or end between two characters.
fn is_boundary(before: Option<char>, after: Option<char>) -> bool {
    let is_word = |char: Option<char>| char.is_some_and(|char| char.is_ascii_alphanumeric() || char == '_');
    !(is_word(before) && is_word(after))
}

fn set(bits: &mut [u64], place: usize) {
    if let Some(word) = bits.get_mut(place / 64) {
        *word |= 1 << (place % 64);
    }
}

fn get(bits: &[u64], place: usize) -> bool {
    bits.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::new(pattern, Wildcards::StarAndQuestionMark, true)
    }

    #[test]
    fn whole_texts() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("?", "", false),
            ("?", "é", true),
            ("?", "ab", false),
            ("a*c", "abbbc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*.org", "Example.ORG", true),
            ("*.org", "org", false),
            ("a**b", "ab", true),
            ("a?*b", "ab", false),
            ("m.room.*", "m.room.name", true),
            ("[a]", "a", false),
            ("\\*", "\\x", true),
            ("*ana", "banana", true),
            ("a*a*a", "aa", false),
        ] {
            assert_eq!(glob(pattern).matches(text), expected, "{pattern} {text}");
        }
        assert!(!Glob::new("a?", Wildcards::Star, false).matches("ab"));
        assert!(Glob::new("a?", Wildcards::Star, false).matches("a?"));
        assert!(!Glob::new("A", Wildcards::Star, false).matches("a"));
    }

    #[test]
    fn words() {
        for (pattern, text, expected) in [
            ("cake", "I like cake.", true),
            ("cake", "CAKE", true),
            ("cake", "pancakes", false),
            ("cake", "cakes", false),
            ("cake", "pan-cake", true),
            ("cake*lie", "the cake is a lie", true),
            ("cak?", "cake", true),
            ("ex*ple", "an exam ple!", true),
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("@room", "hi @room", true),
            ("@room", "hi@room", true),
            ("@room", "@roomy", false),
            ("foo bar", "foo bar", true),
            ("foo", "foo_", false),
            ("foo", "foofoo foo", true),
            ("é", "né", true),
            ("ü", "über", true),
            ("*cake", "pancake", true),
        ] {
            assert_eq!(glob(pattern).matches_words(text), expected, "{pattern:?} {text:?}");
        }
    }

    /// Patterns that make back-tracking matchers explode, at sizes that take no time here.
    #[test]
    fn hostile_patterns() {
        let text = "a".repeat(60_000);
        assert!(!glob(&"*a".repeat(1_000)).matches(&format!("{text}b")));
        assert!(!glob(&format!("{}b", "a*".repeat(500))).matches(&text));
        assert!(glob(&"?".repeat(60)).matches_words(&"x ".repeat(30_000)));
        assert!(!glob(&format!("{}!", "*?".repeat(100))).matches_words(&text));
        assert!(glob("a").matches_words(&"xa ".repeat(20_000).replacen("xa ", "a ", 1)));
    }

    /// A plain recursive matcher.
    fn model(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), None) => model(rest, text),
            (Some(('*', rest)), Some((_, tail))) => model(rest, text) || model(pattern, tail),
            (Some(('?', rest)), Some((_, tail))) => model(rest, tail),
            (Some((a, rest)), Some((b, tail))) => a == b && model(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(pattern in "[ab_ *?]{0,9}", text in "[ab_ é]{0,12}") {
            let glob = Glob::new(&pattern, Wildcards::StarAndQuestionMark, false);
            let pattern: Vec<char> = pattern.chars().collect();
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(glob.matches(&text), model(&pattern, &chars));
            let boundary = |at: usize| {
                is_boundary(at.checked_sub(1).and_then(|at| chars.get(at)).copied(), chars.get(at).copied())
            };
            let found = (0..=chars.len()).any(|from| {
                (from..=chars.len()).any(|to| {
                    boundary(from) && boundary(to) && model(&pattern, &chars[from..to])
                })
            });
            if !pattern.is_empty() {
                prop_assert_eq!(glob.matches_words(&text), found);
            }
        }

        #[test]
        fn long_patterns_cross_words(length in 60..200_usize, star in any::<bool>()) {
            let pattern = "ab?".repeat(length / 3);
            let text = "abc".repeat(length / 3);
            let tail = if star { "*" } else { "" };
            let glob = glob(&(pattern + tail));
            prop_assert!(glob.matches(&text));
            prop_assert_eq!(glob.matches(&(text + "z")), star);
        }
    }
}
