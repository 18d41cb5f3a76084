//! What a node works on, opened in the order in which nothing is answered that was forgotten: the
//! buffers are locked and read, their lives decided with the metadata, and what they keep is taken
//! up as the metadata have it now. Only then is anything served.

use crate::config::NodeConfig;
use crate::core::{Core, LiveBuffer};
use crate::logs::TakenUp;
use crate::membership::{self, MembershipError, Place, Taken};
use crate::node::{NodeError, end_life};
use piculet_meta::Metadata;
use piculet_quorum::ids::{Level, Nonce};
use piculet_quorum::meta::{IncarnationRecord, Snapshot};
use piculet_storage::journal::JournalError;
use piculet_storage::{BufferError, Contents, Found, Leftover, Objects};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Opens everything that a node works on, begins the lives of its buffers, and takes up what they
/// have kept.
///
/// # Errors
/// When any of it cannot be used.
pub(crate) async fn open(config: NodeConfig) -> Result<Arc<Core>, NodeError> {
    let url = config.metadata.clone();
    let options = config.metadata_options.options()?;
    let meta = piculet_meta::connect(&url, &options).await.map_err(NodeError::MetadataUrl)?;
    let joined = |source| match source {
        MembershipError::Buffer(BufferError::Journal(JournalError::Failed(reason))) => {
            NodeError::BufferFailed { level: Level::Disk, reason }
        }
        MembershipError::Buffer(error) => NodeError::Buffer(error),
        source => NodeError::Metadata { url: url.clone(), source },
    };
    let cluster = membership::join_cluster(&*meta).await.map_err(joined)?;
    let found = find(&config, cluster).await?;
    let objects = Objects::open(&config.store, cluster, &config.s3())?;
    let unusable = |source| NodeError::Store { url: config.store.clone(), source: Box::new(source) };
    let probe = objects.probe().await.map_err(unusable)?;
    tracing::info!(store = objects.url(), conditional_put = probe.conditional_put, "object store is usable");
    // Last, for it ends the life before: not for a start that fails anyway.
    let mut begun = begin(&config, &*meta, found).await.map_err(joined)?;
    let live = begun.iter().map(|begun| (begun.level, begun.live.clone())).collect();
    let core = Arc::new(Core::new(config, cluster, meta, objects, live));
    let now = membership::read_everything(&*core.meta).await.map_err(joined)?;
    membership::check_lives(&core, &now)?;
    for begun in &mut begun {
        begun.take_up(&core, &now)?;
    }
    Ok(core)
}

/// Locks the buffers that the settings name, and reads what is in them.
///
/// # Errors
/// When another process has one, it is another cluster's, or the system refuses.
pub(crate) async fn find(config: &NodeConfig, cluster: Nonce) -> Result<BTreeMap<Level, Found>, BufferError> {
    let (dir, options) = (config.buffer.memory.dir.clone(), config.arena());
    let memory = blocking(move || Found::memory(&dir, &options, cluster)).await?;
    let mut found = BTreeMap::from([(Level::Memory, memory)]);
    if let Some((disk, options)) = config.buffer.disk.as_ref().zip(config.disk()) {
        let dir = disk.dir.clone();
        let disk = blocking(move || Found::disk(&dir, &options, cluster)).await?;
        found.insert(Level::Disk, disk);
    }
    Ok(found)
}

/// A buffer whose life has begun, and what was found in it.
pub(crate) struct Begun {
    pub(crate) level: Level,
    pub(crate) live: LiveBuffer,
    taken: Taken,
    contents: Contents,
    /// Why its contents could not be kept.
    reason: Option<String>,
    leftovers: Vec<Leftover>,
}

/// Begins the life of each buffer.
///
/// # Errors
/// When the metadata do not answer, or a directory cannot be written.
pub(crate) async fn begin(
    config: &NodeConfig,
    meta: &dyn Metadata,
    found: BTreeMap<Level, Found>,
) -> Result<Vec<Begun>, MembershipError> {
    let admin = config.admin.to_string();
    let place = Place { node: &config.name, advertise: &config.advertise, admin: &admin };
    let mut all = Vec::new();
    for (level, mut found) in found {
        let taken = membership::take_life(meta, &place, level, &mut found).await?;
        let reason = (!taken.kept).then(|| why(&found, &taken));
        let leftovers = if taken.kept { Vec::new() } else { found.leftovers() };
        let adopted = blocking(move || found.adopt(taken.kept)).await;
        if let Err(BufferError::Journal(JournalError::Failed(_))) = &adopted {
            // What it held may not be on the disk: nobody may count on it, nor wait for it.
            end_life(meta, &config.name, level, &taken.life).await;
        }
        let (buffer, contents) = adopted?;
        let live = LiveBuffer { life: taken.life, buffer };
        all.push(Begun { level, live, taken, contents, reason, leftovers });
    }
    Ok(all)
}

/// Why a buffer begins a new life.
fn why(found: &Found, taken: &Taken) -> String {
    let life = |life: &IncarnationRecord| format!("incarnation {} of start {}", life.incarnation, life.nonce);
    if let Some(damage) = found.damage() {
        return damage.to_string();
    }
    let recorded = taken.before.as_ref().map_or_else(|| "none".to_owned(), life);
    let here = found.adopted().map_or_else(
        || "none".to_owned(),
        |(incarnation, nonce)| life(&IncarnationRecord { incarnation, nonce }),
    );
    format!(
        "the directory is in {here}, the metadata have {recorded}: it is a copy or an old image of the directory, or another node was started under this name"
    )
}

impl Begun {
    /// Takes up what the buffer has kept, or says what it could not keep.
    ///
    /// # Errors
    /// When the metadata contradict what is here.
    pub(crate) fn take_up(&mut self, core: &Core, now: &Snapshot) -> Result<(), NodeError> {
        let (level, incarnation) = (self.level, self.taken.life.incarnation);
        let contents = std::mem::take(&mut self.contents);
        let TakenUp { segments, logs, bytes, dropped, fences } = core.take_up(level, contents, now)?;
        match &self.reason {
            None => tracing::info!(
                %level, %incarnation, segments, logs, bytes, fences, dropped,
                "the buffer is as the process before left it: its incarnation is kept"
            ),
            Some(_) if self.taken.before.is_none() => {
                tracing::info!(%level, %incarnation, "the buffer begins its first life");
            }
            Some(reason) => tracing::warn!(
                %level, %incarnation, reason,
                "the buffer begins a new life, and nothing of the one before counts any more"
            ),
        }
        core.tell_leftovers(level, &self.leftovers, now);
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
