//! What the client can do, one thing after the other, each with what must come of it.

use piculet_client::transport::Identity;
use piculet_client::{
    Append, AppendOptions, Client, ClientOptions, Error, Headers, LogName, LogReader, LogWriter, Offset,
    Producer, ProducerId, ReadOptions, Record, Start, ping_all,
};
use std::path::PathBuf;
use std::time::Duration;

/// Any error ends the tour.
type Done = Result<(), Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    tour(options()?).await
}

fn options() -> Result<ClientOptions, Box<dyn std::error::Error>> {
    let nodes = std::env::var("PICULET_NODES")?.split(',').map(str::to_owned).collect();
    let certs = PathBuf::from(std::env::var("PICULET_CERTS")?);
    let file = |name: &str| certs.join(name);
    let identity = Identity::load(&file("ca.pem"), &file("client.pem"), &file("client.key"))?;
    Ok(ClientOptions::new(nodes, identity))
}

pub(crate) async fn tour(options: ClientOptions) -> Done {
    let settings =
        ClientOptions { name: "the tour".to_owned(), call_timeout: Duration::from_secs(10), ..options };
    let client = Client::connect(settings.clone()).await?;
    let log = LogName::new(format!("tour/{}", std::process::id()))?;
    client.create_log(&log).await?;
    let again = client.create_log(&log).await;
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");

    writing(&client, &log).await?;
    one_writer(&client, &settings, &log).await?;
    reading(&client, &log).await?;
    once(&client, &LogName::new(format!("{log}/once"))?).await?;
    giving_up(&client, &log).await?;

    for ping in ping_all(&settings).await? {
        match ping.found {
            Ok(found) => println!("{} at {}: {:?}", found.node, ping.address, found.round_trip_median),
            Err(error) => println!("{}: {error}", ping.address),
        }
    }
    client.close().await;
    println!("the tour is over");
    Ok(())
}

/// Opens a log that may be new.
async fn open_or_create(client: &Client, log: &LogName) -> Result<LogWriter, Error> {
    match client.create_log(log).await {
        Ok(_) | Err(Error::AlreadyExists(_)) => client.open(log).await,
        Err(error) => Err(error),
    }
}

async fn writing(client: &Client, log: &LogName) -> Done {
    let writer = open_or_create(client, log).await?;

    // Appends are queued in the order of the calls; each future tells when its entry is safe.
    let appends: Vec<Append> = (0..10).map(|n| writer.append(format!("entry {n}").as_str())).collect();
    for (n, append) in appends.into_iter().enumerate() {
        assert_eq!(append.await?, Offset(n as u64));
    }

    // The entries of a batch stay together: all of them are there or none.
    let first = writer.append_batch(["debit 5", "credit 5"]).await?;
    assert_eq!(first, Offset(10));

    // Faster than the nodes take it: wait for room, and append again what was refused.
    let mut under_way = Vec::new();
    for _ in 0..100 {
        under_way.push(append_when_there_is_room(&writer, &[7; 1000]).await?);
    }
    writer.flush().await?;
    let last = under_way.pop().ok_or("a hundred were appended")?;
    assert_eq!(last.await?, Offset(111));
    assert_eq!(writer.status().committed, Offset(112));

    // Nothing is sent of what breaks a limit.
    let too_long = vec![0; (16 << 20) + 1];
    let long = writer.append(too_long.as_slice()).await;
    assert!(matches!(long, Err(Error::EntryTooLong(_))), "{long:?}");

    // Waits for every acknowledgement, and leaves the log to others.
    let tail = writer.close().await?;
    assert_eq!(tail, Offset(112));
    Ok(())
}

async fn append_when_there_is_room(writer: &LogWriter, payload: &[u8]) -> Result<Append, Error> {
    loop {
        match writer.append(payload).queued() {
            Err(Error::Overloaded { .. }) => writer.ready().await,
            queued => return queued,
        }
    }
}

async fn one_writer(client: &Client, settings: &ClientOptions, log: &LogName) -> Done {
    let writer = client.open(log).await?;
    writer.append("mine").await?;

    // Another one is told who has the log …
    let settings = ClientOptions { name: "another".to_owned(), ..settings.clone() };
    let other = Client::connect(settings).await?;
    match other.open(log).await {
        Err(Error::Held { holder, .. }) => assert_eq!(holder, "the tour"),
        unexpected => return Err(format!("two writers: {:?}", unexpected.map(|_| ())).into()),
    }

    // … and may take it by force. The writer before appends nothing more.
    let taken = other.take_over(log).await?;
    assert_eq!(taken.append("yours").await?, Offset(113));
    let error = writer.append("too late").await.expect_err("the log was taken over");
    println!("{}: {error}", error.code());
    assert_eq!(other.check_tail(log).await?, Offset(114));
    taken.close().await?;
    other.close().await;
    Ok(())
}

async fn next(reader: &mut LogReader) -> Result<String, Box<dyn std::error::Error>> {
    let entry = reader.next().await.ok_or("the log ends too early")??;
    Ok(String::from_utf8_lossy(&entry.payload).into_owned())
}

async fn reading(client: &Client, log: &LogName) -> Done {
    // To the tail as of the call: everything acknowledged before it is there.
    let stop = ReadOptions { follow: false };
    let mut reader = client.read(log, Start::Earliest, stop).await?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().await {
        entries.push(entry?);
    }
    assert_eq!(entries.len(), 114);

    // From an offset, and from a point in time.
    let mut reader = client.read(log, Start::Offset(Offset(10)), stop).await?;
    assert_eq!(next(&mut reader).await?, "debit 5");
    let time = entries[113].timestamp;
    let first_then = entries.iter().position(|entry| entry.timestamp >= time).unwrap_or(114);
    let mut reader = client.read(log, Start::Timestamp(time), stop).await?;
    let entry = reader.next().await.ok_or("there is an entry of that time")??;
    assert_eq!(entry.offset, entries[first_then].offset);

    // Beyond the tail there is nothing, and that is said.
    let beyond = client.read(log, Start::Offset(Offset(115)), stop).await.map(|_| ());
    assert!(matches!(beyond, Err(Error::BeyondTail { tail: Offset(114), .. })), "{beyond:?}");

    // From the tail on, as entries come.
    let mut following = client.read(log, Start::Latest, ReadOptions { follow: true }).await?;
    let writer = client.open(log).await?;

    // Headers are short named values that travel with an entry.
    let mut headers = Headers::default();
    headers.push("kind", b"news")?;
    writer.append(Record::new("it is raining").headers(&headers)).await?;
    let entry = following.next().await.ok_or("the log ends too early")??;
    assert_eq!((&entry.payload[..], entry.header("kind")), (&b"it is raining"[..], Some(&b"news"[..])));
    writer.close().await?;
    Ok(())
}

async fn once(client: &Client, log: &LogName) -> Done {
    let writer = open_or_create(client, log).await?;
    // Appended once, however often it is repeated and whichever writer of the log repeats it.
    let id = ProducerId::new(7).ok_or("0 is no producer")?;
    let sequence = writer.producer(id).await?.map_or(1, |last| last.sequence + 1);
    let once = AppendOptions { producer: Some(Producer { id, sequence }), ..AppendOptions::default() };
    let offset = writer.append_with("only once", &once).await?;
    drop(writer);

    // The log is opened anew, and the same appended again: it is there already, at the same offset.
    let next = client.take_over(log).await?;
    next.producer(id).await?;
    assert_eq!(next.append_with("only once", &once).await?, offset);

    // At this offset or not at all.
    let behind = AppendOptions { expected_offset: Some(offset.plus(1)), ..AppendOptions::default() };
    next.append_with("right behind it", &behind).await?;
    let again = next.append_with("right behind it", &behind).await;
    assert!(matches!(again, Err(Error::OffsetMismatch { actual, .. }) if actual == offset.plus(2)));

    assert_eq!(next.close().await?, Offset(2));
    let mut reader = client.read(log, Start::Earliest, ReadOptions::default()).await?;
    let entry = reader.next().await.ok_or("the log ends too early")??;
    assert_eq!(entry.producer, Some(Producer { id, sequence }));
    assert_eq!(self::next(&mut reader).await?, "right behind it");
    client.delete_log(log).await?;
    Ok(())
}

async fn giving_up(client: &Client, log: &LogName) -> Done {
    // Entries before an offset: they are deleted in the background, segment by segment.
    assert_eq!(client.truncate_log(log, Offset(100)).await?, Offset(100));
    let trimmed = client.read(log, Start::Offset(Offset(99)), ReadOptions::default()).await.map(|_| ());
    assert!(matches!(trimmed, Err(Error::Trimmed { trim_offset: Offset(100) })), "{trimmed:?}");

    // The whole log: its name is free at once.
    client.delete_log(log).await?;
    match client.open(log).await {
        Err(Error::NotFound(name)) => assert_eq!(name, *log),
        unexpected => return Err(format!("it is still there: {:?}", unexpected.map(|_| ())).into()),
    }
    Ok(())
}
