//! G20: bad input is refused with an error that names the field, and changes nothing.

use std::time::Duration;

use jobkit_core::limit::Window;
use jobkit_core::storage::{BatchStore, Call, JobStore, Monitoring, RecurringStore, StepRequest};
use jobkit_core::unique::{OnConflict, Until};
use jobkit_core::{
    Batch, Client, ErrorKind, JobId, MemoryStorage, NewJob, Recurring, RetryPolicy, Timestamp,
};

use crate::support::{Act, Script, script};

fn job() -> NewJob<Script> {
    script("a", Act::Return(1))
}

#[tokio::test]
async fn every_mistake_names_its_field_and_stores_nothing() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let long = "x".repeat(65);
    let parents: Vec<_> = (0..101).map(|_| JobId::new()).collect();
    let cases: Vec<(&str, NewJob<Script>)> = vec![
        ("queue", job().queue("no spaces")),
        ("queue", job().queue("")),
        ("queue", job().queue("nul\0")),
        ("queue", job().queue(&long)),
        ("priority", job().priority(10)),
        ("at", job().at(Timestamp::from_micros(i64::MAX))),
        ("at", job().at(Timestamp::from_micros(-1))),
        ("start_by", job().start_by(Timestamp::from_micros(i64::MIN))),
        ("tags", job().tags(["t"; 9])),
        ("tags", job().tag(&long)),
        ("tags", job().tag("nul\0")),
        ("metadata", job().metadata("k", "v".repeat(5_000))),
        ("metadata", job().metadata("k", "\0")),
        ("display_name", job().display_name("y".repeat(201))),
        ("on_conflict", job().on_conflict(OnConflict::Reject)),
        ("unique", job().unique("")),
        ("unique", job().unique("z".repeat(1_001))),
        ("limit", job().limit("", 1)),
        ("limit", job().limit("l", 0)),
        ("limit", job().rate_limit("l", 1, Window::Fixed(Duration::from_millis(999)))),
        ("limit", job().rate_limit("l", 1, Window::Sliding(Duration::MAX))),
        ("unique_until", job().unique("k").unique_until(Until::Period(Duration::from_millis(9)))),
        ("unique_until", job().unique("k").unique_until(Until::Period(Duration::MAX))),
        ("limits", (0..5).fold(job(), |job, n| job.limit(format!("l{n}"), 1))),
        ("timeout", job().timeout(Duration::MAX)),
        ("timeout", job().timeout(Duration::ZERO)),
        ("max_attempts", job().max_attempts(0)),
        ("max_attempts", job().retry(RetryPolicy::none().max_attempts(5_000))),
        ("parents", job().after_all(parents)),
        ("parents", {
            let job = job();
            let own = job.id();
            job.after(own)
        }),
        ("args", script(&"a".repeat(2 << 20), Act::Return(1))),
    ];
    for (field, job) in cases {
        let error = client.enqueue(job).await.expect_err(field);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{field}: {error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("enqueue failed: {field}: ")), "{field}: {text}");
    }
    nothing_is_stored(&storage).await;
}

async fn nothing_is_stored(storage: &MemoryStorage) {
    assert_eq!(storage.snapshot(&Call::default()).await.unwrap().by_state, [0; 7]);
}

#[tokio::test]
async fn flows_are_refused_as_wholes() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let (one, two) = (job(), job());
    let (first, second) = (one.id(), two.id());
    let circle = (one.after(second), two.after(first));
    let error = client.enqueue(circle).await.unwrap_err();
    assert!(error.to_string().contains("parents: form a circle"), "{error}");
    let unknown = JobId::new();
    let error = client.enqueue((job(), job().after(unknown))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&unknown.to_string()), "{error}");
    let error = client.enqueue((0..1_001).map(|_| job()).collect::<Vec<_>>()).await.unwrap_err();
    assert!(error.to_string().contains("jobs: has 1001 entries"), "{error}");
    let big = "b".repeat(900 << 10);
    let error =
        client.enqueue((0..5).map(|_| script(&big, Act::Return(1))).collect::<Vec<_>>()).await;
    assert!(error.unwrap_err().to_string().contains("bytes"), "4 MiB");
    let parents: Vec<_> = (0..100).map(|_| job()).collect();
    let waits = |_| parents.iter().fold(job(), |child, parent| child.after(parent));
    let children: Vec<_> = (0..51).map(waits).collect();
    let flow: Vec<_> = parents.into_iter().chain(children).collect();
    let error = client.enqueue(flow).await.unwrap_err();
    assert!(error.to_string().contains("parents: are named 5100 times"), "{error}");
    let error = client.enqueue(Batch::new("").job(job())).await.unwrap_err();
    assert!(error.to_string().contains("batch: "), "{error}");
    nothing_is_stored(&storage).await;
}

#[tokio::test]
async fn ids_out_of_time_are_refused_with_both_clocks() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    // A UUIDv7 of 2020.
    let old: JobId = "0171b8b1-7c00-7000-8000-000000000001".parse().unwrap();
    let error = client
        .enqueue(NewJob::with_id(Script { name: "a".into(), act: Act::Return(1) }, old))
        .await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("too old") && text.contains("2020-") && text.contains("storage's clock"),
        "{text}"
    );
    nothing_is_stored(&storage).await;
    let error = "not-an-id".parse::<JobId>().unwrap_err();
    assert!(error.to_string().starts_with("job id: "), "{error}");
}

#[tokio::test]
async fn conflicts_are_told() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let first = client.enqueue(job().unique("k")).await.unwrap();
    let error =
        client.enqueue(job().unique("k").on_conflict(OnConflict::Reject)).await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains(&first.id().to_string()), "{error}");
    let error = client.requeue(first.id()).await.unwrap_err();
    assert!(error.is_conflict() && error.to_string().contains("enqueued"), "{error}");
    let error = client.delete(JobId::new()).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn bad_schedules_are_refused() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    for bad in ["", "* * * *", "61 * * * *", "1-100000000 * * * *", "0 0 30 2 *", "* * * * *\0"] {
        let error =
            client.save_recurring(Recurring::cron("r", bad).job(job())).await.expect_err(bad);
        assert!(error.to_string().contains("cron: "), "{bad}: {error}");
    }
    let every = |interval| Recurring::every("r", interval);
    let second = Duration::from_secs(1);
    for (part, bad) in [
        ("interval", every(Duration::ZERO).job(job())),
        ("time zone", every(second).time_zone("Mars/Base").job(job())),
        ("recurring id", Recurring::every("", second).job(job())),
        ("recurring id", Recurring::every("r ", second).job(job())),
        ("job: is missing", every(second)),
        ("parents", every(second).job(job().after(JobId::new()))),
        ("jitter", every(second).jitter(second * 90_000).job(job())),
    ] {
        let error = client.save_recurring(bad).await.expect_err(part).to_string();
        assert!(error.contains(part.split(' ').next().unwrap()), "{part}: {error}");
    }
    assert!(storage.list_recurring(None, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_json_loses_is_refused_by_enqueue_and_is_no_result() {
    use std::collections::HashMap;

    use jobkit_core::client::WaitError;
    use jobkit_core::{Job, Jobs, Server};

    #[derive(serde::Serialize, serde::Deserialize, Clone)]
    struct Measure {
        ratio: f64,
        limit: Option<f32>,
        tags: HashMap<String, u32>,
    }

    impl Job for Measure {
        const KIND: &'static str = "measure";
        type Output = f64;
    }

    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let fine = Measure { ratio: 1.0 / 3.0, limit: None, tags: HashMap::new() };
    for (field, args) in [
        (".ratio", Measure { ratio: f64::NAN, ..fine.clone() }),
        (".limit", Measure { limit: Some(f32::INFINITY), ..fine.clone() }),
    ] {
        let error = client.enqueue(NewJob::new(args)).await.unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidInput, Some("args")));
        assert!(error.to_string().contains(field), "{error}");
    }
    assert!(storage.snapshot(&Call::default()).await.unwrap().queues.is_empty());

    // The order of a map is another one each time, and the job is the same one.
    let tags = || (0..20).map(|n| (format!("tag-{n}"), n)).collect::<HashMap<_, _>>();
    let keyed = || NewJob::new(Measure { tags: tags(), ..fine.clone() }).idempotency_key("d1");
    let first = client.enqueue(keyed()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.enqueue(keyed()).await.unwrap().id(), first.id());
    }

    let jobs = Jobs::new().handle(|job: Measure, _| async move {
        let kept = job.tags.len() == 20;
        Ok::<_, jobkit_core::Error>(if kept { job.ratio } else { f64::NAN })
    });
    let _server = Server::builder(storage).jobs(jobs).build().unwrap().start().await.unwrap();
    let soon = Duration::from_secs(10);
    assert_eq!(first.wait(soon).await.unwrap().to_bits(), (1.0_f64 / 3.0).to_bits());
    let lost = client.enqueue(NewJob::new(fine)).await.unwrap().wait(soon).await;
    let Err(WaitError::Failed(Some(error))) = lost else { panic!("{lost:?}") };
    assert!(error.detail.message.contains("not a finite number"), "{}", error.detail.message);
}

#[tokio::test]
async fn a_batch_does_not_end_before_the_job_that_holds_the_key_of_a_member() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let holder = client.enqueue(job().unique("k")).await.unwrap();
    let member = job().unique("k");
    let (member_id, then) = (member.id(), job());
    let then_id = then.id();
    let error = client.enqueue(Batch::new("b").job(member).then(then)).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    for named in [member_id, holder.id()] {
        assert!(error.to_string().contains(&named.to_string()), "{error}");
    }
    assert!(client.job(then_id).await.unwrap().is_none(), "what follows was not stored");
}

#[tokio::test]
async fn a_large_batch_that_is_refused_leaves_no_keys_taken() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let keyed = |n: u32| job().unique(format!("k{n}"));
    client.enqueue(keyed(2_000)).await.unwrap();
    let batch = Batch::new("b").jobs((0..2_500).map(keyed));
    let id = batch.id();
    let error = client.enqueue(batch).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let cancelled = storage.batch(id).await.unwrap().expect("it was opened");
    assert!(cancelled.cancelled_at.is_some());
    while storage.sweep(&Call::default(), StepRequest::default()).await.unwrap().more {}
    client.enqueue(Batch::new("b").jobs((0..2_000).map(keyed))).await.unwrap();
}

#[tokio::test]
async fn a_batch_with_an_id_of_its_own_is_enqueued_once() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    let id = jobkit_core::BatchId::new();
    for count in [1_200, 2_500, 2_500] {
        let members = (0..count).map(|n| job().idempotency_key(&format!("{id} {n}")));
        let then = job().idempotency_key(&format!("{id} then"));
        // Whatever was added before the id is known, too.
        let batch = Batch::new("b").then(then).jobs(members).with_id(id);
        // The second attempt has more, which the first one did not come to.
        let refused = client.enqueue(batch).await.is_err();
        assert!(!refused, "of {count}");
    }
    let batch = storage.batch(id).await.unwrap().expect("is there");
    assert_eq!(batch.counts.total, 2_500);
}
