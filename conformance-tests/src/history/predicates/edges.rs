//! What hangs together: children and their parents, batches and their members.

use std::collections::{BTreeMap, BTreeSet};

use jobkit_core::edge::{BatchCounts, Decision, Edge, Finish, Parent};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::{BatchId, JobId};

use super::super::{Fact, History};
use super::{Checked, broken};

#[derive(Default)]
struct Edges {
    states: BTreeMap<JobId, StateName>,
    batches: BTreeMap<BatchId, (bool, BatchCounts)>,
    gone: BTreeSet<JobId>,
    /// By child: each edge, and whether it is decided.
    edges: BTreeMap<JobId, Vec<(Edge, bool)>>,
    /// Children with an edge that is not.
    open: BTreeSet<JobId>,
    member_of: BTreeMap<JobId, BatchId>,
    /// Batches of which a Failed member is gone.
    lost: BTreeSet<BatchId>,
}

impl Edges {
    fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                self.states.insert(*job, *to);
            }
            Fact::Gone { job, .. } => {
                self.gone.insert(*job);
                if self.states.get(job) == Some(&StateName::Failed) {
                    self.lost.extend(self.member_of.get(job));
                }
            }
            Fact::Member { job, batch } => {
                self.member_of.insert(*job, *batch);
            }
            Fact::Batch(batch) => {
                self.batches.insert(batch.id, (batch.completed_at.is_some(), batch.counts));
            }
            Fact::Edge { child, edge } => {
                self.edges.entry(*child).or_default().push((*edge, false));
                self.open.insert(*child);
            }
            Fact::Decided { child, parent } => {
                let mut open = false;
                for (edge, decided) in self.edges.get_mut(child).into_iter().flatten() {
                    *decided |= edge.parent == *parent;
                    open |= !*decided;
                }
                if !open {
                    self.open.remove(child);
                }
            }
            _ => {}
        }
    }

    /// What the parent's state means for the edge.
    fn decision(&self, edge: &Edge) -> Decision {
        match edge.parent {
            Parent::Job(id) if self.gone.contains(&id) => edge.on.decide_removed(),
            Parent::Job(id) => self
                .states
                .get(&id)
                .and_then(|state| Finish::of(*state))
                .map_or(Decision::Open, |finish| edge.on.decide(finish)),
            Parent::Batch(id) => match self.batches.get(&id) {
                Some((completed, counts)) => {
                    let lost = counts.lost || self.lost.contains(&id);
                    edge.on.decide_batch(*completed, &BatchCounts { lost, ..*counts })
                }
                None => Decision::Open,
            },
        }
    }
}

/// G7: what a commit makes decidable is decided in it (as long as it is not so much that it is left to a
/// mark).
pub fn g7_together(history: &History) -> Checked {
    let mut now = Edges::default();
    for commit in history.commits() {
        commit.iter().for_each(|event| now.take(&event.fact));
        let Some(last) = commit.last() else { continue };
        for child in &now.open {
            let open = now.edges[child].iter().find(|(edge, decided)| {
                !decided && now.decision(edge) != Decision::Open && !now.gone.contains(child)
            });
            if let Some((edge, _)) = open {
                let what = format!("its parent {:?} has ended, and its edge is open", edge.parent);
                return broken("G7", last, *child, what);
            }
        }
    }
    Ok(())
}

/// G8: an edge is decided once, a child is released once, and only when all of its edges are decided; at
/// the end none is open that could be decided.
pub fn g8_decided_once(history: &History) -> Checked {
    let mut now = Edges::default();
    for event in &history.events {
        match &event.fact {
            Fact::Decided { child, parent } => {
                let edges = now.edges.get(child).map(Vec::as_slice).unwrap_or_default();
                if edges.iter().any(|(edge, decided)| *decided && edge.parent == *parent) {
                    return broken("G8", event, *child, format!("{parent:?} was decided twice"));
                }
            }
            Fact::Step { job, to, reason, .. }
                if now.states.get(job) == Some(&StateName::Awaiting)
                    && matches!(reason, Reason::Released | Reason::Delay) =>
            {
                let edges = now.edges.get(job).map(Vec::as_slice).unwrap_or_default();
                if let Some((edge, _)) = edges.iter().find(|(_, decided)| !decided) {
                    let what = format!("it became {to} while {:?} is open", edge.parent);
                    return broken("G8", event, *job, what);
                }
            }
            Fact::Quiet => {
                for (child, edges) in &now.edges {
                    let open = edges
                        .iter()
                        .find(|(edge, decided)| !decided && now.decision(edge) != Decision::Open);
                    let awaits = now.states.get(child) == Some(&StateName::Awaiting);
                    if let Some((edge, _)) = open.filter(|_| !now.gone.contains(child)) {
                        let what = format!("{:?} has ended, and its edge is open", edge.parent);
                        return broken("G8", event, *child, what);
                    }
                    let all = edges.iter().all(|(_, decided)| *decided);
                    if all && awaits && !now.gone.contains(child) && !edges.is_empty() {
                        let what = "all of its edges are decided, and it still waits";
                        return broken("G8", event, *child, what);
                    }
                }
            }
            _ => {}
        }
        now.take(&event.fact);
    }
    Ok(())
}

/// G9: after every commit a batch's counts are its members' states; it completes with its last member,
/// once, and succeeds when all have.
pub fn g9_batch_counts(history: &History) -> Checked {
    let mut states: BTreeMap<JobId, StateName> = BTreeMap::new();
    let mut members: BTreeMap<BatchId, Vec<JobId>> = BTreeMap::new();
    let mut batches: BTreeMap<BatchId, jobkit_core::batch::BatchRecord> = BTreeMap::new();
    for commit in history.commits() {
        for event in commit {
            match &event.fact {
                Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                    states.insert(*job, *to);
                }
                Fact::Member { job, batch } => members.entry(*batch).or_default().push(*job),
                Fact::Batch(batch) => {
                    let before = batches.insert(batch.id, (**batch).clone());
                    let completed = before.and_then(|before| before.completed_at);
                    if completed.is_some() && completed != batch.completed_at {
                        let what = format!("batch {} completed twice", batch.id);
                        return broken("G9", event, None, what);
                    }
                }
                _ => {}
            }
        }
        let Some(last) = commit.last() else { continue };
        for (id, batch) in &batches {
            let mut counts = BatchCounts { lost: batch.counts.lost, ..BatchCounts::default() };
            let jobs = members.get(id).into_iter().flatten();
            let jobs = jobs.map(|job| states.get(job).and_then(|state| Finish::of(*state)));
            let nested = batches.values().filter(|nested| nested.parent == Some(*id));
            for finish in jobs.chain(nested.map(|nested| nested.as_member())) {
                counts.total += 1;
                if let Some(finish) = finish {
                    counts.count(finish, 1);
                }
            }
            if counts != batch.counts {
                let what =
                    format!("batch {id} counts {:?}, and its members are {counts:?}", batch.counts);
                return broken("G9", last, None, what);
            }
            if batch.started_at.is_some() && counts.open() == 0 && batch.completed_at.is_none() {
                return broken("G9", last, None, format!("batch {id} has not completed"));
            }
        }
    }
    Ok(())
}
