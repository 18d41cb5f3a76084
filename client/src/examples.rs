//! The examples, run against nodes in this process, and docs/CLIENT.md, which shows pieces of them.

use crate::testing::{Cluster, soon};

#[allow(dead_code, reason = "its main function runs it in a process of its own")]
#[path = "../examples/tour.rs"]
mod tour;

const MANUAL: &str = include_str!("../../docs/CLIENT.md");

#[tokio::test]
async fn the_tour_ends_well() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    soon(tour::tour(cluster.options(&["a"]))).await.unwrap();
}

/// The lines of a piece of code, wherever it stands.
fn lines(code: &str) -> Vec<&str> {
    code.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_manual_shows_what_the_examples_do() {
    let examples = [include_str!("../examples/hello.rs"), include_str!("../examples/tour.rs")].map(lines);
    let mut pieces = 0;
    for block in MANUAL.split("```rust\n").skip(1) {
        let (block, _) = block.split_once("```").expect("the block ends");
        let block = lines(block);
        let shown = |example: &Vec<&str>| example.windows(block.len()).any(|piece| piece == block);
        assert!(examples.iter().any(shown), "no example has this: {block:#?}");
        pieces += 1;
    }
    assert!(pieces >= 5, "{pieces} pieces of code");
}
