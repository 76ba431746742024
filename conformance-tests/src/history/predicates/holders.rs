//! What few may hold at a time: keys, locks and limits.

use std::collections::{BTreeMap, BTreeSet};

use jobkit_core::{Incarnation, JobId, Timestamp};

use super::super::{Event, Fact, History};
use super::{Checked, broken};

/// G11: after every commit at most one job holds a key, and who is said to hold it does.
pub fn g11_unique(history: &History) -> Checked {
    let mut keys: BTreeMap<&str, BTreeSet<JobId>> = BTreeMap::new();
    for commit in history.commits() {
        let asked = commit.iter().any(|event| matches!(event.fact, Fact::KeyHeldBy { .. }));
        let before = if asked { keys.clone() } else { BTreeMap::new() };
        let mut taken = BTreeSet::new();
        for event in commit {
            match &event.fact {
                Fact::KeyFreed { job, key } => {
                    keys.entry(key).or_default().remove(job);
                }
                Fact::KeyTaken { job, key } => {
                    keys.entry(key).or_default().insert(*job);
                    taken.insert((key.as_str(), *job));
                }
                _ => {}
            }
        }
        for event in commit {
            match &event.fact {
                // One may give way to the next of the same flight.
                Fact::KeyTaken { job, key } => {
                    let Some(holders) = keys.get(key.as_str()) else { continue };
                    if let Some(holder) = holders.iter().find(|holder| *holder != job)
                        && holders.contains(job)
                    {
                        return broken("G11", event, *job, format!("{key:?} is {holder}'s too"));
                    }
                }
                Fact::KeyHeldBy { job, key } => {
                    let held = before.get(key.as_str()).is_some_and(|it| it.contains(job));
                    if !held && !taken.contains(&(key.as_str(), *job)) {
                        let what = format!("{key:?} is said to be held by it, and is not");
                        return broken("G11", event, *job, what);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// G12: a lock has one owner at a time, and its generation grows.
pub fn g12_locks_exclude(history: &History) -> Checked {
    let mut owners: BTreeMap<&str, (Incarnation, u64, Timestamp)> = BTreeMap::new();
    for event in &history.events {
        if let Fact::Locked { name, owner, generation, until } = &event.fact {
            let before = owners.insert(name, (*owner, *generation, *until));
            let Some((other, last, held_until)) = before.filter(|before| before.0 != *owner) else {
                continue;
            };
            if event.at < held_until || *generation <= last {
                let what = format!("{name:?}: {generation} took it from {other:?} with {last}");
                return broken("G12", event, None, what);
            }
        }
    }
    Ok(())
}

/// G13: never more holders than the limit says when a slot is taken, and a slot is used by a running
/// job, no longer and no shorter.
pub fn g13_limits_hold(history: &History) -> Checked {
    let mut limited: BTreeMap<JobId, Vec<&str>> = BTreeMap::new();
    let mut limits: BTreeMap<&str, (u32, Option<u32>)> = BTreeMap::new();
    let mut holders: BTreeMap<&str, BTreeSet<JobId>> = BTreeMap::new();
    for commit in history.commits() {
        let mut taken: Vec<(&Event, JobId)> = Vec::new();
        for event in commit {
            match &event.fact {
                Fact::Limited { job, limit } => limited.entry(*job).or_default().push(limit),
                Fact::Claim { job, .. } => {
                    for limit in limited.get(job).into_iter().flatten() {
                        holders.entry(limit).or_default().insert(*job);
                    }
                    taken.push((event, *job));
                }
                Fact::End { job, .. } => holders.values_mut().for_each(|jobs| {
                    jobs.remove(job);
                }),
                Fact::Limit { name, max, used } => {
                    limits.insert(name, (*max, Some(*used)));
                }
                Fact::LimitMax { name, max } => {
                    limits.insert(name, (*max, None));
                }
                _ => {}
            }
        }
        for (event, job) in taken {
            for limit in limited.get(&job).into_iter().flatten() {
                let running = holders.get(limit).map_or(0, BTreeSet::len);
                if limits.get(limit).is_some_and(|(max, _)| running > *max as usize) {
                    let what = format!("{running} run under {limit:?}");
                    return broken("G13", event, job, what);
                }
            }
        }
        let Some(last) = commit.last() else { continue };
        for (name, (_, used)) in &limits {
            let running = holders.get(name).map_or(0, BTreeSet::len);
            if let Some(used) = used.filter(|used| running != *used as usize) {
                let what = format!("{name:?} has {used} slots taken, and {running} jobs run");
                return broken("G13", last, None, what);
            }
        }
    }
    Ok(())
}
