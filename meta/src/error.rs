//! What can go wrong with metadata.

use piculet_quorum::meta::LeaseId;

/// Why a call to a metadata store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The URL does not name a store.
    #[error("metadata url {url:?} is not usable: {why}")]
    BadUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// An option is not one for this URL, or what it names cannot be used.
    #[error("metadata option {option} is not usable: {why}")]
    BadOption {
        /// Its name, as the field of [`MetaOptions`](crate::MetaOptions).
        option: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The store did not answer. Nothing was written.
    #[error("metadata store unavailable, nothing was written: {0}")]
    Unavailable(String),
    /// The store does not accept who we are, or we do not accept the store. Nothing was written.
    #[error("metadata store and client do not accept each other, nothing was written: {0}")]
    Denied(String),
    /// The outcome of a transaction is unknown: it may have landed, and may still land later.
    #[error(
        "metadata transaction may have landed or may land later: {0}; read its records before concluding"
    )]
    Unknown(String),
    /// A record cannot be read.
    #[error(
        "metadata record {key} is malformed: {why}; it was written by something else or by a newer version"
    )]
    Corrupt {
        /// The key, as it is spelt in the store.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A transaction puts a record under a lease that has ended. Nothing was written.
    #[error("metadata lease is gone (one of {}), nothing was written; a new lease is needed", list(.0))]
    LeaseGone(Vec<LeaseId>),
    /// The request is not one that the store carries out. Nothing was written.
    #[error("metadata request refused, nothing was written: {0}")]
    Invalid(String),
}

impl MetaError {
    /// Whether the same call may succeed later. A transaction must be repeated with the same
    /// compares, so that it lands at most once.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Unknown(_) => true,
            Self::BadUrl { .. }
            | Self::BadOption { .. }
            | Self::Denied(_)
            | Self::Corrupt { .. }
            | Self::LeaseGone(_)
            | Self::Invalid(_) => false,
        }
    }
}

fn list(leases: &[LeaseId]) -> String {
    let leases: Vec<String> = leases.iter().map(|lease| format!("{:x}", lease.0)).collect();
    leases.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_what_to_do() {
        let corrupt = MetaError::Corrupt { key: "/piculet/cluster".into(), why: "not JSON".into() };
        assert!(corrupt.to_string().contains("/piculet/cluster"), "{corrupt}");
        let gone = MetaError::LeaseGone(vec![LeaseId(0x1f), LeaseId(2)]);
        assert!(gone.to_string().contains("1f, 2"), "{gone}");
        assert!(!gone.is_retryable() && MetaError::Unknown(String::new()).is_retryable());
    }
}
