//! The words of a text, as a search looks for them.
//!
//! Letters and digits that stand together are a word, in lower case. Scripts without spaces between words are cut into
//! single characters and pairs of them, so that what stands together is found together.

use std::collections::BTreeMap;

/// Longest word, in bytes; what goes beyond is cut off.
pub const WORD_BYTES_MAX: usize = 64;
/// Most different words of a text; what comes behind is not found.
pub const WORDS_MAX: usize = 500;

/// The words of a text with how often each stands there.
pub fn words(text: &str) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    each_word(text, &mut |word| {
        if found.len() < WORDS_MAX || found.contains_key(&word) {
            let count: &mut u32 = found.entry(word).or_default();
            *count = count.saturating_add(1);
        }
    });
    found
}

/// The words that a search asks for, each once, in the order of the text. Of a script without spaces only pairs, unless
/// there is but one character.
pub fn asked(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    each_word(text, &mut |word| {
        if !found.contains(&word) {
            found.push(word);
        }
    });
    let pairs: Vec<String> = found.iter().filter(|word| is_pair(word)).cloned().collect();
    let in_pair = |word: &String| pairs.iter().any(|pair| pair != word && pair.contains(word.as_str()));
    found.retain(|word| !(is_unspaced_word(word) && in_pair(word)));
    found.truncate(WORDS_MAX);
    found
}

fn is_pair(word: &str) -> bool {
    word.chars().count() == 2 && word.chars().all(is_unspaced)
}

fn is_unspaced_word(word: &str) -> bool {
    word.chars().count() == 1 && word.chars().all(is_unspaced)
}

fn each_word(text: &str, take: &mut impl FnMut(String)) {
    let mut word = String::new();
    let mut before: Option<char> = None;
    for letter in text.chars().flat_map(char::to_lowercase) {
        if is_unspaced(letter) {
            finish(&mut word, take);
            take(letter.to_string());
            if let Some(before) = before {
                take([before, letter].iter().collect());
            }
            before = Some(letter);
            continue;
        }
        before = None;
        if letter.is_alphanumeric() {
            if word.len().saturating_add(letter.len_utf8()) <= WORD_BYTES_MAX {
                word.push(letter);
            }
        } else {
            finish(&mut word, take);
        }
    }
    finish(&mut word, take);
}

fn finish(word: &mut String, take: &mut impl FnMut(String)) {
    if !word.is_empty() {
        take(std::mem::take(word));
    }
}

/// Whether a character belongs to a script that does not part words: Han, kana, Thai and their neighbours.
fn is_unspaced(letter: char) -> bool {
    matches!(u32::from(letter),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3040..=0x30FF | 0x3400..=0x4DBF
        | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x2_0000..=0x3_FFFF)
        && letter.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, u32)> {
        words(text).into_iter().collect()
    }

    #[test]
    fn words_are_told_apart() {
        let one = |word: &str| (word.to_owned(), 1);
        assert_eq!(of("Hello, world! hello-there"), [("hello".to_owned(), 2), one("there"), one("world")]);
        assert_eq!(of("ÄRGER straße 42,5"), [one("42"), one("5"), one("straße"), one("ärger")]);
        assert_eq!(of(" \u{200d}😀 ..."), []);
        let long = "a".repeat(1000);
        assert_eq!(of(&long), [one(&long[..WORD_BYTES_MAX])]);
        let many: Vec<String> = (0..2000).map(|number| format!("w{number}")).collect();
        assert_eq!(words(&many.join(" ")).len(), WORDS_MAX);
    }

    #[test]
    fn scripts_without_spaces_are_found_by_what_stands_together() {
        let words = words("東京都 x");
        for word in ["東", "京", "都", "東京", "京都", "x"] {
            assert!(words.contains_key(word), "{word}");
        }
        assert_eq!(asked("東京"), ["東京"]);
        assert_eq!(asked("京"), ["京"]);
        assert_eq!(asked("Hello hello 東京都"), ["hello", "東京", "京都"]);
        assert!(asked("...").is_empty());
    }
}
