//! What goes wrong, and how it stops.

use super::client::Client;
use super::events::{Event, NodeIx};
use super::loss::Losses;
use super::schedule::{Fault, Hazard, Planned};
use super::world::{MS, World};
use piculet_quorum::ids::{Level, SegmentNumber};
use piculet_quorum::meta::SegmentState;

/// Faults that last.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The object store fails in most cases, for now.
    pub(crate) objects_away: bool,
    /// Members that were proposed as the only holder of an end.
    pub(crate) sole_holders: Vec<(SegmentNumber, NodeIx)>,
    /// The last writer has closed.
    pub(crate) closed: bool,
}

impl World {
    pub(crate) fn fault(&mut self, place: usize) {
        if self.healing {
            return;
        }
        let Planned { fault, pick, span, .. } = self.schedule.faults[place];
        let node = pick as usize % self.nodes.len();
        let lasting = |longest: u64| longest * MS * span / 1000;
        match fault {
            Fault::BreakLink => self.break_some_link(pick),
            Fault::KillNode => self.kill_node(node, lasting(500)),
            Fault::KillAllNodes => (0..self.nodes.len()).for_each(|at| self.kill_node(at, lasting(500))),
            Fault::CrashMachine if self.level == Level::Disk => self.crash_machine(node, lasting(900)),
            Fault::CrashMachine | Fault::LoseBuffer => self.lose_buffer(node, lasting(900)),
            Fault::PowerCut if self.level == Level::Disk => {
                (0..self.nodes.len()).for_each(|at| self.crash_machine(at, lasting(900)));
            }
            Fault::PowerCut => (0..self.nodes.len()).for_each(|at| self.kill_node(at, lasting(900))),
            Fault::PauseNode => self.pause_node(node, lasting(1_200)),
            Fault::StallUploads => self.nodes[node].stalled_until = self.now + lasting(2_500),
            Fault::Isolate => self.isolate_node(node, lasting(1_500)),
            Fault::Lag => self.nodes[node].lag = if self.nodes[node].lag > 0 { 0 } else { lasting(30) },
            Fault::PauseClient => self.pause_client(pick, lasting(2_500)),
            Fault::CrashClient => self.crash_client(pick, |_| true),
            Fault::CrashTaker => self.crash_client(pick, Client::takes_over),
            Fault::Rival => self.start_rival(),
            Fault::TwoRivals => (0..2).for_each(|_| self.start_rival()),
            Fault::MetaAway => {
                self.store.away = true;
                self.schedule(lasting(700), Event::MetaReturns);
            }
            Fault::Compact => self.store.compact(),
            Fault::LeaseEnds => {
                let lease = self.nodes[node].lease;
                self.store.end_lease(lease);
            }
            Fault::ObjectsAway => {
                self.faults.objects_away = true;
                self.schedule(lasting(1_500), Event::ObjectsReturn);
            }
        }
        if self.clients.iter().all(Client::gone) {
            self.start_client();
        }
    }

    fn break_some_link(&mut self, pick: u64) {
        let open: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.cut.is_none()).map(|(conn, _)| *conn).collect();
        if let Some(conn) = one_of(&open, pick) {
            self.break_link(conn);
        }
    }

    fn break_links_of(&mut self, node: NodeIx) {
        let open: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, link)| link.cut.is_none() && link.node == node)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in open {
            self.break_link(conn);
        }
    }

    /// Whether the loss of a node's memory stays within what the protocol promises to survive.
    fn may_forget(&self, at: NodeIx) -> bool {
        let node = &self.nodes[at];
        let sole = self.faults.sole_holders.iter().filter(|(_, holder)| *holder == at).any(|(number, _)| {
            let segment = self.store.now.segment(*number);
            segment.is_some_and(|segment| !matches!(segment.value.state, SegmentState::Archived(_)))
        });
        let others_live = self.store.unarchived().all(|(_, record)| {
            let listed = record.member(&node.id) == Some(node.incarnation);
            let lost = |id: &piculet_quorum::ids::NodeId| {
                let other = &self.nodes[self.node_ix(id)];
                other.forgot || record.member(id) != Some(other.incarnation)
            };
            !listed || !record.ensemble.iter().any(|member| member.node != node.id && lost(&member.node))
        });
        match self.losses {
            Losses::Budget => !sole && others_live,
            Losses::Holders => others_live,
            Losses::Any => true,
        }
    }

    /// The process is gone, and comes back after a while.
    fn stop_node(&mut self, at: NodeIx, down: u64) {
        self.lease_expires_later(at);
        self.nodes[at].stops_writing(&mut self.rng);
        self.nodes[at].stop();
        self.break_links_of(at);
        self.starts_later(at, down);
    }

    fn starts_later(&mut self, node: NodeIx, down: u64) {
        let boot = self.nodes[node].boot;
        self.schedule(down.max(MS), Event::NodeUp { node, boot });
    }

    /// The process of a node at level `memory` may be killed in the middle of what it does now.
    pub(crate) fn may_die_in(&mut self, at: NodeIx) -> bool {
        let may = self.level == Level::Memory && self.nodes[at].up && self.strikes(Hazard::KilledStoring);
        if may {
            // Most things take few stores, and some take many.
            let most = if self.rng.chance(700) { 8 } else { 60 };
            let stores = self.rng.between(0, most);
            self.nodes[at].rest.dies_before(stores);
        }
        may
    }

    /// It was, or it is out of danger.
    pub(crate) fn dies_or_lives_on(&mut self, at: NodeIx) {
        if !self.nodes[at].rest.lives_on() {
            self.run.torn += 1;
            let down = self.rng.between(MS, 300 * MS);
            self.kill_node(at, down);
        }
    }

    fn kill_node(&mut self, at: NodeIx, down: u64) {
        if self.nodes[at].up {
            self.run.kills += 1;
            self.stop_node(at, down);
        } else if self.nodes[at].mine.is_some() {
            // In the middle of its start.
            self.run.killed_starts += 1;
            self.nodes[at].stop();
            self.starts_later(at, down);
        }
    }

    /// What was not synced may be lost, also of a process that was killed before.
    fn crash_machine(&mut self, at: NodeIx, down: u64) {
        if self.nodes[at].up {
            self.stop_node(at, down);
        }
        if let Some(journal) = &mut self.nodes[at].journal {
            journal.power_cut(&mut self.rng);
        }
        self.run.power_cuts += 1;
    }

    pub(crate) fn lose_buffer(&mut self, at: NodeIx, down: u64) {
        if self.nodes[at].up && self.may_forget(at) {
            self.run.crashes += 1;
            self.stop_node(at, down);
            if let Some(journal) = &self.nodes[at].journal {
                journal.rot(&mut self.rng);
                self.run.rotten += u64::from(journal.damaged());
            }
            self.run.rotten += u64::from(self.nodes[at].rest.rot(&mut self.rng));
            let level = self.level;
            self.nodes[at].forget(level);
        }
    }

    fn pause_node(&mut self, at: NodeIx, pause: u64) {
        if self.nodes[at].up && !self.nodes[at].paused {
            self.nodes[at].paused = true;
            self.schedule(pause, Event::NodeResumes { node: at });
        }
    }

    fn isolate_node(&mut self, at: NodeIx, during: u64) {
        if !self.nodes[at].isolated {
            self.nodes[at].isolated = true;
            self.break_links_of(at);
            self.schedule(during, Event::IsolationEnds { node: at });
        }
    }

    fn pause_client(&mut self, pick: u64, pause: u64) {
        let running: Vec<usize> = (0..self.clients.len())
            .filter(|at| !self.clients[*at].gone() && !self.clients[*at].paused)
            .collect();
        if let Some(client) = one_of(&running, pick) {
            self.clients[client].paused = true;
            self.schedule(pause, Event::ClientResumes { client });
        }
    }

    fn crash_client(&mut self, pick: u64, which: impl Fn(&Client) -> bool) {
        let running: Vec<usize> = (0..self.clients.len())
            .filter(|at| !self.clients[*at].gone() && which(&self.clients[*at]))
            .collect();
        let Some(client) = one_of(&running, pick) else { return };
        self.run.crashed_takeovers += u64::from(self.clients[client].takes_over());
        self.end_client(client);
        if pick % 10 < 7 {
            self.start_client();
        }
    }

    /// Somebody takes over although the writer is there: the old one lives on as a zombie.
    fn start_rival(&mut self) {
        let running = self.clients.iter().filter(|client| !client.gone()).count();
        if running < 4 {
            self.start_client();
        }
    }
}

fn one_of<T: Copy>(items: &[T], pick: u64) -> Option<T> {
    (!items.is_empty()).then(|| items[(pick % items.len() as u64) as usize])
}
