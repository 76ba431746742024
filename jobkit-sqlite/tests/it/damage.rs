//! Damaged rows are passed over, fixed or told of, and spoil nothing beside them.

use std::time::Duration;

use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::limit::Limit;
use jobkit_core::record::Occurrence;
use jobkit_core::recurring::{JobTemplate, NextRun, Overlap, RunOutcome};
use jobkit_core::state::StateName;
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::*;
use jobkit_core::unique::{OnConflict, Unique, Until};
use jobkit_core::{JobId, Name, OperationId};
use jobkit_sqlite::SqliteStorage;

use crate::support::{claim, every_minute, job, opened, served, server, settle, submit};

/// A row that cannot even be read is passed over: by promotion, rescue, purge, settle and lists.
#[tokio::test]
async fn a_damaged_row_stops_nobody_else() {
    let (_dir, path, storage, server) = served().await;
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.busy_timeout(Duration::from_secs(5)).expect("is set");
    // `flags` is no number any more.
    let damage = |id: JobId| {
        let damaged = "UPDATE jobkit_job SET flags = 'what' WHERE id = ?1";
        assert_eq!(conn.execute(damaged, [&id.as_bytes()[..]]).expect("writes"), 1);
    };
    let state = |id: JobId| -> i64 {
        let text = "SELECT state FROM jobkit_job WHERE id = ?1";
        conn.query_row(text, [&id.as_bytes()[..]], |row| row.get(0)).expect("reads")
    };
    let now = storage.now().await.expect("tells");
    let later = |seconds| Call::at(now.plus(Duration::from_secs(seconds)));
    let list = async |state| {
        let query = JobQuery::new(state);
        let page = storage.list(&query).await.expect("lists");
        page.jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
    };

    // Scheduled, and due.
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut one = job();
        one.jobs[0].start = jobkit_core::state::Start::After(Duration::from_secs(1));
        one.jobs[0].limits = vec![Limit::new("l", 1)];
        ids.push(one.jobs[0].id);
        submit(&storage, one).await;
    }
    damage(ids[0]);
    assert_eq!(list(StateName::Scheduled).await, ids[1..]);
    let step = StepRequest { max: 100 };
    let promoted = storage.promote_due(&later(2), step).await.expect("promotes");
    assert_eq!(promoted.next_due_at, None, "it is not due forever");
    assert_eq!((state(ids[0]), state(ids[1])), (5, 2));

    // Running under a limit.
    let held = claim(&storage, &server, 1).await;
    assert_eq!(held.iter().map(|it| it.lease.job).collect::<Vec<_>>(), ids[1..]);
    damage(ids[1]);
    assert!(claim(&storage, &server, 1).await.is_empty(), "a repetition leaves it out");
    let holders = storage.limit_holders("l", 10).await.expect("lists the others");
    assert!(holders.is_empty(), "{holders:?}");
    let mut next = job();
    next.jobs[0].limits = vec![Limit::new("l", 1)];
    let next_id = next.jobs[0].id;
    submit(&storage, next).await;
    assert!(claim(&storage, &server, 2).await.is_empty());
    let ending = Ending::Succeeded;
    let settles = vec![Settle::new(held[0].lease, ending)];
    let request = SettleRequest { server: server.name.clone(), settles };
    let answers = storage.settle(&Call::default(), &request).await.expect("settles the others");
    assert!(matches!(answers[..], [SettleAnswer::LeaseLost]), "{answers:?}");
    let rescue = |seen| RescueRequest { seen, crash_limit: 3, max: 100 };
    let seen =
        storage.rescue_expired(&later(60), &rescue(Vec::new())).await.expect("looks").expired;
    storage.rescue_expired(&later(60), &rescue(seen)).await.expect("rescues the others");
    assert_eq!(state(ids[1]), 5);
    let held = claim(&storage, &server, 3).await;
    assert_eq!(held[0].lease.job, next_id, "its slot is free");

    // Expired.
    let mut ids = vec![next_id];
    let settle = |job: &ClaimedJob| Settle::new(job.lease, ending);
    let settles = vec![settle(&held[0])];
    let request = SettleRequest { server: server.name.clone(), settles };
    storage.settle(&Call::default(), &request).await.expect("settles");
    let one = job();
    ids.push(one.jobs[0].id);
    submit(&storage, one).await;
    let held = claim(&storage, &server, 4).await;
    let request = SettleRequest { server: server.name.clone(), settles: vec![settle(&held[0])] };
    storage.settle(&Call::default(), &request).await.expect("settles");
    damage(ids[0]);
    assert_eq!(list(StateName::Succeeded).await, ids[1..]);
    let step = StepRequest { max: 1 };
    let mut removed = 0;
    for _ in 0..5 {
        removed += storage
            .purge_expired(&later(400 * 24 * 3600), step)
            .await
            .expect("purges the others")
            .done;
    }
    assert_eq!((removed, state(ids[0])), (1, 4), "it stays, for somebody to look at");
}

#[tokio::test]
async fn a_job_whose_limits_are_damaged_gives_back_the_room_it_was_given() {
    let (_dir, path, storage, server) = served().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut one = job();
        one.jobs[0].limits = vec![Limit::new("l", 1)];
        ids.push(one.jobs[0].id);
        submit(&storage, one).await;
    }
    let held = claim(&storage, &server, 1).await;
    assert_eq!(held.len(), 1);
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute(
        "UPDATE jobkit_job SET limits = '{not json' WHERE id = ?1",
        [&ids[1].as_bytes()[..]],
    )
    .expect("writes");
    let settle = Settle::new(held[0].lease, Ending::Succeeded);
    let request = SettleRequest { server: server.name.clone(), settles: vec![settle] };
    storage.settle(&Call::default(), &request).await.expect("settles");
    // It fails, and the room that it was given goes on.
    let mut held = claim(&storage, &server, 2).await;
    held.extend(claim(&storage, &server, 3).await);
    assert_eq!(held.iter().map(|job| job.lease.job).collect::<Vec<_>>(), ids[2..]);
}

/// The ids of these jobs, which have been submitted, claimed and settled.
async fn finished(storage: &SqliteStorage, server: &ServerInfo, kinds: &[&str]) -> Vec<JobId> {
    let mut ids = Vec::new();
    for kind in kinds {
        let mut one = job();
        one.jobs[0].kind = Name::from_stored(*kind);
        ids.push(one.jobs[0].id);
        submit(storage, one).await;
    }
    let held = claim(storage, server, 1).await;
    assert_eq!(held.len(), ids.len());
    settle(
        storage,
        server,
        held.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect(),
    )
    .await;
    ids
}

/// Numbers that are no integers stand between the integers, where lists walk from one to the next.
#[tokio::test]
async fn a_damaged_place_hides_nobody_from_the_lists_of_finished_jobs() {
    for column in ["kind", "queue", "entered_at"] {
        let (_dir, path, storage) = opened().await;
        let mut server = server();
        server.kinds = ["a", "b", "c"].map(Name::from_stored).into();
        storage.announce(&Call::default(), &server).await.expect("announces");
        let ids = finished(&storage, &server, &["a", "b", "c"]).await;
        let conn = rusqlite::Connection::open(&path).expect("opens");
        let damage = format!("UPDATE jobkit_job SET {column} = {column} + 0.5 WHERE id = ?1");
        assert_eq!(conn.execute(&damage, [&ids[1].as_bytes()[..]]).expect("writes"), 1);
        let sound = JobQuery::new(StateName::Succeeded);
        for query in [sound.clone(), JobQuery { queue: Some(Name::default_queue()), ..sound }] {
            let page = storage.list(&query).await.expect("lists");
            let listed: Vec<_> = page.jobs.iter().map(|job| job.id).collect();
            assert_eq!(listed, [ids[2], ids[0]], "{column}");
        }
    }
}

/// What is stored below zero counts as zero, and a claim fixes it: the next one does not hand out the
/// same fence again.
#[tokio::test]
async fn a_fence_below_zero_is_fixed_by_a_claim() {
    let (_dir, path, storage, server) = served().await;
    for _ in 0..5 {
        submit(&storage, job()).await;
    }
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.execute("UPDATE jobkit_job SET fence = -5, version = -5", []).expect("writes");
    let held = claim(&storage, &server, 1).await;
    assert!(held.len() == 5 && held.iter().all(|job| job.lease.fence == 1));
    // Nothing is remembered of them after this.
    storage.announce(&Call::default(), &server).await.expect("announces");
    settle(
        &storage,
        &server,
        held.iter().map(|job| Settle::new(job.lease, Ending::Succeeded)).collect(),
    )
    .await;
    let sum = "SELECT sum(fence), sum(version) FROM jobkit_job";
    let sums = conn.query_row(sum, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    assert_eq!(sums.expect("reads"), (5, 10));
}

/// The end of a parent gives up the damaged child that waits for it, and no other.
#[tokio::test]
async fn a_damaged_child_that_went_on_before_its_parent_ended_is_left_alone() {
    let (_dir, path, storage, server) = served().await;
    let parent = job();
    let edge = Edge { parent: Parent::Job(parent.jobs[0].id), on: On::Success };
    submit(&storage, parent).await;
    let mut children = Vec::new();
    for _ in 0..2 {
        let mut child = job();
        child.jobs[0].edges = vec![edge];
        children.push(child.jobs[0].id);
        submit(&storage, child).await;
    }
    let parent = claim(&storage, &server, 1).await.remove(0);
    let change = Change {
        operation: OperationId::new(),
        job: children[1],
        guard: Guard::None,
        action: Action::RunNow,
    };
    let request = ChangeRequest { changes: &[change], actor: None };
    storage.change_state(&Call::default(), request).await.expect("changes");
    assert_eq!(claim(&storage, &server, 2).await.len(), 1);
    let conn = rusqlite::Connection::open(&path).expect("opens");
    let damage = "UPDATE jobkit_job SET flags = 'what' WHERE state IN (0, 3) AND id <> ?1";
    let of_parent = [&parent.lease.job.as_bytes()[..]];
    assert_eq!(conn.execute(damage, of_parent).expect("writes"), 2);
    settle(&storage, &server, vec![Settle::new(parent.lease, Ending::Succeeded)]).await;
    let state = |id: JobId| -> i64 {
        let text = "SELECT state FROM jobkit_job WHERE id = ?1";
        conn.query_row(text, [&id.as_bytes()[..]], |row| row.get(0)).expect("reads")
    };
    assert_eq!((state(children[0]), state(children[1])), (5, 3));
}

/// A job that has not finished stays, whatever its row says of when it expires, and however many there are
/// of them they are not in the way of what has expired.
#[tokio::test]
async fn what_has_not_finished_is_not_purged_nor_in_the_way() {
    let (_dir, path, storage, server) = served().await;
    let ids = finished(&storage, &server, &["kind"]).await;
    for _ in 0..5 {
        submit(&storage, job()).await;
    }
    let conn = rusqlite::Connection::open(&path).expect("opens");
    let damage = "UPDATE jobkit_job SET expires_at = 1 WHERE state = 2";
    assert_eq!(conn.execute(damage, []).expect("writes"), 5);
    let later = storage.now().await.expect("tells").plus(Duration::from_secs(400 * 24 * 3600));
    let mut done = 0;
    for _ in 0..4 {
        let step = StepRequest { max: 2 };
        done += storage.purge_expired(&Call::at(later), step).await.expect("purges").done;
    }
    assert_eq!(done, 1);
    assert!(storage.job(ids[0]).await.expect("reads").is_none());
    let snapshot = storage.snapshot(&Call::default()).await.expect("reads");
    assert_eq!(snapshot.count(StateName::Enqueued), 5);
}

/// A key that cannot be read any more is free with the end of its job.
#[tokio::test]
async fn a_damaged_key_is_free_with_the_end() {
    let (_dir, path, storage, server) = served().await;
    let keyed = || {
        let mut keyed = job();
        keyed.jobs[0].unique = Some(Unique::new("key"));
        keyed
    };
    submit(&storage, keyed()).await;
    let lease = claim(&storage, &server, 1).await[0].lease;
    let conn = rusqlite::Connection::open(&path).expect("opens");
    assert_eq!(conn.execute("UPDATE jobkit_job SET uniq = '{'", []).expect("writes"), 1);
    let held = || conn.query_row("SELECT count(*) FROM jobkit_ukey", [], |row| row.get(0));
    assert_eq!(held(), Ok(1));
    settle(&storage, &server, vec![Settle::new(lease, Ending::Succeeded)]).await;
    assert_eq!(held(), Ok(0));
    submit(&storage, keyed()).await;
}

/// The end of a key's period, and when it was taken, may be anything: the key is held, and can be taken over.
#[tokio::test]
async fn a_damaged_period_of_a_key_fails_no_submission() {
    let (_dir, path, storage, _server) = served().await;
    let keyed = |on_conflict| {
        let mut keyed = job();
        let hour = Until::Period(Duration::from_secs(3600));
        keyed.jobs[0].unique = Some(Unique { until: hour, on_conflict, ..Unique::new("key") });
        keyed
    };
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.busy_timeout(Duration::from_secs(5)).expect("is set");
    for column in ["until", "taken_at"] {
        submit(&storage, keyed(OnConflict::Replace)).await;
        let damage = format!("UPDATE jobkit_ukey SET {column} = 'x'");
        assert_eq!(conn.execute(&damage, []).expect("writes"), 1, "{column}");
        let again = [keyed(OnConflict::ReturnExisting)];
        let request = SubmitRequest { submissions: &again };
        let answers = storage.submit(&Call::default(), request).await.expect("answers");
        let Submitted::Created(jobs) = &answers[0] else { panic!("{column}: {answers:?}") };
        assert!(matches!(jobs[0], JobSubmitted::Existing(_)), "{column}: {jobs:?}");
    }
    submit(&storage, keyed(OnConflict::Replace)).await;
}

/// A schedule whose last job or whose occurrences cannot be read fails none of those that are fired with it:
/// the one goes on, the other says why it does not.
#[tokio::test]
async fn a_damaged_schedule_fails_no_other() {
    let (_dir, path, storage, _server) = served().await;
    let conn = rusqlite::Connection::open(&path).expect("opens");
    conn.busy_timeout(Duration::from_secs(5)).expect("is set");
    let now = storage.now().await.expect("tells");
    let run = |n: u64| {
        let at = now.plus(Duration::from_secs(60 * n));
        NextRun { nominal_at: at, due_at: at }
    };
    let template = JobTemplate::from_record(&job().jobs[0]).expect("can recur");
    let ids = ["a", "last job", "occurrences", "z"];
    for id in ids {
        let spec = every_minute(id, template.clone());
        let save = SaveRecurring { spec, next: Some(run(0)), if_etag: None };
        storage.save_recurring(&Call::default(), &[save]).await.expect("saves");
    }
    let fire_all = async |n: u64| {
        let mut fires = Vec::new();
        for id in ids {
            let record = storage.recurring(id).await.expect("reads").expect("is there");
            let job = record.spec.job.instantiate(
                JobId::new(),
                Occurrence { recurring: id.into(), nominal_at: run(n).nominal_at },
            );
            let nominal_at = run(n).nominal_at;
            fires.push(Fire {
                id: id.into(),
                expected: record.next.expect("goes on").nominal_at,
                etag: record.etag,
                skipped: Vec::new(),
                job: Some(FireJob { nominal_at, job, overlap: Overlap::Allow }),
                next: Some(run(n + 1)),
            });
            if id == "last job"
                && let Some(job) = fires.last_mut().and_then(|fire| fire.job.as_mut())
            {
                job.overlap = Overlap::Skip;
            }
        }
        storage.fire_recurring(&Call::default(), &fires).await.expect("fires the others")
    };
    let outcomes = fire_all(0).await;
    assert!(outcomes.iter().all(|it| matches!(it, FireOutcome::Fired(_))), "{outcomes:?}");
    let FireOutcome::Fired(last) = &outcomes[1] else { unreachable!() };
    let text = "UPDATE jobkit_job SET state = 'what' WHERE id = ?1";
    assert_eq!(conn.execute(text, [&last.as_bytes()[..]]).expect("writes"), 1);
    let text = "UPDATE jobkit_recurring_run SET n = 'what' WHERE recurring = 'occurrences'";
    assert_eq!(conn.execute(text, []).expect("writes"), 1);
    let outcomes = fire_all(1).await;
    assert!(matches!(outcomes[0], FireOutcome::Fired(_)), "{outcomes:?}");
    assert!(matches!(outcomes[3], FireOutcome::Fired(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], FireOutcome::Skipped);
    assert!(
        matches!(&outcomes[2], FireOutcome::Failed(reason) if reason.contains("cannot be read"))
    );
    let recorded = storage.recurring_runs("last job", 1).await.expect("reads").remove(0);
    assert!(matches!(recorded.outcome, RunOutcome::Refused { .. }), "{recorded:?}");
    let record = storage.recurring("last job").await.expect("reads").expect("is there");
    assert_eq!(record.next, Some(run(2)), "it goes on");
    let record = storage.recurring("occurrences").await.expect("reads").expect("is there");
    assert_eq!(record.next, Some(run(1)), "nothing changed");
}
