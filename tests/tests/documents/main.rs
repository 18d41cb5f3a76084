//! What the documents show is so: every command in them is run, as it stands there, against a real
//! cluster.

mod blocks;
mod manuals;
mod readme;
mod shell;
