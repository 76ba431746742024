//! One function for each guarantee that can be seen from outside.
//!
//! G7 is also what the others check within a commit: effects that come later are found there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jobkit_core::edge::{BatchCounts, Decision, Edge, Finish, Parent};
use jobkit_core::ids::{IdAge, id_age};
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::PauseTarget;
use jobkit_core::{BatchId, Incarnation, JobId, Timestamp};

use super::{Event, Fact, History, Place, Violation};

/// What a predicate answers.
pub type Checked = Result<(), Violation>;

/// A guarantee, as a function of what happened.
pub type Predicate = fn(&History) -> Checked;

/// All of them, by name.
pub const PREDICATES: [(&str, Predicate); 19] = [
    ("g1_durable", g1_durable),
    ("g2_submitted_once", g2_submitted_once),
    ("g3_atomic_submit", g3_atomic_submit),
    ("g4_one_lease", g4_one_lease),
    ("g5_fenced", g5_fenced),
    ("g6_ends_once", g6_ends_once),
    ("g7_together", g7_together),
    ("g8_decided_once", g8_decided_once),
    ("g9_batch_counts", g9_batch_counts),
    ("g10_one_job_per_occurrence", g10_one_job_per_occurrence),
    ("g11_unique", g11_unique),
    ("g12_locks_exclude", g12_locks_exclude),
    ("g13_limits_hold", g13_limits_hold),
    ("g14_ordered", g14_ordered),
    ("g15_paused_yields_nothing", g15_paused_yields_nothing),
    ("g16_noticed", g16_noticed),
    ("g17_history_is_true", g17_history_is_true),
    ("g18_totals_add_up", g18_totals_add_up),
    ("g19_retention", g19_retention),
];

fn broken(
    guarantee: &'static str,
    event: &Event,
    job: impl Into<Option<JobId>>,
    what: impl Into<String>,
) -> Checked {
    Err(Violation { guarantee, job: job.into(), s: event.s, what: what.into() })
}

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

#[derive(Default)]
struct Edges {
    states: BTreeMap<JobId, StateName>,
    batches: BTreeMap<BatchId, (bool, BatchCounts)>,
    gone: BTreeSet<JobId>,
    /// By child: each edge, and whether it is decided.
    edges: BTreeMap<JobId, Vec<(Edge, bool)>>,
    /// Children with an edge that is not.
    open: BTreeSet<JobId>,
}

impl Edges {
    fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                self.states.insert(*job, *to);
            }
            Fact::Gone { job, .. } => {
                self.gone.insert(*job);
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
                Some((completed, counts)) => edge.on.decide_batch(*completed, counts),
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

/// G10: an occurrence is fired or skipped once, and none is left out.
pub fn g10_one_job_per_occurrence(history: &History) -> Checked {
    let mut every: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut last: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for event in &history.events {
        let (id, from, through) = match &event.fact {
            Fact::Schedule { id, every: pace } => {
                every.insert(id, *pace);
                continue;
            }
            Fact::Fired { id, nominal_at } => (id, *nominal_at, *nominal_at),
            Fact::Skipped { id, from, through } => (id, *from, *through),
            _ => continue,
        };
        let before = last.insert(id, through);
        match (before, every.get(id.as_str())) {
            (Some(before), _) if from <= before => {
                return broken("G10", event, None, format!("{id:?} came twice for {from}"));
            }
            (Some(before), Some(pace)) if before.plus(*pace) != from => {
                let what = format!("{id:?} left out what lies between {before} and {from}");
                return broken("G10", event, None, what);
            }
            _ => {}
        }
    }
    Ok(())
}

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
    let mut states: BTreeMap<JobId, StateName> = BTreeMap::new();
    for event in &history.events {
        match &event.fact {
            Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                states.insert(*job, *to);
            }
            Fact::Gone { job, .. } => {
                states.remove(job);
            }
            Fact::Quiet => {
                let left =
                    |state: &StateName| !state.is_finished() && *state != StateName::Awaiting;
                if let Some((job, state)) = states.iter().find(|(_, state)| left(state)) {
                    return broken("G16", event, *job, format!("it is {state}, and stays so"));
                }
            }
            _ => {}
        }
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
    let mut states: BTreeMap<JobId, StateName> = BTreeMap::new();
    for event in &history.events {
        match &event.fact {
            Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                steps[to.index()] += 1;
                states.insert(*job, *to);
            }
            Fact::Gone { job, .. } => drop(states.remove(job)),
            Fact::Totals(counted) if *counted != steps => {
                let what = format!("{counted:?} transitions were counted of {steps:?}");
                return broken("G18", event, None, what);
            }
            Fact::Standing(counted) => {
                let mut standing = [0_u64; 7];
                states.values().for_each(|state| standing[state.index()] += 1);
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
    let mut states: BTreeMap<JobId, StateName> = BTreeMap::new();
    for event in &history.events {
        match &event.fact {
            Fact::Create { job, to, .. } | Fact::Step { job, to, .. } => {
                states.insert(*job, *to);
            }
            Fact::Gone { job, expires_at } => {
                let finished = states.get(job).is_none_or(|state| state.is_finished());
                if !finished || expires_at.is_none_or(|expires_at| expires_at > event.at) {
                    let what = format!("{:?} went, to expire {expires_at:?}", states.get(job));
                    return broken("G19", event, *job, what);
                }
            }
            _ => {}
        }
    }
    Ok(())
}
