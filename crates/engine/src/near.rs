//! Names as people type them: compared without their spelling, and guessed at when they match none.

/// The letters and digits of `text`, in small letters: "RTX 4060 Ti" is `rtx4060ti`.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

/// Up to three of `names` that look like `text`, the likest first: few letters apart, or one within the other. A name is
/// what is compared, as [`plain`] as `text` is, and what is shown.
pub fn near<'a>(text: &str, names: impl IntoIterator<Item = (String, &'a str)>) -> Vec<&'a str> {
    let far = (text.len() / 3).max(2);
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|(other, name)| {
            let apart = distance(text, &other);
            let within = text.len() > 2 && (other.contains(text) || text.contains(&other));
            (!text.is_empty() && (within || apart <= far)).then_some((apart, name))
        })
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().take(3).map(|(_, name)| name).collect()
}

/// How many letters are put in, taken out or changed to make `b` of `a` (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.as_bytes().iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_letters_apart_is_near() {
        assert_eq!([distance("kitten", "sitting"), distance("", "abc"), distance("abc", "abc")], [3, 3, 0]);
        let names = || ["RTX 4060", "RTX 4070", "RX 7900 XTX", "M2 Max"].map(|name| (plain(name), name));
        assert_eq!(near("rtx4061", names()), ["RTX 4060", "RTX 4070"]);
        assert_eq!(near("7900xtx", names()), ["RX 7900 XTX"]);
        assert!(near("abacus", names()).is_empty() && near("", names()).is_empty());
    }
}
