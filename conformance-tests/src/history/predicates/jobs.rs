//! What a job's record says: stored once, changed as allowed, counted, and kept long enough.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jobkit_core::ids::{IdAge, id_age};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::{JobId, Timestamp};

use super::super::{Fact, History};
use super::{Checked, States, broken};

/// Which reasons lead from a state.
fn may_follow(from: StateName, to: StateName, reason: Reason) -> bool {
    use StateName::{Awaiting, Deleted, Enqueued, Failed, Processing, Scheduled, Succeeded};
    match (from, to) {
        (Awaiting, Enqueued) => matches!(reason, Reason::Released | Reason::RunNow),
        (Awaiting, Scheduled) => reason == Reason::Delay,
        (Scheduled, Enqueued) => matches!(reason, Reason::Due | Reason::RunNow),
        (Scheduled | Enqueued, Scheduled) => reason == Reason::Rescheduled,
        (Enqueued, Processing) => reason == Reason::Claimed,
        (Enqueued, Failed) => reason == Reason::Unreadable,
        (Processing, Enqueued) => {
            matches!(reason, Reason::Retry | Reason::Snooze | Reason::GivenBack | Reason::Rescued)
        }
        (Processing, Scheduled) => matches!(reason, Reason::Retry | Reason::Snooze),
        (Processing, Succeeded) => reason == Reason::Done,
        (Processing, Failed | Deleted)
        | (Awaiting | Scheduled | Enqueued | Succeeded | Failed, Deleted) => true,
        (Succeeded | Failed | Deleted, Enqueued | Scheduled) => reason == Reason::Requeued,
        _ => false,
    }
}

/// G1: what a client was told is stored; a job goes from state to state as the table allows, and stays
/// until it is gone.
pub fn g1_durable(history: &History) -> Checked {
    let mut states: BTreeMap<JobId, StateName> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for event in &history.events {
        match &event.fact {
            Fact::Told(job) if !states.contains_key(job) => {
                return broken("G1", event, *job, "a client was told that it is stored");
            }
            Fact::Create { job, to, .. } => {
                states.insert(*job, *to);
            }
            Fact::Step { job, to, reason, .. } => match states.insert(*job, *to) {
                _ if gone.contains(job) => {
                    return broken("G1", event, *job, format!("it is gone, and became {to}"));
                }
                Some(from) if !may_follow(from, *to, *reason) => {
                    let what = format!("{from} became {to}: {reason:?}");
                    return broken("G1", event, *job, what);
                }
                _ => {}
            },
            Fact::Gone { job, .. } => {
                gone.insert(*job);
            }
            _ => {}
        }
    }
    Ok(())
}

/// G2: an id is stored once, and not when it is too old to be remembered.
pub fn g2_submitted_once(history: &History) -> Checked {
    let mut seen = BTreeSet::new();
    for event in &history.events {
        if let Fact::Create { job, .. } = &event.fact {
            let age = id_age(job.created_at(), event.at);
            if age != IdAge::Fine {
                return broken("G2", event, *job, format!("its id was accepted, and is {age:?}"));
            }
            // An id of a key may come again once its record is gone.
            if !seen.insert(*job) && job.created_at().is_some() {
                return broken("G2", event, *job, "it was stored twice");
            }
        }
    }
    Ok(())
}

/// G3: the jobs of one submission are stored in one commit; G20: nothing of what is refused.
pub fn g3_atomic_submit(history: &History) -> Checked {
    let mut commits = BTreeMap::new();
    let mut stored = BTreeSet::new();
    for commit in history.commits() {
        let mut refused = BTreeSet::new();
        for event in commit {
            match &event.fact {
                Fact::Refused(job) => {
                    refused.insert(*job);
                }
                Fact::Together(jobs) => {
                    let missing = jobs.iter().find(|job| !stored.contains(*job));
                    if let Some(missing) =
                        missing.filter(|_| jobs.iter().any(|it| stored.contains(it)))
                    {
                        return broken("G3", event, *missing, "the others of its flow are stored");
                    }
                }
                Fact::Create { job, submission, .. } => {
                    stored.insert(*job);
                    if *commits.entry(*submission).or_insert(event.s) != event.s {
                        return broken("G3", event, *job, "it came later than its flow");
                    }
                    if refused.contains(job) {
                        return broken("G20", event, *job, "it was refused, and is stored");
                    }
                }
                Fact::Step { job, .. } if refused.contains(job) => {
                    return broken("G20", event, *job, "its change was refused, and it changed");
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The outcome of a schedule's occurrences.
#[derive(Default)]
struct Occurrences {
    fired: BTreeSet<Timestamp>,
    last: Option<Timestamp>,
    /// The latest that was fired or skipped, also while the clock was ahead.
    highest: Option<Timestamp>,
    /// The storage's clock at the last of them.
    at: Timestamp,
    /// It has shown an earlier time since.
    went_back: bool,
}

/// G10: an occurrence is fired once, or skipped, and none is left out. What was skipped while the clock was
/// ahead may come again once it has gone back; what was fired may not.
pub fn g10_one_job_per_occurrence(history: &History) -> Checked {
    let mut every: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut all: BTreeMap<&str, Occurrences> = BTreeMap::new();
    for event in &history.events {
        for its in all.values_mut() {
            its.went_back |= event.at < its.at;
        }
        let (id, from, through) = match &event.fact {
            Fact::Schedule { id, every: pace } => {
                every.insert(id, *pace);
                continue;
            }
            Fact::Fired { id, nominal_at } => (id, *nominal_at, *nominal_at),
            Fact::Skipped { id, from, through } => (id, *from, *through),
            _ => continue,
        };
        let its = all.entry(id).or_default();
        its.at = event.at;
        let went_back = std::mem::take(&mut its.went_back);
        let again = its.last.is_some_and(|last| from <= last) && !went_back;
        if again || its.fired.range(from..=through).next().is_some() {
            return broken("G10", event, None, format!("{id:?} came twice for {from}"));
        }
        // One that was on its way when the clock went back lies ahead of it: the schedule is set anew after it.
        its.went_back = went_back && from > event.at;
        if let (Some(highest), Some(pace)) = (its.highest, every.get(id.as_str()))
            && from > highest.plus(*pace)
        {
            let what = format!("{id:?} left out what lies between {highest} and {from}");
            return broken("G10", event, None, what);
        }
        if matches!(event.fact, Fact::Fired { .. }) {
            its.fired.insert(from);
        }
        its.last = Some(through);
        its.highest = its.highest.max(Some(through));
    }
    Ok(())
}

/// G17: a job's history is what was applied, in order.
pub fn g17_history_is_true(history: &History) -> Checked {
    let mut applied: BTreeMap<JobId, Vec<StateName>> = BTreeMap::new();
    for event in &history.events {
        match &event.fact {
            Fact::Create { job, to, .. } => drop(applied.insert(*job, vec![*to])),
            Fact::Step { job, to, .. } => applied.entry(*job).or_default().push(*to),
            Fact::Recorded { job, dropped, kept } => {
                let Some(applied) = applied.get(job) else { continue };
                let total = kept.len() as u64 + dropped;
                let first = kept.len().min(jobkit_core::bounds::HISTORY_FIRST);
                let rest = kept.len() - first;
                let fits = total == applied.len() as u64
                    && applied[..first] == kept[..first]
                    && applied[applied.len() - rest..] == kept[first..];
                if !fits {
                    let what =
                        format!("its history tells {kept:?} and {dropped} more of {applied:?}");
                    return broken("G17", event, *job, what);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// G18: what was counted is what happened.
pub fn g18_totals_add_up(history: &History) -> Checked {
    let mut steps = [0_u64; 7];
    let mut states = States::default();
    for event in &history.events {
        states.take(&event.fact);
        match &event.fact {
            Fact::Create { to, .. } | Fact::Step { to, .. } => steps[to.index()] += 1,
            Fact::Totals(counted) if *counted != steps => {
                let what = format!("{counted:?} transitions were counted of {steps:?}");
                return broken("G18", event, None, what);
            }
            Fact::Standing(counted) => {
                let mut standing = [0_u64; 7];
                states.0.values().for_each(|state| standing[state.index()] += 1);
                if *counted != standing {
                    let what = format!("{counted:?} jobs are counted of {standing:?}");
                    return broken("G18", event, None, what);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// G19: only what has finished and expired goes.
pub fn g19_retention(history: &History) -> Checked {
    let mut states = States::default();
    for event in &history.events {
        if let Fact::Gone { job, expires_at } = &event.fact {
            let state = states.0.get(job);
            let finished = state.is_none_or(|state| state.is_finished());
            if !finished || expires_at.is_none_or(|expires_at| expires_at > event.at) {
                let what = format!("{state:?} went, to expire {expires_at:?}");
                return broken("G19", event, *job, what);
            }
        }
        states.take(&event.fact);
    }
    Ok(())
}
