//! What objects are called. No other file builds or takes apart an object's name.
//!
//! | object | name |
//! |---|---|
//! | part | `{prefix}/log/{log:016x}/seg/{segment:020}/{first:020}-{end:020}-{chain}-e{encoder}.part` |
//! | skip part | the same with `.skip` |
//! | probe | `{prefix}/probe/{nonce}` |
//!
//! The numbers have a fixed width, so that a listing has the parts of a segment in their order. A
//! part's name is a function of its content and its encoder, so one name has one content. What is
//! lost to everybody else may still be put as data by a node that does not know: so a skip part, which
//! stands for it, has another name.

use object_store::path::Path;
use piculet_quorum::ids::{Chain, Index, LogId, Nonce, SegmentNumber};
use std::fmt;

/// The name of a part, without the prefix of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    /// The log.
    pub log: LogId,
    /// The segment.
    pub segment: SegmentNumber,
    /// Index of the first entry.
    pub first: Index,
    /// Index after the last entry.
    pub end: Index,
    /// Chain after the last entry.
    pub chain: Chain,
    /// Version of the encoder that made it.
    pub encoder: u32,
    /// Whether the range is lost, and the object holds no entries.
    pub skip: bool,
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, segment, first, end, chain, encoder, skip } = self;
        let kind = if *skip { "skip" } else { "part" };
        write!(
            f,
            "log/{:016x}/seg/{:020}/{:020}-{:020}-{chain}-e{encoder}.{kind}",
            log.0, segment.0, first.0, end.0
        )
    }
}

impl PartName {
    /// Reads a name in exactly the form that it is written in; `None` when it has another.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut components = name.split('/');
        let mut next = || components.next();
        let (log_word, log, segment_word, segment, file) = (next()?, next()?, next()?, next()?, next()?);
        if (log_word, segment_word, components.next()) != ("log", "seg", None) {
            return None;
        }
        let (stem, kind) = file.rsplit_once('.')?;
        let skip = kind == "skip";
        let mut fields = stem.splitn(4, '-');
        let mut next = || fields.next();
        let (first, end, chain, encoder) = (next()?, next()?, next()?, next()?);
        let parsed = Self {
            log: LogId(u64::from_str_radix(log, 16).ok()?),
            segment: SegmentNumber(segment.parse().ok()?),
            first: Index(first.parse().ok()?),
            end: Index(end.parse().ok()?),
            chain: Chain(u128::from_str_radix(chain, 16).ok()?),
            encoder: encoder.strip_prefix('e')?.parse().ok()?,
            skip,
        };
        // Another suffix, signs, capitals and missing zeros would make several spellings of one name.
        (parsed.to_string() == name).then_some(parsed)
    }
}

/// The names of the objects below one prefix of a store.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: Path,
}

impl Names {
    pub(crate) fn new(prefix: Path) -> Self {
        Self { prefix }
    }

    /// Where a part lies.
    pub(crate) fn part(&self, name: &PartName) -> Path {
        let name = name.to_string();
        self.below(name.split('/'))
    }

    /// The part that lies at `path`; `None` when its name is not that of a part below the prefix.
    pub(crate) fn parse_part(&self, path: &Path) -> Option<PartName> {
        let components: Vec<_> = path.prefix_match(&self.prefix)?.collect();
        let components: Vec<&str> = components.iter().map(AsRef::as_ref).collect();
        PartName::parse(&components.join("/"))
    }

    /// What all parts lie below.
    pub(crate) fn logs(&self) -> Path {
        self.below(["log"])
    }

    /// What all parts of one log lie below.
    pub(crate) fn log(&self, log: LogId) -> Path {
        self.below(["log", &format!("{:016x}", log.0)])
    }

    /// Where a probe of the store puts its object.
    pub(crate) fn probe(&self, nonce: Nonce) -> Path {
        let nonce = nonce.to_string();
        self.below(["probe", &nonce])
    }

    fn below<'a>(&self, components: impl IntoIterator<Item = &'a str>) -> Path {
        components.into_iter().fold(self.prefix.clone(), |path, component| path.join(component))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &str = "log/000000000000beef/seg/00000000000000000007/\
        00000000000000000100-00000000000000000250-0000000000000000000000000000cafe-e1.part";

    fn name() -> PartName {
        PartName {
            log: LogId(0xbeef),
            segment: SegmentNumber(7),
            first: Index(100),
            end: Index(250),
            chain: Chain(0xcafe),
            encoder: 1,
            skip: false,
        }
    }

    #[test]
    fn names_are_fixed() {
        assert_eq!(name().to_string(), GOLDEN);
        let skip = PartName { skip: true, ..name() };
        assert_eq!(skip.to_string(), GOLDEN.replace(".part", ".skip"));
        let names = Names::new(Path::from("some/where"));
        assert_eq!(names.part(&name()).as_ref(), format!("some/where/{GOLDEN}"));
        assert_eq!(names.logs().as_ref(), "some/where/log");
        assert_eq!(names.log(LogId(0xbeef)).as_ref(), "some/where/log/000000000000beef");
        assert_eq!(names.probe(Nonce(5)).as_ref(), "some/where/probe/00000000000000000000000000000005");
        assert_eq!(Names::new(Path::default()).part(&name()).as_ref(), GOLDEN);
    }

    #[test]
    fn only_the_one_spelling_is_read() {
        assert_eq!(PartName::parse(GOLDEN), Some(name()));
        for (from, to) in [
            ("beef", "BEEF"),
            ("cafe", "CAFE"),
            ("log/0", "log/+"),
            ("seg/0", "seg/"),
            ("-e1", "-e01"),
            ("-e1", ""),
            (".part", ""),
            (".part", ".parts"),
            (".part", ".part/x"),
            ("log/", "lag/"),
            ("log/", "/log/"),
        ] {
            let other = GOLDEN.replacen(from, to, 1);
            assert_ne!(other, GOLDEN, "{from} occurs");
            assert_eq!(PartName::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn objects_of_others_are_told_apart() {
        let names = Names::new(Path::from("mine"));
        assert_eq!(names.parse_part(&Path::from(format!("mine/{GOLDEN}"))), Some(name()));
        for other in [GOLDEN.to_owned(), format!("yours/{GOLDEN}"), format!("mine/deeper/{GOLDEN}")] {
            assert_eq!(names.parse_part(&Path::from(other.as_str())), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back(
            log: u64, segment: u64, range: (u64, u64), chain: u128, encoder: u32, skip: bool,
        ) {
            let (log, segment) = (LogId(log), SegmentNumber(segment));
            let (first, end) = (Index(range.0), Index(range.1));
            let name = PartName { log, segment, first, end, chain: Chain(chain), encoder, skip };
            prop_assert_eq!(PartName::parse(&name.to_string()), Some(name));
            let names = Names::new(Path::from("a/b"));
            prop_assert_eq!(names.parse_part(&names.part(&name)), Some(name));
        }

        #[test]
        fn any_text_is_a_name_or_refused(text in ".{0,150}") {
            if let Some(name) = PartName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
