//! The storage as a whole: schema, namespaces, what survives, what is offered.

use jobkit_core::failure::Fingerprint;
use jobkit_core::recurring::Pause;
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{
    Action, AuditEntry, BulkRecord, Call, EditJob, ErrorQuery, Guard, JobQuery, Level, LockRequest,
    ReleaseStuck, ServerCommand, ServerOrder, Severity, Submission,
};
use jobkit_core::{BatchId, ErrorKind, Incarnation, JobId, OperationId, Result};

use crate::backend::Group;
use crate::fixtures::*;

/// OPS-5: the groups that are run are those that the capabilities call for, so that nothing is skipped
/// in silence.
pub async fn the_groups_fit_the_capabilities(env: Env) {
    let mut named = env.groups.to_vec();
    named.sort_unstable();
    let needed = Group::of(env.storage.capabilities());
    assert_eq!(named, needed, "the groups named, and those that the capabilities call for");
    let capabilities = env.storage.capabilities();
    assert!(capabilities.max_payload_bytes > 0);
    assert!((1..=jobkit_core::bounds::MAX_STEP_ITEMS).contains(&capabilities.step_items));
    assert!(capabilities.time_precision <= std::time::Duration::from_millis(1));
}

/// STO-1: migrating again changes nothing, also when two do it at once, and leaves jobs alone.
pub async fn migrating_again_changes_nothing(env: Env) {
    let id = env.add(job()).await;
    let before = env.details(id).await;
    let other = env.second().await;
    let tasks = [env.clone(), other.clone(), env.clone(), other]
        .map(|env| tokio::spawn(async move { env.storage.migrate().await.expect("migrates") }));
    for migrated in join(tasks.into()).await {
        assert_eq!(migrated.from, migrated.to);
        assert!(migrated.to > 0);
    }
    assert_eq!(env.details(id).await, before);
}

/// STO-2: a storage that is in order reports no error.
pub async fn a_storage_that_is_in_order_reports_no_error(env: Env) {
    for finding in env.storage.check().await.expect("checks") {
        assert!(finding.severity < Severity::Error, "{finding:?}");
        assert!(!finding.code.is_empty() && !finding.message.is_empty(), "{finding:?}");
    }
    assert!(!env.storage.backend().is_empty());
}

/// STO-3: two namespaces never see each other's jobs, locks or servers.
pub async fn namespaces_do_not_see_each_other(env: Env) {
    let other = env.another().await;
    let job = job();
    let id = env.add(job.clone()).await;
    assert!(other.find(id).await.is_none());
    env.claimer("s").await;
    assert!(other.storage.servers().await.expect("lists").is_empty());
    let mut server = other.claimer("s").await;
    assert!(server.claim(10).await.is_empty());
    let lock = |owner| LockRequest { name: "l".into(), owner, ttl: seconds(60) };
    for env in [&env, &other] {
        let held =
            env.storage.try_acquire(&env.call(), &lock(Incarnation::new())).await.expect("asks");
        assert!(held.is_some());
    }
    // The same id in both is two jobs.
    assert_eq!(other.add(job).await, id);
    assert_eq!(server.run_one(Ending::Succeeded).await, id);
    assert_eq!(env.state(id).await, StateName::Enqueued);
}

/// STO-4, G1: what was committed is there after the storage was closed and opened again.
pub async fn what_was_committed_survives_a_restart(env: Env) {
    let waiting = env.add(job()).await;
    let held = env.add(NewRecordExt::urgent()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    assert_eq!(lease.job, held);
    let lock = LockRequest { name: "l".into(), owner: Incarnation::new(), ttl: seconds(60) };
    let generation =
        env.storage.try_acquire(&env.call(), &lock).await.expect("asks").expect("free").generation;
    let before = (env.details(waiting).await, env.details(held).await);
    let (incarnation, sequence) = (server.incarnation, server.sequence);
    drop(server);
    let env = env.restarted().await.expect("a durable backend can be opened again");
    env.storage.migrate().await.expect("migrates");
    assert_eq!((env.details(waiting).await, env.details(held).await), before);
    let mut server = env.stranger("s");
    (server.incarnation, server.sequence) = (incarnation, sequence);
    let again = server.repeat_claim(1).await;
    assert_eq!(again.iter().map(|job| job.lease).collect::<Vec<_>>(), [lease]);
    assert_eq!(server.settled(lease, Ending::Succeeded).await, StateName::Succeeded);
    let stranger = LockRequest { owner: Incarnation::new(), ..lock.clone() };
    assert!(env.storage.try_acquire(&env.call(), &stranger).await.expect("asks").is_none());
    assert!(env.storage.release_lock(&env.call(), &lock, generation).await.expect("releases"));
    let next =
        env.storage.try_acquire(&env.call(), &stranger).await.expect("asks").expect("is free");
    assert!(next.generation > generation);
    // Submitted before, so known; the order goes on.
    let later = env.add(job()).await;
    assert_eq!(server.claim_ids(10).await, [waiting, later]);
}

struct NewRecordExt;

impl NewRecordExt {
    fn urgent() -> jobkit_core::record::NewRecord {
        jobkit_core::record::NewRecord { priority: 9, ..job() }
    }
}

/// OPS-5, G20: what is not offered answers `Unsupported` and changes nothing.
pub async fn what_is_not_offered_answers_unsupported(env: Env) {
    let id = env.add(job()).await;
    let before = env.details(id).await;
    let mut offered = Vec::new();
    let mut look = |what: &'static str, answer: Option<ErrorKind>| match answer {
        None => offered.push(what),
        Some(ErrorKind::Unsupported) => {}
        Some(kind) => panic!("{what}: {kind:?}"),
    };
    fn kind<T>(answer: Result<T>) -> Option<ErrorKind> {
        answer.err().map(|error| error.kind())
    }
    let storage = &*env.storage;
    let batch = BatchId::new();
    look("batches", kind(storage.batch(batch).await));
    look("limits", kind(storage.limit(&Call::default(), "l").await));
    look("logs", kind(storage.read_log(id, None, 0, 1).await));
    look("recurring", kind(storage.list_recurring(None, 1).await));
    if storage.capabilities().level >= Level::Standard {
        assert_eq!(offered, ["batches", "limits", "logs", "recurring"]);
    } else {
        assert!(offered.is_empty(), "{offered:?} is more than the level says");
    }
    let mut offered = Vec::new();
    let mut look = |what: &'static str, answer: Option<ErrorKind>| match answer {
        None => offered.push(what),
        Some(ErrorKind::Unsupported) => {}
        Some(kind) => panic!("{what}: {kind:?}"),
    };
    look("snapshot", kind(storage.snapshot(&env.call()).await));
    look("list", kind(storage.list(&JobQuery::new(StateName::Enqueued)).await));
    look("pauses", kind(storage.pauses(&env.call()).await));
    if storage.capabilities().level >= Level::Full {
        assert_eq!(offered, ["snapshot", "list", "pauses"]);
    } else {
        assert!(offered.is_empty(), "{offered:?} is more than the level says");
        let queue = jobkit_core::storage::PauseTarget::Queue(name("default"));
        let pause = Pause::new("op", "why");
        assert_eq!(
            kind(storage.pause(&Call::default(), &queue, &pause).await),
            Some(ErrorKind::Unsupported)
        );
    }
    assert_eq!(env.details(id).await, before);

    // What operators will have: each is there, or says that it is not and leaves the job alone.
    let bulk = BulkRecord {
        id: OperationId::new(),
        version: 1,
        filter: "state:failed".into(),
        action: Action::RunNow,
        as_of: env.now(),
        spread: seconds(0),
        previewed: 0,
        actor: "op".into(),
        reason: "why".into(),
        place: None,
        plan: None,
        done: 0,
        skipped: 0,
        refused: 0,
        ended_at: Some(env.now()),
        cancelled: false,
    };
    let entry = AuditEntry {
        operation: OperationId::new(),
        at: env.now(),
        actor: "op".into(),
        peer: "::1".into(),
        action: "look".into(),
        target: "nothing".into(),
        count: 0,
        outcome: "ok".into(),
        reason: "why".into(),
    };
    let quiet = ServerOrder::new(ServerCommand::Quiet, "op", "why");
    let stuck = ReleaseStuck { limit: "l", job: JobId::new(), crash_limit: 3 };
    let (original, copy) = (JobId::new(), job());
    let edit = EditJob { original, guard: Guard::None, copy: &copy, actor: None };
    let query = JobQuery::new(StateName::Failed);
    let stranger = name("nobody");
    for kind in [
        kind(storage.command_server(&Call::default(), &stranger, Some(&quiet)).await),
        kind(storage.release_stuck(&Call::default(), stuck).await),
        kind(storage.edit_job(&Call::default(), edit).await),
        kind(storage.error_groups(&ErrorQuery::default()).await),
        kind(storage.count(&query, 10).await),
        kind(storage.jobs_before(id, 10).await),
        kind(storage.save_bulk(&Call::default(), &bulk).await),
        kind(storage.bulk(bulk.id).await),
        kind(storage.bulks(10).await),
        kind(storage.mute(&Call::default(), Fingerprint(1), None).await),
        kind(storage.append_audit(&Call::default(), &entry).await),
        kind(storage.audit(None, 10).await),
        kind(storage.secret(&Call::default(), "s").await),
    ] {
        assert!(matches!(kind, None | Some(ErrorKind::Unsupported)), "{kind:?}");
    }
    assert_eq!(env.details(id).await, before);
    let nested = jobkit_core::batch::NewBatch {
        parent: Some(BatchId::new()),
        ..jobkit_core::batch::NewBatch::new(batch, "nested")
    };
    let job = job();
    let nested = Submission { batch: Some(nested), jobs: vec![job.clone()] };
    env.refused(nested).await;
    assert!(env.find(job.id).await.is_none());
}
