//! Where `piculet read` begins.

use piculet_client::{Offset, Start};

/// Parses the value of `--from`.
pub(super) fn parse(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        offset => {
            let offset = offset.parse().map(Offset);
            offset
                .map(Start::Offset)
                .map_err(|_| "expected earliest, latest, or an offset such as 1000".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_and_anything_else_is_refused() {
        assert_eq!(parse("earliest"), Ok(Start::Earliest));
        assert_eq!(parse("latest"), Ok(Start::Latest));
        assert_eq!(parse("1000"), Ok(Start::Offset(Offset(1000))));
        for text in ["", "middle", "-", "-1", "1.5"] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("earliest, latest"), "{error}");
        }
    }
}
