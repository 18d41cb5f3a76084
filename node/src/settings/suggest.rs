//! What somebody may have meant.

/// Names longer than this are nobody's typing error.
const NAME_MAX: usize = 100;

/// How far a name may be from what was meant: one letter in three, and always one.
fn reach(name: &str) -> usize {
    (name.len() / 3).max(1)
}

/// The name that is nearest to `given`, if one is near at all. The last part of a name stands for
/// the whole: for `max_datagram`, `quic.max_datagram` is meant.
pub(super) fn nearest(given: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let close = |name: String| {
        let whole = distance(given, &name)?;
        let ends_so =
            name.strip_suffix(given).is_some_and(|rest| !given.is_empty() && rest.ends_with(['.', '_']));
        let distance = if ends_so { 1 } else { whole };
        (distance <= reach(given)).then_some((distance, name))
    };
    names.filter_map(close).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Whether a name is one slip away from another, two in a long one.
pub(super) fn is_near_miss(given: &str, name: &str) -> bool {
    let slips = if name.len() > 16 { 2 } else { 1 };
    distance(given, name).is_some_and(|distance| (1..=slips).contains(&distance))
}

/// How many letters must be put in, left away, changed or swapped with the next to get from one to
/// the other; nothing for names that are too long to compare.
fn distance(one: &str, other: &str) -> Option<usize> {
    if one.len().max(other.len()) > NAME_MAX {
        return None;
    }
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=other.len()).collect();
    for i in 1..=one.len() {
        for j in 1..=other.len() {
            let changed = rows[i - 1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let best = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            let swapped = i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1];
            rows[i][j] = if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best };
        }
    }
    Some(rows[one.len()][other.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_nothing_far() {
        let names =
            || ["flush.interval", "flush.max_interval", "quic.max_datagram", "tls"].map(str::to_owned);
        let found = |given| nearest(given, names().into_iter());
        assert_eq!(found("flush.intervall").as_deref(), Some("flush.interval"));
        assert_eq!(found("flush.max_intervl").as_deref(), Some("flush.max_interval"));
        assert_eq!(found("max_datagram").as_deref(), Some("quic.max_datagram"));
        assert_eq!(found("tsl").as_deref(), Some("tls"));
        assert_eq!(found("slt"), None, "too little is left of it");
        assert_eq!(found("tlss").as_deref(), Some("tls"));
        assert_eq!(found("colour"), None);
        assert_eq!(found(""), None);
        assert_eq!(found(&"x".repeat(1000)), None);
        assert_eq!(distance("kitten", "sitting"), Some(3));
        assert_eq!(distance("", "ü"), Some(1));
    }
}
