//! Who runs a job: one holder, which alone writes, and an end for each attempt.

use std::collections::{BTreeMap, BTreeSet};

use jobkit_core::state::{Reason, StateName};
use jobkit_core::{Incarnation, JobId};

use super::super::{Fact, History};
use super::{Checked, broken};

/// G4: between a claim and its end nobody else claims, fences grow, a claim that is repeated takes
/// nothing more, and a lease is taken away only when an earlier look saw it expired.
pub fn g4_one_lease(history: &History) -> Checked {
    let mut held: BTreeMap<JobId, u64> = BTreeMap::new();
    let mut fences: BTreeMap<JobId, u64> = BTreeMap::new();
    let mut calls: BTreeMap<(Incarnation, u64), u64> = BTreeMap::new();
    let mut expired: BTreeMap<(JobId, u64), u64> = BTreeMap::new();
    for event in &history.events {
        match &event.fact {
            Fact::Claim { job, fence, life, call } => {
                if let Some(held) = held.insert(*job, *fence) {
                    return broken("G4", event, *job, format!("claimed while {held} holds it"));
                }
                if fences.insert(*job, *fence).is_some_and(|last| last >= *fence) {
                    return broken("G4", event, *job, format!("the fence {fence} did not grow"));
                }
                if *calls.entry((*life, *call)).or_insert(event.s) != event.s {
                    let what = format!("claim {call} took more when it was repeated");
                    return broken("G4", event, *job, what);
                }
            }
            Fact::End { job, .. } => {
                held.remove(job);
            }
            Fact::Forgotten(life) => calls.retain(|(of, _), _| of != life),
            Fact::SeenExpired { job, fence } => {
                expired.entry((*job, *fence)).or_insert(event.s);
            }
            Fact::Rescued { job, fence }
                if expired.get(&(*job, *fence)).is_none_or(|seen| *seen >= event.s) =>
            {
                return broken("G4", event, *job, "rescued without a second look");
            }
            _ => {}
        }
    }
    Ok(())
}

/// G5: only the holder writes, and only what it lists is extended.
pub fn g5_fenced(history: &History) -> Checked {
    let mut holders: BTreeMap<JobId, (u64, Incarnation)> = BTreeMap::new();
    for commit in history.commits() {
        let mut written = BTreeSet::new();
        for event in commit {
            match &event.fact {
                Fact::Claim { job, fence, life, .. } => {
                    holders.insert(*job, (*fence, *life));
                }
                Fact::End { job, .. } => {
                    holders.remove(job);
                }
                Fact::Write { job, fence, life } => {
                    written.insert((*job, *fence));
                    if holders.get(job) != Some(&(*fence, *life)) {
                        let what = format!("{fence} wrote, and {:?} holds it", holders.get(job));
                        return broken("G5", event, *job, what);
                    }
                }
                Fact::Extended { job, fence } if !written.contains(&(*job, *fence)) => {
                    return broken("G5", event, *job, "extended without having been listed");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// G6: an attempt ends once, a run finishes once, a handler starts after its claim, and what was asked
/// to stop ends as Succeeded or Deleted.
pub fn g6_ends_once(history: &History) -> Checked {
    let mut claimed = BTreeSet::new();
    let mut ended = BTreeSet::new();
    let mut finished = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for event in &history.events {
        match &event.fact {
            Fact::Claim { job, fence, .. } => {
                claimed.insert((*job, *fence));
            }
            Fact::End { job, fence }
                if !claimed.contains(&(*job, *fence)) || !ended.insert((*job, *fence)) =>
            {
                let what = format!("attempt {fence} ended twice, or never began");
                return broken("G6", event, *job, what);
            }
            Fact::Started { job, fence } if !claimed.contains(&(*job, *fence)) => {
                return broken("G6", event, *job, format!("{fence} started and was not claimed"));
            }
            Fact::CancelAsked { job, .. } => {
                asked.insert(*job);
            }
            Fact::Step { job, to, reason, run } => {
                let by_hand = *to == StateName::Deleted && *reason != Reason::Cancelled;
                if to.is_finished() && !finished.insert((*job, *run)) && !by_hand {
                    return broken("G6", event, *job, format!("run {run} finished twice"));
                }
                if asked.remove(job) && !matches!(to, StateName::Succeeded | StateName::Deleted) {
                    let what = format!("it was asked to stop, and became {to}");
                    return broken("G6", event, *job, what);
                }
            }
            _ => {}
        }
    }
    Ok(())
}
