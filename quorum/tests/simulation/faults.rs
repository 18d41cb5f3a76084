//! What goes wrong, and how it stops.

use crate::events::{Event, NodeIx};
use crate::reader::Reader;
use crate::rng::Rng;
use crate::world::{MS, World};
use piculet_quorum::ids::SegmentNumber;
use piculet_quorum::meta::SegmentState;

/// Faults that last.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The object store fails in most cases, for now.
    objects_away: bool,
    /// Members that were proposed as the only holder of an end.
    pub(crate) sole_holders: Vec<(SegmentNumber, NodeIx)>,
    /// The last writer has closed.
    pub(crate) closed: bool,
}

impl Faults {
    /// Whether an upload is stored, and whether its reply arrives.
    pub(crate) fn upload(&self, rng: &mut Rng, healing: bool) -> (bool, bool) {
        if healing {
            return (true, true);
        }
        let fails = if self.objects_away { 900 } else { 60 };
        (!rng.chance(fails), !rng.chance(60))
    }

    /// How long a part's transaction takes, and whether its reply arrives.
    pub(crate) fn part_txn(&self, rng: &mut Rng, healing: bool) -> (u64, bool) {
        if !healing && rng.chance(60) {
            return (rng.between(50 * MS, 900 * MS), false);
        }
        (rng.between(200, 4 * MS), healing || !rng.chance(40))
    }
}

impl World {
    pub(crate) fn fault(&mut self) {
        if self.healing {
            return;
        }
        let next = self.rng.between(10 * MS, 250 * MS);
        self.schedule(next, Event::Fault);
        let all: Vec<NodeIx> = (0..self.nodes.len()).collect();
        let node = self.rng.pick(&all).expect("there are nodes");
        match self.rng.between(0, 100) {
            0..20 => self.break_some_link(),
            20..32 => self.crash_node(node, true),
            32..40 => self.crash_node(node, false),
            40..52 => self.pause_node(node),
            52..60 => self.isolate_node(node),
            60..66 => {
                let lag = self.rng.between(0, 30) * MS;
                self.nodes[node].lag = if self.nodes[node].lag > 0 { 0 } else { lag };
            }
            66..74 => self.pause_client(),
            74..80 => self.crash_client(),
            80..88 => self.start_rival(),
            88..94 => self.store.away = !self.store.away,
            _ => self.faults.objects_away = !self.faults.objects_away,
        }
        let away = if self.store.away { 350 } else { 0 };
        if self.rng.chance(away) {
            self.store.away = false;
        }
        let writers = self.clients.iter().filter(|client| !client.gone()).count();
        if writers == 0 && self.rng.chance(500) {
            self.start_client();
        }
    }

    fn break_some_link(&mut self) {
        let open: Vec<u64> =
            self.links.iter().filter(|(_, link)| link.cut.is_none()).map(|(conn, _)| *conn).collect();
        if let Some(conn) = self.rng.pick(&open) {
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
            let segment = self.store.segment(*number);
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
        !sole && others_live
    }

    fn crash_node(&mut self, at: NodeIx, forget: bool) {
        if !self.nodes[at].up || (forget && !self.may_forget(at)) {
            return;
        }
        self.run.crashes += u64::from(forget);
        self.end_lease(at);
        self.nodes[at].stop(forget);
        self.break_links_of(at);
        let least = if self.rng.chance(400) { MS } else { 100 * MS };
        let down = self.rng.between(least, 9 * least);
        self.schedule(down, Event::NodeUp { node: at });
    }

    fn pause_node(&mut self, at: NodeIx) {
        if self.nodes[at].up && !self.nodes[at].paused {
            self.nodes[at].paused = true;
            let pause = self.rng.between(20 * MS, 1_200 * MS);
            self.schedule(pause, Event::NodeResumes { node: at });
        }
    }

    fn isolate_node(&mut self, at: NodeIx) {
        self.nodes[at].isolated = !self.nodes[at].isolated;
        if self.nodes[at].isolated {
            self.break_links_of(at);
        }
    }

    fn pause_client(&mut self) {
        let running: Vec<usize> = (0..self.clients.len())
            .filter(|at| !self.clients[*at].gone() && !self.clients[*at].paused)
            .collect();
        if let Some(client) = self.rng.pick(&running) {
            self.clients[client].paused = true;
            let pause = self.rng.between(20 * MS, 2_500 * MS);
            self.schedule(pause, Event::ClientResumes { client });
        }
    }

    fn crash_client(&mut self) {
        let running: Vec<usize> = (0..self.clients.len()).filter(|at| !self.clients[*at].gone()).collect();
        if let Some(client) = self.rng.pick(&running) {
            self.end_client(client);
        }
        if self.rng.chance(700) {
            self.start_client();
        }
    }

    /// Somebody takes over although the writer is there: the old one lives on as a zombie.
    fn start_rival(&mut self) {
        let running = self.clients.iter().filter(|client| !client.gone()).count();
        if running < 3 {
            self.start_client();
        }
    }

    /// The faults stop. One last writer takes over, appends, and closes.
    pub(crate) fn heal(&mut self) {
        self.healing = true;
        self.store.away = false;
        for at in 0..self.nodes.len() {
            self.nodes[at].lag = 0;
            self.nodes[at].isolated = false;
        }
        // Whoever still takes over might do so after the last writer, and then crash no more.
        for at in 0..self.clients.len() {
            if self.clients[at].takes_over() {
                self.end_client(at);
            }
        }
        self.readers.push(Reader::new());
        self.schedule(0, Event::ReaderTick { reader: 1 });
        self.schedule(1_000 * MS, Event::LastWriter);
    }

    pub(crate) fn last_writer(&mut self) {
        self.start_client();
        self.schedule(50 * MS, Event::Verdict);
    }
}
