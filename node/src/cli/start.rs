//! Where `piculet read` begins.

use piculet_client::{Offset, Start, Timestamp};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What `--from` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A place in the log.
    Place(Start),
    /// So long before now.
    Ago(Duration),
}

/// Units of a time before now, with their seconds.
const UNITS: [(&str, u64); 6] =
    [("s", 1), ("sec", 1), ("min", 60), ("h", 3600), ("d", 86_400), ("w", 604_800)];

impl From {
    /// The place in the log, where a time before now counts from this call.
    pub(super) fn start(self) -> Start {
        match self {
            Self::Place(start) => start,
            Self::Ago(ago) => {
                let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
                let then = now.saturating_sub(i128::try_from(ago.as_millis()).unwrap_or(i128::MAX));
                // A moment before 1970 is before every entry.
                Start::Timestamp(Timestamp(u64::try_from(then).unwrap_or(0)))
            }
        }
    }
}

/// Parses the value of `--from`.
pub(super) fn parse(text: &str) -> Result<From, String> {
    match text {
        "earliest" => return Ok(From::Place(Start::Earliest)),
        "latest" => return Ok(From::Place(Start::Latest)),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(From::Place(Start::Offset(Offset(offset))));
    }
    if let Some(ago) = text.strip_prefix('-').and_then(ago) {
        return Ok(From::Ago(ago));
    }
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        // An entry's timestamp has whole milliseconds: the first that is not before the moment.
        let millis = (moment.unix_timestamp_nanos() + 999_999).div_euclid(1_000_000);
        return Ok(From::Place(Start::Timestamp(Timestamp(u64::try_from(millis).unwrap_or(0)))));
    }
    Err("expected earliest, latest, an offset such as 1000, a time such as 2026-11-23T16:00:00Z, \
         or a time before now such as -10min (s, min, h, d or w)"
        .to_owned())
}

fn ago(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Result<From, String> {
        Ok(From::Place(Start::Timestamp(Timestamp(millis))))
    }

    #[test]
    fn places_and_times_are_told_apart() {
        assert_eq!(parse("earliest"), Ok(From::Place(Start::Earliest)));
        assert_eq!(parse("latest"), Ok(From::Place(Start::Latest)));
        assert_eq!(parse("1000"), Ok(From::Place(Start::Offset(Offset(1000)))));
        assert_eq!(parse("1970-01-01T00:00:01.5Z"), at(1500));
        assert_eq!(parse("1970-01-01T00:00:00.0000001Z"), at(1));
        assert_eq!(parse("1970-01-01T01:00:01+01:00"), at(1000));
        assert_eq!(parse("1969-01-01T00:00:00Z"), at(0));
        for (text, seconds) in
            [("-90s", 90), ("-10min", 600), ("-2h", 7200), ("-7d", 604_800), ("-1w", 604_800)]
        {
            assert_eq!(parse(text), Ok(From::Ago(Duration::from_secs(seconds))), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_was_expected() {
        let huge = format!("-{}w", u64::MAX);
        for text in ["", "middle", "-", "-10", "-min", "-10m", "10min", "-1", "2026-11-23", "-1.5h", &huge] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("earliest, latest"), "{error}");
        }
    }

    #[test]
    fn a_time_before_the_first_one_is_the_first_one() {
        assert_eq!(From::Ago(Duration::MAX).start(), Start::Timestamp(Timestamp(0)));
    }
}
