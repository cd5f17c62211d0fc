//! Which matches are better: rarer words count more, and so does a word that makes up more of the text.

use allod_matrix::{event::pdu::Pdu, words};

use super::Match;
use crate::{
    database::Error,
    rooms::words::{SearchField, texts},
};

/// How much a second occurrence of a word adds.
const SATURATION: f64 = 1.2;
/// The length of a text that neither adds nor takes away, in words.
const USUAL_WORDS: f64 = 12.0;

/// Whether all words stand in the texts of an event that count; the index may err, for it holds hashes.
pub(super) fn holds(pdu: &Pdu, wanted: &[String], fields: &[SearchField]) -> bool {
    let counting: Vec<_> = texts(pdu).into_iter().filter(|(field, _)| fields.contains(field)).collect();
    let found: Vec<_> = counting.iter().map(|(_, text)| words::words(text)).collect();
    wanted.iter().all(|word| found.iter().any(|words| words.contains_key(word)))
}

/// Puts the best first, of equals the newest.
pub(super) fn sort(matches: &mut [Match], wanted: &[String]) -> Result<(), Error> {
    for found in matches.iter_mut() {
        let pdu = found.event.pdu(&found.view.room)?;
        let (mut hits, mut length) = (0.0, 0.0);
        for (_, text) in texts(&pdu) {
            let words = words::words(&text);
            length += words.values().map(|count| f64::from(*count)).sum::<f64>();
            for word in wanted {
                let count = f64::from(words.get(word).copied().unwrap_or_default());
                hits += count * (SATURATION + 1.0) / (count + SATURATION);
            }
        }
        found.rank = hits / (0.25 + 0.75 * length / USUAL_WORDS);
    }
    // Stable: they came the newest first.
    matches.sort_by(|one, other| other.rank.total_cmp(&one.rank));
    Ok(())
}
