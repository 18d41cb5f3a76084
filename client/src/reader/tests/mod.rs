//! Readers on nodes in this process, and batches on their own.

mod batches;
mod nodes;
mod places;
