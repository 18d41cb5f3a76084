//! What stands for the upload in a client that has no object store: no writer of it needs one.

use super::state::Shared;
use crate::pool::Pool;
use crate::store::Store;
use piculet_quorum::ids::LogId;

/// Nothing is to be uploaded.
pub(super) async fn run(_: &Shared, _: &Pool, _: LogId, _: &Store) {}
