//! `claim`.

use std::collections::HashSet;
use std::time::Duration;

use jobkit_core::record::{Lease, Locator, Payload};
use jobkit_core::state::{Hold, State};
use jobkit_core::state_machine::Event;
use jobkit_core::storage::{ClaimRequest, Claimed, ClaimedJob};
use jobkit_core::{Error, ErrorKind, Name, Timestamp, bounds};

use super::claim_order::{MergedLanes, lanes_of};
use super::promote::next_due_at;
use crate::codec::job_row::{Job, args_overflow_id, column, select_job};
use crate::codec::{int, payload, rank_of, uint};
use crate::error::{SqlResult, warn_corrupt_row};
use crate::jobs::finish::finish_step;
use crate::jobs::read::overflow;
use crate::jobs::transition::{TransitionContext, transition};
use crate::jobs::unreadable::give_up_unreadable;
use crate::limits::slots;
use crate::operations::pauses::Paused;
use crate::txn::Txn;
use crate::txn::batch_update::is_self_contained;
use crate::txn::marks::Budget;

/// The shortest time after which something is due: zero would mean that the claim ended early.
const DUE_SOON: Duration = Duration::from_millis(1);

/// A claim in progress.
struct Claim<'r> {
    request: &'r ClaimRequest,
    now: Timestamp,
    paused: Paused,
    jobs: Vec<ClaimedJob>,
    /// How many more candidates may be skipped because they cannot be claimed.
    skips_left: usize,
}

/// Whether a kind is served.
fn wanted_kinds(kinds: &[Name]) -> impl Fn(&Name) -> bool + '_ {
    let set: Option<HashSet<&Name>> = (kinds.len() > 16).then(|| kinds.iter().collect());
    move |kind| match &set {
        Some(set) => set.contains(kind),
        None => kinds.contains(kind),
    }
}

pub(crate) fn claim(
    txn: &mut Txn<'_, '_>,
    request: &ClaimRequest,
    now: Timestamp,
) -> SqlResult<Claimed> {
    let incarnation = request.incarnation;
    let last_claim = txn.db.one(
        "SELECT last_claim FROM jk_server WHERE incarnation = ?1",
        [incarnation.as_i64()],
        |row| row.get::<_, i64>(0),
    )?;
    let Some(last_claim) = last_claim else {
        return Err(Error::new(
            ErrorKind::NotAnnounced,
            format!("server {} has not announced itself, or was removed", request.server),
        )
        .into());
    };
    if request.sequence <= uint(last_claim) {
        let jobs = claimed_before(txn, request)?;
        return Ok(Claimed { jobs, ..Claimed::default() });
    }

    let mut claim = Claim {
        request,
        now,
        paused: Paused::read(txn.db, now)?,
        jobs: Vec::new(),
        // Skipped candidates are bounded, so that a claim ends.
        skips_left: request.max.saturating_mul(4).saturating_add(100),
    };
    for quota in &request.queues {
        if claim.jobs.len() >= request.max || claim.skips_left == 0 {
            break;
        }
        claim_from(txn, &mut claim, &quota.queue, quota.max)?;
    }
    txn.db.run(
        "UPDATE jk_server SET last_claim = ?2 WHERE incarnation = ?1",
        [incarnation.as_i64(), int(request.sequence)],
    )?;
    let (jobs, ended_early) = (claim.jobs, claim.skips_left == 0);
    // Jobs whose latest start has passed were deleted on the way.
    finish_step(txn, now, &mut Budget(bounds::CHILDREN_IN_SETTLE))?;
    let again_in = match (ended_early, jobs.is_empty()) {
        (true, _) => Some(Duration::ZERO),
        // Two looks into indexes; who polls in vain then need not ask for what is due.
        (false, true) => Some(nothing_due_for(txn, now)?),
        (false, false) => None,
    };
    Ok(Claimed { jobs, hint: None, again_in })
}

fn nothing_due_for(txn: &mut Txn<'_, '_>, now: Timestamp) -> SqlResult<Duration> {
    let bound = bounds::NOTHING_DUE;
    let next = next_due_at(txn)?;
    Ok(next.map_or(bound, |at| at.since(now).clamp(DUE_SOON, bound)))
}

/// Takes jobs of one queue, by priority and sequence.
fn claim_from(
    txn: &mut Txn<'_, '_>,
    claim: &mut Claim<'_>,
    queue: &Name,
    quota: usize,
) -> SqlResult {
    let Some(queue_id) = txn.db.name_id(queue)? else { return Ok(()) };
    if claim.paused.queues.contains(&queue_id) {
        return Ok(());
    }
    let wanted = wanted_kinds(&claim.request.kinds);
    let mut kinds = Vec::new();
    for kind in lanes_of(txn.db, queue_id)? {
        let name = txn.db.name(kind)?;
        if !claim.paused.kinds.contains(&kind) && wanted(&name) {
            kinds.push(kind);
        }
    }
    let room = quota.min(claim.request.max - claim.jobs.len());
    let mut taken = 0;
    let mut lanes = MergedLanes::new(queue_id, &kinds, room);
    while taken < room && claim.skips_left > 0 {
        let Some(candidate) = lanes.next(txn.db)? else { break };
        if claim_one(txn, claim, candidate.seq, candidate.job)? {
            taken += 1;
        } else {
            claim.skips_left -= 1;
        }
    }
    txn.pending.flush(txn.db)
}

/// Claims a candidate, unless it is too late, unreadable, or its limit is full.
fn claim_one(
    txn: &mut Txn<'_, '_>,
    claim: &mut Claim<'_>,
    seq: i64,
    read: SqlResult<(Job, Option<Payload>)>,
) -> SqlResult<bool> {
    let now = claim.now;
    let readable = read.and_then(|(job, args)| {
        let args = match args {
            Some(args) => args,
            None => overflow(txn.db, args_overflow_id(job.seq))?
                .ok_or_else(|| Error::corrupt("the arguments are missing"))?,
        };
        let (limits, extras) = (job.limits()?, job.extras()?);
        job.unique()?;
        Ok((job, args, limits, extras))
    });
    let (mut job, args, limits, extras) = match readable {
        Ok(readable) => readable,
        Err(fault) if fault.is_corrupt_row() => {
            tracing::warn!(sequence = seq, error = %fault, "an unreadable job becomes Failed");
            give_up_unreadable(txn, seq, now)?;
            return Ok(false);
        }
        Err(fault) => return Err(fault),
    };
    txn.pending.begin(txn.db, &job)?;
    if job.head.must_start_by(job.start_by).is_some_and(|start_by| start_by <= now) {
        let _ = transition(txn, &mut job, &Event::StartExpired, &TransitionContext::at(now))?;
        return Ok(false);
    }
    if !limits.is_empty()
        && let Some(full) = slots::take(txn, &limits, now)?
    {
        slots::park(txn, &job, full)?;
        return Ok(false);
    }
    let request = claim.request;
    let hold = Hold {
        server: request.server.clone(),
        incarnation: request.incarnation,
        claim_sequence: request.sequence,
        claimed_at: now,
        expires_at: now.plus(request.lease),
        started: claim.jobs.len() < request.started,
        cancel: None,
    };
    // Enqueued jobs can always be claimed.
    let _ = transition(txn, &mut job, &Event::Claim(hold), &TransitionContext::at(now))?;
    if job.history.is_none() && is_self_contained(&job) {
        txn.carried.claimed.remember(&job);
    }
    claim.jobs.push(claimed(txn, job, args, extras)?);
    Ok(true)
}

fn claimed(
    txn: &Txn<'_, '_>,
    job: Job,
    args: Payload,
    extras: Option<Box<jobkit_core::record::Extras>>,
) -> SqlResult<ClaimedJob> {
    let State::Processing(hold) = &job.head.state else {
        return Err(Error::new(ErrorKind::Internal, "a claimed job is not held").into());
    };
    Ok(ClaimedJob {
        lease: Lease {
            job: job.id,
            locator: Locator(uint(job.seq)),
            fence: job.head.fence,
            incarnation: hold.incarnation,
        },
        kind: txn.db.name(job.kind)?,
        queue: txn.db.name(job.queue)?,
        priority: job.priority,
        args,
        failures: job.head.failures,
        crashes: job.head.crashes,
        run: job.head.run,
        created_at: job.created_at,
        enqueued_at: job.enqueued_at.unwrap_or(job.created_at),
        claimed_at: hold.claimed_at,
        batch: job.batch,
        limited: job.limits.is_some(),
        extras,
    })
}

/// The jobs of an earlier claim that are still held.
fn claimed_before(txn: &mut Txn<'_, '_>, request: &ClaimRequest) -> SqlResult<Vec<ClaimedJob>> {
    let mut found = Vec::new();
    {
        let mut statement = txn.db.prepare(select_job!(
            ", args",
            "INDEXED BY jk_held WHERE state = {processing} AND incarnation = ?1 AND claim_seq = ?2"
        ))?;
        let mut rows = statement.query([request.incarnation.as_i64(), int(request.sequence)])?;
        while let Some(row) = rows.next()? {
            let read = Job::read(txn.db, row);
            match read.and_then(|job| Ok((job.extras()?, job, payload(row, column::COUNT)?))) {
                // No worker runs it, so its lease expires.
                Err(fault) if fault.is_corrupt_row() => {
                    warn_corrupt_row(row.get(column::SEQ)?, &fault)
                }
                read => found.push(read?),
            }
        }
    }
    let mut jobs = Vec::with_capacity(found.len());
    for (extras, job, args) in found {
        let queue = txn.db.name(job.queue)?;
        let place = request.queues.iter().position(|quota| quota.queue == queue);
        jobs.push((place, rank_of(job.priority), job.seq, job, args, extras));
    }
    jobs.sort_by_key(|(place, rank, seq, ..)| (*place, *rank, *seq));
    jobs.into_iter()
        .map(|(.., job, args, extras)| {
            let args = match args {
                Some(args) => args,
                None => overflow(txn.db, args_overflow_id(job.seq))?
                    .unwrap_or_else(Payload::empty_object),
            };
            claimed(txn, job, args, extras)
        })
        .collect()
}
