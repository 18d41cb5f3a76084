//! The life that a buffer begins at a start: the one before goes on, or a new one. What may be kept
//! is decided in `piculet_quorum::meta::register`.

#[cfg(test)]
mod tests;

use super::{MembershipError, Patience, fresh_nonce};
use piculet_meta::Metadata;
use piculet_quorum::ids::{Incarnation, Level, NodeId, Nonce, Revision};
use piculet_quorum::meta::register::{self, Start};
use piculet_quorum::meta::{IncarnationRecord, Key, NodeRecord, Record, Txn, TxnOutcome, Versioned};
use piculet_storage::{BufferError, Found};
use std::time::Duration;
use tokio::time::sleep;

/// Attempts while other starts under the same name come in between.
const RACES_MAX: usize = 16;
/// How often a start looks whether another host still has the name, and after how many looks it
/// says so again.
const ELSEWHERE: (Duration, u32) = (Duration::from_millis(250), 40);

/// The life of a node's buffer that a start has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which life it is.
    pub incarnation: Incarnation,
    /// The value of this start.
    pub nonce: Nonce,
    /// Revision of its record.
    pub revision: Revision,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The life.
    pub life: Life,
    /// Whether it is the incarnation that the contents are of.
    pub kept: bool,
    /// The life that the metadata showed before.
    pub before: Option<IncarnationRecord>,
}

/// Who starts, and where it will be found.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its name.
    pub node: &'a NodeId,
    /// Where it serves QUIC.
    pub advertise: &'a [String],
    /// Where it serves its operators.
    pub admin: &'a str,
}

/// The part of a buffer's directory that says which life the contents are of.
pub trait Header {
    /// What it says.
    fn start(&self) -> Start;

    /// Puts a swap at rest that is about to be asked of the metadata store.
    ///
    /// # Errors
    /// When it cannot be written.
    fn begin(&mut self, life: IncarnationRecord) -> Result<(), BufferError>;

    /// Takes the swap that was begun last, of the same incarnation, for the life that the contents
    /// are of: it has landed.
    ///
    /// # Errors
    /// When it cannot be written.
    fn landed(&mut self) -> Result<(), BufferError>;
}

impl Header for Found {
    fn start(&self) -> Start {
        let record = |(incarnation, nonce)| IncarnationRecord { incarnation, nonce };
        Start {
            adopted: self.adopted().map(record),
            begun: self.unfinished().map(record),
            damaged: self.damage().is_some(),
        }
    }

    fn begin(&mut self, life: IncarnationRecord) -> Result<(), BufferError> {
        self.begin_swap(life.incarnation, life.nonce)
    }

    fn landed(&mut self) -> Result<(), BufferError> {
        self.swap_landed()
    }
}

/// Takes the life of one buffer in which the node will run: the one before when the buffer can vouch
/// for its contents, else the next. From then on every earlier start is over, whatever its process
/// does. A start that would end the life of a node on another host waits until that one has gone.
///
/// Not cancel-safe in the sense that a swap may still land; the next start completes it.
///
/// # Errors
/// When the metadata do not answer for [`METADATA_WAIT`](super::METADATA_WAIT), other starts under
/// this name keep coming in between, or the directory cannot be written.
pub async fn take_life(
    meta: &dyn Metadata,
    place: &Place<'_>,
    level: Level,
    header: &mut impl Header,
) -> Result<Taken, MembershipError> {
    let mut record = LifeRecord::read(meta, place.node, level).await?;
    if let Some(begun) = header.start().unfinished(record.life()) {
        record.swap(begun).await?;
    }
    if header.start().has_landed(record.life()) {
        // Before the next one is begun, which would be all that the directory remembers.
        header.landed()?;
    }
    for _ in 0..RACES_MAX {
        let kept = header.start().may_keep(record.life());
        if !kept && record.now.is_some() {
            wait_elsewhere(meta, place, &mut record).await?;
        }
        let before = record.life().copied();
        let incarnation = match before {
            Some(before) if kept => before.incarnation,
            _ => header.start().next(before.as_ref()),
        };
        let life = IncarnationRecord { incarnation, nonce: fresh_nonce()? };
        // At rest before the metadata store hears of it: should this process end here, the next
        // start knows what may have landed.
        header.begin(life)?;
        if let Some(revision) = record.swap(life).await? {
            let IncarnationRecord { incarnation, nonce } = life;
            return Ok(Taken { life: Life { incarnation, nonce, revision }, kept, before });
        }
    }
    Err(MembershipError::Contended { node: place.node.clone() })
}

/// Ends a buffer's life in the metadata, as far as that can be done now: nobody counts on what it
/// holds any more. Returns whether the record shows it.
///
/// # Errors
/// When the metadata do not answer, or the system gives no random numbers.
pub async fn end_life(
    meta: &dyn Metadata,
    node: &NodeId,
    level: Level,
    life: &Life,
) -> Result<bool, MembershipError> {
    let value = IncarnationRecord { incarnation: life.incarnation, nonce: life.nonce };
    let read = Versioned { revision: life.revision, value };
    let (_, txn) = register::next_life(node, level, Some(&read), fresh_nonce()?);
    Ok(matches!(meta.commit(&txn).await?, TxnOutcome::Applied(_)))
}

/// A buffer's record in the metadata, as it was read last.
struct LifeRecord<'a> {
    meta: &'a dyn Metadata,
    node: &'a NodeId,
    level: Level,
    now: Option<Versioned<IncarnationRecord>>,
    patience: Patience,
}

impl<'a> LifeRecord<'a> {
    async fn read(meta: &'a dyn Metadata, node: &'a NodeId, level: Level) -> Result<Self, MembershipError> {
        let mut record = Self { meta, node, level, now: None, patience: Patience::new() };
        record.read_again().await?;
        Ok(record)
    }

    fn life(&self) -> Option<&IncarnationRecord> {
        self.now.as_ref().map(|now| &now.value)
    }

    async fn read_again(&mut self) -> Result<(), MembershipError> {
        let key = Key::Incarnation(self.node.clone(), self.level);
        let snapshot = self.patience.read(self.meta, std::slice::from_ref(&key)).await?;
        let now = snapshot.incarnation(&key);
        if let Some(now) = &now {
            now.value.check(self.node, self.level)?;
        }
        self.now = now;
        Ok(())
    }

    /// Puts this life in the place of what was read: the same transaction until its outcome is
    /// known, for it may land late. Returns its revision; none when somebody else's came first, and
    /// it can never land any more.
    async fn swap(&mut self, life: IncarnationRecord) -> Result<Option<Revision>, MembershipError> {
        let read = self.now.clone();
        let txn: Txn = register::swap_life(self.node, self.level, read.as_ref(), life);
        loop {
            match self.meta.commit(&txn).await {
                Ok(TxnOutcome::Applied(revision)) => {
                    self.now = Some(Versioned { revision, value: life });
                    return Ok(Some(revision));
                }
                Ok(TxnOutcome::Refused) => {}
                Err(error) => self.patience.after(error).await?,
            }
            self.read_again().await?;
            if let Some(now) = self.now.as_ref().filter(|now| now.value == life) {
                return Ok(Some(now.revision));
            }
            if self.now != read {
                return Ok(None);
            }
        }
    }
}

/// Waits while a node of this name is registered with another address: two hosts with one name would
/// end each other's lives for ever. Its lease ends with it.
async fn wait_elsewhere(
    meta: &dyn Metadata,
    place: &Place<'_>,
    record: &mut LifeRecord<'_>,
) -> Result<(), MembershipError> {
    let key = Key::Node(place.node.clone());
    let mut looks = 0;
    loop {
        let snapshot = record.patience.read(meta, std::slice::from_ref(&key)).await?;
        let found = snapshot.records.get(&key).map(|found| &found.value);
        let Some(Record::Node(other)) = found.filter(|found| is_elsewhere(found, place)) else { break };
        if looks % ELSEWHERE.1 == 0 {
            tracing::warn!(
                node = %place.node, level = %record.level, elsewhere = other.addresses.join(","), admin = other.admin,
                "another node of this name is registered: waiting until it has gone; stop one of the two, or give each a name of its own"
            );
        }
        looks += 1;
        // It answers, so it may answer for as long as that node lives.
        record.patience = Patience::new();
        sleep(ELSEWHERE.0).await;
    }
    if looks > 0 {
        record.read_again().await?;
    }
    Ok(())
}

fn is_elsewhere(found: &Record, place: &Place<'_>) -> bool {
    matches!(found, Record::Node(NodeRecord { addresses, admin, .. })
        if addresses != place.advertise || admin != place.admin)
}
