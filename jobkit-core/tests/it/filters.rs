//! Filters and codecs, through a server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jobkit_core::codec::{Codec, Encoded, Place};
use jobkit_core::filter::{Decision, Ended, Next, OutcomeFilter, PerformFilter, Performed};
use jobkit_core::record::NewRecord;
use jobkit_core::state::{Reason, StateName};
use jobkit_core::storage::JobLog;
use jobkit_core::testing::TestServer;
use jobkit_core::{
    Batch, Error, Failure, FromContext, FromParent, Job, JobContext, Jobs, NewJob, Recurring,
    Result,
};
use serde::{Deserialize, Serialize};

use crate::support::{Act, Shared, jobs, script};

/// Writes down when it is entered and left.
struct Seen(&'static str, Arc<Mutex<Vec<String>>>);

#[async_trait]
impl PerformFilter for Seen {
    async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed {
        self.1.lock().unwrap().push(format!("{} in", self.0));
        let performed = next.run().await;
        let ok = performed.is_ok();
        self.1.lock().unwrap().push(format!("{} out {} {ok}", self.0, context.attempt()));
        performed
    }
}

#[tokio::test]
async fn filters_lie_round_the_handler_in_their_order() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let ledger = Shared::default();
    let jobs = jobs(&ledger).perform_filter(Seen("kind", Arc::clone(&seen)));
    let mut t = TestServer::new(jobs)
        .perform_filter(Seen("outer", Arc::clone(&seen)))
        .perform_filter(Seen("inner", Arc::clone(&seen)));
    t.client().enqueue(script("a", Act::Permanent)).await.unwrap();
    t.run_until_idle().await;
    let seen = seen.lock().unwrap().clone();
    let expected = [
        "outer in",
        "inner in",
        "kind in",
        "kind out 1 false",
        "inner out 1 false",
        "outer out 1 false",
    ];
    assert_eq!(seen, expected);
}

/// Skips jobs whose metadata says that they are stale.
struct SkipIfStale;

#[async_trait]
impl PerformFilter for SkipIfStale {
    async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed {
        match context.metadata("stale") {
            Some(why) => Performed::skipped(format!("stale: {why}")),
            None => next.run().await,
        }
    }
}

#[tokio::test]
async fn a_filter_may_skip_fail_or_panic_in_the_place_of_the_handler() {
    struct Panics;
    #[async_trait]
    impl PerformFilter for Panics {
        async fn perform(&self, context: &JobContext, next: Next<'_>) -> Performed {
            match context.metadata("do") {
                Some("panic") => panic!("the filter is broken"),
                Some("fail") => Performed::failed(Failure::message("Refused", "not today")),
                _ => next.run().await,
            }
        }
    }
    let ledger = Shared::default();
    let mut t = TestServer::new(jobs(&ledger)).perform_filter(SkipIfStale).perform_filter(Panics);
    let client = t.client();
    let stale = script("stale", Act::Return(1)).metadata("stale", "a week old");
    let stale = client.enqueue(stale).await.unwrap();
    let once = |act| script("x", Act::Return(1)).metadata("do", act).max_attempts(1);
    let panics = client.enqueue(once("panic")).await.unwrap();
    let fails = client.enqueue(once("fail")).await.unwrap();
    let runs = client.enqueue(script("runs", Act::Return(1))).await.unwrap();
    t.run_until_idle().await;
    let job = t.job(stale.id()).await.0;
    assert_eq!((job.record.state(), job.record.head.reason), (StateName::Deleted, Reason::Skipped));
    let log = t.storage().read_log(stale.id(), None, 0, 10).await.unwrap();
    assert!(log.lines.iter().any(|(_, line)| line.text == "stale: a week old"), "{log:?}");
    let job = t.job(panics.id()).await.0;
    assert_eq!(job.record.state(), StateName::Failed);
    assert_eq!(job.errors[0].detail.message, "the filter is broken");
    let job = t.job(fails.id()).await.0;
    assert_eq!(job.errors[0].detail.error_type, "Refused");
    assert_eq!(t.job(runs.id()).await.0.record.state(), StateName::Succeeded);
    assert_eq!(ledger.lock().unwrap().starts.len(), 1, "only one handler was reached");
}

#[tokio::test]
async fn elections_see_what_was_decided_before_and_may_change_it() {
    struct Gentle;
    impl OutcomeFilter for Gentle {
        fn decide(&self, ended: &Ended<'_>, next: &mut Decision) {
            match ended.failure().map(Failure::text) {
                Some("it never will") => {
                    next.retry_after(Duration::from_secs(60));
                    next.note(format!("another chance after {} failures", ended.failures()));
                }
                // What succeeded stays so, whatever a filter says.
                None => next.fail(),
                Some(_) => panic!("a broken filter"),
            }
        }
    }
    let ledger = Shared::default();
    let mut t = TestServer::new(jobs(&ledger).outcome_filter(Gentle));
    let client = t.client();
    let job = client.enqueue(script("p", Act::Permanent)).await.unwrap();
    let done = client.enqueue(script("d", Act::Return(1))).await.unwrap();
    let other = client.enqueue(script("o", Act::Panic).max_attempts(1)).await.unwrap();
    t.run_until_idle().await;
    let details = t.job(job.id()).await.0;
    let message = &details.errors[0].detail.message;
    assert_eq!(details.record.state(), StateName::Scheduled, "{message}");
    assert_eq!(details.record.run_at(), Some(t.now().plus(Duration::from_secs(60))));
    assert_eq!(t.job(done.id()).await.0.record.state(), StateName::Succeeded);
    // The say of a filter that panics does not count: the retry policy's stands.
    assert_eq!(t.job(other.id()).await.0.record.state(), StateName::Failed);
}

#[tokio::test]
async fn submit_filters_see_every_way_to_submit() {
    let ledger = Shared::default();
    let refuse = |job: &mut NewRecord| {
        if job.tags.iter().any(|tag| tag == "forbidden") {
            return Err(Error::invalid("tags", "name what is forbidden"));
        }
        job.tags.push("seen".into());
        Ok(())
    };
    let nightly = Recurring::cron("nightly", "0 2 * * *").job(script("n", Act::Return(1)));
    let mut t = TestServer::new(jobs(&ledger))
        .client_options(|options| options.filter(refuse))
        .recurring(nightly);
    let client = t.client();
    client.enqueue(script("one", Act::Return(1))).await.unwrap();
    client.enqueue((script("two", Act::Return(1)), script("three", Act::Return(1)))).await.unwrap();
    let member = script("member", Act::Return(1));
    client.enqueue(Batch::new("b").job(member).then(script("then", Act::Return(1)))).await.unwrap();
    let many = [script("many", Act::Return(1)), script("no", Act::Return(1)).tag("forbidden")];
    let report = client.enqueue_many(many).await.unwrap();
    assert_eq!((report.stored, report.refused.len()), (1, 1));
    t.advance(Duration::from_secs(24 * 3600)).await;
    let jobs = t.jobs().await;
    assert_eq!(jobs.len(), 7);
    assert!(jobs.iter().all(|job| job.0.record.tags == ["seen"]), "{jobs:?}");

    let flow = (script("fine", Act::Return(1)), script("no", Act::Return(1)).tag("forbidden"));
    let error = client.enqueue(flow).await.expect_err("refused");
    assert!(error.to_string().contains("what is forbidden"), "{error}");
    assert_eq!(t.jobs().await.len(), 7, "nothing of it is stored");
}

/// Turns the bytes round; bound to its place.
struct Mirror;

impl Codec for Mirror {
    fn name(&self) -> &str {
        "mirror"
    }
    fn encode(&self, place: Place<'_>, plain: &[u8]) -> Result<Option<Encoded>> {
        let data = plain.iter().rev().copied().collect();
        Ok(Some(Encoded { key: Some(format!("{} {}", place.owner, place.part)), data }))
    }
    fn decode(&self, place: Place<'_>, encoded: &Encoded) -> Result<Vec<u8>> {
        let key = format!("{} {}", place.owner, place.part);
        if encoded.key.as_deref() != Some(&*key) {
            return Err(Error::corrupt(format!("sealed for {:?}, not for {key:?}", encoded.key)));
        }
        Ok(encoded.data.iter().rev().copied().collect())
    }
}

#[derive(Serialize, Deserialize)]
struct Secret {
    word: String,
}

impl Job for Secret {
    const KIND: &'static str = "secret";
    type Output = String;
}

#[derive(Serialize, Deserialize)]
struct Child {}

impl Job for Child {
    const KIND: &'static str = "child";
    type Output = String;
}

fn secret_jobs() -> Jobs {
    Jobs::new()
        .handle(|job: Secret, context: JobContext| async move {
            let memo: String =
                context.once("memo", || async { Ok::<_, Failure>("memo".to_owned()) }).await?;
            let before: Option<u32> = context.last_checkpoint().await?;
            context.checkpoint(&(before.unwrap_or(0) + 1)).await?;
            if before.is_none() {
                return Err(Failure::message("Again", "once more"));
            }
            Ok(format!("{} {memo}", job.word))
        })
        .handle(|_: Child, context: JobContext| async move {
            let FromParent(parent) = FromParent::<String>::from_context(&context).await?;
            Ok::<_, Failure>(parent)
        })
}

#[tokio::test]
async fn what_is_stored_is_sealed_and_opened_again_for_everyone_who_may() {
    let daily = Recurring::cron("daily", "0 2 * * *").job(NewJob::new(Secret { word: "w".into() }));
    let mut t = TestServer::new(secret_jobs())
        .client_options(|options| options.codec(Mirror))
        .recurring(daily);
    let client = t.client();
    t.run_until_idle().await;
    client.enqueue(NewJob::new(Secret { word: "w".into() })).await.unwrap();
    t.advance(Duration::from_secs(24 * 3600)).await;
    let jobs = t.jobs().await;
    assert_eq!(jobs.len(), 2, "one enqueued, one fired");
    for job in &jobs {
        let stored = String::from_utf8_lossy(&job.0.args).into_owned();
        assert!(stored.starts_with("{\"$codec\":\"mirror\""), "{stored}");
        assert_eq!(client.open_args(&job.0).unwrap().as_bytes(), b"{\"word\":\"w\"}");
        let ran = [StateName::Succeeded, StateName::Scheduled].contains(&job.0.record.state());
        assert!(ran && job.0.record.head.failures + u32::from(job.0.result.is_some()) > 0, "{job}");
    }
}

#[tokio::test]
async fn results_memos_and_checkpoints_are_sealed_too() {
    let mut t = TestServer::new(secret_jobs()).client_options(|options| options.codec(Mirror));
    let client = t.client();
    let parent = NewJob::new(Secret { word: "swordfish".into() });
    let again = parent.clone();
    let child = NewJob::new(Child {}).after(&parent);
    let (parent, child) = client.enqueue((parent, child)).await.unwrap();
    t.advance(Duration::from_secs(3600)).await;
    for id in [parent.id(), child.id()] {
        let job = t.job(id).await.0;
        assert_eq!(job.record.state(), StateName::Succeeded, "{:?}", job.errors);
        let stored = job.result.expect("a result");
        assert!(!String::from_utf8_lossy(&stored).contains("swordfish"), "{stored:?}");
        let opened = client.open_result(id, &stored).unwrap();
        assert_eq!(opened.as_bytes(), b"\"swordfish memo\"");
    }
    let told = child.wait(Duration::from_secs(1)).await.unwrap();
    assert_eq!(told, "swordfish memo");
    let memo = t.storage().memo(parent.id(), "memo").await.unwrap().expect("kept");
    assert!(memo.starts_with(b"{\"$codec\":"), "{memo:?}");
    // The same job value again is no conflict: a codec answers the same for the same.
    client.enqueue(again).await.unwrap();
}

#[tokio::test]
async fn without_its_codec_a_job_fails_and_is_retried() {
    let mut t = TestServer::new(secret_jobs());
    let other = jobkit_core::ClientOptions::default().codec(Mirror);
    let other = jobkit_core::Client::with_options(t.storage().clone(), other);
    let job = other.enqueue(NewJob::new(Secret { word: "x".into() })).await.unwrap();
    t.run_until_idle().await;
    let job = t.job(job.id()).await.0;
    assert_eq!(job.record.state(), StateName::Scheduled);
    let message = &job.errors[0].detail.message;
    assert!(message.contains("codec \"mirror\", which this process does not have"), "{message}");
}

/// Seals with the key it was given, and opens with that one alone.
struct Keyed(&'static str);

impl Codec for Keyed {
    fn name(&self) -> &str {
        self.0
    }
    fn encode(&self, _: Place<'_>, plain: &[u8]) -> Result<Option<Encoded>> {
        let data = plain.iter().map(|byte| byte ^ self.0.as_bytes()[0]).collect();
        Ok(Some(Encoded { key: None, data }))
    }
    fn decode(&self, place: Place<'_>, encoded: &Encoded) -> Result<Vec<u8>> {
        assert!(encoded.data.len() != 13, "a codec that panics");
        Ok(self.encode(place, &encoded.data)?.map(|it| it.data).unwrap_or_default())
    }
}

#[tokio::test]
async fn a_new_codec_does_not_make_other_jobs_of_the_same() {
    let ledger = Shared::default();
    let daily = || Recurring::cron("daily", "0 2 * * *").job(script("d", Act::Return(1)));
    let mut t = TestServer::new(jobs(&ledger)).client_options(|it| it.codec(Keyed("old")));
    let job = || script("order", Act::Return(1)).idempotency_key("order:7");
    let before = t.client();
    before.enqueue(job()).await.unwrap();
    before.save_recurring(daily()).await.unwrap();
    let saved = before.recurring("daily").await.unwrap().unwrap();
    let options = jobkit_core::ClientOptions::default().codec(Keyed("new")).codec(Keyed("old"));
    let after = jobkit_core::Client::with_options(t.storage().clone(), options);
    after.enqueue(job()).await.expect("it is the same job");
    let other = script("another order", Act::Return(1)).idempotency_key("order:7");
    assert!(after.enqueue(other).await.expect_err("it is not").is_conflict());
    after.save_recurring(daily()).await.unwrap();
    let again = after.recurring("daily").await.unwrap().unwrap();
    assert_eq!(again.etag, saved.etag, "the definition is the same");
    t.run_until_idle().await;
    assert_eq!(t.succeeded("script").await, 1);
    t.assert_enqueued(script("order", Act::Return(1))).await;
}

#[tokio::test]
async fn a_large_batch_is_split_by_what_is_stored() {
    let ledger = Shared::default();
    let mut t = TestServer::new(jobs(&ledger)).client_options(|it| it.codec(Keyed("k")));
    let name = "x".repeat(4_000);
    let members = (0..1_100).map(|n| script(&name, Act::Return(n)));
    let batch = t.client().enqueue(Batch::new("large").jobs(members)).await.expect("it fits");
    let largest = script(&"y".repeat(1_000_000), Act::Return(1));
    t.client().enqueue(largest).await.expect("what is sealed may be larger");
    t.run_until_idle().await;
    let counts = batch.status().await.unwrap().unwrap().counts;
    assert_eq!((counts.total, counts.succeeded), (1_100, 1_100));
}

#[derive(Serialize, Deserialize)]
struct Pin {
    pin: u8,
}

impl Job for Pin {
    const KIND: &'static str = "pin";
    type Output = ();
}

#[tokio::test]
async fn a_codec_that_panics_and_arguments_that_do_not_fit_tell_nothing() {
    let jobs = Jobs::new().handle(|_: Pin, _: JobContext| async { Ok::<_, Failure>(()) });
    let mut t = TestServer::new(jobs).client_options(|it| it.codec(Keyed("k")));
    let by_name = |text: &str| {
        let args = serde_json::json!({ "pin": text });
        jobkit_core::job_by_name("pin", args.as_object().unwrap()).unwrap().max_attempts(1)
    };
    let secret = t.client().enqueue(by_name("hunter2")).await.unwrap();
    // Thirteen bytes, which this codec cannot stand.
    let panics = t.client().enqueue(by_name("123")).await.unwrap();
    t.run_until_idle().await;
    let message = |job: &jobkit_core::testing::TestedJob| job.0.errors[0].detail.message.clone();
    let secret = t.job(secret.id()).await;
    assert_eq!(secret.0.record.head.reason, Reason::BadArguments);
    assert!(message(&secret).contains("`pin`"), "{}", message(&secret));
    assert!(!message(&secret).contains("hunter2"), "{}", message(&secret));
    assert!(message(&t.job(panics.id()).await).contains("a codec that panics"));
}

#[tokio::test]
async fn a_filter_cannot_change_the_id() {
    let ledger = Shared::default();
    let other = jobkit_core::JobId::new();
    let t = TestServer::new(jobs(&ledger)).client_options(|options| {
        options.filter(move |job: &mut NewRecord| {
            job.id = other;
            Ok(())
        })
    });
    let error = t.client().enqueue(script("a", Act::Return(1))).await.expect_err("refused");
    assert!(error.to_string().contains("cannot change it"), "{error}");
}

#[tokio::test]
async fn a_success_has_not_failed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let elect = move |ended: &Ended<'_>, _: &mut Decision| {
        told.lock().unwrap().push((ended.failure().is_some(), ended.failures()));
    };
    let ledger = Shared::default();
    let mut t = TestServer::new(jobs(&ledger)).outcome_filter(elect);
    let job = script("f", Act::FailTimes(1)).retry(jobkit_core::RetryPolicy::immediate());
    t.client().enqueue(job).await.unwrap();
    t.run_until_idle().await;
    assert_eq!(*seen.lock().unwrap(), [(true, 1), (false, 1)]);
}
