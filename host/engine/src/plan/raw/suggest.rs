//! "did you mean": the nearest known word by edit distance.

/// Longer words are not compared: the cost is the product of both lengths.
const WORD_BYTES_MAX: usize = 64;

/// The known word nearest to `word`, if it is near enough to be meant: a third of its letters, at least one.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    let nearest = known.iter().map(|known| (distance(&lower, known), *known)).min_by_key(|(steps, _)| *steps)?;
    let allowed = (nearest.1.chars().count() / 3).max(1);
    // A word of one letter is one step away from every other one.
    (nearest.0 <= allowed && nearest.0 < word.chars().count()).then_some(nearest.1)
}

/// The known words for a hint: `` `a`, `b` ``.
pub(in crate::plan) fn list(known: &[&str]) -> String {
    known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A hint: "did you mean …", when something is near, then all the known words.
pub(in crate::plan) fn nearest_or_list(word: &str, what: &str, known: &[&str]) -> String {
    let all = format!("{what}: {}", list(known));
    match nearest(word, known) {
        Some(nearest) => format!("did you mean `{nearest}`? {all}"),
        None => all,
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for i in 0..left.len() {
        let mut row = vec![i + 1; right.len() + 1];
        for j in 0..right.len() {
            let replace = above[j] + usize::from(left[i] != right[j]);
            row[j + 1] = replace.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left[i] == right[j - 1] && left[i - 1] == right[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["stream", "subject", "partitions", "key"];
        assert_eq!(nearest("strem", &known), Some("stream"));
        assert_eq!(nearest("Stream", &known), Some("stream"));
        assert_eq!(nearest("partition", &known), Some("partitions"));
        assert_eq!(nearest("kye", &known), Some("key"));
        assert_eq!(nearest("topic", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest("m", &["s", "ms"]), None);
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
