//! Who is next: order, pauses, and that nobody is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use jobkit_core::JobId;
use jobkit_core::state::StateName;
use jobkit_core::storage::PauseTarget;

use super::super::{Fact, History, Place};
use super::{Checked, States, broken};

/// Jobs that can be claimed, and what is paused.
#[derive(Default)]
struct Line {
    places: BTreeMap<JobId, Place>,
    enqueued: BTreeSet<JobId>,
    paused: Vec<PauseTarget>,
}

impl Line {
    fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Create { job, to, place, .. } => {
                self.places.insert(*job, place.clone());
                self.step(*job, *to);
            }
            Fact::Moved { job, place } => {
                self.places.insert(*job, place.clone());
            }
            Fact::Step { job, to, .. } => self.step(*job, *to),
            Fact::Gone { job, .. } => {
                self.enqueued.remove(job);
            }
            Fact::Paused(target) => self.paused.push(target.clone()),
            Fact::Resumed(target) => self.paused.retain(|paused| paused != target),
            _ => {}
        }
    }

    fn step(&mut self, job: JobId, to: StateName) {
        if to == StateName::Enqueued {
            self.enqueued.insert(job);
        } else {
            self.enqueued.remove(&job);
        }
    }

    fn is_paused(&self, place: &Place) -> bool {
        self.paused.iter().any(|target| match target {
            PauseTarget::Queue(queue) => *queue == place.queue,
            PauseTarget::Kind(kind) => *kind == place.kind,
        })
    }
}

/// G14: nobody is claimed before one that stood in front of it in the same queue.
pub fn g14_ordered(history: &History) -> Checked {
    let mut line = Line::default();
    let mut kinds = Vec::new();
    let (mut commit, mut before) = (0, BTreeSet::new());
    for event in &history.events {
        if event.s != commit {
            // What a claim itself makes claimable, by giving up what was in its way, is too late for it.
            (commit, before) = (event.s, line.enqueued.clone());
        }
        line.take(&event.fact);
        match &event.fact {
            Fact::Asked { kinds: asked, .. } => kinds.clone_from(asked),
            Fact::Claim { job, .. } => {
                let Some(place) = line.places.get(job) else { continue };
                let before = line.enqueued.intersection(&before).find(|other| {
                    line.places.get(*other).is_some_and(|other| {
                        other.queue == place.queue
                            && other.rank < place.rank
                            && !other.conditional
                            && kinds.contains(&other.kind)
                            && !line.is_paused(other)
                    })
                });
                if let Some(before) = before {
                    return broken("G14", event, *job, format!("{before} stood before it"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// G15: nothing is claimed that is paused.
pub fn g15_paused_yields_nothing(history: &History) -> Checked {
    let mut line = Line::default();
    for event in &history.events {
        line.take(&event.fact);
        if let Fact::Claim { job, .. } = &event.fact
            && line.places.get(job).is_some_and(|place| line.is_paused(place))
        {
            return broken("G15", event, *job, "it was claimed while it is paused");
        }
    }
    Ok(())
}

/// G16, G21: at the end nothing is left that could be claimed, promoted or rescued.
pub fn g16_noticed(history: &History) -> Checked {
    let mut states = States::default();
    for event in &history.events {
        states.take(&event.fact);
        if event.fact == Fact::Quiet {
            let left = |state: &StateName| !state.is_finished() && *state != StateName::Awaiting;
            if let Some((job, state)) = states.0.iter().find(|(_, state)| left(state)) {
                return broken("G16", event, *job, format!("it is {state}, and stays so"));
            }
        }
    }
    Ok(())
}
