//! Appends two entries to the log `hello`, and reads the log back.

use piculet_client::transport::Identity;
use piculet_client::{Client, ClientOptions, LogName, ReadOptions, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nodes = std::env::var("PICULET_NODES")?.split(',').map(str::to_owned).collect();
    let certs = std::path::PathBuf::from(std::env::var("PICULET_CERTS")?);
    let file = |name: &str| certs.join(name);
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
    let client = Client::connect(ClientOptions::new(nodes, identity)).await?;

    let log = LogName::new("hello")?;
    let writer = client.open(&log).await?;
    let (one, two) = (writer.append("first"), writer.append("second")); // both are on their way
    println!("safe at offsets {} and {}", one.await?, two.await?);
    writer.close().await?;

    let mut reader = client.read(&log, Start::Earliest, ReadOptions::default()).await?;
    while let Some(entry) = reader.next().await {
        let entry = entry?;
        println!("{}: {:?}", entry.offset, entry.payload);
    }
    Ok(())
}
