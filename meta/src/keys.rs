//! How keys are spelt in etcd and sqlite; the only place that builds or reads them.
//!
//! | key, after `/{prefix}/` | |
//! |---|---|
//! | `cluster` | |
//! | `incarnations/{node}/{level}` | |
//! | `nodes/{node}` | |
//! | `names/{name}` | a name may hold `/` |
//! | `log/{id}`, `config/{id}`, `trim/{id}`, `first/{id}` | |
//! | `seg/{id}/{segment}` | |
//! | `part/{id}/{segment}/{first}` | |
//! | `flush/{id}/{segment}` | |
//!
//! Ids have 16 hexadecimal digits, segments and indexes 20 decimal ones, so that the order of the
//! text is the order of the numbers. A number spelt otherwise is not a key: every key has one
//! spelling.

use piculet_quorum::ids::{Index, Level, LogId, LogName, NodeId, SegmentNumber};
use piculet_quorum::meta::{Key, Range};

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    root: String,
}

/// The keys from one on, up to another (not included), in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first that belongs to it.
    pub(crate) from: Vec<u8>,
    /// The first behind it.
    pub(crate) to: Vec<u8>,
}

/// How a key is spelt in etcd and sqlite behind its prefix, for messages that name it.
#[must_use]
pub fn spelt(key: &Key) -> String {
    match key {
        Key::Cluster => "cluster".to_owned(),
        Key::Incarnation(node, level) => format!("incarnations/{node}/{level}"),
        Key::Node(node) => format!("nodes/{node}"),
        Key::Name(name) => format!("names/{name}"),
        Key::Log(log) => format!("log/{:016x}", log.0),
        Key::Config(log) => format!("config/{:016x}", log.0),
        Key::Trim(log) => format!("trim/{:016x}", log.0),
        Key::First(log) => format!("first/{:016x}", log.0),
        Key::Segment(log, segment) => format!("seg/{:016x}/{:020}", log.0, segment.0),
        Key::Part(log, segment, first) => {
            format!("part/{:016x}/{:020}/{:020}", log.0, segment.0, first.0)
        }
        Key::Flush(log, segment) => format!("flush/{:016x}/{:020}", log.0, segment.0),
    }
}

impl Keys {
    /// The keys under `/{prefix}/`.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { root: format!("/{prefix}/") }
    }

    /// How `key` is spelt.
    pub(crate) fn encode(&self, key: &Key) -> String {
        format!("{}{}", self.root, spelt(key))
    }

    /// The key that is spelt so, if this version knows one.
    pub(crate) fn decode(&self, text: &[u8]) -> Option<Key> {
        let tail = std::str::from_utf8(text).ok()?.strip_prefix(&self.root)?;
        let Some((kind, rest)) = tail.split_once('/') else {
            return (tail == "cluster").then_some(Key::Cluster);
        };
        match kind {
            "incarnations" => {
                let (node, level) = rest.split_once('/')?;
                Some(Key::Incarnation(NodeId::new(node).ok()?, self::level(level)?))
            }
            "nodes" => Some(Key::Node(NodeId::new(rest).ok()?)),
            "names" => Some(Key::Name(LogName::new(rest).ok()?)),
            "log" => Some(Key::Log(id(rest)?)),
            "config" => Some(Key::Config(id(rest)?)),
            "trim" => Some(Key::Trim(id(rest)?)),
            "first" => Some(Key::First(id(rest)?)),
            "seg" | "flush" => {
                let (log, segment) = rest.split_once('/')?;
                let (log, segment) = (id(log)?, SegmentNumber(number(segment)?));
                Some(if kind == "seg" { Key::Segment(log, segment) } else { Key::Flush(log, segment) })
            }
            "part" => {
                let (log, rest) = rest.split_once('/')?;
                let (segment, first) = rest.split_once('/')?;
                Some(Key::Part(id(log)?, SegmentNumber(number(segment)?), Index(number(first)?)))
            }
            _ => None,
        }
    }

    /// Where `range` lies. A count in it is the reader's affair.
    pub(crate) fn span(&self, range: &Range) -> Span {
        let directory = match range {
            Range::All => String::new(),
            Range::Nodes => "nodes/".to_owned(),
            Range::Incarnations => "incarnations/".to_owned(),
            Range::Names(..) => "names/".to_owned(),
            Range::Segments(log, _) => format!("seg/{:016x}/", log.0),
            Range::Parts(log, segment) => format!("part/{:016x}/{:020}/", log.0, segment.0),
        };
        let directory = format!("{}{directory}", self.root);
        let from = match range {
            Range::Names(Some(after), _) => after_key(self.encode(&Key::Name(after.clone())).as_bytes()),
            Range::Segments(log, from) => self.encode(&Key::Segment(*log, *from)).into_bytes(),
            _ => directory.clone().into_bytes(),
        };
        let mut to = directory.into_bytes();
        let slash = to.pop();
        debug_assert_eq!(slash, Some(b'/'), "a directory ends in a slash");
        to.push(b'/' + 1);
        Span { from, to }
    }
}

/// The first key behind `key` that there can be.
pub(crate) fn after_key(key: &[u8]) -> Vec<u8> {
    let mut after = key.to_vec();
    after.push(0);
    after
}

fn level(text: &str) -> Option<Level> {
    match text {
        "memory" => Some(Level::Memory),
        "disk" => Some(Level::Disk),
        // No node has a buffer of level `object`, and so no life of one.
        _ => None,
    }
}

fn id(text: &str) -> Option<LogId> {
    let fine = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if fine { u64::from_str_radix(text, 16).ok().map(LogId) } else { None }
}

fn number(text: &str) -> Option<u64> {
    let fine = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
    if fine { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::new("piculet")
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("a valid name")
    }

    fn name(name: &str) -> LogName {
        LogName::new(name).expect("a valid name")
    }

    #[test]
    fn the_spelling_of_every_key_is_fixed() {
        let (log, segment) = (LogId(0xab), SegmentNumber(7));
        for (key, text) in [
            (Key::Cluster, "cluster"),
            (Key::Incarnation(node("n-1"), Level::Memory), "incarnations/n-1/memory"),
            (Key::Node(node("n.1")), "nodes/n.1"),
            (Key::Name(name("orders/2026/x")), "names/orders/2026/x"),
            (Key::Log(log), "log/00000000000000ab"),
            (Key::Config(log), "config/00000000000000ab"),
            (Key::Trim(log), "trim/00000000000000ab"),
            (Key::First(log), "first/00000000000000ab"),
            (Key::Segment(log, segment), "seg/00000000000000ab/00000000000000000007"),
            (
                Key::Part(LogId(u64::MAX), segment, Index(u64::MAX)),
                "part/ffffffffffffffff/00000000000000000007/18446744073709551615",
            ),
            (Key::Flush(log, segment), "flush/00000000000000ab/00000000000000000007"),
        ] {
            let text = format!("/piculet/{text}");
            assert_eq!(keys().encode(&key), text);
            assert_eq!(keys().decode(text.as_bytes()), Some(key), "{text}");
        }
    }

    #[test]
    fn any_other_spelling_is_no_key() {
        for text in [
            "/piculet/",
            "/piculet/cluster/",
            "/piculet/clusters",
            "/other/cluster",
            "/piculet/log/ab",
            "/piculet/log/00000000000000AB",
            "/piculet/log/+0000000000000ab",
            "/piculet/seg/00000000000000ab/7",
            "/piculet/seg/00000000000000ab/+0000000000000000007",
            "/piculet/seg/00000000000000ab/99999999999999999999",
            "/piculet/nodes/a/b",
            "/piculet/names/a//b",
            "/piculet/incarnations/a/tape",
            "/piculet/index/00000000000000ab",
        ] {
            assert_eq!(keys().decode(text.as_bytes()), None, "{text}");
        }
        assert_eq!(keys().decode(b"/piculet/names/\xff"), None);
    }

    fn any_key() -> impl Strategy<Value = Key> {
        let node = "[A-Za-z0-9._-]{1,64}".prop_map(|n| node(&n));
        let log_name = "[A-Za-z0-9_-]{1,9}(/[A-Za-z0-9._-]{0,9}[a-z0-9]){0,4}".prop_map(|n| name(&n));
        (0..11_u8, node, log_name, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(kind, node, name, log, segment, index)| {
                let (log, segment, index) = (LogId(log), SegmentNumber(segment), Index(index));
                match kind {
                    0 => Key::Cluster,
                    1 => Key::Incarnation(node, Level::Memory),
                    2 => Key::Node(node),
                    3 => Key::Name(name),
                    4 => Key::Log(log),
                    5 => Key::Config(log),
                    6 => Key::Trim(log),
                    7 => Key::First(log),
                    8 => Key::Segment(log, segment),
                    9 => Key::Part(log, segment, index),
                    _ => Key::Flush(log, segment),
                }
            },
        )
    }

    fn any_range() -> impl Strategy<Value = Range> {
        (0..6_u8, any_key(), 0..3_u64, 0..3_u64).prop_map(|(kind, key, log, segment)| match kind {
            0 => Range::All,
            1 => Range::Nodes,
            2 => Range::Incarnations,
            3 => Range::Names(if let Key::Name(name) = key { Some(name) } else { None }, 0),
            4 => Range::Segments(LogId(log), SegmentNumber(segment)),
            _ => Range::Parts(LogId(log), SegmentNumber(segment)),
        })
    }

    fn near_key() -> impl Strategy<Value = Key> {
        let (number, first) = (0..3_u64, any::<u64>());
        (any::<bool>(), any_key(), number.clone(), number, first).prop_map(
            |(any, key, log, segment, first)| match key {
                Key::Segment(..) if !any => Key::Segment(LogId(log), SegmentNumber(segment)),
                Key::Part(..) if !any => Key::Part(LogId(log), SegmentNumber(segment), Index(first)),
                key => key,
            },
        )
    }

    proptest! {
        #[test]
        fn keys_come_back(key in any_key()) {
            let text = keys().encode(&key);
            prop_assert_eq!(keys().decode(text.as_bytes()), Some(key));
        }

        #[test]
        fn no_text_panics(text in "(/piculet/)?[a-z]{0,12}(/[a-f0-9/]{0,40})?") {
            if let Some(key) = keys().decode(text.as_bytes()) {
                prop_assert_eq!(keys().encode(&key), text);
            }
        }

        #[test]
        fn a_span_holds_the_keys_of_its_range(range in any_range(), key in near_key()) {
            let (span, text) = (keys().span(&range), keys().encode(&key).into_bytes());
            prop_assert_eq!(range.contains(&key), span.from <= text && text < span.to);
        }

        #[test]
        fn text_order_is_numeric_order(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
            let part = |(segment, first)| Key::Part(LogId(1), SegmentNumber(segment), Index(first));
            prop_assert_eq!(a.cmp(&b), keys().encode(&part(a)).cmp(&keys().encode(&part(b))));
        }

        #[test]
        fn names_continue_strictly_behind_one(a in "[a-c./-]{1,4}", b in "[a-c./-]{1,4}") {
            if let (Ok(a), Ok(b)) = (LogName::new(a), LogName::new(b)) {
                let span = keys().span(&Range::Names(Some(a.clone()), 1));
                let text = keys().encode(&Key::Name(b.clone())).into_bytes();
                prop_assert_eq!(b > a, span.from <= text && text < span.to);
            }
        }
    }
}
