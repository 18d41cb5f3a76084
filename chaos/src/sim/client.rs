//! A client process: takes the log over, then appends to it, until it is fenced, crashes or closes.

use super::appender::Appender;
use super::events::{Answer, Caller, ClientIx, Conn, Event, Meta, MetaAnswer, NodeIx, Rpc};
use super::loss::Losses;
use super::schedule::Hazard;
use super::takeover::TakingOver;
use super::world::{MS, World};
use piculet_quorum::ids::{Epoch, Incarnation, NodeId, SegmentNumber};
use piculet_quorum::meta::{Key, LogRecord, Record, TxnOutcome, Versioned};
use piculet_quorum::wire::message::{NodeView, Nodes, Proposal};
use std::collections::BTreeMap;

/// What a client is doing.
pub(crate) enum Stage {
    TakingOver(Box<TakingOver>),
    Writing(Box<Appender>),
    Gone,
}

/// One client process.
pub(crate) struct Client {
    pub(crate) stage: Stage,
    pub(crate) paused: bool,
    pub(crate) backlog: Vec<Event>,
    /// Streams that are up, or dialled.
    pub(crate) streams: BTreeMap<NodeIx, (Conn, bool)>,
    /// The metadata request that is out.
    pub(crate) asked: Option<u64>,
    /// When the process wants to be woken, and which wake-up is the valid one.
    pub(crate) wake: Option<u64>,
    pub(crate) generation: u64,
    /// Wake-ups without any progress of time.
    spins: (u64, u64),
}

impl Client {
    pub(crate) fn describe(&self) -> String {
        match &self.stage {
            Stage::TakingOver(takeover) => format!("takes over: {takeover:?}"),
            Stage::Writing(appender) => format!("writes: {:?}", appender.writer),
            Stage::Gone => "gone".to_owned(),
        }
    }

    /// Whether it is the writer of an epoch.
    pub(crate) fn writes_in(&self, epoch: Epoch) -> bool {
        matches!(&self.stage, Stage::Writing(appender) if appender.writer.epoch() == epoch)
    }

    pub(crate) fn takes_over(&self) -> bool {
        matches!(self.stage, Stage::TakingOver(_))
    }

    pub(crate) fn gone(&self) -> bool {
        matches!(self.stage, Stage::Gone)
    }
}

impl World {
    /// A client starts and takes the log over, whether or not another one writes it.
    pub(crate) fn start_client(&mut self) {
        let last = self.healing;
        let park = !last && self.rng.chance(80);
        self.start_taking_over(TakingOver::new(park));
    }

    /// A node takes the log over from the record that it has judged, to seal what is open.
    pub(crate) fn start_guard(&mut self, judged: Versioned<LogRecord>) {
        self.start_taking_over(TakingOver::of_abandoned(judged));
    }

    fn start_taking_over(&mut self, takeover: TakingOver) {
        let me = self.clients.len();
        self.clients.push(Client {
            stage: Stage::TakingOver(Box::new(takeover)),
            paused: false,
            backlog: Vec::new(),
            streams: BTreeMap::new(),
            asked: None,
            wake: None,
            generation: 0,
            spins: (0, 0),
        });
        self.look(me, SegmentNumber(0));
    }

    /// The process is gone, with all its streams.
    pub(crate) fn end_client(&mut self, me: ClientIx) {
        let client = &mut self.clients[me];
        client.stage = Stage::Gone;
        client.backlog.clear();
        client.asked = None;
        self.hang_up(me);
    }

    /// The client ends all its streams.
    pub(crate) fn hang_up(&mut self, me: ClientIx) {
        let streams = std::mem::take(&mut self.clients[me].streams);
        for (conn, _) in streams.into_values() {
            self.break_link(conn);
        }
    }

    pub(crate) fn client_resumes(&mut self, me: ClientIx) {
        self.clients[me].paused = false;
        for event in std::mem::take(&mut self.clients[me].backlog) {
            self.happen(event);
        }
    }

    pub(crate) fn node_ix(&self, id: &NodeId) -> NodeIx {
        self.nodes.iter().position(|node| node.id == *id).expect("a node of this cluster")
    }

    /// The nodes as the metadata show them: a lease outlives a crashed node for a while, and that of
    /// a running one may have ended.
    pub(crate) fn listed_nodes(&self) -> Nodes {
        let view = |node: &super::node::Node| {
            let key = Key::Incarnation(node.id.clone(), self.level);
            let life = self.store.now.snapshot([key.clone()]).incarnation(&key)?;
            let running = match self.store.now.get(&Key::Node(node.id.clone())).map(|node| &node.value) {
                Some(Record::Node(running)) => Some(running.clone()),
                _ => None,
            };
            let lives = [(self.level, (life.value.incarnation, life.revision))].into();
            Some((node.id.clone(), NodeView { lives, running }))
        };
        self.nodes.iter().filter_map(view).collect()
    }

    pub(crate) fn look(&mut self, me: ClientIx, from: SegmentNumber) {
        self.ask_meta(me, Meta::Look(from));
    }

    /// Sends a metadata request, which may be lost, or carried out although its reply is lost, or
    /// carried out long after the client has given it up.
    pub(crate) fn ask_meta(&mut self, me: ClientIx, meta: Meta) {
        let id = self.fresh_id();
        self.clients[me].asked = Some(id);
        if let Meta::Propose(proposal) = &meta {
            self.note_unsettled(proposal);
        }
        let patience = 150 * MS;
        let mut delay = self.rng.between(200, 4 * MS);
        if self.strikes(Hazard::MetaLate) {
            delay = self.rng.between(100 * MS, 1_500 * MS);
            if let Meta::Propose(proposal) = &meta {
                self.may_lose_holder(proposal);
            }
        }
        if !self.strikes(Hazard::MetaLost) {
            self.schedule(delay, Event::MetaArrives { client: me, id, meta });
        }
        let answer = MetaAnswer::Failed;
        self.schedule(patience, Event::MetaAnswered { client: me, id, answer });
    }

    /// A holder may be reborn before the transaction lands that counts it.
    fn may_lose_holder(&mut self, proposal: &Proposal) {
        let Proposal::Seal(proposal) = proposal else { return };
        let Some(seal) = &proposal.seal else { return };
        // Of a member of the next segment the incarnation is compared for that as well.
        let next = |holder: &NodeId| {
            let create = proposal.create.iter().flat_map(|create| &create.ensemble);
            create.into_iter().any(|(member, _)| member.node == *holder)
        };
        let Some((holder, _)) = seal.holders.iter().min_by_key(|(holder, _)| next(holder)) else { return };
        let holder = self.node_ix(holder);
        if self.strikes(Hazard::HolderLost) {
            let down = self.rng.between(MS, 60 * MS);
            self.lose_buffer(holder, down);
        }
    }

    /// An end with one holder is being proposed: that holder must not be lost, for nobody would
    /// record the loss.
    fn note_unsettled(&mut self, proposal: &Proposal) {
        let Proposal::Seal(proposal) = proposal else { return };
        let Some(seal) = &proposal.seal else { return };
        if !seal.settled() {
            self.run.unsettled += 1;
            for (holder, _) in &seal.holders {
                let node = self.node_ix(holder);
                self.faults.sole_holders.push((seal.segment, node));
            }
        }
    }

    pub(crate) fn meta_arrives(&mut self, me: ClientIx, id: u64, meta: Meta) {
        if self.store.away {
            return;
        }
        let answer = match meta {
            Meta::Look(from) => MetaAnswer::Look(Box::new((self.store.now.view(from), self.listed_nodes()))),
            Meta::Propose(proposal) => {
                if self.holder_is_gone(&proposal) || self.members_are_gone(&proposal) {
                    return;
                }
                if let Proposal::Seal(seal) = &*proposal {
                    let now = self.store.now.snapshot(seal.keys());
                    seal.check(&now).unwrap_or_else(|unsound| panic!("{unsound}: {seal:?}"));
                }
                let archived = self.archived_before(&proposal);
                let outcome = self.apply(&proposal.txn());
                if outcome != TxnOutcome::Refused {
                    self.check_seal_guard(&proposal, archived);
                }
                if let (Proposal::TakeOver(_), TxnOutcome::Applied(_)) = (&*proposal, outcome) {
                    self.run.takeovers += 1;
                }
                MetaAnswer::Outcome(outcome)
            }
        };
        if !self.strikes(Hazard::MetaAnswerLost) {
            let delay = self.rng.between(200, 3 * MS);
            self.schedule(delay, Event::MetaAnswered { client: me, id, answer });
        }
    }

    /// Where only members are lost that the protocol makes up for, an end whose only holder has just
    /// been lost does not reach the store. Once that holder is reborn, the store refuses it.
    fn holder_is_gone(&self, proposal: &Proposal) -> bool {
        let Proposal::Seal(proposal) = proposal else { return false };
        let Some(seal) = &proposal.seal else { return false };
        let gone = |holder: &NodeId| self.nodes[self.node_ix(holder)].forgot;
        self.losses == Losses::Budget
            && !seal.settled()
            && seal.holders.iter().all(|(holder, _)| gone(holder))
    }

    /// A segment whose members have mostly lost their memory before it exists is beyond what the
    /// protocol promises to survive: such a proposal never reaches the store.
    fn members_are_gone(&self, proposal: &Proposal) -> bool {
        let Proposal::Seal(proposal) = proposal else { return false };
        let Some(create) = &proposal.create else { return false };
        let gone = create.ensemble.iter().filter(|(member, _)| {
            let node = &self.nodes[self.node_ix(&member.node)];
            node.forgot && node.incarnation == member.incarnation
        });
        self.losses != Losses::Any && gone.count() > 1
    }

    pub(crate) fn meta_answered(&mut self, me: ClientIx, id: u64, answer: MetaAnswer) {
        if self.clients[me].asked != Some(id) {
            return;
        }
        self.clients[me].asked = None;
        match &self.clients[me].stage {
            Stage::TakingOver(_) => self.takeover_meta(me, answer),
            Stage::Writing(_) => self.appender_meta(me, answer),
            Stage::Gone => {}
        }
    }

    /// Calls a node. The answer may never come: then the call fails after a while, for those who wait
    /// for it.
    pub(crate) fn call(&mut self, caller: Caller, node: NodeIx, rpc: Rpc, patience: u64) -> u64 {
        let id = self.fresh_id();
        if !self.strikes(Hazard::CallLost) {
            let delay = self.delay(node);
            self.schedule(delay, Event::Call { caller, id, node, rpc, informed: false });
        }
        if let Caller::Client(_) = caller {
            self.schedule(patience, Event::Answered { caller, id, answer: Answer::Failed });
        }
        id
    }

    pub(crate) fn answered(&mut self, caller: Caller, id: u64, answer: Answer) {
        match caller {
            Caller::Client(me) => {
                if matches!(self.clients[me].stage, Stage::TakingOver(_)) {
                    self.takeover_answered(me, id, answer);
                }
            }
            Caller::Reader(reader) => self.reader_answered(reader, id, answer),
            Caller::Loss => self.loss_answered(id, answer),
            Caller::Tail => self.tail_answered(id, answer),
        }
    }

    /// Dials what is wanted and neither up nor dialled.
    pub(crate) fn dial(&mut self, me: ClientIx, wanted: impl IntoIterator<Item = NodeIx>) {
        for node in wanted {
            if !self.clients[me].streams.contains_key(&node) {
                self.client_dial(me, node);
            }
        }
    }

    pub(crate) fn client_dial(&mut self, me: ClientIx, node: NodeIx) {
        let parked = matches!(&self.clients[me].stage, Stage::Writing(appender) if appender.writer.parked());
        if parked || self.clients[me].gone() || self.clients[me].streams.contains_key(&node) {
            return;
        }
        let conn = self.connect(me, node);
        self.clients[me].streams.insert(node, (conn, false));
        let delay = self.delay(node);
        self.schedule(delay, Event::Hello { client: me, node, conn });
    }

    pub(crate) fn client_welcome(&mut self, me: ClientIx, at: NodeIx, conn: Conn, incarnation: Incarnation) {
        if self.clients[me].streams.get(&at) != Some(&(conn, false)) {
            return;
        }
        self.clients[me].streams.insert(at, (conn, true));
        let (now, node) = (self.time(), self.nodes[at].id.clone());
        if let Stage::Writing(appender) = &mut self.clients[me].stage {
            appender.writer.handle_connected(now, &node, incarnation);
            self.drive_appender(me);
        }
    }

    pub(crate) fn client_dropped(&mut self, me: ClientIx, at: NodeIx, conn: Conn) {
        let Some((current, up)) = self.clients[me].streams.get(&at).copied() else { return };
        if current != conn {
            return;
        }
        self.clients[me].streams.remove(&at);
        let delay = self.rng.between(5 * MS, 40 * MS);
        self.schedule(delay, Event::Dial { client: me, node: at });
        let (now, node) = (self.time(), self.nodes[at].id.clone());
        if let (true, Stage::Writing(appender)) = (up, &mut self.clients[me].stage) {
            appender.writer.handle_disconnected(now, &node);
            self.drive_appender(me);
        }
    }

    pub(crate) fn wake_at(&mut self, me: ClientIx, at: Option<u64>) {
        let client = &mut self.clients[me];
        if client.wake == at {
            return;
        }
        client.wake = at;
        client.generation += 1;
        let generation = client.generation;
        if let Some(at) = at {
            let delay = at.saturating_sub(self.now);
            self.schedule(delay, Event::Wake { client: me, generation });
        }
    }

    pub(crate) fn client_wakes(&mut self, me: ClientIx, generation: u64) {
        let now = self.now;
        let client = &mut self.clients[me];
        if client.generation != generation || client.gone() {
            return;
        }
        client.wake = None;
        client.spins = if client.spins.0 == now { (now, client.spins.1 + 1) } else { (now, 0) };
        assert!(client.spins.1 < 10, "client {me} is woken again and again at one moment");
        match &client.stage {
            Stage::TakingOver(_) => self.takeover_wakes(me),
            Stage::Writing(_) => self.appender_wakes(me),
            Stage::Gone => {}
        }
    }
}
