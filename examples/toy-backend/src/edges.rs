//! Edges: what a child waits for, and the decision about children when a parent ends.

use jobkit_core::edge::{Decision, Edge, Finish, On, Parent, Verdict};
use jobkit_core::record::NewRecord;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Event;
use jobkit_core::{BatchId, JobId, Result};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::keys::{Key, last_number, open_edges, table};
use crate::record::{Condition, Job};
use crate::submit::{Planned, PlannedJob};
use crate::sweep::Mark;
use crate::txn::Txn;

/// The end of a parent, as far as its edges are not decided.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) parent: Parent,
    pub(crate) verdict: Verdict,
    /// The last sequence when it ended: children that came later wait for a later end.
    pub(crate) through: u64,
}

pub(crate) const CONDITIONS: [On; 3] = [On::Any, On::Success, On::Failed];

/// All children of a parent, as long as they are kept.
pub(crate) fn children(parent: Parent) -> Key {
    table("child").parent(parent)
}

/// How many marks are to decide edges of a parent.
fn marks_of(parent: Parent) -> Key {
    table("marks-of").parent(parent)
}

impl Txn<'_> {
    // [guide: edges]
    /// The conditions of a new job, with what is decided already, and whether one can never be met.
    pub(crate) fn plan_edges<'p>(
        &self,
        job: &NewRecord,
        within: &dyn Fn(JobId) -> Option<&'p PlannedJob>,
        opens: Option<BatchId>,
    ) -> Planned<(Vec<Condition>, bool)> {
        let mut parents: Vec<Condition> = Vec::with_capacity(job.edges.len());
        let mut unmeetable = false;
        for Edge { mut parent, on } in job.edges.iter().copied() {
            if let Parent::Job(id) = parent
                && let Some(PlannedJob::Existing(holder)) = within(id)
            {
                // The holder of its key stands in its place.
                parent = Parent::Job(*holder);
            }
            let edge = Edge { parent, on };
            if parents.iter().any(|other| other.edge == edge) {
                continue;
            }
            let decision = match parent {
                Parent::Job(id) => match (within(id), self.job_by_id(id)?) {
                    (Some(PlannedJob::New(new)), _) => on.decide_now(new.head.state.name()),
                    (_, Some(_)) if self.has(Fault::ChildOfAFinishedParentWaits) => Decision::Open,
                    (_, Some(stored)) => on.decide_now(stored.record.state()),
                    (_, None) => return Ok(Err(Refusal::ParentGone { parent })),
                },
                // Its members are counted first; then it decides like any other.
                Parent::Batch(id) if opens == Some(id) => Decision::Open,
                Parent::Batch(id) => match self.stored_batch(id)? {
                    Some(batch) => on.decide_batch(batch.completed_at.is_some(), &batch.counts),
                    None => return Ok(Err(Refusal::ParentGone { parent })),
                },
            };
            unmeetable |= decision == Decision::Unmeetable;
            parents.push(Condition { edge, decided: decision != Decision::Open });
        }
        Ok(Ok((parents, unmeetable)))
    }
    // [end]

    pub(crate) fn add_edges(&mut self, job: &Job) {
        let place = job.record.sequence;
        for Condition { edge, decided } in &job.parents {
            self.tx.put(children(edge.parent).number(place), []);
            if !decided && !job.record.state().is_finished() {
                self.tx.put(open_edges(edge.parent, edge.on).number(place), []);
            }
        }
    }

    pub(crate) fn remove_edges(&mut self, job: &Job) {
        let place = job.record.sequence;
        for Condition { edge, .. } in &job.parents {
            self.tx.delete(children(edge.parent).number(place));
            self.tx.delete(open_edges(edge.parent, edge.on).number(place));
        }
    }

    pub(crate) fn has_open_edges(&self, parent: Parent) -> bool {
        CONDITIONS.iter().any(|on| self.first(&open_edges(parent, *on)).is_some())
    }

    pub(crate) fn has_marks(&self, parent: Parent) -> bool {
        self.has_key(&marks_of(parent))
    }

    /// Remembers that a job finished: who waits for it is decided before the call ends.
    pub(crate) fn parent_finished(&mut self, id: JobId, finish: Finish) {
        let parent = Parent::Job(id);
        if self.has_open_edges(parent) && !self.has(Fault::ChildrenAreForgotten) {
            let verdict = Verdict::Finished(finish);
            self.ended.push_back(Ended { parent, verdict, through: self.last("sequence") });
        }
    }

    // [guide: settle-down]
    /// Decides what the call's transitions made decidable: batches that completed, edges of parents that
    /// ended, limits that have room. Children that are given up are parents in turn. What exceeds the
    /// budget is left to sweeps, as a mark, in order.
    pub(crate) fn settle_down(&mut self) -> Result<()> {
        loop {
            if let Some(batch) = self.batches.pop_first() {
                self.advance_batch(batch)?;
            } else if let Some(ended) = self.ended.pop_front() {
                // An earlier end of the same parent decides first.
                if self.has_marks(ended.parent) || !self.decide(&ended)? {
                    self.mark_ended(ended)?;
                }
            } else if let Some(limit) = self.limits.pop_first() {
                if !self.has(Fault::FreedSlotLetsNobodyGo) {
                    self.admit(&limit, crate::limits::ADMITTED_AT_ONCE)?;
                }
            } else {
                return Ok(());
            }
        }
    }

    /// Decides edges of a parent that ended; `false` when the budget did not suffice.
    pub(crate) fn decide(&mut self, ended: &Ended) -> Result<bool> {
        for on in CONDITIONS {
            let met = match ended.verdict.decide(on) {
                Decision::Open => continue,
                Decision::Met => true,
                Decision::Unmeetable => false,
            };
            let open = open_edges(ended.parent, on);
            while let Some(key) = self.first(&open) {
                let child = last_number(&key);
                if child > ended.through && !self.has(Fault::DecisionReachesLaterChildren) {
                    break;
                }
                if self.budget == 0 {
                    return Ok(false);
                }
                self.budget -= 1;
                self.tx.delete(key);
                let mut job = self.job(child)?;
                let edge = Edge { parent: ended.parent, on };
                for parent in job.parents.iter_mut().filter(|it| it.edge == edge) {
                    parent.decided = true;
                }
                self.save(&job)?;
                // A child that someone ran or deleted by hand is past deciding.
                if job.record.state() == StateName::Awaiting {
                    self.must(child, &Event::Decided { met, otherwise: Reason::Unmeetable })?;
                }
            }
        }
        Ok(true)
    }
    // [end]

    fn mark_ended(&mut self, ended: Ended) -> Result<()> {
        if self.has(Fault::NoMarkForManyChildren) {
            return Ok(());
        }
        let marks = self.tx.get(&marks_of(ended.parent)).map_or(0, last_number);
        self.tx.put(marks_of(ended.parent), (marks + 1).to_be_bytes());
        self.mark(&Mark::Decide(ended))
    }

    /// A mark of a parent is done.
    pub(crate) fn unmark_ended(&mut self, parent: Parent) {
        match self.tx.get(&marks_of(parent)).map_or(0, last_number) {
            0 | 1 => self.tx.delete(marks_of(parent)),
            marks => self.tx.put(marks_of(parent), (marks - 1).to_be_bytes()),
        }
    }
}
