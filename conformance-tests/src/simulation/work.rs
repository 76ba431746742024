//! The work: jobs of every kind, what their handlers do, and the clients that enqueue them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jobkit_core::state::{Keep, Retention};
use jobkit_core::testing::FaultyStorage;
use jobkit_core::unique::{OnConflict, Until};
use jobkit_core::{
    Batch, BatchId, Client, ClientOptions, Clock, Failure, Job, JobContext, JobId, Jobs, NewJob, On,
};
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::history::Fact;

/// What a handler does.
#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
pub(super) enum Act {
    Return,
    Sleep(u64),
    FailTimes(u32),
    Permanent,
    SnoozeOnce,
    Panic,
    WaitForCancel,
    Enqueue,
    Attach,
    Once,
    Checkpoint,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Plain {
    pub(super) act: Act,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Other {
    pub(super) act: Act,
}

impl Job for Plain {
    const KIND: &'static str = "plain";
    type Output = ();
}

impl Job for Other {
    const KIND: &'static str = "other";
    type Output = ();
}

/// The handlers of one server, which stand still when it does.
pub(super) fn jobs(shared: &Arc<Shared>, storage: &FaultyStorage) -> Jobs {
    let at = |shared: &Arc<Shared>| (Arc::clone(shared), storage.clone());
    let (plain, other) = (at(shared), at(shared));
    Jobs::new()
        .handle(move |job: Plain, context| play(plain.clone(), job.act, context))
        .handle(move |job: Other, context| play(other.clone(), job.act, context))
}

async fn play(
    (shared, storage): (Arc<Shared>, FaultyStorage),
    act: Act,
    context: JobContext,
) -> Result<(), Failure> {
    storage.thawed().await;
    shared.watcher.tell(Fact::Started { job: context.id(), fence: context.fence() });
    let end = act_out(&shared, act, &context).await;
    storage.thawed().await;
    end
}

async fn act_out(shared: &Arc<Shared>, act: Act, context: &JobContext) -> Result<(), Failure> {
    match act {
        Act::Return => Ok(()),
        Act::Sleep(millis) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            Ok(())
        }
        Act::FailTimes(times) if context.attempt() <= times => {
            Err(Failure::message("planned", "it fails so often"))
        }
        Act::FailTimes(_) => Ok(()),
        Act::Permanent => Err(jobkit_core::permanent("it never will").into()),
        Act::SnoozeOnce if context.fence() <= 1 => {
            Err(jobkit_core::snooze(shared.chance.millis(0..900)).into())
        }
        Act::SnoozeOnce => Ok(()),
        // Unwinds without the hook that would print it.
        Act::Panic if context.attempt() == 1 => std::panic::resume_unwind(Box::new("planned")),
        Act::Panic => Ok(()),
        Act::WaitForCancel => {
            let patience = Duration::from_secs(6);
            match tokio::time::timeout(patience, context.cancelled()).await {
                Ok(()) => Err(Failure::message("cancelled", "as asked")),
                Err(_) => Ok(()),
            }
        }
        Act::Enqueue => {
            let child = plain(shared, Act::Return).after(context.id());
            shared.keep(&child);
            let told = context.client().enqueue(child).await?;
            shared.watcher.tell(Fact::Told(told.id()));
            Ok(())
        }
        Act::Attach => {
            let Some(batch) = context.batch() else { return Ok(()) };
            // The batch may be cancelled meanwhile.
            let _ = context.client().batch(batch).attach(vec![plain(shared, Act::Return)]).await;
            Ok(())
        }
        Act::Once => {
            let value: u64 = context.once("k", || async { Ok::<_, Failure>(7) }).await?;
            if value == 7 { Ok(()) } else { Err(Failure::message("memo", "another one")) }
        }
        Act::Checkpoint => {
            let last: Option<u64> = context.last_checkpoint().await?;
            context.checkpoint(&(last.unwrap_or(0) + 1)).await?;
            if last.is_none() { Err(Failure::message("half", "on purpose")) } else { Ok(()) }
        }
    }
}

/// A job with options as chance has it.
fn plain(shared: &Shared, act: Act) -> NewJob<Plain> {
    dressed(shared, NewJob::new(Plain { act }))
}

fn dressed<J>(shared: &Shared, job: NewJob<J>) -> NewJob<J> {
    let chance = &shared.chance;
    let mut job = job.retention(Retention::all(Keep::For(Duration::ZERO)));
    if chance.once_in_thousand(300) {
        job = job.queue("mail");
    }
    if chance.once_in_thousand(200) {
        job = job.priority(u8::try_from(chance.below(10)).unwrap_or(5));
    }
    if chance.once_in_thousand(200) {
        job = job.delay(chance.millis(0..3000));
    }
    if chance.once_in_thousand(250) {
        job = job.limit("narrow", 1);
    }
    if chance.once_in_thousand(150) {
        job = job.limit("wide", 2);
    }
    if chance.once_in_thousand(100) {
        let by = shared.clock.now().plus(chance.millis(500..5000));
        job = job.start_by(by);
    }
    if chance.once_in_thousand(100) {
        job = job.tag("tagged");
    }
    job
}

fn act(shared: &Shared) -> Act {
    let chance = &shared.chance;
    match chance.below(20) {
        0..4 => Act::Return,
        4..8 => Act::Sleep(chance.in_range(10..3000)),
        8..10 => Act::FailTimes(1 + u32::try_from(chance.below(3)).unwrap_or(0)),
        10..12 => Act::Permanent,
        12 => Act::SnoozeOnce,
        13 => Act::Panic,
        14..16 => Act::WaitForCancel,
        16 => Act::Enqueue,
        17 => Act::Attach,
        18 => Act::Once,
        _ => Act::Checkpoint,
    }
}

pub(super) fn client(shared: &Shared, storage: &FaultyStorage) -> Client {
    let clock: Arc<dyn Clock> = Arc::clone(&shared.clock) as Arc<dyn Clock>;
    let options = ClientOptions::default().clock(clock).submit_timeout(Duration::from_secs(5));
    Client::with_options(storage.clone(), options)
}

/// What was enqueued, so that it can be enqueued again.
pub(super) type Kept = Mutex<Vec<NewJob<Plain>>>;

impl Shared {
    fn keep(&self, job: &NewJob<Plain>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(job.clone());
    }
}

/// One thing that a client does.
pub(super) async fn enqueue_something(shared: Arc<Shared>, client: Client) {
    let shared = &*shared;
    let chance = &shared.chance;
    let told = |job: JobId| shared.watcher.tell(Fact::Told(job));
    let one = || plain(shared, act(shared));
    match chance.below(20) {
        0..5 => {
            let job = one();
            shared.keep(&job);
            if let Ok(stored) = client.enqueue(job).await {
                told(stored.id());
            }
        }
        5 => {
            let job = dressed(shared, NewJob::new(Other { act: act(shared) }));
            if let Ok(stored) = client.enqueue(job).await {
                told(stored.id());
            }
        }
        6..8 => {
            let until = if chance.once_in_thousand(600) { Until::Started } else { Until::Finished };
            let conflict = match chance.below(3) {
                0 => OnConflict::Reject,
                1 => OnConflict::Replace,
                _ => OnConflict::ReturnExisting,
            };
            let act = match chance.below(3) {
                0 => Act::FailTimes(2),
                1 => Act::Sleep(chance.in_range(100..2000)),
                _ => act(shared),
            };
            let key = format!("key {}", chance.below(2));
            let job = plain(shared, act).unique(key).unique_until(until).on_conflict(conflict);
            shared.keep(&job);
            if let Ok(stored) = client.enqueue(job).await {
                told(stored.id());
            }
        }
        8..11 => {
            let first = one();
            let second = one();
            let on = [On::Success, On::Failed, On::Any];
            let on = |place: u64| on[usize::try_from(place % 3).unwrap_or(0)];
            let both = one().after(&first).when(on(chance.next())).after(&second);
            let last = one().after(&both).when(on(chance.next()));
            let ids = [first.id(), second.id(), both.id(), last.id()];
            if client.enqueue(vec![last, both, second, first]).await.is_ok() {
                ids.into_iter().for_each(told);
            }
        }
        11..15 => {
            // A child of something that is there already.
            let Some(parent) = chance.pick(&shared.watcher.jobs()).copied() else { return };
            let mut job = one().after(parent);
            if chance.once_in_thousand(500) {
                job = job.when(if chance.once_in_thousand(500) { On::Any } else { On::Failed });
            }
            if let Ok(stored) = client.enqueue(job).await {
                told(stored.id());
            }
        }
        15..18 => {
            let members: Vec<_> = (0..chance.below(4)).map(|_| one()).collect();
            let mut batch = Batch::new("b").jobs(members);
            if chance.once_in_thousand(300) {
                let inner = Batch::new("inside").job(one()).then_on(On::Any, one());
                batch = batch.batch(inner);
            }
            if chance.once_in_thousand(700) {
                batch = batch.then(plain(shared, Act::Return));
            }
            if chance.once_in_thousand(300) {
                batch = batch.then_on(On::Failed, plain(shared, Act::Return));
            }
            let _ = client.enqueue(batch).await;
        }
        18 => {
            // Once more, what was enqueued before; its record may be gone.
            let again = {
                let kept = shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
                chance.pick(&kept).cloned()
            };
            if let Some(job) = again
                && let Ok(stored) = client.enqueue(job).await
            {
                told(stored.id());
            }
        }
        _ => {
            // An id that is too old to be remembered, and beside it one that is not.
            let old = shared.clock.now().minus(Duration::from_secs(2 * 3600));
            let old = NewJob::with_id(Plain { act: Act::Return }, id_at(shared, old));
            let fresh = plain(shared, Act::Return);
            let ids = (old.id(), fresh.id());
            let first = plain(shared, Act::Return);
            let answers =
                tokio::join!(client.enqueue(first), client.enqueue(old), client.enqueue(fresh));
            if answers.1.is_ok() {
                told(ids.0);
            }
            if answers.2.is_ok() {
                told(ids.1);
            }
        }
    }
}

/// A UUIDv7 of that instant.
fn id_at(shared: &Shared, at: jobkit_core::Timestamp) -> JobId {
    let mut bytes = [0; 16];
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..14].copy_from_slice(&shared.chance.next().to_be_bytes());
    bytes[14..].copy_from_slice(&shared.chance.next().to_be_bytes()[6..]);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    JobId::from_bytes(bytes)
}

/// A batch that exists, if any.
pub(super) fn some_batch(shared: &Shared) -> Option<BatchId> {
    shared.chance.pick(&shared.watcher.batches()).copied()
}
