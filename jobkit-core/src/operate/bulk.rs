//! Operations on everything that matches a filter, in bounded steps.
//!
//! A step announces in the storage which jobs it is about to change, in which versions; changes them,
//! each guarded by its version and judged by the state machine; and notes the outcomes. Killed
//! anywhere between, the next one who looks finds the announcement, and changes what has not been changed
//! yet: nothing is changed twice, nothing is left out. Any number may drive one operation: servers do,
//! as soon as a heartbeat tells them of one, and so does whoever asked for it and waits.

use std::time::Duration;

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, ErrorKind, Result, offered};
use crate::model::ids::OperationId;
use crate::model::record::JobRecord;
use crate::model::refusal::Refusal;
use crate::operate::search::{self, JobFilter, Plan};
use crate::storage::{
    Action, AuditEntry, BulkPlan, BulkRecord, Call, Change, ChangeOutcome, ChangeRequest, Guard,
    Storage,
};

/// A step that was announced so long ago was left by somebody who is gone.
const LEFT: Duration = Duration::from_secs(30);
/// Jobs that one step changes, at least where this many match.
const STEP: usize = 200;
/// Between two steps others have the storage for this many times as long as the step took, so that workers
/// keep five sixths of it.
pub(crate) const PACE: u32 = 5;
/// How often a job that a stranger's transaction holds is tried again.
const BUSY_TRIES: usize = 5;

/// An operation to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBulk {
    /// Which jobs.
    pub filter: JobFilter,
    /// What is done to each.
    pub action: Action,
    /// Who wants it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How many were counted before; see [`search::count`].
    pub previewed: u64,
    /// Requeued jobs are spread evenly over this duration; zero runs them at once.
    pub spread: Duration,
    /// Only jobs that were in their state by this instant, such as that of the preview; now if `None`.
    pub as_of: Option<Timestamp>,
}

/// Begins an operation on the jobs that match now; those that come into their state later are left alone.
///
/// # Errors
/// Invalid input names the field; `Unsupported` where the storage has no lists or no bulk operations.
///
/// # Cancel safety
/// Dropped, it may have begun or not.
pub async fn begin<S: Storage + ?Sized>(storage: &S, new: NewBulk) -> Result<BulkRecord> {
    let record = BulkRecord {
        id: OperationId::new(),
        version: 1,
        filter: new.filter.to_string(),
        action: new.action,
        as_of: match new.as_of {
            Some(as_of) => as_of,
            None => storage.now().await?,
        },
        spread: new.spread,
        previewed: new.previewed,
        actor: new.actor,
        reason: new.reason,
        place: None,
        plan: None,
        done: 0,
        skipped: 0,
        refused: 0,
        ended_at: None,
        cancelled: false,
    };
    record.check()?;
    // What cannot be read back could never be carried out.
    if record.filter.parse::<JobFilter>()? != new.filter {
        return Err(Error::invalid("filter", "cannot be written so that it means the same"));
    }
    audit(storage, &record).await?;
    // Repeated after a lost answer it is there already.
    match storage.save_bulk(&Call::default(), &record).await {
        Err(error) if error.is_retryable() => {
            if !storage.save_bulk(&Call::default(), &record).await?
                && storage.bulk(record.id).await?.is_none()
            {
                return Err(error);
            }
        }
        saved => {
            saved?;
        }
    }
    Ok(record)
}

/// What a step did.
#[derive(Clone, Debug, PartialEq)]
pub enum Stepped {
    /// The operation goes on.
    Went(BulkRecord),
    /// It has ended.
    Ended(BulkRecord),
    /// Somebody else is at it, or was until a moment ago: look again in a while.
    Theirs(BulkRecord),
    /// There is no such operation.
    Unknown,
}

/// Does the next step of an operation: about 200 jobs.
///
/// # Errors
/// The storage's. The operation stays as it is, or with its step announced, which a later one completes.
///
/// # Cancel safety
/// As a crash: nothing is lost and nothing done twice; the next step goes on half a minute later.
pub async fn step<S: Storage + ?Sized>(storage: &S, id: OperationId) -> Result<Stepped> {
    let Some(record) = storage.bulk(id).await? else { return Ok(Stepped::Unknown) };
    if record.ended_at.is_some() {
        // Whoever ended it may not have come to say so.
        audit(storage, &record).await?;
        return Ok(Stepped::Ended(record));
    }
    let now = storage.now().await?;
    if let Some(plan) = record.plan.clone() {
        // Announced while the clock was ahead, it would be theirs until then.
        if now.apart(plan.at) < LEFT {
            return Ok(Stepped::Theirs(record));
        }
        // Its announcer is gone: now it is announced by this one.
        let plan = BulkPlan { at: now, ..plan };
        let taken = BulkRecord { plan: Some(plan), version: record.version + 1, ..record };
        if !storage.save_bulk(&Call::default(), &taken).await? {
            return Ok(Stepped::Theirs(taken));
        }
        return carry_out(storage, taken, true).await;
    }
    if record.cancelled {
        return end(storage, record, now).await;
    }
    let filter: JobFilter = record.filter.parse()?;
    let plan = Plan::new(&filter, storage.capabilities().text_search, record.as_of);
    let page = search::walk(storage, &plan, record.place.as_deref(), STEP).await?;
    let meant = |job: &&JobRecord| job.head.entered_at <= record.as_of;
    let jobs: Vec<_> =
        page.jobs.iter().filter(meant).map(|job| (job.id, job.head.version)).collect();
    if jobs.is_empty() {
        let Some(place) = page.next else { return end(storage, record, now).await };
        let moved = BulkRecord { place: Some(place), version: record.version + 1, ..record };
        let mine = storage.save_bulk(&Call::default(), &moved).await?;
        return Ok(if mine { Stepped::Went(moved) } else { Stepped::Theirs(moved) });
    }
    let plan = BulkPlan { at: now, jobs, next: page.next };
    let planned = BulkRecord { plan: Some(plan), version: record.version + 1, ..record };
    if !storage.save_bulk(&Call::default(), &planned).await? {
        return Ok(Stepped::Theirs(planned));
    }
    carry_out(storage, planned, false).await
}

/// Counts of a step.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    done: u64,
    skipped: u64,
    refused: u64,
}

/// Changes what was announced, and notes it. `again`: some of it may have been changed before.
async fn carry_out<S: Storage + ?Sized>(
    storage: &S,
    record: BulkRecord,
    again: bool,
) -> Result<Stepped> {
    let Some(plan) = record.plan.clone() else { return Ok(Stepped::Theirs(record)) };
    let mut counts = Counts::default();
    let before = record.done + record.skipped + record.refused;
    let step = storage.capabilities().items_of(bounds::STEP_ITEMS);
    for (chunk, jobs) in plan.jobs.chunks(step).enumerate() {
        let changes: Vec<_> = jobs
            .iter()
            .enumerate()
            .map(|(i, (job, version))| {
                let place = before + (chunk * step + i) as u64;
                Change {
                    operation: OperationId::of_step(record.id, *job),
                    job: *job,
                    guard: Guard::Version(*version),
                    action: action_at(&record, place),
                }
            })
            .collect();
        for outcome in change(storage, &record.actor, changes).await? {
            match outcome {
                ChangeOutcome::Changed { .. } | ChangeOutcome::Cancelling => counts.done += 1,
                // What was changed before its step could be noted counts now. Otherwise it is a job that
                // moved on in its list and was met again.
                ChangeOutcome::AlreadyApplied => counts.done += u64::from(again),
                ChangeOutcome::Busy
                | ChangeOutcome::Refused(Refusal::Changed { .. } | Refusal::JobGone { .. }) => {
                    counts.skipped += 1;
                }
                ChangeOutcome::Refused(_) => counts.refused += 1,
            }
        }
    }
    note(storage, record, counts).await
}

/// Notes the outcome of an announced step. Somebody may have cancelled the operation meanwhile.
async fn note<S: Storage + ?Sized>(
    storage: &S,
    mut record: BulkRecord,
    counts: Counts,
) -> Result<Stepped> {
    loop {
        let Some(plan) = record.plan.clone() else { return Ok(Stepped::Theirs(record)) };
        let ends = plan.next.is_none() || record.cancelled;
        let noted = BulkRecord {
            version: record.version + 1,
            done: record.done + counts.done,
            skipped: record.skipped + counts.skipped,
            refused: record.refused + counts.refused,
            place: plan.next.clone(),
            plan: None,
            ended_at: if ends { Some(storage.now().await?) } else { None },
            ..record.clone()
        };
        if storage.save_bulk(&Call::default(), &noted).await? {
            if !ends {
                return Ok(Stepped::Went(noted));
            }
            audit(storage, &noted).await?;
            return Ok(Stepped::Ended(noted));
        }
        match storage.bulk(record.id).await? {
            // Only the wish to stop was added.
            Some(stored) if stored.plan.as_ref() == Some(&plan) => record = stored,
            Some(stored) => return Ok(Stepped::Theirs(stored)),
            None => return Ok(Stepped::Unknown),
        }
    }
}

async fn end<S: Storage + ?Sized>(
    storage: &S,
    record: BulkRecord,
    now: Timestamp,
) -> Result<Stepped> {
    let ended = BulkRecord { ended_at: Some(now), version: record.version + 1, ..record };
    if !storage.save_bulk(&Call::default(), &ended).await? {
        return Ok(Stepped::Theirs(ended));
    }
    audit(storage, &ended).await?;
    Ok(Stepped::Ended(ended))
}

/// Changes jobs; one that a stranger's transaction holds is tried again alone.
async fn change<S: Storage + ?Sized>(
    storage: &S,
    actor: &str,
    changes: Vec<Change>,
) -> Result<Vec<ChangeOutcome>> {
    let request = |changes| ChangeRequest { changes, actor: Some(actor) };
    let mut outcomes = storage.change_state(&Call::default(), request(&changes)).await?;
    for (change, outcome) in changes.iter().zip(&mut outcomes) {
        for _ in 0..BUSY_TRIES {
            if *outcome != ChangeOutcome::Busy {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let alone = std::slice::from_ref(change);
            *outcome = storage.change_state(&Call::default(), request(alone)).await?.remove(0);
        }
    }
    Ok(outcomes)
}

/// The action on the job at this place of the whole operation.
fn action_at(record: &BulkRecord, place: u64) -> Action {
    match &record.action {
        Action::Requeue { run_at } if !record.spread.is_zero() => {
            // Those beyond the number that was counted begin at the front again; nobody counted: by a
            // thousand.
            let counted = if record.previewed == 0 { 1_000 } else { record.previewed };
            #[allow(clippy::cast_precision_loss, reason = "a share of a length of time")]
            let share = (place % counted) as f64 / counted as f64;
            let first = run_at.unwrap_or(record.as_of);
            Action::Requeue { run_at: Some(first.plus(record.spread.mul_f64(share))) }
        }
        action => action.clone(),
    }
}

/// What an action is called in the audit.
pub(crate) fn action_name(action: &Action) -> &'static str {
    match action {
        Action::Requeue { .. } => "retry",
        Action::Delete { .. } => "delete",
        Action::Reschedule { .. } => "reschedule",
        Action::RunNow => "run now",
        Action::Move { .. } => "move",
        Action::Retag { .. } => "tag",
    }
}

/// Tells the audit of an operation, as far as it is. A storage without an audit keeps none.
async fn audit<S: Storage + ?Sized>(storage: &S, record: &BulkRecord) -> Result<()> {
    let outcome = match record.ended_at {
        None => "begun".to_owned(),
        Some(_) => format!(
            "{}{} changed, {} had changed meanwhile, {} refused",
            if record.cancelled { "stopped: " } else { "" },
            record.done,
            record.skipped,
            record.refused
        ),
    };
    let entry = AuditEntry {
        operation: record.id,
        at: Timestamp::default(),
        actor: record.actor.clone(),
        peer: String::new(),
        action: format!("{} in bulk", action_name(&record.action)),
        target: crate::model::name::cut_note(&record.filter),
        count: record.done,
        outcome,
        reason: record.reason.clone(),
    };
    offered(storage.append_audit(&Call::default(), &entry).await).map(drop)
}

/// Stops an operation after its present step; `false` if it had ended, or there is none.
///
/// # Errors
/// The storage's.
///
/// # Cancel safety
/// Dropped, it may be stopped or not.
pub async fn cancel<S: Storage + ?Sized>(storage: &S, id: OperationId) -> Result<bool> {
    loop {
        let Some(record) = storage.bulk(id).await? else { return Ok(false) };
        if record.ended_at.is_some() {
            return Ok(false);
        }
        if record.cancelled {
            return Ok(true);
        }
        let stopped = BulkRecord { cancelled: true, version: record.version + 1, ..record };
        if storage.save_bulk(&Call::default(), &stopped).await? {
            return Ok(true);
        }
    }
}

/// Drives an operation to its end, beside whoever else does, and tells after each step how far it is.
/// It leaves five sixths of the time to others, as servers do.
///
/// # Errors
/// As [`step`]; what cannot be repeated. `NotFound` if there is no such operation.
///
/// # Cancel safety
/// Dropped, the operation goes on as soon as a server drives it.
pub async fn drive<S: Storage + ?Sized>(
    storage: &S,
    id: OperationId,
    mut told: impl FnMut(&BulkRecord),
) -> Result<BulkRecord> {
    loop {
        let began = tokio::time::Instant::now();
        match step(storage, id).await {
            Ok(Stepped::Ended(record)) => {
                told(&record);
                return Ok(record);
            }
            Ok(Stepped::Went(record)) => {
                told(&record);
                tokio::time::sleep(began.elapsed() * PACE).await;
            }
            Ok(Stepped::Theirs(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(Stepped::Unknown) => {
                return Err(Error::new(ErrorKind::NotFound, "there is no such bulk operation")
                    .with("operation", id));
            }
            Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(error) => return Err(error),
        }
    }
}
