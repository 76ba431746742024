//! From one storage to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::edge::{On, Parent};
use jobkit_core::limit::{Limit, Window};
use jobkit_core::record::{JobDetails, NewRecord};
use jobkit_core::recurring::{JobTemplate, Misfire, NextRun, Overlap, Pause, RecurringSpec};
use jobkit_core::refusal::Refusal;
use jobkit_core::schedule::{Schedule, TimeZone};
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Imported, LogLevel, LogLine, LogWrite, PauseTarget, SaveRecurring, Settle, Storage, Submission,
    Whole,
};
use jobkit_core::testing::{Fault, FaultyStorage};
use jobkit_core::transfer::{self, Options};
use jobkit_core::unique::{OnConflict, Unique, Until};
use jobkit_core::{BatchId, ErrorKind, JobId, MemoryStorage};

use crate::fixtures::*;

/// Something of everything; answers the ids of the jobs.
async fn workload(env: &Env) -> Vec<JobId> {
    let mut ids = Vec::new();
    let mut server = env.claimer("w").await.queues(&["default"]).kinds(&["k"]);
    // Jobs that succeeded with a result, failed with errors and lines, wait for a retry, were deleted.
    for (i, ending) in [
        Ending::Succeeded,
        Ending::Failed(Reason::Permanent),
        Ending::Retry { delay: seconds(600) },
        Ending::Snoozed { delay: seconds(60) },
        RETRY_NOW,
    ]
    .into_iter()
    .enumerate()
    {
        let args = payload(&format!(r#"{{"n":{i},"text":"größer '\" \u202e"}}"#));
        let id = env.add(NewRecord { args, tags: vec!["vip".into()], ..job() }).await;
        let lease = server.claim_one().await.lease;
        assert_eq!(lease.job, id);
        let line = |text: &str| LogLine { at: env.now(), level: LogLevel::Warn, text: text.into() };
        let write =
            LogWrite { lease, lines: vec![line("a"), line("b")], dropped: 1, progress: vec![] };
        env.storage.write_log(&env.call(), &[write]).await.expect("writes");
        env.storage
            .put_memo(&env.call(), lease, "charge", &payload("\"done\""))
            .await
            .expect("keeps");
        env.storage.put_checkpoint(&env.call(), lease, &payload("[7]")).await.expect("keeps");
        env.advance(1);
        let mut settle = Settle::new(lease, ending);
        settle.duration = Some(seconds(1));
        settle.result = Some(payload("{\"ok\":true}"));
        if ending != Ending::Succeeded {
            settle.error = Some(error("no route to host"));
        }
        server.settle_with(settle).await;
        ids.push(id);
        if i == 4 {
            env.delete(id).await;
        }
    }
    // A large one, one for later, one under limits, one with a key, one with a key for a period.
    let large = payload(&format!("{{\"text\":\"{}\"}}", "x".repeat(20_000)));
    ids.push(env.add(NewRecord { args: large, priority: 9, ..job() }).await);
    ids.push(env.add(NewRecord { start: Start::After(seconds(3600)), ..job() }).await);
    let rate = Limit::rate("r", 5, Window::Sliding(seconds(60)));
    let limits = vec![Limit::new("l", 1), rate];
    ids.push(env.add(NewRecord { limits: limits.clone(), ..job() }).await);
    ids.push(env.add(NewRecord { limits, ..job() }).await);
    ids.push(env.add(keyed("key", OnConflict::Reject)).await);
    let unique = Unique { until: Until::Period(seconds(24 * 3600)), ..Unique::new("period") };
    ids.push(env.add(NewRecord { unique: Some(unique), ..job() }).await);
    // A flow, and a batch with another inside and a continuation.
    let parent = job();
    let mut child = after(parent.id, On::Success);
    child.edges.push(jobkit_core::edge::Edge { parent: Parent::Job(ids[2]), on: On::Any });
    let on_failure = after(parent.id, On::Failed);
    ids.extend([parent.id, child.id, on_failure.id]);
    env.flow(vec![parent, child, on_failure]).await;
    let (outer, inner, filling) = (BatchId::new(), BatchId::new(), BatchId::new());
    let members = vec![member(outer), member(outer), after_batch(outer, On::Any)];
    ids.extend(members.iter().map(|job| job.id));
    env.submit(batch_of(outer, Starts::AtOnce, members)).await;
    let nested = NewBatch { parent: Some(outer), ..NewBatch::new(inner, "inner") };
    let inside = member(inner);
    ids.push(inside.id);
    env.submit(Submission { batch: Some(nested), jobs: vec![inside] }).await;
    let waiting = member(filling);
    ids.push(waiting.id);
    env.submit(batch_of(filling, Starts::WhenStarted, vec![waiting])).await;
    env.storage.define_limit(&env.call(), &Limit::new("smtp", 7)).await.expect("defines");
    let template = NewRecord { args: payload(r#"{"big":12345678901234567890}"#), ..job() };
    let spec = RecurringSpec {
        id: "größer: täglich".into(),
        schedule: Schedule::every(seconds(3600)).expect("is an interval"),
        time_zone: TimeZone::UTC,
        misfire: Misfire::RunOnce,
        overlap: Overlap::Skip,
        jitter: seconds(0),
        starts_at: None,
        ends_at: None,
        job: JobTemplate::from_record(&template).expect("can recur"),
    };
    let next = Some(NextRun { nominal_at: env.after(3600), due_at: env.after(3600) });
    let save = SaveRecurring { spec, next, if_etag: None };
    env.storage.save_recurring(&env.call(), &[save]).await.expect("saves");
    let pause = Pause { until: Some(env.after(7200)), ..Pause::new("ada", "deploy") };
    let mail = PauseTarget::Queue(name("mail"));
    env.storage.pause(&env.call(), &mail, &pause).await.expect("pauses");
    ids.push(env.add(job_in("mail")).await);
    ids
}

async fn copy(from: &dyn Storage, to: &dyn Storage) -> transfer::Copied {
    transfer::copy(from, to, Options::default().force(true), |_| {}).await.expect("copies")
}

/// What has to be the same: all but the place in line and where it was parked.
fn plain(details: JobDetails) -> JobDetails {
    let mut details = details;
    details.record.sequence = 0;
    details.record.parked_at = None;
    details
}

async fn all(env: &Env, ids: &[JobId]) -> Vec<JobDetails> {
    let mut all = Vec::new();
    for id in ids {
        all.push(plain(env.details(*id).await));
    }
    all
}

async fn everything(storage: &dyn Storage) -> Vec<Whole> {
    let mut items: Vec<Whole> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = storage.export(after.as_deref(), 3).await.expect("exports");
        assert!(page.items.len() <= 3);
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return items;
        }
    }
}

/// OPS-13, OPS-14, G1: everything arrives as it was, through pages of any size; copying again changes
/// nothing.
pub async fn everything_is_copied_as_it_was(env: Env) {
    let ids = workload(&env).await;
    let to = env.another().await;
    let copied = copy(&*env.storage, &*to.storage).await;
    assert_eq!((copied.already, copied.missing, copied.running), (0, 0, 0));
    assert_eq!(copied.stored, copied.verified);
    assert_eq!(all(&to, &ids).await, all(&env, &ids).await);
    let (before, after) = (everything(&*env.storage).await, everything(&*to.storage).await);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.into_iter().zip(after) {
        match (before, after) {
            (Whole::Job(mut before), Whole::Job(mut after)) => {
                before.details = plain(before.details);
                after.details = plain(after.details);
                assert_eq!(before, after);
            }
            (before, after) => assert_eq!(before, after),
        }
    }
    for id in &ids {
        let line = |env: &Env| {
            let (storage, id) = (env.storage.clone(), *id);
            async move {
                let page = storage.read_log(id, None, 0, 10).await.expect("reads");
                page.lines.into_iter().map(|(_, line)| line.text).collect::<Vec<_>>()
            }
        };
        assert_eq!(line(&to).await, line(&env).await);
    }
    let snapshots = [&env, &to].map(|env| async { env.storage.snapshot(&env.call()).await });
    let [before, after] = snapshots;
    assert_eq!(after.await.expect("reads").by_state, before.await.expect("reads").by_state);
    let again = copy(&*env.storage, &*to.storage).await;
    assert_eq!((again.stored, again.already), (0, copied.stored));
    assert_eq!(all(&to, &ids).await, all(&env, &ids).await);
}

/// OPS-14: the same as through memory and back, and through the lines of a dump.
pub async fn a_dump_holds_everything(env: Env) {
    workload(&env).await;
    let mut lines = Vec::new();
    let options = Options::default().force(true);
    let written = transfer::dump(&*env.storage, options, |line| {
        assert!(!line.contains('\n'));
        lines.push(Ok(line.to_owned()));
        Ok(())
    });
    let written = written.await.expect("dumps");
    assert_eq!(written.stored, everything(&*env.storage).await.len() as u64);
    assert_eq!(written.running, 0);
    let refused = transfer::dump(&*env.storage, Options::default(), |_| Ok(())).await;
    assert_eq!(refused.expect_err("a server lives").kind(), ErrorKind::Conflict);
    let memory = MemoryStorage::new();
    let count = lines.len() as u64;
    let loaded = transfer::load(&memory, lines).await.expect("loads");
    assert_eq!(loaded.stored, count);
    let to = env.another().await;
    assert_eq!(copy(&memory, &*to.storage).await.stored, count);
    let kinds = |items: Vec<Whole>| {
        let job = |item: Whole| match item {
            Whole::Job(mut job) => {
                job.details = plain(job.details);
                Whole::Job(job)
            }
            other => other,
        };
        items.into_iter().map(job).collect::<Vec<_>>()
    };
    assert_eq!(kinds(everything(&*to.storage).await), kinds(everything(&*env.storage).await));
    let error = transfer::load(&memory, [Ok("{}".to_owned())]).await.expect_err("is no record");
    assert!(error.to_string().contains("line 1 is no record of a dump"), "{error}");
}

/// OPS-14, G8, G9, G11, G14: what was copied goes on as it would have: order, keys, edges, batches,
/// fences, retries.
pub async fn what_was_copied_goes_on(env: Env) {
    let ids = workload(&env).await;
    let to = env.another().await;
    copy(&*env.storage, &*to.storage).await;
    // Keys are held.
    let conflict = to.refused(Submission::one(keyed("key", OnConflict::Reject))).await;
    assert_eq!(conflict, Refusal::UniqueConflict { holder: ids[9] });
    let period = Unique {
        until: Until::Period(seconds(60)),
        on_conflict: OnConflict::Reject,
        ..Unique::new("period")
    };
    let held = to.refused(Submission::one(NewRecord { unique: Some(period), ..job() })).await;
    assert_eq!(held, Refusal::UniqueConflict { holder: ids[10] });
    // What gives way does so here, too.
    let replacing = Unique {
        until: Until::Period(seconds(60)),
        on_conflict: OnConflict::Replace,
        ..Unique::new("period")
    };
    let successor = to.add(NewRecord { unique: Some(replacing.clone()), ..job() }).await;
    assert_eq!(to.record(ids[10]).await.head.reason, Reason::Replaced);
    env.add(NewRecord { unique: Some(replacing), ..job() }).await;
    // A fence goes on where it was.
    let fence = env.record(ids[2]).await.head.fence;
    to.move_to(env.after(601));
    to.promote().await;
    // The line is the same: the urgent one first, then as they were submitted.
    let expected = {
        env.advance(601);
        env.promote().await;
        let mut server = env.claimer("s").await;
        server.claim_ids(100).await
    };
    let mut server = to.claimer("s").await;
    let claimed = server.claim(100).await;
    let order: Vec<_> = claimed.iter().map(|job| job.lease.job).collect();
    // The successor has another id in each.
    assert_eq!(order.len(), expected.len());
    let known = ids.clone();
    let plain =
        |ids: Vec<JobId>| ids.into_iter().filter(|id| known.contains(id)).collect::<Vec<_>>();
    assert_eq!(plain(order.clone()), plain(expected));
    assert!(order.contains(&successor));
    for job in claimed {
        if job.lease.job == ids[2] {
            assert_eq!(job.lease.fence, fence + 1);
            let memo = to.storage.memo(job.lease.job, "charge").await.expect("reads");
            assert_eq!(memo, Some(payload("\"done\"")));
        }
        server.settled(job.lease, Ending::Succeeded).await;
    }
    // Freed slots, released children, and the end of the batch.
    while server.run_all(Ending::Succeeded).await > 0 {
        to.sweep().await;
    }
    let state = |at: usize| to.state(ids[at]);
    assert_eq!(state(8).await, StateName::Succeeded, "both of the limit ran");
    assert_eq!(state(12).await, StateName::Succeeded, "its parents finished");
    assert_eq!(state(13).await, StateName::Deleted, "its condition cannot be met");
    assert_eq!(state(16).await, StateName::Succeeded, "the continuation of the batch ran");
    assert_eq!(state(18).await, StateName::Awaiting, "its batch is still being filled");
}

/// OPS-14, G7: killed between any two calls and started again, all is there once.
pub async fn a_copy_survives_a_crash_at_any_step(env: Env) {
    env.add_many(jobs(450)).await;
    let expected = everything(&*env.storage).await.len() as u64;
    let mut crash_at = 0;
    loop {
        let to = env.another().await;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let faulty = FaultyStorage::new(to.storage.clone());
        let lost = crash_at % 2 == 1;
        faulty.decide(move |_| {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            match call.cmp(&(crash_at / 2)) {
                std::cmp::Ordering::Less => Fault::None,
                std::cmp::Ordering::Equal if lost => Fault::AnswerLost,
                // From then on nothing answers: the process is gone.
                _ => Fault::Broken,
            }
        });
        let options = Options::default().force(true);
        let first = transfer::copy(&*env.storage, &faulty, options, |_| {}).await;
        let finished = first.is_ok();
        let copied = copy(&*env.storage, &*to.storage).await;
        assert_eq!(copied.stored + copied.already, expected, "crashed at {crash_at}");
        assert_eq!((copied.verified, copied.missing), (expected, 0), "crashed at {crash_at}");
        let snapshot = to.storage.snapshot(&to.call()).await.expect("reads");
        assert_eq!(snapshot.count(StateName::Enqueued), 450);
        if finished {
            assert!(crash_at > 6, "only {crash_at} calls");
            return;
        }
        crash_at += 1;
    }
}

/// OPS-13, G4: nothing is copied while servers live, unless that is asked for; running jobs are left out, and those
/// of servers that are gone are taken back first.
pub async fn a_storage_with_live_servers_is_not_copied(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let to = env.another().await;
    let refused = transfer::copy(&*env.storage, &*to.storage, Options::default(), |_| {}).await;
    let error = refused.expect_err("a server lives");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("servers live on the old storage: s"), "{error}");
    let copied = copy(&*env.storage, &*to.storage).await;
    assert_eq!((copied.running, copied.stored), (1, 0));
    assert!(to.find(id).await.is_none());
    server.settled(lease, Ending::Succeeded).await;
    assert_eq!(copy(&*env.storage, &*to.storage).await.stored, 1);
    assert_eq!(to.state(id).await, StateName::Succeeded);
}

/// OPS-14, G20: a running job and a member without its batch are refused, and nothing of the call is
/// stored.
pub async fn what_cannot_be_imported_is_refused(env: Env) {
    let fine = env.add(job()).await;
    let batch = BatchId::new();
    let orphan = member(batch);
    env.submit(batch_of(batch, Starts::AtOnce, vec![orphan.clone()])).await;
    let items = everything(&*env.storage).await;
    let jobs: Vec<Whole> = items.into_iter().filter(|item| matches!(item, Whole::Job(_))).collect();
    assert_eq!(jobs.len(), 2);
    let to = env.another().await;
    let error = to.storage.import(&to.call(), &jobs).await.expect_err("its batch is missing");
    assert_eq!(error.field(), Some("batch"));
    assert!(to.find(fine).await.is_none(), "nothing of the call");
    assert_eq!(
        to.storage.import(&to.call(), &jobs[..1]).await.expect("imports"),
        [Imported::Stored]
    );
    assert_eq!(
        to.storage.import(&to.call(), &jobs[..1]).await.expect("imports"),
        [Imported::Already]
    );
    let error = env.storage.export(Some("nonsense"), 10).await.expect_err("is refused");
    assert_eq!(error.field(), Some("after"));
    let error = env.storage.export(None, 0).await.expect_err("is refused");
    assert_eq!(error.field(), Some("limit"));
}
