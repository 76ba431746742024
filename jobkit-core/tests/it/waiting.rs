//! What waiting for a job says when its time is up.

use std::sync::Arc;
use std::time::Duration;

use jobkit_core::batch::{NewBatch, Starts};
use jobkit_core::state::StateName;
use jobkit_core::storage::{Call, JobStore, Submission, SubmitRequest};
use jobkit_core::testing::{Fault, FaultyStorage};
use jobkit_core::{BatchId, Client, ErrorKind, JobHandle, On, WaitError};
use serde_json::Value;

use crate::support::{Act, Bench, eventually, quick, script};

const HOUR: Duration = Duration::from_secs(3600);

/// How waiting in vain ends.
async fn in_vain(job: &JobHandle<Value>) -> WaitError {
    job.wait(Duration::from_millis(20)).await.expect_err("has not finished")
}

/// The text after what all of them begin with.
async fn text(job: &JobHandle<Value>) -> String {
    let text = in_vain(job).await.to_string();
    let rest = text.strip_prefix("the job has not finished in time: it ");
    rest.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[tokio::test]
async fn the_error_says_what_an_unfinished_job_waits_for() {
    let bench = Bench::new();
    let client = &bench.client;
    let delayed = client.enqueue(script("delayed", Act::Return(1)).delay(HOUR)).await.unwrap();
    let child = script("child", Act::Return(1)).after(&delayed).when(On::Any);
    let child = client.enqueue(child).await.unwrap();
    let enqueued = client.enqueue(script("a", Act::Return(1)).queue("mail")).await.unwrap();

    let run_at = client.job(delayed.id()).await.unwrap().unwrap().record.run_at().unwrap();
    let run_at = run_at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC");
    assert_eq!(text(&delayed).await, format!("is still scheduled, for {run_at}: delayed"));
    assert_eq!(text(&child).await, format!("still waits for job {} to finish", delayed.id()));
    let said = text(&enqueued).await;
    assert!(said.starts_with("has been enqueued in queue `mail` since 20"), "{said}");

    let batch = BatchId::new();
    let filling = NewBatch { starts: Starts::WhenStarted, ..NewBatch::new(batch, "imports") };
    let submissions = [Submission { batch: Some(filling), jobs: Vec::new() }];
    let request = SubmitRequest { submissions: &submissions };
    bench.storage.submit(&Call::default(), request).await.unwrap();
    let member = script("member", Act::Return(1)).in_batch(batch);
    let member = client.enqueue(member).await.unwrap();
    assert_eq!(text(&member).await, format!("still waits for batch {batch} to be started"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_says_where_an_unfinished_job_runs() {
    let bench = Bench::new();
    let server = bench.server(quick()).await;
    let running = bench.client.enqueue(script("hangs", Act::Hang).limit("api", 1)).await.unwrap();
    eventually("it runs", || async { bench.starts_of("hangs") == 1 }).await;
    let said = text(&running).await;
    let begins = format!("has been running on server `{}` since 20", server.name());
    assert!(said.starts_with(&begins), "{said}");

    let parked = bench.client.enqueue(script("parked", Act::Return(1)).limit("api", 1)).await;
    let parked = parked.unwrap();
    eventually("it is parked", || async {
        let job = bench.client.job(parked.id()).await.unwrap().unwrap();
        job.record.parked_at.is_some()
    })
    .await;
    let said = text(&parked).await;
    assert!(said.starts_with("has been parked at limit `api` since 20"), "{said}");

    let again = script("again", Act::Hang).timeout(Duration::from_millis(100));
    let again = bench.client.enqueue(again).await.unwrap();
    eventually("it runs again", || async { bench.starts_of("again") == 2 }).await;
    let error = in_vain(&again).await;
    assert!(error.to_string().contains(" (attempt "), "{error}");
    let WaitError::TimedOut(Some(job)) = error else { panic!("{error:?}") };
    assert_eq!(job.errors[0].detail.error_type, "timeout", "the program is given all of it");
}

#[tokio::test]
async fn the_last_look_is_one_call_and_finds_what_has_just_finished() {
    let bench = Bench::new();
    let counted = FaultyStorage::new(Arc::new(bench.storage.clone()));
    let client = Client::new(counted.clone());
    let job = client.enqueue(script("a", Act::Return(7))).await.unwrap();
    let error = in_vain(&job).await;
    assert!(matches!(&error, WaitError::TimedOut(Some(it)) if it.record.id == job.id()));
    assert_eq!(jobkit_core::Error::from(error).kind(), ErrorKind::Timeout);
    assert_eq!(counted.calls("job"), 1);

    let server = bench.server(quick()).await;
    eventually("it has finished", || async {
        client.state(job.id()).await.unwrap() == Some(StateName::Succeeded)
    })
    .await;
    // No answer of the task that looks for all: only the last look can tell.
    counted.decide(|method| if method == "jobs" { Fault::Late(HOUR) } else { Fault::None });
    assert_eq!(job.wait(Duration::from_millis(20)).await.unwrap(), 7);
    server.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_does_not_answer_delays_the_error_by_a_second_at_most() {
    let bench = Bench::new();
    let faulty = FaultyStorage::new(Arc::new(bench.storage.clone()));
    let client = Client::new(faulty.clone());
    let job = client.enqueue(script("a", Act::Return(1))).await.unwrap();
    faulty.decide(|_| Fault::Late(HOUR));
    let began = tokio::time::Instant::now();
    let error = in_vain(&job).await;
    assert!(matches!(error, WaitError::TimedOut(None)), "{error:?}");
    assert!(error.to_string().contains("the storage did not say"), "{error}");
    assert!(began.elapsed() < Duration::from_millis(1_100), "{:?}", began.elapsed());
}

/// The error is printed by `unwrap` and by `main`: nothing of the record but what the text says is in it.
#[tokio::test]
async fn no_debug_of_the_error_shows_the_record() {
    let bench = Bench::new();
    let job = script("delayed", Act::Return(1)).delay(HOUR).metadata("card", "4111");
    let job = bench.client.enqueue(job).await.unwrap();
    let error = in_vain(&job).await;
    assert!(matches!(&error, WaitError::TimedOut(Some(_))));
    assert_eq!(format!("{error:?}"), format!("WaitError({error})"));
    assert!(!format!("{error:?}").contains("4111"));
}

/// Who waits polls on, and does not ask again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_panics_delays_those_who_wait_and_no_more() {
    let bench = Bench::new();
    let faulty = FaultyStorage::new(Arc::new(bench.storage.clone()));
    let client = Client::new(faulty.clone());
    let _server = bench.server(quick()).await;
    faulty.fail_next("wake_ups", Fault::Panic);
    faulty.fail_next("jobs", Fault::Panic);
    let job = client.enqueue(script("a", Act::Sleep(50))).await.unwrap();
    job.wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(faulty.calls("wake_ups"), 1);
}
