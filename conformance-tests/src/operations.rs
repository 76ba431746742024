//! What an operator does.

use jobkit_core::batch::Starts;
use jobkit_core::edge::On;
use jobkit_core::ids::OperationId;
use jobkit_core::record::NewRecord;
use jobkit_core::recurring::Pause;
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, AuditEntry, BulkPlan, BulkRecord, Call, EditJob, Guard, Heartbeat, HeartbeatAnswer,
    JobSubmitted, PauseRecord, PauseTarget, ReleaseStuck, Renewal, ServerCommand, ServerOrder,
    Submission, Submitted,
};
use jobkit_core::unique::{OnConflict, Unique, Until};
use jobkit_core::{BatchId, ErrorKind, JobId, Timestamp};

use crate::fixtures::*;

fn queue(queue: &str) -> PauseTarget {
    PauseTarget::Queue(name(queue))
}

fn kind(kind: &str) -> PauseTarget {
    PauseTarget::Kind(name(kind))
}

async fn pause(env: &Env, target: &PauseTarget) {
    env.storage.pause(&env.call(), target, &Pause::new("ada", "deploy")).await.expect("pauses");
}

/// OPS-1, CLM-6, G15: a paused queue or kind yields nothing, whatever was there before or comes; others
/// are not disturbed, and running jobs go on.
pub async fn a_paused_queue_or_kind_yields_nothing(env: Env) {
    // What a claim under way took is the engine's to give back. Its own test proves that:
    // `a_pause_gives_back_what_was_claimed_ahead`.
    for target in [queue("mail"), kind("slow")] {
        let new = || NewRecord { queue: name("mail"), ..job_of("slow") };
        let mut server = env.claimer("s").await.queues(&["mail", "default"]).kinds(&["slow", "k"]);
        let running = env.add(new()).await;
        let lease = server.claim_one().await.lease;
        let before = env.add(new()).await;
        pause(&env, &target).await;
        let after = env.add(new()).await;
        let other = env.add(job()).await;
        assert_eq!(server.claim_ids(10).await, [other]);
        assert_eq!(server.renew(1..=2, vec![]).await.given_back.len(), 2, "both come back");
        assert_eq!(server.claim_ids(10).await, [other]);
        assert!(env.storage.resume(&env.call(), &target).await.expect("resumes"));
        let mut rest = server.claim(10).await;
        assert_eq!(lease.job, running);
        let ids: Vec<_> = rest.iter().map(|job| job.lease.job).collect();
        assert_eq!(ids, [running, before, after], "in their old order");
        pause(&env, &target).await;
        // What runs goes on: it renews, settles, and its retry waits.
        let held = rest.iter().map(|job| Renewal { lease: job.lease, started: true }).collect();
        let renewed = server.renew(server.sequence..=server.sequence, held).await;
        assert!(renewed.given_back.is_empty());
        let job = rest.remove(0);
        server.settled(job.lease, RETRY_NOW).await;
        assert!(server.claim(10).await.is_empty());
        env.storage.resume(&env.call(), &target).await.expect("resumes");
        assert_eq!(server.run_one(Ending::Succeeded).await, running);
        for job in rest {
            server.settled(job.lease, Ending::Succeeded).await;
        }
        let leftover = env.storage.pauses(&env.call()).await.expect("lists");
        assert!(leftover.is_empty());
    }
}

/// OPS-1: a claim that begins after the pause gets nothing, also in the same call as a settle.
pub async fn settle_and_claim_respects_a_pause(env: Env) {
    env.add_many(jobs(3)).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    pause(&env, &queue("default")).await;
    let settle = jobkit_core::storage::SettleRequest {
        server: server.server.clone(),
        settles: vec![jobkit_core::storage::Settle::new(lease, Ending::Succeeded)],
    };
    let claim = server.request(2, 10);
    let (answers, claimed) = env
        .storage
        .settle_and_claim(&env.call(), &settle, &claim)
        .await
        .expect("settles and claims");
    assert_eq!((answers.len(), claimed.jobs.len()), (1, 0));
}

/// OPS-2, G21: resume makes the waiting jobs claimable at once, and tells whether anything was paused.
pub async fn resume_makes_waiting_jobs_claimable(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let target = queue("default");
    assert!(!env.storage.resume(&env.call(), &target).await.expect("resumes"));
    pause(&env, &target).await;
    pause(&env, &kind("k")).await;
    let mut server = env.claimer("s").await;
    assert!(env.storage.resume(&env.call(), &target).await.expect("resumes"));
    assert!(server.claim(10).await.is_empty(), "its kind is still paused");
    assert!(env.storage.resume(&env.call(), &kind("k")).await.expect("resumes"));
    assert!(!env.storage.resume(&env.call(), &kind("k")).await.expect("resumes"));
    assert_eq!(server.claim_ids(10).await, ids);
}

/// OPS-3: a pause with an end lifts itself at that instant.
pub async fn a_pause_with_an_end_lifts_itself(env: Env) {
    let id = env.add(job()).await;
    let target = queue("default");
    let until = Pause { until: Some(env.after(60)), ..Pause::new("ada", "deploy") };
    env.storage.pause(&env.call(), &target, &until).await.expect("pauses");
    let mut server = env.claimer("s").await;
    env.advance(59);
    assert!(server.claim(10).await.is_empty());
    assert_eq!(env.storage.pauses(&env.call()).await.expect("lists").len(), 1);
    env.advance(1);
    assert!(env.storage.pauses(&env.call()).await.expect("lists").is_empty());
    assert_eq!(server.claim_ids(10).await, [id]);
}

/// OPS-4, SRV-2: what is paused is listed with who, why, since and until when, told by heartbeats, and a
/// second pause replaces the first.
pub async fn what_is_paused_is_listed(env: Env) {
    let server = env.claimer("s").await;
    let first = Pause { until: Some(env.after(600)), ..Pause::new("ada", "deploy") };
    env.storage.pause(&env.call(), &queue("mail"), &first).await.expect("pauses");
    env.advance(10);
    let second = Pause::new("bob@example", "größer als '; --");
    env.storage.pause(&env.call(), &queue("mail"), &second).await.expect("pauses");
    env.storage.pause(&env.call(), &kind("k@2"), &first).await.expect("pauses");
    let since = env.now();
    let mut listed = env.second().await.storage.pauses(&env.call()).await.expect("lists");
    listed.sort_by(|a, b| a.target.cmp(&b.target));
    let expected = [
        PauseRecord { target: queue("mail"), pause: Pause { since, ..second } },
        PauseRecord { target: kind("k@2"), pause: Pause { since, ..first } },
    ];
    assert_eq!(listed, expected);
    let beat = Heartbeat { incarnation: server.incarnation, busy: 0 };
    let mut told = env.storage.heartbeat(&env.call(), &beat).await.expect("beats").paused;
    told.sort();
    assert_eq!(told, [queue("mail"), kind("k@2")]);
    let bad = Pause::new("ada", "a\0b");
    let error = env.storage.pause(&env.call(), &queue("x"), &bad).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

async fn beat(env: &Env, server: &Claimer) -> HeartbeatAnswer {
    let beat = Heartbeat { incarnation: server.incarnation, busy: 0 };
    env.storage.heartbeat(&env.call(), &beat).await.expect("beats")
}

async fn order(env: &Env, server: &str, order: Option<&ServerOrder>) -> bool {
    env.storage.command_server(&env.call(), &name(server), order).await.expect("is told")
}

/// OPS-6, SRV-2: an order is told with every heartbeat until it is taken back or ends, to that life
/// alone.
pub async fn a_server_is_told_what_to_do(env: Env) {
    let (server, other) = (env.claimer("s").await, env.claimer("other").await);
    assert_eq!(beat(&env, &server).await.command, None);
    let quiet = ServerOrder::new(ServerCommand::Quiet, "ada", "deploy");
    assert!(order(&env, "s", Some(&quiet)).await);
    for _ in 0..2 {
        assert_eq!(beat(&env, &server).await.command, Some(ServerCommand::Quiet));
        assert_eq!(beat(&env, &other).await.command, None);
    }
    let told = env.second().await.storage.servers().await.expect("lists");
    let told = told.into_iter().find(|it| it.info.name == "s").and_then(|it| it.order);
    let told = told.expect("there is an order");
    assert_eq!((told.given.by.as_str(), told.given.reason.as_str()), ("ada", "deploy"));
    assert_eq!(told.given.since, env.now());
    assert!(order(&env, "s", None).await);
    assert_eq!(beat(&env, &server).await.command, None);
    // One with an end takes itself back.
    let mut brief = ServerOrder::new(ServerCommand::Stop, "ada", "deploy");
    brief.given.until = Some(env.after(60));
    assert!(order(&env, "s", Some(&brief)).await);
    env.advance(59);
    assert_eq!(beat(&env, &server).await.command, Some(ServerCommand::Stop));
    env.advance(1);
    assert_eq!(beat(&env, &server).await.command, None);
    // What a former life was told does not bind a later one.
    brief.given.until = None;
    assert!(order(&env, "s", Some(&brief)).await);
    server.drain().await;
    let next = env.claimer("s").await;
    assert_eq!(beat(&env, &next).await.command, None);
    assert!(!order(&env, "nobody", Some(&brief)).await);
    brief.given.reason = "a\0b".into();
    let error = env.storage.command_server(&env.call(), &name("s"), Some(&brief)).await;
    assert_eq!(error.expect_err("is refused").kind(), ErrorKind::InvalidInput);
}

async fn edit(env: &Env, original: JobId, guard: Guard, copy: &NewRecord) -> Submitted {
    let edit = EditJob { original, guard, copy, actor: Some("ada") };
    env.storage.edit_job(&env.call(), edit).await.expect("edits")
}

fn copy_of(original: JobId, args: &str) -> NewRecord {
    let mut copy = NewRecord { args: payload(args), ..job() };
    copy.extras_mut().made_from = Some(original);
    copy
}

fn created() -> Submitted {
    Submitted::Created(vec![JobSubmitted::Created(StateName::Enqueued)])
}

/// OPS-7: a copy takes the place of a waiting job in one step, and stands beside a finished one; repeating
/// it changes nothing.
pub async fn an_edited_copy_replaces_a_waiting_job(env: Env) {
    let original = env.add(NewRecord { args: payload(r#"{"n":1}"#), ..job() }).await;
    let copy = copy_of(original, r#"{"n":2}"#);
    let seen = Guard::Version(env.record(original).await.head.version);
    assert_eq!(edit(&env, original, seen, &copy).await, created());
    let record = env.record(original).await;
    assert_eq!((record.state(), record.head.reason), (StateName::Deleted, Reason::Replaced));
    let history = env.details(original).await.history.entries;
    assert_eq!(history.last().and_then(|entry| entry.actor.as_deref()), Some("ada"));
    let stored = env.details(copy.id).await;
    assert_eq!(stored.args, payload(r#"{"n":2}"#));
    assert_eq!(stored.record.extras.and_then(|extras| extras.made_from), Some(original));
    // Its answer was lost.
    let before = (env.details(original).await, env.details(copy.id).await);
    let again = edit(&env, original, seen, &copy).await;
    let already = JobSubmitted::Already(StateName::Enqueued);
    assert_eq!(again, Submitted::Created(vec![already]));
    assert_eq!((env.details(original).await, env.details(copy.id).await), before);
    let mut server = env.claimer("s").await;
    assert_eq!(server.run_one(Ending::Failed(Reason::Permanent)).await, copy.id);
    // A finished one is kept as it is.
    let failed = env.details(copy.id).await;
    let second = copy_of(copy.id, r#"{"n":3}"#);
    assert_eq!(edit(&env, copy.id, Guard::State(StateName::Failed), &second).await, created());
    assert_eq!(env.details(copy.id).await, failed);
    assert_eq!(server.claim_ids(10).await, [second.id]);
}

/// OPS-7, G3, G11: the unique key of a waiting job goes over to its copy, also one that is held for a
/// period; a copy that is refused leaves all as it was.
pub async fn an_edited_copy_takes_the_unique_key(env: Env) {
    let period = Unique { until: Until::Period(seconds(24 * 3600)), ..Unique::new("period") };
    for unique in [Unique::new("key"), period] {
        let unique = Unique { on_conflict: OnConflict::Reject, ..unique };
        let held = |args: &str, original| NewRecord {
            unique: Some(unique.clone()),
            ..copy_of(original, args)
        };
        let original = env.add(held(r#"{"n":1}"#, JobId::new())).await;
        let copy = held(r#"{"n":2}"#, original);
        assert_eq!(edit(&env, original, Guard::None, &copy).await, created());
        let third = Submission::one(held(r#"{"n":3}"#, original));
        let conflict = Refusal::UniqueConflict { holder: copy.id };
        assert_eq!(env.refused(third).await, conflict);
        // Another job's key refuses the copy, and the original keeps its own.
        let taken = || keyed(&format!("other {}", unique.key), OnConflict::Reject);
        let other = env.add(taken()).await;
        let before = env.details(copy.id).await;
        assert_eq!(
            edit(&env, copy.id, Guard::None, &taken()).await,
            Submitted::Refused(Refusal::UniqueConflict { holder: other })
        );
        assert_eq!(env.details(copy.id).await, before);
        let fourth = Submission::one(held(r#"{"n":4}"#, original));
        assert_eq!(env.refused(fourth).await, conflict);
    }
}

/// OPS-7, G20: what runs, what others wait for and what a batch counts is not replaced, and neither is
/// what has changed or gone.
pub async fn a_job_that_cannot_be_edited_stays_as_it_was(env: Env) {
    let waited_for = env.add(job()).await;
    let child = env.add(after(waited_for, On::Success)).await;
    let batch = BatchId::new();
    let counted = member(batch);
    env.submit(batch_of(batch, Starts::AtOnce, vec![counted.clone()])).await;
    let mut server = env.claimer("s").await;
    let running = env.add(NewRecord { priority: 9, ..job() }).await;
    assert_eq!(server.claim_one().await.lease.job, running);
    let stale = env.add(job()).await;
    let cases = [
        (waited_for, Guard::None),
        (child, Guard::None),
        (counted.id, Guard::None),
        (running, Guard::None),
        (stale, Guard::Version(99)),
        (stale, Guard::State(StateName::Failed)),
        (JobId::new(), Guard::None),
    ];
    for (original, guard) in cases {
        let before = env.find(original).await;
        let copy = copy_of(original, "{}");
        let answer = edit(&env, original, guard, &copy).await;
        assert!(matches!(answer, Submitted::Refused(_)), "{original}: {answer:?}");
        assert_eq!(env.find(original).await, before);
        assert!(env.find(copy.id).await.is_none());
    }
    assert_eq!(env.state(child).await, StateName::Awaiting);
    let copy = after(waited_for, On::Any);
    let edit = EditJob { original: stale, guard: Guard::None, copy: &copy, actor: None };
    let error = env.storage.edit_job(&env.call(), edit).await.expect_err("edges are refused");
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidInput, Some("parents")));
}

fn bulk(env: &Env, filter: &str) -> BulkRecord {
    BulkRecord {
        id: OperationId::new(),
        version: 1,
        filter: filter.into(),
        action: Action::Requeue { run_at: None },
        as_of: env.now(),
        spread: seconds(60),
        previewed: 3,
        actor: "ada".into(),
        reason: "größer als '; --".into(),
        place: None,
        plan: None,
        done: 0,
        skipped: 0,
        refused: 0,
        ended_at: None,
        cancelled: false,
    }
}

async fn save(env: &Env, bulk: &BulkRecord) -> bool {
    env.storage.save_bulk(&env.call(), bulk).await.expect("saves")
}

/// OPS-8, SRV-6: of many who save one version one succeeds, and heartbeats tell of what has not ended.
pub async fn a_bulk_operation_is_saved_by_one(env: Env) {
    let server = env.claimer("s").await;
    assert!(!beat(&env, &server).await.bulk);
    let first = bulk(&env, "state:failed");
    assert!(save(&env, &first).await);
    assert!(!save(&env, &first).await, "it is there");
    assert!(beat(&env, &server).await.bulk);
    let second = BulkRecord {
        version: 2,
        place: Some("0|12:7".into()),
        plan: Some(BulkPlan { at: env.now(), jobs: vec![(JobId::new(), 4)], next: None }),
        ..first.clone()
    };
    let storages = [env.storage.clone(), env.second().await.storage.clone()];
    let tasks = (0..10).map(|i| {
        let storage = storages[i % 2].clone();
        let mine = BulkRecord { done: i as u64, ..second.clone() };
        tokio::spawn(async move {
            (storage.save_bulk(&Call::default(), &mine).await.expect("saves"), mine)
        })
    });
    let saved = join(tasks.collect()).await;
    let won: Vec<_> = saved.into_iter().filter(|(won, _)| *won).map(|(_, mine)| mine).collect();
    assert_eq!(won.len(), 1);
    let stored = env.storage.bulk(first.id).await.expect("reads");
    assert_eq!(stored.as_ref(), won.first());
    assert!(!save(&env, &BulkRecord { version: 4, ..first.clone() }).await, "none is left out");
    let ended = BulkRecord { version: 3, ended_at: Some(env.now()), ..won[0].clone() };
    assert!(save(&env, &ended).await);
    assert!(!beat(&env, &server).await.bulk);
    assert_eq!(env.storage.bulk(OperationId::new()).await.expect("reads"), None);
    let long = bulk(&env, &"x".repeat(70_000));
    let error = env.storage.save_bulk(&env.call(), &long).await.expect_err("is refused");
    assert_eq!(error.field(), Some("filter"));
}

/// OPS-9: those that have not ended come first, oldest first, then the others, newest first, for a week.
pub async fn bulk_operations_are_listed_and_forgotten(env: Env) {
    let mut all = Vec::new();
    for i in 0..6 {
        // Ids are ordered by time, and several can be made in one millisecond.
        let id = OperationId::from_bytes([i; 16]);
        let ended_at = (i % 2 == 1).then(|| env.after(i64::from(i)));
        assert!(save(&env, &BulkRecord { id, ended_at, ..bulk(&env, "state:failed") }).await);
        all.push(id);
    }
    let list = |limit| {
        let storage = env.storage.clone();
        async move {
            let bulks = storage.bulks(limit).await.expect("lists");
            bulks.into_iter().map(|bulk| bulk.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(list(10).await, [all[0], all[2], all[4], all[5], all[3], all[1]]);
    assert_eq!(list(4).await, [all[0], all[2], all[4], all[5]]);
    env.advance(7 * 24 * 3600 + 4);
    env.purge().await;
    assert_eq!(list(10).await, [all[0], all[2], all[4], all[5]], "what runs is never forgotten");
}

fn entry(action: &str) -> AuditEntry {
    AuditEntry {
        operation: OperationId::new(),
        at: Timestamp::default(),
        actor: "ann@example".into(),
        peer: "::1".into(),
        action: action.into(),
        target: "queue:mail; größer '\"\u{202e}".into(),
        count: 0,
        outcome: String::new(),
        reason: "why".into(),
    }
}

/// OPS-11: the audit keeps each entry once, with the storage's time, newest first, for 90 days.
pub async fn the_audit_tells_who_did_what(env: Env) {
    let append = |entry: AuditEntry| {
        let (storage, call) = (env.storage.clone(), env.call());
        async move { storage.append_audit(&call, &entry).await }
    };
    let first_at = env.now();
    let first = entry("pause queue");
    append(first.clone()).await.expect("appends");
    env.advance(24 * 3600);
    let mut others = Vec::new();
    for i in 0..4 {
        let other = entry(&format!("retry {i}"));
        append(other.clone()).await.expect("appends");
        others.push(AuditEntry { at: env.now(), ..other });
    }
    // It is known now how it went.
    let first = AuditEntry { at: first_at, count: 7, outcome: "7 changed".into(), ..first };
    append(first.clone()).await.expect("replaces");
    let second = env.second().await;
    let page = |after, limit| {
        let storage = second.storage.clone();
        async move { storage.audit(after, limit).await.expect("reads") }
    };
    let mut expected = vec![first.clone()];
    expected.extend(others);
    expected.reverse();
    assert_eq!(page(None, 10).await, expected);
    assert_eq!(page(None, 2).await, expected[..2]);
    assert_eq!(page(Some(expected[1].operation), 10).await, expected[2..]);
    assert_eq!(page(Some(first.operation), 10).await, []);
    let bad = AuditEntry { actor: String::new(), ..entry("x") };
    assert_eq!(append(bad).await.expect_err("is refused").field(), Some("actor"));
    env.advance(90 * 24 * 3600);
    env.purge().await;
    assert_eq!(page(None, 10).await, expected[..4], "the first has been kept for long enough");
}

/// OPS-12: all who ask for a secret get the same one, whoever asks first.
pub async fn a_secret_is_shared(env: Env) {
    let storages = [env.storage.clone(), env.second().await.storage.clone()];
    let tasks = (0..10).map(|i| {
        let storage = storages[i % 2].clone();
        tokio::spawn(
            async move { storage.secret(&Call::default(), "csrf").await.expect("is made") },
        )
    });
    let secrets = join(tasks.collect()).await;
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    assert_ne!(secrets[0], [0; 32]);
    assert_ne!(env.storage.secret(&env.call(), "cursor").await.expect("is made"), secrets[0]);
    let error = env.storage.secret(&env.call(), "").await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// LIM-9, G4, G13: the slot of an expired lease is freed by hand without a second look, and a crash is
/// counted; a lease that has not expired, or another limit, is left alone.
pub async fn a_stuck_slot_is_released(env: Env) {
    let holder = env.add(limited("l", 1)).await;
    let waiter = env.add(limited("l", 1)).await;
    let other = env.add(job()).await;
    let mut server = env.claimer("s").await.started(10);
    assert_eq!(server.claim_ids(10).await, [holder, other]);
    let release = |limit: &'static str, job| {
        let (storage, call) = (env.storage.clone(), env.call());
        let request = ReleaseStuck { limit, job, crash_limit: 3 };
        async move { storage.release_stuck(&call, request).await.expect("answers") }
    };
    assert!(!release("l", holder).await, "its lease lives");
    env.advance(31);
    for (limit, job) in [("l", waiter), ("l", other), ("m", holder), ("l", JobId::new())] {
        assert!(!release(limit, job).await, "{limit} {job}");
    }
    assert!(release("l", holder).await);
    assert!(!release("l", holder).await);
    let record = env.record(holder).await;
    assert_eq!((record.state(), record.head.crashes), (StateName::Enqueued, 1));
    assert_eq!(record.head.reason, Reason::Rescued);
    assert_eq!(env.usage("l").await.0, 0);
    assert_eq!(env.state(other).await, StateName::Processing, "only what holds the limit");
    assert_eq!(env.claimer("t").await.claim(10).await.len(), 1, "the slot is free");
}
