//! Submitting jobs, and reading them back.

use std::time::Duration;

use jobkit_core::bounds;
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::limit::Limit;
use jobkit_core::record::{NewRecord, Occurrence, Overrides};
use jobkit_core::refusal::Refusal;
use jobkit_core::state::{Keep, Reason, Retention, Start, State, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Call, JobSubmitted, Submission, SubmitRequest, Submitted};
use jobkit_core::unique::Unique;
use jobkit_core::{JobId, RetryPolicy, Timestamp};

use crate::fixtures::*;

/// SUB-1, G1: when it is created, a job is stored, in one state, and visible to every connection.
pub async fn a_submitted_job_is_visible_to_every_connection(env: Env) {
    let other = env.second().await;
    for _ in 0..50 {
        let job = job();
        let id = job.id;
        let answers = env.submit(Submission::one(job)).await;
        assert_eq!(answers, [JobSubmitted::Created(StateName::Enqueued)]);
        let record = other.record(id).await;
        assert_eq!((record.state(), record.id), (StateName::Enqueued, id));
    }
}

/// SUB-2, G2: an id that is stored already changes nothing and answers its state, whatever happened to
/// the job.
pub async fn a_repeated_submit_changes_nothing_and_says_so(env: Env) {
    let job = NewRecord { priority: 3, ..job() };
    let id = env.add(job.clone()).await;
    let repeat = async |expected| {
        let before = env.details(id).await;
        // Options are not content: a repetition may compute another delay.
        let again = NewRecord { start: Start::At(env.after(60)), ..job.clone() };
        let answers = env.submit(Submission::one(again)).await;
        assert_eq!(answers, [JobSubmitted::Already(expected)]);
        assert_eq!(env.details(id).await, before);
    };
    repeat(StateName::Enqueued).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    repeat(StateName::Processing).await;
    server.settled(lease, Ending::Succeeded).await;
    repeat(StateName::Succeeded).await;
    assert!(server.claim(10).await.is_empty());
}

/// SUB-2, G2: content is what arguments mean, not how they are written: the order of fields is another
/// each time where they come from a map. Large ones, which a storage may keep apart, are no exception.
pub async fn content_is_what_arguments_mean(env: Env) {
    for fill in [10, 100_000] {
        let filler = "x".repeat(fill);
        let stored = format!(r#"{{"a":1,"tags":{{"x":[1,2],"y":"é{filler}"}}}}"#);
        let same = format!(r#"{{ "tags":{{"y":"\u00e9{filler}","x":[1, 2]}}, "a":1}}"#);
        let beside = job();
        let job = NewRecord { args: payload(&stored), ..job() };
        let id = env.add(job.clone()).await;
        let submit = async |args: &str| {
            let again = NewRecord { args: payload(args), ..job.clone() };
            let request = SubmitRequest { submissions: &[Submission::one(again)] };
            env.storage.submit(&env.call(), request).await.expect("submits").remove(0)
        };
        let already = Submitted::Created(vec![JobSubmitted::Already(StateName::Enqueued)]);
        assert_eq!(submit(&same).await, already);
        let other = submit(&same.replace("[1, 2]", "[2, 1]")).await;
        assert_eq!(other, Submitted::Refused(Refusal::IdConflict { job: id }));
        // Beside another job in one submission, too.
        let again = NewRecord { args: payload(&same), ..job.clone() };
        let both = Submission { jobs: vec![again, beside], ..Submission::default() };
        let request = SubmitRequest { submissions: &[both] };
        let answers = env.storage.submit(&env.call(), request).await.expect("submits");
        let Submitted::Created(jobs) = &answers[0] else { panic!("{answers:?}") };
        assert_eq!(jobs[0], JobSubmitted::Already(StateName::Enqueued));
        assert_eq!(env.details(id).await.args, payload(&stored));
    }
}

/// SUB-2, G2: jobs that are stored already are known among many that are new, in one submission and in many
/// of one call.
pub async fn what_is_stored_already_is_known_among_many_new_ones(env: Env) {
    let mut server = env.claimer("s").await;
    for in_one in [true, false] {
        let records = jobs(30);
        let stored = [0, 7, 8, 29];
        for n in stored {
            env.add(records[n].clone()).await;
        }
        let expected = |n| match stored.contains(&n) {
            true => JobSubmitted::Already(StateName::Enqueued),
            false => JobSubmitted::Created(StateName::Enqueued),
        };
        let expected: Vec<JobSubmitted> = (0..30).map(expected).collect();
        let ids: Vec<JobId> = records.iter().map(|job| job.id).collect();
        let answers = if in_one {
            env.submit(Submission { batch: None, jobs: records }).await
        } else {
            let each: Vec<Submission> = records.into_iter().map(Submission::one).collect();
            let answers = env.submit_all(&each).await.into_iter();
            let answers = answers.map(|answer| match answer {
                Submitted::Created(mut answers) => answers.remove(0),
                refused => panic!("the submission was not accepted: {refused:?}"),
            });
            answers.collect()
        };
        assert_eq!(answers, expected);
        // Each of them once.
        assert_eq!(server.claim(100).await.len(), 30);
        assert_eq!(env.states(&ids).await, [StateName::Processing; 30]);
    }
}

/// SUB-2, G2: the same id with another kind or other arguments is refused.
pub async fn the_same_id_with_other_content_is_refused(env: Env) {
    let job = job();
    let id = env.add(job.clone()).await;
    let before = env.details(id).await;
    for other in [
        NewRecord { kind: name("other"), ..job.clone() },
        NewRecord { args: payload("{\"a\":1}"), ..job.clone() },
    ] {
        let refusal = env.refused(Submission::one(other)).await;
        assert_eq!(refusal, Refusal::IdConflict { job: id });
    }
    assert_eq!(env.details(id).await, before);
}

/// SUB-2, G2: an id derived from a key makes one job, however often and in how many calls at once it is
/// submitted.
pub async fn a_derived_id_submitted_by_many_at_once_makes_one_job(env: Env) {
    let other = env.second().await;
    let id = JobId::from_key("k", "delivery-1");
    let tasks = (0..16).map(|i| {
        let env = if i % 2 == 0 { env.clone() } else { other.clone() };
        tokio::spawn(async move {
            let job = NewRecord { id, ..job() };
            env.submit(Submission::one(job)).await.remove(0)
        })
    });
    let answers = join(tasks.collect()).await;
    let created = answers.iter().filter(|it| matches!(it, JobSubmitted::Created(_))).count();
    assert_eq!(created, 1, "{answers:?}");
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [id]);
}

/// SUB-3, G2: a new id whose time is over an hour old or ten minutes ahead is refused, naming both
/// clocks; within that it is accepted.
pub async fn ids_too_old_or_too_far_ahead_are_refused(env: Env) {
    let submit = async |job: NewRecord, now: Timestamp| {
        let submissions = [Submission::one(job)];
        let request = SubmitRequest { submissions: &submissions };
        env.storage.submit(&Call::at(now), request).await.expect("submits").remove(0)
    };
    let job = job();
    let created_at = job.id.created_at().expect("ids carry their time");
    let late = created_at.plus(bounds::ID_MEMORY).plus(seconds(1));
    assert_eq!(
        submit(job.clone(), late).await,
        Submitted::Refused(Refusal::IdTooOld { job: job.id, created_at, storage_now: late })
    );
    let early = created_at.minus(bounds::ID_AHEAD).minus(seconds(1));
    assert_eq!(
        submit(job.clone(), early).await,
        Submitted::Refused(Refusal::IdTooFarAhead { job: job.id, created_at, storage_now: early })
    );
    assert!(env.find(job.id).await.is_none());
    let just = created_at.plus(bounds::ID_MEMORY).minus(seconds(1));
    assert!(matches!(submit(job.clone(), just).await, Submitted::Created(_)));
    // A stored id is recognised however old it is, and a derived one has no age.
    let answer = submit(job, late).await;
    assert_eq!(answer, Submitted::Created(vec![JobSubmitted::Already(StateName::Enqueued)]));
    let derived = NewRecord { id: JobId::from_key("k", "old"), ..crate::fixtures::job() };
    assert!(matches!(submit(derived, late).await, Submitted::Created(_)));
}

/// SUB-4, G3: one refused job takes its submission with it, and nothing else.
pub async fn a_refused_submission_stores_nothing_and_disturbs_no_neighbour(env: Env) {
    let good = [job(), job()];
    let bad = [job(), NewRecord { priority: 10, ..job() }, job()];
    let outcomes = env
        .submit_all(&[
            Submission::one(good[0].clone()),
            Submission::flow(bad.to_vec()),
            Submission::one(good[1].clone()),
        ])
        .await;
    assert!(matches!(outcomes[0], Submitted::Created(_)), "{outcomes:?}");
    assert!(matches!(outcomes[1], Submitted::Refused(Refusal::Invalid { field: "priority", .. })));
    assert!(matches!(outcomes[2], Submitted::Created(_)), "{outcomes:?}");
    for job in &good {
        assert_eq!(env.state(job.id).await, StateName::Enqueued);
    }
    // The same where the fault is found in what is stored, after jobs that had nothing wrong.
    let known = NewRecord { args: payload("[1]"), ..good[0].clone() };
    let conflicting = [job(), known];
    let refusal = env.refused(Submission::flow(conflicting.to_vec())).await;
    assert_eq!(refusal, Refusal::IdConflict { job: good[0].id });
    for job in bad.iter().chain(&conflicting[..1]) {
        assert!(env.find(job.id).await.is_none());
    }
}

/// SUB-4, G3: nobody ever sees a part of a submission.
pub async fn a_flow_becomes_visible_wholly_or_not_at_all(env: Env) {
    let other = env.second().await;
    for round in 0..20 {
        let jobs = jobs(30);
        let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        let submitting = env.clone();
        let submit = tokio::spawn(async move { submitting.flow(jobs).await });
        loop {
            // Read from the last to the first: what one read sees, a later one must see too.
            let records = other.storage.jobs(&ids).await.expect("reads");
            let seen = records.iter().flatten().count();
            assert!(seen == 0 || seen == ids.len(), "{seen} of a flow, in round {round}");
            if seen == ids.len() {
                break;
            }
            tokio::task::yield_now().await;
        }
        submit.await.expect("submits");
    }
}

/// SUB-7: a later start makes a job Scheduled for it, counted from the storage's clock; one that has
/// passed does not.
pub async fn a_later_start_makes_a_job_scheduled(env: Env) {
    let start = |start| NewRecord { start, ..job() };
    let run_at = async |id| env.record(id).await.run_at();
    let later = env.after(90);
    let at = env.add(start(Start::At(later))).await;
    assert_eq!(run_at(at).await, Some(later));
    let delayed = env.add(start(Start::After(seconds(60)))).await;
    assert_eq!(run_at(delayed).await, Some(env.after(60)));
    let record = env.record(delayed).await;
    assert_eq!((record.head.reason, record.enqueued_at), (Reason::Delay, None));
    let passed = env.add(start(Start::At(env.after(-5)))).await;
    assert_eq!(env.state(passed).await, StateName::Enqueued);
    let mut server = env.claimer("s").await;
    assert_eq!(server.claim_ids(10).await, [passed]);
}

/// SUB-12, G14: jobs of one queue and priority are claimed in the order in which they were submitted,
/// within a submission and between submissions.
pub async fn jobs_keep_the_order_in_which_they_were_submitted(env: Env) {
    let mut expected = Vec::new();
    for size in [1, 40, 1, 7] {
        let jobs = jobs(size);
        expected.extend(jobs.iter().map(|job| job.id));
        env.flow(jobs).await;
    }
    expected.extend(env.add_many(jobs(30)).await);
    let sequences: Vec<u64> = {
        let records = env.storage.jobs(&expected).await.expect("reads");
        records.into_iter().map(|it| it.expect("stored").sequence).collect()
    };
    assert!(sequences.is_sorted(), "{sequences:?}");
    let mut server = env.claimer("s").await;
    let mut claimed = Vec::new();
    for size in [3, 50, 500] {
        claimed.extend(server.claim_ids(size).await);
    }
    assert_eq!(claimed, expected);
}

/// SUB-13, G20: what exceeds a bound is refused, naming the field, and nothing is stored.
pub async fn every_bound_is_refused_with_its_field(env: Env) {
    let far = Timestamp::from_micros(Timestamp::MAX.as_micros() + 1);
    let parent = |id| Edge { parent: Parent::Job(id), on: On::Success };
    let with_metadata = |size: usize| {
        let mut job = job();
        job.extras_mut().metadata.insert("key".into(), "v".repeat(size));
        job
    };
    let with_context = |size: usize| {
        let mut job = job();
        job.extras_mut().context.insert("key".into(), "v".repeat(size));
        job
    };
    let cases = [
        ("priority", NewRecord { priority: 10, ..job() }),
        ("args", NewRecord { args: vec![b' '; bounds::ARGS_BYTES + 1].into(), ..job() }),
        ("args", NewRecord { args: b"{\"a\":\"\0\"}".to_vec().into(), ..job() }),
        ("at", NewRecord { start: Start::At(far), ..job() }),
        ("start_by", NewRecord { start_by: Some(far), ..job() }),
        ("tags", NewRecord { tags: vec!["t".into(); bounds::TAGS + 1], ..job() }),
        ("tags", NewRecord { tags: vec!["t".repeat(bounds::TAG_BYTES + 1)], ..job() }),
        ("tags", NewRecord { tags: vec!["a\0b".into()], ..job() }),
        // Databases disagree whether white space at the end makes a difference.
        ("tags", NewRecord { tags: vec!["a ".into()], ..job() }),
        ("limit", limited("l\u{3000}", 1)),
        ("unique", NewRecord { unique: Some(Unique::new("k".repeat(1001))), ..job() }),
        ("unique", NewRecord { unique: Some(Unique::new("")), ..job() }),
        (
            "limits",
            NewRecord { limits: (0..5).map(|i| Limit::new(format!("{i}"), 1)).collect(), ..job() },
        ),
        ("limits", NewRecord { limits: vec![Limit::new("a", 1), Limit::new("a", 1)], ..job() }),
        ("limit", limited("a", 0)),
        ("limit", limited(&"l".repeat(bounds::LABEL_BYTES + 1), 1)),
        ("limit", limited("a", bounds::LIMIT_HOLDERS + 1)),
        ("parents", NewRecord { edges: (0..101).map(|_| parent(JobId::new())).collect(), ..job() }),
        ("metadata", with_metadata(bounds::METADATA_BYTES)),
        ("context", with_context(bounds::METADATA_BYTES)),
    ];
    for (field, job) in cases {
        let id = job.id;
        let refusal = env.refused(Submission::one(job)).await;
        match &refusal {
            Refusal::Invalid { field: named, reason } if *named == field => {
                assert!(!reason.is_empty(), "{field}");
            }
            other => panic!("{field}: {other:?}"),
        }
        assert!(env.find(id).await.is_none(), "{field}");
    }
    assert!(env.claimer("s").await.claim(10).await.is_empty());
}

/// SUB-13, G20: a submission of 1,000 jobs and 4 MiB is stored, a larger one is refused, also one with too
/// many edges.
pub async fn a_submission_holds_a_thousand_jobs_and_four_mebibytes(env: Env) {
    let many = jobs(bounds::SUBMISSION_JOBS);
    let ids: Vec<JobId> = many.iter().map(|job| job.id).collect();
    env.flow(many).await;
    assert!(env.states(&ids).await.iter().all(|state| *state == StateName::Enqueued));
    let too_many = jobs(bounds::SUBMISSION_JOBS + 1);
    let refusal = env.refused(Submission::flow(too_many)).await;
    assert!(matches!(refusal, Refusal::Invalid { field: "jobs", .. }), "{refusal:?}");
    let large = || {
        let text = format!("\"{}\"", "x".repeat(bounds::ARGS_BYTES - 2));
        NewRecord { args: payload(&text), ..job() }
    };
    let mut heavy: Vec<NewRecord> = (0..4).map(|_| large()).collect();
    env.flow(heavy.clone()).await;
    for job in &mut heavy {
        job.id = JobId::new();
    }
    heavy.push(NewRecord { args: payload("[]"), ..job() });
    let refusal = env.refused(Submission::flow(heavy)).await;
    assert!(matches!(refusal, Refusal::Invalid { field: "jobs", .. }), "{refusal:?}");
    let parents = jobs(bounds::PARENTS);
    let waits = || NewRecord {
        edges: parents
            .iter()
            .map(|parent| Edge { parent: Parent::Job(parent.id), on: On::Success })
            .collect(),
        ..job()
    };
    let most = bounds::SUBMISSION_EDGES / bounds::PARENTS;
    let children = (0..=most).map(|_| waits());
    let flow = Submission::flow(parents.iter().cloned().chain(children).collect());
    let refusal = env.refused(flow).await;
    assert!(matches!(refusal, Refusal::Invalid { field: "parents", .. }), "{refusal:?}");
    assert!(env.find(parents[0].id).await.is_none());
    let empty = env.refused(Submission::default()).await;
    assert!(matches!(empty, Refusal::Invalid { field: "jobs", .. }), "{empty:?}");
}

/// GET-1: records come in the order asked, with `None` for what does not exist.
pub async fn records_are_answered_in_the_order_asked(env: Env) {
    let ids = env.add_many(jobs(3)).await;
    let missing = JobId::new();
    let asked = [ids[2], missing, ids[0], ids[2], ids[1]];
    let records = env.storage.jobs(&asked).await.expect("reads");
    let answered: Vec<_> = records.iter().map(|it| it.as_ref().map(|it| it.id)).collect();
    assert_eq!(answered, [Some(ids[2]), None, Some(ids[0]), Some(ids[2]), Some(ids[1])]);
    assert!(env.find(missing).await.is_none());
    assert!(env.storage.jobs(&[]).await.expect("reads").is_empty());
}

/// GET-2: a job comes back as it was submitted, its arguments byte for byte.
pub async fn a_job_comes_back_as_it_was_submitted(env: Env) {
    let mut new = NewRecord {
        queue: name("mail-2.eu@x_y"),
        priority: 9,
        // No JSON that a database could tidy up: spaces, order, escapes and digits stay.
        args: payload("{ \"b\":1.0,\"a\":\"\\u00e9\u{1F980}\",\t\"big\":12345678901234567890 }"),
        start_by: Some(env.after(3600)),
        tags: vec!["z".into(), "größe".into(), "a'b\"c\\".into()],
        ..job_of("resize@2")
    };
    *new.extras_mut() = jobkit_core::record::Extras {
        display_name: Some("Resize \u{1F5BC}".into()),
        metadata: [("tenant".into(), "acme'; --".into())].into(),
        context: [("traceparent".into(), "00-aa-bb-01".into())].into(),
        overrides: Overrides {
            retry: Some(RetryPolicy::fixed(seconds(7)).max_attempts(2)),
            max_attempts: Some(9),
            timeout: Some(Duration::from_micros(1_500_001)),
            retention: Some(Retention::all(Keep::Forever)),
        },
        sensitive: vec!["a".into()],
        occurrence: Some(Occurrence { recurring: "nightly".into(), nominal_at: env.now() }),
        made_from: Some(JobId::new()),
    };
    let id = env.add(new.clone()).await;
    let details = env.details(id).await;
    assert_eq!(details.args, new.args);
    assert!(details.result.is_none() && details.errors.is_empty() && details.parents.is_empty());
    let record = details.record;
    assert_eq!((record.id, &record.kind, &record.queue), (id, &new.kind, &new.queue));
    assert_eq!((record.priority, record.start_by), (9, new.start_by));
    assert_eq!((&record.tags, &record.extras), (&new.tags, &new.extras));
    assert_eq!((record.created_at, record.enqueued_at), (env.now(), Some(env.now())));
    assert_eq!((record.claimed_at, record.expires_at, record.duration), (None, None, None));
    let head = record.head;
    assert_eq!((head.state, head.reason), (State::Enqueued, Reason::Submitted));
    assert_eq!((head.fence, head.failures, head.crashes, head.run), (0, 0, 0, 0));
    assert_eq!((head.settled, head.entered_at), (None, env.now()));

    let mut server = env.claimer("s").await.queues(&["mail-2.eu@x_y"]).kinds(&["resize@2"]);
    let claimed = server.claim_one().await;
    assert_eq!((claimed.args, claimed.extras), (new.args, new.extras));
    assert_eq!((claimed.kind, claimed.queue, claimed.priority), (new.kind, new.queue, 9));
}

/// GET-2, G17: the history holds the transitions that were applied, in order, with their times,
/// reasons, servers and fences.
pub async fn the_history_tells_what_was_applied(env: Env) {
    let start = env.now();
    let id = env.add(job()).await;
    let mut server = env.claimer("worker-1").await;
    env.advance(1);
    let first = server.claim_one().await.lease;
    env.advance(1);
    let delay = seconds(10);
    let mut failed = jobkit_core::storage::Settle::new(first, Ending::Retry { delay });
    failed.error = Some(error("no route"));
    failed.duration = Some(Duration::from_millis(900));
    server.settle_with(failed).await;
    env.advance(10);
    assert_eq!(env.promote().await, 1);
    env.advance(1);
    let second = server.claim_one().await.lease;
    env.advance(1);
    server.settled(second, Ending::Succeeded).await;

    let details = env.details(id).await;
    let history = details.history;
    assert_eq!(history.dropped, 0);
    let told: Vec<_> = history
        .entries
        .iter()
        .map(|it| (it.state, it.reason, it.at.since(start).as_secs(), it.fence))
        .collect();
    assert_eq!(
        told,
        [
            (StateName::Enqueued, Reason::Submitted, 0, None),
            (StateName::Processing, Reason::Claimed, 1, Some(1)),
            (StateName::Scheduled, Reason::Retry, 2, Some(1)),
            (StateName::Enqueued, Reason::Due, 12, None),
            (StateName::Processing, Reason::Claimed, 13, Some(2)),
            (StateName::Succeeded, Reason::Done, 14, Some(2)),
        ]
    );
    let servers: Vec<_> = history.entries.iter().map(|it| it.server.is_some()).collect();
    assert_eq!(servers, [false, true, true, false, true, true]);
    assert!(history.entries.iter().flat_map(|it| &it.server).all(|it| *it == "worker-1"));
    assert_eq!(history.entries[2].duration, Some(Duration::from_millis(900)));
    assert_eq!(history.entries[2].run_at, Some(start.plus(seconds(12))));
    let errors = details.errors;
    assert_eq!((errors.len(), errors[0].fence, errors[0].failures), (1, 1, 1));
    assert_eq!((errors[0].at.since(start).as_secs(), &*errors[0].detail.message), (2, "no route"));
}

/// GET-2, G17: of many transitions the first 4 and the last 28 are kept, and how many fell out is
/// told.
pub async fn the_history_is_bounded_and_says_what_fell_out(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    for _ in 0..30 {
        env.advance(1);
        server.run_one(RETRY_NOW).await;
    }
    let details = env.details(id).await;
    let history = details.history;
    assert_eq!(history.entries.len(), bounds::HISTORY_FIRST + bounds::HISTORY_LAST);
    assert_eq!(history.applied(), 61);
    assert_eq!(history.entries[0].reason, Reason::Submitted);
    assert_eq!(history.entries[3].fence, Some(2), "the fourth transition is the second claim");
    assert_eq!(history.entries[31].fence, Some(30));
    assert_eq!(details.record.head.failures, 30);
    assert!((1..=32).contains(&details.errors.len()) || details.errors.is_empty());
}
