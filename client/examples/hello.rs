//! Appends two entries to a log and reads them back.

use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions, Error, LogName, ReadOptions, Start};
use std::path::PathBuf;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = std::env::var("PICULET_NODES")?.split(',').map(str::to_owned).collect();
    let certs = PathBuf::from(std::env::var("PICULET_CERTS")?);
    let file = |name: &str| certs.join(name);
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
    let client = Client::connect(ClientOptions::new(nodes, identity)).await?;
    let log = LogName::new("hello")?;
    match client.create_log(&log).await {
        Ok(_) | Err(Error::AlreadyExists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let writer = client.open(&log).await?;
    let (one, two) = (writer.append("first"), writer.append("second")); // both are on their way
    let (one, two) = (one.await?, two.await?);
    println!("safe at offsets {one} and {two}");
    writer.close().await?;
    let mut reader = client.read(&log, Start::Offset(one), ReadOptions::default()).await?;
    for expected in ["first", "second"] {
        let entry = reader.next().await.ok_or("the log ends too early")??;
        assert_eq!(entry.payload, expected);
        println!("{}: {expected}", entry.offset);
    }
    client.close().await;
    Ok(())
}
