//! The product from the outside: real node processes, a real etcd, a real S3 server, real TLS.

mod admin;
mod append;
mod bad_input;
mod cli;
mod config;
mod disk_failure;
mod durability;
mod failover;
mod full_buffer;
mod lifecycle;
mod logs;
mod loss;
mod object;
mod object_store;
mod read;
mod refusals;
mod replaced;
mod strangers;
mod takeover;
