/// The candidate that differs from `name` by the fewest letters, if it is near enough to be what was meant.
///
/// Of a dotted name, a candidate with the same last part counts as near, wherever it stands.
pub(super) fn nearest<T: AsRef<str>>(name: &str, candidates: impl Iterator<Item = T>) -> Option<T> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    // Longer names than any that is known are not worth the time.
    if name.len() > 100 {
        return None;
    }
    candidates
        .map(|candidate| {
            let same_end = last(candidate.as_ref()) == last(name);
            (distance(name, candidate.as_ref()).min(if same_end { 3 } else { usize::MAX }), candidate)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= (name.len() / 3).max(3))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: how many letters to put in, take out or change.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        for (cell, wanted) in row.iter_mut().zip(std::iter::once(None).chain(other.iter().map(Some))) {
            let above = *cell;
            *cell = match wanted {
                None => index + 1,
                Some(wanted) => (diagonal + usize::from(letter != *wanted)).min(above + 1).min(left + 1),
            };
            (diagonal, left) = (above, *cell);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("lsten", "listen"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn the_nearest_is_found_or_nothing() {
        let known = || ["devices.listen", "devices.tls", "scep.challenge_lifetime"].into_iter();
        assert_eq!(nearest("devices.lsten", known()), Some("devices.listen"));
        assert_eq!(nearest("challenge_lifetime", known()), Some("scep.challenge_lifetime"));
        assert_eq!(nearest("completely.different_thing", known()), None);
        assert_eq!(nearest(&"x".repeat(5000), known()), None);
    }
}
