//! What can happen next, within the bounds of a configuration.

use crate::invariants::sometimes;
use crate::panics::caught;
use crate::shared::Shared;
use crate::state::{Ghost, Invariant, LOG, NODES, Node, Proc, SEGMENTS, Spent, State, Wire, node};
use crate::store::Store;
use piculet_quorum::ids::Level;
use piculet_quorum::replica::Replica;
use stateright::{Model, Property};

/// The bounds of one configuration, within which everything is tried.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    pub(crate) name: &'static str,
    pub(crate) nodes: usize,
    pub(crate) level: Level,
    /// Entries that are appended to segment 0, and to every later one.
    pub(crate) entries: (u64, u64),
    pub(crate) takeovers: usize,
    /// Buffers that are lost, and whether a node may also fall silent for good.
    pub(crate) crashes: u8,
    pub(crate) deaths: bool,
    /// Whether every node is tried as the first to fall.
    pub(crate) any_falls: bool,
    /// Restarts that keep what was held.
    pub(crate) restarts: u8,
    /// Members that are given up by writers, rightly or wrongly: each makes a roll.
    pub(crate) given_up: u8,
    /// Whether a takeover may take a slow member for one that does not answer.
    pub(crate) suspicion: bool,
    /// Whether parts are uploaded, and nodes learn of it.
    pub(crate) parts: bool,
    /// Whether losses are recorded of ends that are not settled (with `parts` one of them so late that
    /// nobody waits for it), and whether the log allows more.
    pub(crate) losses: bool,
    pub(crate) allow_loss: bool,
    /// Transactions whose outcome is not heard.
    pub(crate) late: u8,
    /// Whether answers to fences come late.
    pub(crate) late_answers: bool,
    /// Recoveries that start over.
    pub(crate) recoveries: u8,
    /// Whether writers hear of acknowledgements, and nodes of commits, at any time, or at once and
    /// never: a writer that does not roll does nothing with them but acknowledge.
    pub(crate) slow_acks: bool,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Append(usize),
    Deliver { sent: usize, to: usize },
    Mark { sent: usize, to: usize },
    HearAck { by: usize, segment: usize, from: usize },
    HearArchived { by: usize, segment: usize },
    GiveUp { by: usize, member: usize },
    Connect { by: usize, to: usize },
    Meta(usize),
    MetaFails(usize),
    Land(usize),
    TakeOver,
    Fence { by: usize, at: usize },
    Answer { by: usize, from: usize },
    Tick(usize),
    Refresh(usize),
    StartOver(usize),
    Copy(usize),
    CopyFails { by: usize, at: usize },
    Publish(usize),
    PublishUnheard(usize),
    Learn { at: usize, segment: usize },
    Sync { at: usize, segment: usize },
    SyncFence(usize),
    Upload { at: usize, segment: usize },
    UploadLate { at: usize, segment: usize },
    FenceLoss { segment: usize, at: usize },
    RecordLoss(usize),
    RecordLossLate(usize),
    Reborn(usize),
    Dies(usize),
    Restarts(usize),
}

impl Model for Bounds {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let store = Store::new(self.nodes, self.level, self.allow_loss);
        let replica = |at| Replica::new(node(at), store.incarnation(at), LOG);
        let nodes = (0..self.nodes).map(|at| Shared::new(Node::new(replica(at)))).collect();
        let mut state = State {
            nodes,
            store: Shared::new(store),
            procs: Vec::new(),
            wire: Shared::new(Wire::default()),
            ghost: Shared::new(Ghost::default()),
            spent: Spent::default(),
        };
        state.take_over();
        assert!(state.publish(0, true), "the first writer finds an empty log");
        state.spent = Spent::default();
        while !self.slow_acks && self.may_append(&state, 0) && state.append(0) {}
        let before = state.clone();
        state.observe(&before);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ghost.broken.is_some() {
            return;
        }
        self.of_processes(state, actions);
        self.of_nodes(state, actions);
        let segments = state.store.segments().min(SEGMENTS);
        for sent in 0..state.wire.sent.len() {
            for to in 0..self.nodes {
                actions.push(Action::Deliver { sent, to });
                if self.slow_acks || self.parts {
                    actions.push(Action::Mark { sent, to });
                }
            }
        }
        if self.parts {
            for (segment, at) in (0..segments).flat_map(|s| (0..self.nodes).map(move |at| (s, at))) {
                actions.extend([Action::Upload { at, segment }, Action::Learn { at, segment }]);
                if state.spent.late < self.late {
                    actions.push(Action::UploadLate { at, segment });
                }
            }
        }
        if self.losses {
            for segment in 0..segments {
                actions.extend((0..self.nodes).map(|at| Action::FenceLoss { segment, at }));
                actions.push(Action::RecordLoss(segment));
                if self.parts && state.spent.late_losses == 0 {
                    actions.push(Action::RecordLossLate(segment));
                }
            }
        }
        actions.extend((0..state.wire.late.len()).map(Action::Land));
        if state.procs.len() <= self.takeovers {
            actions.push(Action::TakeOver);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        let done = caught(|| {
            let done = self.step(&mut state, action);
            if done && !self.slow_acks {
                state.hear_acks(before);
            }
            if done {
                state.observe(before);
            }
            done
        });
        match done {
            Ok(done) => (done && state != *before).then_some(state),
            Err((invariant, how)) => {
                let mut state = before.clone();
                state.broken(invariant, how);
                Some(state)
            }
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn holds(state: &State, invariant: Invariant) -> bool {
            state.ghost.broken.is_none_or(|(broken, _)| broken != invariant)
        }
        let mut properties = vec![
            Property::always(Invariant::I1.name(), |_, state| holds(state, Invariant::I1)),
            Property::always(Invariant::I2.name(), |_, state| holds(state, Invariant::I2)),
            Property::always(Invariant::I3.name(), |_, state| holds(state, Invariant::I3)),
            Property::always(Invariant::I4.name(), |_, state| holds(state, Invariant::I4)),
            Property::always(Invariant::I5.name(), |_, state| holds(state, Invariant::I5)),
            Property::always(Invariant::I6.name(), |_, state| holds(state, Invariant::I6)),
            Property::always(Invariant::I7.name(), |_, state| holds(state, Invariant::I7)),
            Property::always(Invariant::I8.name(), |_, state| holds(state, Invariant::I8)),
            Property::always(Invariant::I9.name(), |_, state| holds(state, Invariant::I9)),
            Property::always(Invariant::I11.name(), |_, state| holds(state, Invariant::I11)),
            Property::always(Invariant::I12.name(), |_, state| holds(state, Invariant::I12)),
            Property::always(Invariant::Assertion.name(), |_, state| holds(state, Invariant::Assertion)),
            Property::always(Invariant::Model.name(), |_, state| holds(state, Invariant::Model)),
        ];
        properties.extend(sometimes());
        properties
    }
}

impl Bounds {
    fn may_append(&self, state: &State, by: usize) -> bool {
        let first = by == 0 && state.wire.sent.iter().all(|sent| sent.segment == 0);
        let newest = state.wire.sent.iter().filter(|sent| sent.by == by).max_by_key(|sent| sent.segment);
        let limit = if first { self.entries.0 } else { self.entries.1 };
        newest.is_some_and(|newest| newest.chains.len() as u64 <= limit)
    }

    fn of_processes(&self, state: &State, actions: &mut Vec<Action>) {
        for by in 0..state.procs.len() {
            match &*state.procs[by] {
                Proc::Over => {}
                Proc::Taking(taking) => {
                    for at in 0..self.nodes {
                        actions.push(Action::Fence { by, at });
                        if self.late_answers {
                            actions.push(Action::Answer { by, from: at });
                        }
                        if taking.copy.is_some() && (self.suspicion || !state.nodes[at].alive) {
                            actions.push(Action::CopyFails { by, at });
                        }
                    }
                    if taking.recovery.is_some() && taking.ticks < 3 && self.may_wait(state, by) {
                        actions.push(Action::Tick(by));
                    }
                    actions.extend([Action::Refresh(by), Action::Copy(by), Action::Publish(by)]);
                    if self.seals_late(state) {
                        actions.push(Action::PublishUnheard(by));
                    }
                    if state.spent.restarted < self.recoveries {
                        actions.push(Action::StartOver(by));
                    }
                }
                Proc::Writing(_) => self.of_writer(state, by, actions),
            }
        }
    }

    /// Whether time may pass for a takeover: when it waits for nobody who would answer at once, or
    /// only for redundancy, or may suspect anybody.
    fn may_wait(&self, state: &State, by: usize) -> bool {
        let Proc::Taking(taking) = &*state.procs[by] else { return false };
        let silent = taking.recovery.as_ref().map(|recovery| recovery.silent()).unwrap_or_default();
        let dead = |node: &piculet_quorum::ids::NodeId| !state.nodes[crate::state::number(node)].alive;
        self.suspicion || silent.iter().any(dead) || taking.ticks == 0
    }

    /// Whether the transaction of a seal may go unheard. Where losses and parts are late that is left
    /// to others.
    fn seals_late(&self, state: &State) -> bool {
        state.spent.late < self.late && !(self.losses && self.parts)
    }

    fn of_writer(&self, state: &State, by: usize, actions: &mut Vec<Action>) {
        if self.may_append(state, by) {
            actions.push(Action::Append(by));
        }
        actions.push(Action::Meta(by));
        if self.seals_late(state) {
            actions.push(Action::MetaFails(by));
        }
        for at in 0..self.nodes {
            if self.slow_acks {
                let segments = 0..state.store.segments().min(SEGMENTS);
                actions.extend(segments.map(|segment| Action::HearAck { by, segment, from: at }));
            }
            if state.spent.rolls < self.given_up {
                actions.push(Action::GiveUp { by, member: at });
            }
            if self.given_up > 0 && state.nodes[at].alive {
                actions.push(Action::Connect { by, to: at });
            }
        }
        if self.parts && self.slow_acks {
            let segments = 0..state.store.segments().min(SEGMENTS);
            actions.extend(segments.map(|segment| Action::HearArchived { by, segment }));
        }
    }

    fn of_nodes(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..self.nodes {
            let alive = state.nodes[at].alive;
            let may_fall = state.spent.crashes < self.crashes && alive && self.in_turn(state, at);
            if may_fall || !alive {
                actions.push(Action::Reborn(at));
            }
            if may_fall && self.deaths {
                actions.push(Action::Dies(at));
            }
            if state.spent.restarts < self.restarts && alive {
                actions.push(Action::Restarts(at));
            }
            if self.level == Level::Disk {
                let segments = 0..state.store.segments().min(SEGMENTS);
                actions.extend(segments.map(|segment| Action::Sync { at, segment }));
                actions.push(Action::SyncFence(at));
            }
        }
    }

    /// Nodes are alike, so the first to fall may as well be the first of them, and so on. (But for one
    /// thing: where a takeover may choose between two members, it takes the first.)
    fn in_turn(&self, state: &State, at: usize) -> bool {
        let fell = |before: usize| !state.nodes[before].alive || state.store.incarnation(before).0 > 1;
        self.any_falls || (0..at).all(fell)
    }

    fn step(&self, state: &mut State, action: Action) -> bool {
        // What may be lost is uploaded piece by piece: a part that reaches the end would change the
        // segment's record, which a loss compares anyway.
        let most = if self.losses { 1 } else { u64::MAX };
        match action {
            Action::Append(by) => state.append(by),
            Action::Deliver { sent, to } => state.deliver(sent, to),
            Action::Mark { sent, to } => state.mark(sent, to),
            Action::HearAck { by, segment, from } => state.hear_ack(by, segment, from),
            Action::HearArchived { by, segment } => state.hear_archived(by, segment),
            Action::GiveUp { by, member } => state.give_up(by, member),
            Action::Connect { by, to } => state.connect(by, to),
            Action::Meta(by) => state.answer_meta(by),
            Action::MetaFails(by) => state.fail_meta(by),
            Action::Land(which) => {
                state.land(which);
                true
            }
            Action::TakeOver => {
                state.take_over();
                true
            }
            Action::Fence { by, at } => state.fence(by, at, self.late_answers),
            Action::Answer { by, from } => state.answer(by, from),
            Action::Tick(by) => state.tick(by),
            Action::Refresh(by) => state.refresh(by),
            Action::StartOver(by) => state.restart_recovery(by),
            Action::Copy(by) => state.copy(by),
            Action::CopyFails { by, at } => state.copy_fails(by, at),
            Action::Publish(by) => state.publish(by, true),
            Action::PublishUnheard(by) => state.publish(by, false),
            Action::Learn { at, segment } => {
                state.learn(at, segment);
                true
            }
            Action::Sync { at, segment } => state.sync(segment, at),
            Action::SyncFence(at) => state.sync_fence(at),
            Action::Upload { at, segment } => state.upload(at, segment, most, false),
            Action::UploadLate { at, segment } => state.upload(at, segment, most, true),
            Action::FenceLoss { segment, at } => state.fence_loss(segment, at),
            Action::RecordLoss(segment) => state.record_loss(segment, false),
            Action::RecordLossLate(segment) => state.record_loss(segment, true),
            Action::Reborn(at) => {
                state.reborn(at);
                true
            }
            Action::Dies(at) => {
                state.dies(at);
                true
            }
            Action::Restarts(at) => {
                state.restarts(at);
                true
            }
        }
    }
}

impl State {
    /// Writers hear of every new acknowledgement at once.
    fn hear_acks(&mut self, before: &Self) {
        if self.wire.same(&before.wire) {
            return;
        }
        let fresh = |segment: usize, at: usize| self.wire.acks[segment][at] > before.wire.acks[segment][at];
        let places = (0..SEGMENTS).flat_map(|segment| (0..NODES).map(move |at| (segment, at)));
        let fresh: Vec<(usize, usize)> = places.filter(|(segment, at)| fresh(*segment, *at)).collect();
        for (segment, at) in fresh {
            for by in 0..self.procs.len() {
                self.hear_ack(by, segment, at);
            }
        }
    }
}
