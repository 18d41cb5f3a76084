//! Metadata: keys, records, and the transactions that change them.
//!
//! | transaction | where |
//! |---|---|
//! | T0 create a log | [`create`] |
//! | T1 take a log over | [`takeover`] |
//! | T2 seal a segment and open the next, T2c open one | [`seal`] |
//! | T3 record a part | [`part`] |
//! | T4 trim, T5 delete what was trimmed | [`trim`] |
//! | T6 record a loss | [`loss`] |
//! | delete a log | [`delete`] |
//! | change a log's settings | [`configure`] |
//! | a node's start | [`register`] |
//! | a node that will not come back | [`declare`] |

mod damage;
mod key;
mod record;
mod txn;

pub mod configure;
pub mod create;
pub mod declare;
pub mod delete;
pub mod loss;
pub mod part;
pub mod register;
pub mod seal;
pub mod takeover;
pub mod trim;
mod view;

pub use damage::Damage;
pub(crate) use damage::FAR;
pub use key::{Key, Range};
pub use record::*;
pub use txn::{LeaseId, Txn, TxnOutcome, Write};
pub use view::{LogView, PartRow, SegmentView, Snapshot, StoreRevision};
