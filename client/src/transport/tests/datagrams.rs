//! The size of datagrams on loopback, and what the kernel is asked to do with them.

use super::{Pair, pair, soon, until};
use crate::transport::{Connection, TransportOptions};
use bytes::Bytes;
use quinn::ConnectionStats;

const MIB: usize = 1 << 20;

fn options(max_datagram: u16) -> TransportOptions {
    TransportOptions { max_datagram, ..TransportOptions::default() }
}

async fn transfer(from: &Connection, to: &Connection, mib: usize) {
    let send = async {
        let mut stream = from.open_bi().await.unwrap().0;
        let piece = Bytes::from(vec![7; MIB]);
        for _ in 0..mib {
            stream.write_chunk(piece.clone()).await.unwrap();
        }
        stream.finish().unwrap();
        // Keeps the stream until all of it is acknowledged.
        stream.stopped().await.unwrap();
    };
    let receive = async {
        let mut stream = to.accept_bi().await.unwrap().1;
        let (mut bytes, mut chunks) = (0, [const { Bytes::new() }; 32]);
        while let Some(count) = stream.read_chunks(&mut chunks).await.unwrap() {
            bytes += chunks[..count].iter().map(Bytes::len).sum::<usize>();
        }
        assert_eq!(bytes, mib * MIB);
    };
    soon(async { tokio::join!(send, receive) }).await;
}

/// Waits until the datagrams have the size expected, then transfers; returns the statistics before
/// and after.
async fn settled(from: &Connection, to: &Connection, size: u16) -> (ConnectionStats, ConnectionStats) {
    // Without load, under which probes may be lost like anything else.
    until("discovery ends", || from.stats().path.current_mtu == size).await;
    transfer(from, to, 16).await;
    let before = from.stats();
    transfer(from, to, 64).await;
    let after = from.stats();
    assert_eq!(after.path.current_mtu, size);
    assert_eq!(after.path.black_holes_detected, 0);
    (before, after)
}

fn datagrams_per_send((before, after): &(ConnectionStats, ConnectionStats)) -> f64 {
    let (before, after) = (&before.udp_tx, &after.udp_tx);
    (after.datagrams - before.datagrams) as f64 / (after.ios - before.ios) as f64
}

async fn both_ways(server: u16, client: u16) {
    let Pair { accepted, connection, .. } = &pair(&options(server), &options(client)).await;
    let accepted = &accepted.connection;
    let size = server.min(client);
    settled(accepted, connection, size).await;
    let sent = settled(connection, accepted, size).await;
    assert!(datagrams_per_send(&sent) > 2.0, "datagrams of {size} go several in a send");
}

#[tokio::test]
async fn loopback_carries_the_largest_datagrams() {
    both_ways(65_000, 65_000).await;
}

#[tokio::test]
async fn jumbo_frames_do_not_black_hole() {
    both_ways(8900, 8900).await;
}

#[tokio::test]
async fn ethernet_frames_are_segmented_by_the_kernel() {
    both_ways(1452, 1452).await;
}

#[tokio::test]
async fn the_smaller_limit_holds_and_keeps_its_segmentation() {
    both_ways(1452, 65_000).await;
    both_ways(65_000, 1452).await;
}
