//! The options of `#[job]`, errors that say what to do, and everything a server checks when it is built.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use jobkit::retry::Retry;
use jobkit::state::{Reason, StateName};
use jobkit::testing::TestServer;
use jobkit::{
    Data, Failure, JobContext, MemoryStorage, NewJob, Recurring, RetryPolicy, Server, jobs,
    permanent, retry_after, snooze,
};

const MINUTE: Duration = Duration::from_secs(60);

fn slowly() -> RetryPolicy {
    RetryPolicy::fixed(30 * MINUTE).max_attempts(3)
}

#[jobkit::job(
    retry = slowly(),
    retention = "7d",
    display_name = "Welcome {user}",
    tags("welcome", "user:{user}"),
    unique = "w:{user}",
    unique_until = "10m",
    limit("smtp", 10),
    rate_limit("api:{user}", 100, "1m"),
)]
async fn welcome(user: u64, #[sensitive] password: String) -> anyhow::Result<()> {
    anyhow::bail!("{user} {}", password.len())
}

#[jobkit::job(display_name = "{name}", tags("a"), sensitive(pin), retention = "forever")]
async fn named(name: String, #[serde(rename = "PIN")] pin: u32) -> anyhow::Result<()> {
    let _ = (name, pin);
    Ok(())
}

#[test]
fn options_reach_the_stored_job() {
    // The whole record, also where the storage does not support windows.
    let shown = format!("{:?}", welcome(7, "secret".into()));
    for part in [
        r#"display_name: Some("Welcome 7")"#,
        r#"tags: ["welcome", "user:7"]"#,
        r#"sensitive: ["password"]"#,
        r#"key: "w:7", until: Period(600s)"#,
        r#"Limit { name: "smtp", max: 10, window: None }"#,
        r#"Limit { name: "api:7", max: 100, window: Some(Sliding(60s)) }"#,
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn a_kinds_retention_and_long_names_hold() {
    let mut t = TestServer::new(jobs![named]);
    let job = t.client().enqueue(named("ä".repeat(150), 1234)).await.unwrap();
    t.run_until_idle().await;
    let details = t.job(job.id()).await.0;
    assert_eq!(details.record.expires_at, None, "kept forever");
    let extras = details.record.extras.as_deref().unwrap();
    assert_eq!(extras.display_name.as_deref(), Some("ä".repeat(100).as_str()), "200 bytes");
    let shown = details.shown_args().unwrap();
    assert_eq!(shown["PIN"], "(hidden)");
    assert_eq!(shown["name"], "ä".repeat(150));
}

#[tokio::test]
async fn the_reason_of_bad_arguments_does_not_quote_what_is_sensitive() {
    let mut t = TestServer::new(jobs![named]);
    let args = serde_json::json!({"name": "Ann", "PIN": "secret-1234"});
    let job = jobkit::job_by_name("named", args.as_object().unwrap()).unwrap();
    let job = t.client().enqueue(job).await.unwrap();
    t.run_until_idle().await;
    let details = t.job(job.id()).await.0;
    assert_eq!(details.record.head.reason, Reason::BadArguments);
    let message = &details.errors[0].detail.message;
    assert!(message.contains("`PIN`") && !message.contains("1234"), "{message}");
}

#[jobkit::job]
async fn aliased(
    #[sensitive]
    #[serde(alias = "card")]
    pan: u64,
) -> anyhow::Result<()> {
    let _ = pan;
    Ok(())
}

#[tokio::test]
async fn nor_is_it_quoted_under_a_former_name() {
    let mut t = TestServer::new(jobs![aliased]);
    let args = serde_json::json!({"card": "4111-1111"});
    let job = jobkit::job_by_name("aliased", args.as_object().unwrap()).unwrap();
    let job = t.client().enqueue(job).await.unwrap();
    t.run_until_idle().await;
    let message = t.job(job.id()).await.0.errors[0].detail.message.clone();
    assert!(message.contains("`card`") && !message.contains("4111"), "{message}");
}

#[jobkit::job(retry = slowly())]
async fn slow_retry() -> anyhow::Result<()> {
    anyhow::bail!("always")
}

#[tokio::test]
async fn a_kinds_policy_is_followed() {
    let mut t = TestServer::new(jobs![slow_retry]);
    let job = t.client().enqueue(slow_retry()).await.unwrap();
    t.advance(29 * MINUTE).await;
    assert_eq!(t.job(job.id()).await.0.record.head.failures, 1);
    t.advance(60 * MINUTE).await;
    let record = t.job(job.id()).await.0.record;
    assert_eq!((record.head.failures, record.state()), (3, StateName::Failed));
}

#[derive(Debug)]
enum PayError {
    Expired,
    Busy,
    Closed,
    Network,
    Said(jobkit::retry::Directive),
}

impl std::fmt::Display for PayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for PayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Said(stop) => Some(stop),
            _ => None,
        }
    }
}

fn classify(error: &PayError) -> Retry {
    match error {
        PayError::Expired | PayError::Said(_) => Retry::Permanent,
        PayError::Busy => Retry::After(5 * MINUTE),
        PayError::Closed => Retry::Snooze(5 * MINUTE),
        PayError::Network => Retry::ByPolicy,
    }
}

#[jobkit::job(classify = classify, max_attempts = 2)]
async fn pay(how: String) -> Result<(), PayError> {
    Err(match how.as_str() {
        "expired" => PayError::Expired,
        "busy" => PayError::Busy,
        "closed" => PayError::Closed,
        "said" => PayError::Said(snooze(5 * MINUTE)),
        _ => PayError::Network,
    })
}

type Boxed = Box<dyn std::error::Error + Send + Sync>;

#[jobkit::job(max_attempts = 2)]
async fn boxed(how: String) -> Result<(), Boxed> {
    Err(match how.as_str() {
        "expired" => PayError::Said(permanent("never")).into(),
        "busy" => PayError::Said(retry_after(5 * MINUTE, "later")).into(),
        "closed" | "said" => PayError::Said(snooze(5 * MINUTE)).into(),
        _ => "by policy".into(),
    })
}

#[jobkit::job(max_attempts = 2)]
async fn any(how: String) -> anyhow::Result<()> {
    use anyhow::Context;
    let inner = match how.as_str() {
        "expired" => anyhow::Error::new(permanent("never")),
        "busy" => anyhow::Error::new(PayError::Said(retry_after(5 * MINUTE, "later"))),
        "closed" | "said" => snooze(5 * MINUTE).into(),
        _ => anyhow::anyhow!("by policy"),
    };
    Err(inner).context("calling the bank").context("paying")
}

/// How one run ended: state, failures, and minutes until the next.
async fn after_one_run<J: jobkit::Job>(job: NewJob<J>) -> (StateName, u32, Option<u64>) {
    let mut t = TestServer::new(jobs![pay, boxed, any]);
    let id = job.id();
    t.client().enqueue(job).await.unwrap();
    t.run_until_idle().await;
    let record = t.job(id).await.0.record;
    let wait = record.run_at().map(|at| at.since(t.now()).as_secs() / 60);
    (record.state(), record.head.failures, wait)
}

#[tokio::test]
async fn errors_say_what_to_do_through_every_wrapper() {
    for (how, expected) in [
        ("expired", (StateName::Failed, 1, None)),
        ("busy", (StateName::Scheduled, 1, Some(5))),
        ("closed", (StateName::Scheduled, 0, Some(5))),
        // What the error says itself takes precedence over the kind's rule, which says permanent.
        ("said", (StateName::Scheduled, 0, Some(5))),
        ("network", (StateName::Scheduled, 1, Some(0))),
    ] {
        assert_eq!(after_one_run(pay(how.into())).await, expected, "classified {how}");
        assert_eq!(after_one_run(boxed(how.into())).await, expected, "boxed {how}");
        assert_eq!(after_one_run(any(how.into())).await, expected, "anyhow {how}");
    }
}

#[tokio::test]
async fn a_classified_failure_keeps_its_bound_of_attempts() {
    let mut t = TestServer::new(jobs![pay]);
    let job = t.client().enqueue(pay("busy".into())).await.unwrap();
    t.advance(6 * MINUTE).await;
    let record = t.job(job.id()).await.0.record;
    assert_eq!((record.state(), record.head.reason), (StateName::Failed, Reason::OutOfAttempts));
}

struct Mailer;

#[jobkit::job(queue = "mail")]
async fn needs(mailer: Data<Mailer>, ctx: JobContext) -> Result<(), Failure> {
    let _ = (mailer, ctx);
    Ok(())
}

trait Gateway: Send + Sync {}

#[jobkit::job]
async fn charges(gateway: Data<dyn Gateway>) {
    let _ = gateway;
}

#[jobkit::job(name = "needs")]
async fn same_name() {}

#[test]
fn a_server_tells_all_its_mistakes_at_once() {
    let nightly = |id: &str| Recurring::cron(id, "0 2 * * *").job(same_name());
    let error = Server::builder(MemoryStorage::new())
        .jobs(jobs![needs, charges, same_name])
        .queues(["default"])
        .recurring(Recurring::cron("broken", "61 2 * * *").job(same_name()))
        .recurring(nightly("lost").time_zone("Europe/Atlantis"))
        .workers(0)
        .build()
        .expect_err("nothing of it is right");
    let expected = "the server cannot be built
- workers: must be 1 to 10,000
- jobs: two jobs are named `needs`
- data: job `needs` needs Data<options::Mailer>: give it with `.data(…)`
- data: job `charges` needs Data<dyn options::Gateway>: give it with `.data_arc::<dyn options::Gateway>(…)`
- queues: do not contain `mail`, where job `needs` waits; add it, or say `.only_queues()` if another server serves it
- cron: minute: 61 is outside 0-59 (recurring broken)
- time_zone: `Europe/Atlantis` is unknown, use an IANA name such as `Europe/Berlin` (recurring lost)";
    assert_eq!(error.to_string(), expected);
}

struct Odd<const VERSION: u32>;

impl<const VERSION: u32> serde::Serialize for Odd<VERSION> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_unit()
    }
}

impl<'de, const VERSION: u32> serde::Deserialize<'de> for Odd<VERSION> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        serde::Deserialize::deserialize(d).map(|()| Self)
    }
}

impl<const VERSION: u32> jobkit::Job for Odd<VERSION> {
    const KIND: &'static str = if VERSION == 7 { "odd@7" } else { "odd" };
    const VERSION: u32 = VERSION;
    type Output = ();
    fn upgrades() -> jobkit::upgrade::Upgrades<Self> {
        jobkit::upgrade::Upgrades::new().version(5, |(): ()| Odd::<VERSION>)
    }
}

#[test]
fn versions_are_checked_when_a_server_is_built() {
    fn build<const VERSION: u32>() -> Result<Server, String> {
        let jobs = jobkit::Jobs::new().handle(|_: Odd<VERSION>, _| async { Ok::<_, Failure>(()) });
        let server = Server::builder(MemoryStorage::new()).jobs(jobs).build();
        server.map_err(|error| error.to_string())
    }
    assert!(build::<6>().is_ok());
    let text = build::<5>().expect_err("upgrades to itself");
    assert!(text.contains("5 is upgraded to version 5"), "{text}");
    let text = build::<0>().expect_err("there is no version 0");
    assert!(text.contains("versions begin at 1"), "{text}");
    let text = build::<7>().expect_err("named like a version");
    assert!(text.contains("`odd@7` ends like a version of `odd`"), "{text}");
}
