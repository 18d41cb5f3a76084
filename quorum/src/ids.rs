//! Names of things: one newtype per kind, so that an index cannot be taken for an offset.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number `n` steps further on. Overflow is a broken invariant: 2^64 is out of reach.
            #[must_use]
            pub fn plus(self, n: u64) -> Self {
                Self(self.0.checked_add(n).expect("a 64-bit counter never overflows in practice"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Identity of a log: random, never reused, even after the log's name is.
    LogId
}
number! {
    /// Place of a segment in its log: `0, 1, 2…` without gaps.
    SegmentNumber
}
number! {
    /// Position of an entry in its log: `0, 1, 2…` without gaps.
    Offset
}
number! {
    /// Position of an entry in its segment; `offset = segment.base + index`.
    Index
}
number! {
    /// Fencing token of a log's writer; only grows. Zero: nobody has written yet.
    Epoch
}
number! {
    /// Counter of the lives of a node's buffer. A buffer that cannot prove that it lost nothing
    /// takes a new one.
    Incarnation
}
number! {
    /// Milliseconds since the Unix epoch, as assigned by a log's writer; never decreases in a log.
    Timestamp
}
number! {
    /// Revision of one metadata key: changes with every write, 0 while the key is absent.
    Revision
}

impl Offset {
    /// The offset of `index` in a segment that starts at `base`.
    #[must_use]
    pub fn of(base: Self, index: Index) -> Self {
        base.plus(index.0)
    }

    /// The same of numbers that somebody else has given: none when there is no such offset.
    #[must_use]
    pub fn checked_of(base: Self, index: Index) -> Option<Self> {
        base.0.checked_add(index.0).map(Self)
    }

    /// The index of this offset in a segment that starts at `base`, if it is not before it.
    #[must_use]
    pub fn index_in(self, base: Self) -> Option<Index> {
        self.0.checked_sub(base.0).map(Index)
    }
}

/// Name of a node: chosen by its operator, unique in the cluster, kept for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: expected {expected}")]
pub struct NameError {
    kind: &'static str,
    value: String,
    expected: &'static str,
}

impl NodeId {
    /// Checks a node's name.
    ///
    /// # Errors
    /// Unless it has 1 to 64 characters from `A-Z a-z 0-9 . _ -`.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
            return Err(NameError {
                kind: "node name",
                value: name,
                expected: "1 to 64 characters from A-Z a-z 0-9 . _ -",
            });
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a log: 1 to 200 characters from `A-Z a-z 0-9 . _ / -`, without an empty component and
/// without the components `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogName(String);

impl LogName {
    /// Checks a log's name.
    ///
    /// # Errors
    /// Unless it has the form that the type's description gives.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let parts_fine = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if name.is_empty() || name.len() > 200 || !name.chars().all(fine) || !parts_fine {
            return Err(NameError {
                kind: "log name",
                value: name,
                expected: "1 to 200 characters from A-Z a-z 0-9 . _ / -, no empty, '.' or '..' component",
            });
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LogName {
    type Error = NameError;
    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<LogName> for String {
    fn from(name: LogName) -> Self {
        name.0
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A fresh random value for one attempt at a transaction: the transaction is mine only if my value
/// is in the record. Also the identity of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub u128);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Nonce {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        let parsed = if text.len() == 32 { u128::from_str_radix(&text, 16).ok() } else { None };
        parsed.map(Self).ok_or(NameError { kind: "nonce", value: text, expected: "32 hexadecimal digits" })
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.to_string()
    }
}

/// Running hash of a log: equal chains mean equal logs. It guards against accident, not against a
/// forger.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Chain(pub u128);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Chain {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        let nonce = Nonce::try_from(text).map_err(|e| NameError { kind: "chain", ..e })?;
        Ok(Self(nonce.0))
    }
}

impl From<Chain> for String {
    fn from(chain: Chain) -> Self {
        chain.to_string()
    }
}

/// How safe an entry is when its append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Two members hold it in memory that outlives their process.
    #[default]
    Memory,
    /// Two members have it on disk.
    Disk,
    /// Its part is archived: no node keeps it before.
    Object,
}

impl Level {
    /// Every level at which nodes keep entries, each in a buffer of its own.
    pub const BUFFERED: [Self; 2] = [Self::Memory, Self::Disk];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => "memory".fmt(f),
            Self::Disk => "disk".fmt(f),
            Self::Object => "object".fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_names_have_the_documented_form() {
        for good in ["a", "orders/2026-11", "A.b_c-d/e", &"x".repeat(200)] {
            assert!(LogName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a b", "ü", &"x".repeat(201)] {
            let error = LogName::new(bad).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")), "the message names the value: {error}");
        }
    }

    #[test]
    fn nonces_and_chains_travel_as_text() {
        let nonce = Nonce(0x0123_4567_89ab_cdef);
        assert_eq!(Nonce::try_from(nonce.to_string()), Ok(nonce));
        assert!(Nonce::try_from("12".to_owned()).is_err());
        assert!(Chain::try_from("+2345678901234567890123456789012x".to_owned()).is_err());
    }
}
