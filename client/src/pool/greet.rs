//! The first question on a connection: who are you?

use crate::error::Error;
use crate::transport::{Connection, RequestError, request};
use piculet_quorum::ids::Nonce;
use piculet_quorum::wire::message::{Hello, Refusal, Request, Response, Welcome};
use std::time::Duration;

/// Exchanges names with the node at `address`, which is expected to be of `cluster`, if that is
/// known.
///
/// # Errors
/// [`Error::NoNode`] when it does not answer; [`Error::WrongCluster`] when it is of another cluster;
/// [`Error::Refused`] when it answers in another way.
pub(crate) async fn greet(
    connection: &Connection,
    address: &str,
    cluster: Option<Nonce>,
    limit: Duration,
) -> Result<Welcome, Error> {
    let hello = Hello { version: env!("CARGO_PKG_VERSION").to_owned(), cluster };
    let strange = |why: String| {
        Error::Refused(format!(
            "the node at {address} does not answer as a node does ({why}): run the same version on both sides"
        ))
    };
    match request(connection, &Request::Hello(hello), limit).await {
        Ok(Response::Welcome(welcome)) => same_cluster(address, cluster, welcome.cluster).map(|()| welcome),
        Ok(Response::Refused(Refusal::WrongCluster { cluster: found })) => {
            same_cluster(address, cluster, found)?;
            Err(strange("it refuses its own cluster".to_owned()))
        }
        Ok(Response::Refused(refusal)) => {
            Err(Error::Refused(format!("the node at {address} refuses: {refusal}")))
        }
        Ok(_) => Err(strange("with something else than a welcome".to_owned())),
        Err(error @ (RequestError::Message(_) | RequestError::Protocol(_))) => {
            Err(strange(error.to_string()))
        }
        Err(error) => Err(Error::NoNode(format!("{address}: {error}"))),
    }
}

/// Checks that a node is of the cluster expected, if one is.
///
/// # Errors
/// [`Error::WrongCluster`] when it is not.
pub(crate) fn same_cluster(address: &str, expected: Option<Nonce>, found: Nonce) -> Result<(), Error> {
    match expected.filter(|expected| *expected != found) {
        None => Ok(()),
        Some(expected) => Err(Error::WrongCluster { address: address.to_owned(), found, expected }),
    }
}
