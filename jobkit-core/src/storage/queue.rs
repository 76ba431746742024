//! `JobQueue`: what servers need.

use std::time::Duration;

use async_trait::async_trait;

use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::error::{Error, Result};
use crate::model::failure::ErrorDetail;
use crate::model::ids::{BatchId, Incarnation, JobId};
use crate::model::name::Name;
use crate::model::record::{Extras, Lease, Locator, Payload, Progress};
use crate::model::refusal::Refusal;
use crate::model::state::{Reason, Retention, StateName};
use crate::model::state_machine::Ending;
use crate::storage::call::Call;
use crate::storage::check_items;
use crate::storage::jobs::StepRequest;
use crate::storage::log::LogLine;

/// Claiming, holding and settling jobs.
///
/// **Contract: `claim`**
/// - **CLM-1** No two unexpired leases exist for one job, whatever the number of claimers (G4).
/// - **CLM-2** It takes, queue by queue in the order named and within each quota, by priority (9
///   first) and then by sequence, of what nobody else holds at that moment (G14).
/// - **CLM-3** It never takes a kind that was not named, nor walks again what it cannot take.
/// - **CLM-4** Each claim of a job raises its fence by one; the fence never decreases (G5).
/// - **CLM-5** Repeating (incarnation, sequence) answers the leases of that claim that are still held, in
///   their order, and takes nothing more. A claim is remembered until a renew covers its sequence (REN-5).
///   A claim that took nothing need not be remembered.
/// - **CLM-6** A claim that begins after `pause` returned takes no job of that queue or kind. A claim that is
///   under way then may take some (OPS-1, G15).
/// - **CLM-7** A job whose limit is full stays Enqueued and is parked, without attempt or history; never
///   more than the limit's number hold it (G13).
/// - **CLM-8** A job that had to be started by an instant that has passed becomes Deleted instead.
/// - **CLM-9** A record that cannot be decoded becomes Failed with reason `unreadable`, and its
///   neighbours are claimed.
/// - **CLM-10** A server that is not announced gets [`NotAnnounced`](crate::ErrorKind::NotAnnounced).
/// - **CLM-11** The first `started` jobs count as started from the claim on, the others do not; a later
///   renewal decides anew (REN-4).
/// - **CLM-12** Jobs that it passes over (CLM-7 to CLM-9) need not all be passed over at once. A claim that
///   ended before it had seen everything says so: [`Claimed::again_in`] is zero. A job that another call
///   holds at that moment, itself or by its limit, is neither taken nor parked; then `again_in` is a short
///   while, after which it may be free.
/// - **CLM-13** A claim that took nothing may tell by [`Claimed::again_in`] how long nothing is due: never
///   longer than until the next due instant that `promote_due` would answer (PRO-2), and
///   [`NOTHING_DUE`](crate::model::bounds::NOTHING_DUE) where there is none. It promotes nothing itself.
///
/// **Contract: `settle`**
/// - **SET-1** Only the holder (job, fence, incarnation) settles; anyone else learns
///   [`SettleAnswer::LeaseLost`], and nothing changes (G5).
/// - **SET-2** Repeating a settle that was applied answers [`SettleAnswer::AlreadyApplied`] until the
///   job is claimed again, then `LeaseLost` (G6).
/// - **SET-3** State, history, counters, batch counts, unique key, limit slot and the decision about
///   children change in one step. Inside a transaction of the caller's only the job's own row must change
///   at once, and the rest may be left to sweeps, as a mark (G7).
/// - **SET-4** A holder whose lease expired but who was not rescued still settles (G4).
/// - **SET-5** Success wins over a cancellation; any other ending of a cancelled job makes it Deleted.
/// - **SET-6** A retry with a delay makes it Scheduled, without one Enqueued, in its old place, with
///   failures + 1; a snooze and a give-back consume no attempt, and keep the fence.
/// - **SET-7** A freed slot makes the next waiters of that limit claimable in their old order: in the step
///   in which the slot is freed or, where another step holds the limit, by the next sweep (G13). One step
///   admits at most 500 waiters of a limit, and one step of a sweep looks at no more than 100 limits; the next
///   sweeps do the rest.
/// - **SET-8** The settle that finishes the last member completes its batch, or leaves a mark that does
///   so within 2 s (G9).
/// - **SET-9** More than 100 children of one parent are all decided. One settle decides the first
///   [100](crate::model::bounds::CHILDREN_IN_SETTLE) in the step, and all settles of one call decide at most
///   [500](crate::model::bounds::CHILDREN_IN_CALL). The rest is left to sweeps, as marks (G7, G8).
/// - **SET-10** Result, error detail, log lines and progress that come with the settle are readable
///   when it returns.
/// - **SET-11** Of the errors of a job the newest [`ATTEMPT_ERRORS`](crate::model::bounds::ATTEMPT_ERRORS) are
///   kept.
/// - **SET-12** The settle of a job that a stranger's transaction holds, or one that its end reaches, answers
///   [`SettleAnswer::Busy`] after a short wait at most and changes nothing; its neighbours are settled.
///
/// **Contract: `renew`**
/// - **REN-1** Listed leases that are held get the new expiry; others answer [`RenewAnswer::Lost`] (G5).
/// - **REN-2** Leases of the incarnation whose claim sequence lies in the range and that are not listed
///   are given back; those outside the range are not touched (G21). Nobody settles what was given back
///   so: the former holder learns `LeaseLost` (G5). One renew gives back at most
///   [500](crate::model::bounds::MAX_STEP_ITEMS); the next renew that covers the rest gives that back.
/// - **REN-3** A cancellation that was requested is told.
/// - **REN-4** The last renewal of an attempt decides whether it counts as started, and so whether a
///   crash counts against it. A server takes it back for jobs that run beside one that is suspected.
/// - **REN-5** A renew that covers a sequence closes it. A claim with that sequence may have been delayed
///   on its way: it takes nothing afterwards, and answers the leases of it that are still held. A storage
///   may close every lower sequence of that incarnation as well (G5, G21).
/// - **REN-6** The renewal of a job that a stranger's transaction holds answers [`RenewAnswer::Busy`] after a
///   short wait at most; its neighbours are renewed.
///
/// **Contract: `promote_due`**
/// - **PRO-1** Scheduled jobs whose instant has come become Enqueued, at most `max` of them; nothing
///   else changes state.
/// - **PRO-2** It answers the next due instant of what is left, be it of a job or of a rate limit at
///   which jobs are parked.
/// - **PRO-3** Jobs that are parked at a rate limit become claimable at the instant at which starts are
///   free again, in their order and as many as there is room for. They are counted with the others;
///   what is beyond `max` is moved by the next sweep or promotion. Where pushes are claimed, the
///   instant is told when the first job is parked, and while jobs are, when an operator changes the
///   window or one starts after there was room (G13, G21).
/// - **PRO-4** A job that was scheduled more than a minute ahead of the clock was so while the clock was wrong:
///   a delay, of a retry too, counts from now on, and an instant that was named stays.
/// - **PRO-5** It leaves what a stranger's transaction holds, and promotes what is beside it.
///
/// **Contract: `rescue_expired`**
/// - **RES-1** It takes away only leases that were listed as seen expired, with the same fence and the
///   same expiry, and that are expired now; everything else it merely reports (G4).
/// - **RES-2** A rescued job is Enqueued in its old place; a started attempt counts a crash; at the crash
///   limit it is Failed with reason `crash_limit`; a cancelled one is Deleted (G6).
/// - **RES-3** Slots and locks of the attempt are free in the same step (G13).
/// - **RES-4** After rescue the former holder's settle and renew answer `LeaseLost` (G5).
/// - **RES-5** A lease that ends further ahead than any can last ([a day](crate::model::bounds::LEASE)) was taken or
///   renewed while the clock was ahead, and counts as expired; its holder's next renewal makes it one that
///   is not.
/// - **RES-6** It leaves what a stranger's transaction holds, and rescues what is beside it.
///
/// **Contract: `wake_ups`**
/// - **WAK-1** Where pushes are claimed, a claimer that sleeps is told within 100 ms that work which it
///   would take became claimable by submit, release, requeue, run-now, resume, retry or a freed slot
///   (G16, G21). It sleeps if its last claim took fewer jobs than
///   [`sleeps_below`](ClaimRequest::sleeps_below), named the queue and the kind, and it does not drain.
/// - **WAK-2** It may tell too often; after a lost push polling finds the work.
/// - **WAK-3** A storage may tell sleepers alone: one for each job that became claimable, each once until
///   it claims again.
/// - **WAK-4** Where pushes are claimed, a listener for marks is told within 100 ms that a call left work
///   to sweeps, even if nothing became claimable by it (G7, G9).
/// - **WAK-5** A watched job that finishes is told to who watches it, and to nobody else.
#[async_trait]
pub trait JobQueue {
    /// Takes jobs under a lease.
    ///
    /// # Errors
    /// [`NotAnnounced`](crate::ErrorKind::NotAnnounced), or the call failed; repeat it with the same
    /// sequence.
    async fn claim(&self, call: &Call, request: &ClaimRequest) -> Result<Claimed>;

    /// Ends attempts; one answer each, in order.
    async fn settle(&self, call: &Call, request: &SettleRequest) -> Result<Vec<SettleAnswer>>;

    /// Ends attempts and takes new jobs, in one commit where
    /// [`Capabilities::settle_and_claim`](crate::storage::Capabilities::settle_and_claim) says so. Where it
    /// does not, servers send both calls at the same time instead of this one.
    async fn settle_and_claim(
        &self,
        call: &Call,
        settle: &SettleRequest,
        claim: &ClaimRequest,
    ) -> Result<(Vec<SettleAnswer>, Claimed)> {
        let answers = self.settle(call, settle).await?;
        let claimed =
            self.claim(call, claim).await.map_err(crate::model::error::Error::maybe_applied)?;
        Ok((answers, claimed))
    }

    /// Extends leases; one answer each, in order.
    async fn renew(&self, call: &Call, request: &RenewRequest) -> Result<Renewed>;

    /// Moves due jobs into their queues.
    async fn promote_due(&self, call: &Call, request: StepRequest) -> Result<Promoted>;

    /// Takes leases away from servers that vanished.
    async fn rescue_expired(&self, call: &Call, request: &RescueRequest) -> Result<Rescue>;

    /// A source of pushes, or `None` where there are none.
    async fn wake_ups(&self, filter: WakeUpFilter) -> Result<Option<Box<dyn WakeUps>>>;
}

/// A claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The server's name.
    pub server: Name,
    /// Its life.
    pub incarnation: Incarnation,
    /// The number of this claim in that life, from 1; a repetition has the same.
    pub sequence: u64,
    /// The queues, in order of preference, with the most to take from each.
    pub queues: Vec<QueueQuota>,
    /// The kinds it serves.
    pub kinds: std::sync::Arc<[Name]>,
    /// The most to take in all.
    pub max: usize,
    /// How many of them go to free workers at once, and so count as started.
    pub started: usize,
    /// How long the lease is.
    pub lease: Duration,
    /// The server sleeps if it gets fewer jobs than this: the number of its free workers. A storage that
    /// tells sleepers registers it in the same step, in place of what an earlier claim registered, and
    /// wakes it once. 0: it does not sleep.
    pub sleeps_below: usize,
    /// What the last claim answered, to skip what is known to be taken.
    pub hint: Option<ClaimHint>,
}

impl ClaimRequest {
    /// Whether it is within its bounds; every storage asks before it does anything.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the bound.
    pub fn check(&self) -> Result<()> {
        check_items("max", self.max)?;
        let bounded = |field, has: usize, max: usize| {
            let reason = format_args!("has {has} entries, where at most {max} are allowed");
            if has > max { Err(Error::invalid(field, reason)) } else { Ok(()) }
        };
        bounded("queues", self.queues.len(), bounds::SERVER_QUEUES)?;
        bounded("kinds", self.kinds.len(), bounds::SERVER_KINDS)?;
        check_lease(self.lease)
    }
}

impl SettleRequest {
    /// Whether it is within its bounds; every storage asks before it does anything.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the bound.
    pub fn check(&self) -> Result<()> {
        check_items("settles", self.settles.len())
    }
}

impl RenewRequest {
    /// Whether it is within its bounds; every storage asks before it does anything.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), with the field and the bound.
    pub fn check(&self) -> Result<()> {
        check_items("held", self.held.len())?;
        check_lease(self.lease)
    }
}

fn check_lease(lease: Duration) -> Result<()> {
    if bounds::LEASE.contains(&lease) {
        return Ok(());
    }
    Err(Error::invalid("lease", format_args!("is {lease:?}, where 10 ms to a day are allowed")))
}

/// A queue, and the most to take from it in one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueQuota {
    /// The queue.
    pub queue: Name,
    /// The most to take.
    pub max: usize,
}

/// A storage's own note from one claim to the next, dropped after a short claim, a wake-up and a
/// second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimHint(pub Vec<u8>);

/// What a claim took.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The jobs, in the order in which they are to be started.
    pub jobs: Vec<ClaimedJob>,
    /// For the next claim.
    pub hint: Option<ClaimHint>,
    /// When to claim again, though no wake-up comes. Zero is at once: the claim ended before it had seen
    /// everything. Otherwise others hold something at this moment, or the claim took nothing and this is how
    /// long nothing is due. `None`: the storage knows of nothing, and wake-ups and the usual polls find the
    /// next job.
    pub again_in: Option<Duration>,
}

/// A claimed job: what a worker needs.
#[derive(Clone, Debug)]
pub struct ClaimedJob {
    /// The right to it.
    pub lease: Lease,
    /// Its kind.
    pub kind: Name,
    /// Its queue.
    pub queue: Name,
    /// Its priority.
    pub priority: u8,
    /// Its arguments.
    pub args: Payload,
    /// Failures before this attempt.
    pub failures: u32,
    /// Crashes before this attempt.
    pub crashes: u32,
    /// Requeues before this attempt.
    pub run: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it became claimable.
    pub enqueued_at: Timestamp,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// Its batch.
    pub batch: Option<BatchId>,
    /// Whether it holds slots of limits, which are freed when it ends.
    pub limited: bool,
    /// The rest.
    pub extras: Option<Box<Extras>>,
}

/// Ends of attempts that share a round trip.
#[derive(Clone, Debug)]
pub struct SettleRequest {
    /// The server's name, for the history.
    pub server: Name,
    /// The ends.
    pub settles: Vec<Settle>,
}

/// The end of one attempt.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The right to say so.
    pub lease: Lease,
    /// How it ended.
    pub ending: Ending,
    /// What the handler returned; kept when it succeeded.
    pub result: Option<Payload>,
    /// What went wrong.
    pub error: Option<ErrorDetail>,
    /// How long the handler ran.
    pub duration: Option<Duration>,
    /// How long the job is kept once finished: the job's own, the kind's or the server's.
    pub retention: Retention,
    /// The last log lines.
    pub log: Vec<LogLine>,
    /// How many log lines were dropped before they were sent.
    pub log_dropped: u64,
    /// The last progress.
    pub progress: Vec<Progress>,
}

impl Settle {
    /// What is kept of the result: all of it where the attempt succeeded.
    pub fn kept_result(&self) -> Option<&Payload> {
        self.result.as_ref().filter(|_| self.ending == Ending::Succeeded)
    }

    /// Whether the result is small enough to be kept. Storages ask it once the lease fits.
    ///
    /// # Errors
    /// [`Invalid`](Refusal::Invalid), with field `result`.
    pub fn check(&self) -> Result<(), Refusal> {
        let max = bounds::RESULT_BYTES;
        match self.kept_result().map(|result| result.len()).filter(|has| *has > max) {
            None => Ok(()),
            Some(has) => Err(Refusal::Invalid {
                field: "result",
                reason: format!("has {has} bytes, where at most {max} are allowed"),
            }),
        }
    }

    /// An end without anything beside it.
    pub fn new(lease: Lease, ending: Ending) -> Self {
        Self {
            lease,
            ending,
            result: None,
            error: None,
            duration: None,
            retention: Retention::default(),
            log: Vec::new(),
            log_dropped: 0,
            progress: Vec::new(),
        }
    }
}

/// The outcome of a settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleAnswer {
    /// Applied; the job is now in this state.
    Settled(StateName),
    /// It was applied before.
    AlreadyApplied,
    /// The attempt was taken away; nothing changed.
    LeaseLost,
    /// The storage cannot keep what came with it; nothing changed. Core settles it as a failure.
    Refused(Refusal),
    /// Blocked by a stranger's lock; nothing changed. Try it again alone.
    Busy,
}

/// Renewals that share a round trip.
#[derive(Clone, Debug)]
pub struct RenewRequest {
    /// The server's life.
    pub incarnation: Incarnation,
    /// The claims, by sequence, whose answers the server has seen and whose jobs it lists completely. The
    /// renew closes them (REN-5), so a server must not cover a claim that it may still send.
    pub sequences: std::ops::RangeInclusive<u64>,
    /// What it holds.
    pub held: Vec<Renewal>,
    /// How long the lease is from now.
    pub lease: Duration,
}

/// One lease to extend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The lease.
    pub lease: Lease,
    /// Whether a crash of the server counts against this attempt: its handler was started, and no other
    /// job of the server is suspected.
    pub started: bool,
}

/// What a renew did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// One answer per lease, in order.
    pub answers: Vec<RenewAnswer>,
    /// Jobs of the range that were not listed and are given back. There may be more as long as there are any.
    pub given_back: Vec<JobId>,
}

/// The outcome of one renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewAnswer {
    /// Extended.
    Renewed {
        /// The new expiry.
        expires_at: Timestamp,
        /// Whether cancellation was requested, and why.
        cancel: Option<Reason>,
    },
    /// The lease is not held any more.
    Lost,
    /// Blocked by a stranger's lock; the lease is as before.
    Busy,
}

/// What a promotion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promoted {
    /// How many jobs became claimable.
    pub count: usize,
    /// The earliest instant that is still waited for.
    pub next_due_at: Option<Timestamp>,
    /// The storage's clock.
    pub now: Timestamp,
}

/// A look for expired leases.
#[derive(Clone, Debug)]
pub struct RescueRequest {
    /// What the last look, one interval earlier, answered.
    pub seen: Vec<ExpiredLease>,
    /// How many crashes a job may have.
    pub crash_limit: u32,
    /// At most this many are rescued, and this many reported.
    pub max: usize,
}

/// A lease that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpiredLease {
    /// The job.
    pub job: JobId,
    /// Where it is.
    pub locator: Locator,
    /// The number of its claim.
    pub fence: u64,
    /// When the lease expired.
    pub expires_at: Timestamp,
}

/// What a look for expired leases did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rescue {
    /// Jobs whose lease was taken away, and their state now.
    pub rescued: Vec<(JobId, StateName)>,
    /// Leases that are expired now, for the next look.
    pub expired: Vec<ExpiredLease>,
}

/// Which pushes a listener wants. A storage may send others too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WakeUpFilter {
    /// New work in these queues; none by default.
    pub queues: Vec<Name>,
    /// The life whose claims say that it sleeps ([`ClaimRequest::sleeps_below`]). A storage that tells
    /// sleepers tells it alone of the work that it was woken for. By default nobody: such a listener may
    /// hear of no work at all.
    pub claimer: Option<Incarnation>,
    /// Work that was left to sweeps. A storage may tell one listener alone.
    pub marks: bool,
    /// Times that are due earlier than what was known.
    pub due: bool,
    /// Cancellations of jobs that this life holds.
    pub cancels_of: Option<Incarnation>,
}

/// A push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WakeUp {
    /// Work became claimable.
    Work,
    /// Work was left to sweeps.
    Marks,
    /// Something is due at this instant.
    Due(Timestamp),
    /// A job that this listener [watches](WakeUps::watch) finished.
    Finished(JobId),
    /// Cancellation of this running job was requested.
    Cancel(JobId),
    /// Pushes were lost: look at everything.
    Lost,
}

/// A stream of pushes.
#[async_trait]
#[allow(unused_variables, reason = "default bodies")]
pub trait WakeUps: Send {
    /// The next push; `None` when the storage was closed.
    ///
    /// # Cancel safety
    /// Dropping the future loses no push.
    async fn next(&mut self) -> Option<WakeUp>;

    /// Asks to be told when these jobs finish, each once, besides those asked for before. Answers whether
    /// the storage does so; if not, which is the default, the caller looks now and then instead.
    ///
    /// What finishes after the answer is told. What finished before may not be: look once afterwards.
    ///
    /// # Errors
    /// The call failed; the caller goes on as if it had answered `false`.
    async fn watch(&mut self, jobs: &[JobId]) -> Result<bool> {
        Ok(false)
    }
}
