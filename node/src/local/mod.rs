//! A whole Piculet on one machine: real processes on loopback, each owned by this one.
//!
//! `piculet dev`, `piculet demo`, the integration tests and chaos all run on this. Whatever is
//! started here is killed when its owner is dropped, and by the kernel when this process dies.

mod cluster;
mod error;
mod etcd;
pub mod http;
mod ports;
mod presign;
mod process;
mod s3;
mod scratch;
pub mod tools;

pub use cluster::{ClusterSpec, LocalCluster, LocalNode};
pub use error::LocalError;
pub use etcd::Etcd;
pub use ports::{Port, free_port};
pub use process::{Process, Signal, await_stop};
pub use s3::{S3Access, S3Server, Store};
pub use scratch::ScratchDir;
