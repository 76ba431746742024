//! No `Debug` shows arguments or results.

use std::fmt::Debug;
use std::time::Duration;

use jobkit_core::Recurring;
use jobkit_core::operator::Edit;
use jobkit_core::record::NewRecord;
use jobkit_core::storage::{
    Fire, FireJob, JobStore, RecurringStore, SaveRecurring, Submission, SubmitRequest,
};
use jobkit_core::{Batch, Client, Job, Jobs, MemoryStorage, NewJob, Server, ServerBuilder};
use serde::{Deserialize, Serialize};

const SECRET: &str = "hunter2";

#[derive(Serialize, Deserialize)]
struct Login {
    password: String,
}

impl Job for Login {
    const KIND: &'static str = "login";
    type Output = String;
}

fn login() -> NewJob<Login> {
    NewJob::new(Login { password: SECRET.into() })
}

fn hides(what: &(impl Debug + ?Sized)) {
    for text in [format!("{what:?}"), format!("{what:#?}")] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

fn jobs() -> Jobs {
    Jobs::new().handle(|job: Login, _| async move { Ok::<_, jobkit_core::Error>(job.password) })
}

fn recurring() -> Recurring {
    Recurring::every("nightly", Duration::from_secs(60)).job(login())
}

fn builder(storage: MemoryStorage) -> ServerBuilder {
    Server::builder(storage).jobs(jobs()).recurring(recurring())
}

#[tokio::test]
async fn nothing_that_holds_arguments_or_results_shows_them() {
    let storage = MemoryStorage::new();
    let client = Client::new(storage.clone());
    hides(&login());
    hides(&recurring());
    hides(&Batch::new("b").job(login()).then(login()));
    let args = serde_json::json!({ "password": SECRET });
    let mut edit = Edit::default();
    edit.args = args.as_object().cloned();
    hides(&edit);
    hides(&builder(storage.clone()));
    hides(&builder(storage.clone()).build().unwrap());
    let handle = builder(storage.clone()).build().unwrap().start().await.unwrap();
    hides(&handle);
    hides(&client);
    hides(&storage);

    let job = client.enqueue(login()).await.unwrap();
    hides(&job);
    assert_eq!(job.wait(Duration::from_secs(10)).await.unwrap(), SECRET);
    let details = client.job(job.id()).await.unwrap().unwrap();
    hides(&details);
    hides(&details.result);
    let record = client.recurring("nightly").await.unwrap().unwrap();
    hides(&record);
    hides(&SaveRecurring { spec: record.spec.clone(), next: record.next, if_etag: None });
    let next = record.next.unwrap();
    let new = NewRecord::new(
        jobkit_core::JobId::new(),
        record.spec.job.kind.clone(),
        args.to_string().into_bytes(),
    );
    hides(&new);
    let submission = Submission::one(new.clone());
    hides(&SubmitRequest { submissions: std::slice::from_ref(&submission) });
    hides(&submission);
    let job = FireJob { job: new, nominal_at: next.nominal_at, overlap: record.spec.overlap };
    hides(&Fire {
        id: "nightly".into(),
        etag: record.etag,
        expected: next.nominal_at,
        job: Some(job),
        skipped: Vec::new(),
        next: record.next,
    });
    hides(&storage.list_recurring(None, 10).await.unwrap());
    hides(&storage.job(details.record.id).await.unwrap());
    handle.shutdown().await.unwrap();
}
