//! `#[job]` in a crate that forbids what many crates forbid, in every place where a function stands.
#![forbid(
    unsafe_code,
    missing_docs,
    nonstandard_style,
    future_incompatible,
    missing_debug_implementations,
    unreachable_pub
)]
#![deny(warnings)]

extern crate jobkit as renamed;

use std::collections::BTreeMap;
use std::time::Duration;

use jobkit::testing::TestServer;
use jobkit::{Data, Failure, FromContext, JobContext, jobs};

/// Without arguments.
#[jobkit::job]
pub async fn nothing() {}

/// With attributes of serde, and words that are reserved.
#[jobkit::job]
#[expect(clippy::too_many_arguments, reason = "every attribute once")]
pub async fn letters(
    r#type: u32,
    #[serde(rename = "toWhom", alias = "to")] to: String,
    #[serde(default)] locale: Option<String>,
    #[serde(default = "seven")] copies: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")] pages: Vec<u8>,
    #[serde(with = "as_text")] number: u64,
    absent: Option<u8>,
    tree: BTreeMap<String, Vec<Option<(u8, char)>>>,
) -> anyhow::Result<String> {
    Ok(format!("{} {to} {locale:?} {copies} {pages:?} {number} {absent:?} {tree:?}", r#type))
}

fn seven() -> u32 {
    7
}

mod as_text {
    pub(crate) fn serialize<S: serde::Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(n)
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text: String = serde::Deserialize::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Twelve arguments, one of which changes.
#[jobkit::job]
#[expect(clippy::too_many_arguments, reason = "as many as there may be")]
pub async fn twelve(
    mut a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
    i: u8,
    j: u8,
    k: u8,
    l: u8,
    ctx: JobContext,
) -> anyhow::Result<u32> {
    a += u8::try_from(ctx.attempt())?;
    Ok([a, b, c, d, e, f, g, h, i, j, k, l].into_iter().map(u32::from).sum())
}

mod outer {
    pub(crate) mod inner {
        /// Under another name of the crate.
        #[renamed::job(crate = renamed, name = "inner.deep")]
        pub(crate) async fn deep(n: u8) -> Result<u8, std::num::TryFromIntError> {
            u8::try_from(u32::from(n) + 1)
        }
    }

    pub(crate) use inner::deep as shallow;
}

use outer::shallow;

/// Of its arguments the code uses none; texts are made of them, by their plain names.
#[jobkit::job(
    unique = "welcome:{user}",
    limit("mail:{tenant}", 2),
    tags("page {page}"),
    display_name = "welcome {name}"
)]
pub async fn described(user: u64, tenant: String, page: u8, _name: String, _unused: bool) {}

/// Calls its counterpart.
#[jobkit::job]
pub async fn ping(n: u32, ctx: JobContext) -> anyhow::Result<()> {
    if n > 0 {
        ctx.client().enqueue(pong(n - 1)).await?;
    }
    Ok(())
}

/// Calls its counterpart.
#[jobkit::job]
pub async fn pong(n: u32, ctx: JobContext) -> anyhow::Result<()> {
    if n > 0 {
        ctx.client().enqueue(ping(n - 1)).await?;
    }
    Ok(())
}

/// A place for associated functions.
#[derive(Debug)]
pub struct Reports;

impl Reports {
    /// An associated function.
    #[jobkit::job(name = "reports.nightly")]
    pub async fn nightly(day: u8) -> Result<u8, Failure> {
        Ok(Reports::next(day))
    }

    fn next(day: u8) -> u8 {
        day + 1
    }
}

/// Never there.
#[cfg(any())]
#[jobkit::job]
pub async fn left_out(of: Unknown) {}

/// There.
#[cfg(test)]
#[jobkit::job]
pub async fn kept_in() {}

/// Made for each attempt.
#[derive(Debug)]
pub struct Scope(u32);

impl FromContext for Scope {
    async fn from_context(context: &JobContext) -> Result<Self, Failure> {
        Ok(Self(context.attempt()))
    }
}

/// Everything that a server gives.
#[jobkit::job]
pub async fn given(
    #[inject] scope: Scope,
    factor: jobkit::Data<u32>,
    n: u32,
    other: Data<String>,
    _ctx: JobContext,
) -> Result<String, std::fmt::Error> {
    Ok(format!("{} {other}", n * *factor * scope.0, other = *other))
}

#[tokio::test]
async fn jobs_stand_wherever_functions_stand() {
    /// In the body of a function.
    #[jobkit::job]
    async fn local(n: u8) -> Result<u8, Failure> {
        Ok(n)
    }

    let jobs = jobs![
        nothing,
        letters,
        twelve,
        outer::inner::deep,
        ping,
        pong,
        Reports::nightly,
        kept_in,
        given,
        local,
    ];
    let mut t = TestServer::new(jobs).data(3_u32).data("words".to_owned());
    let client = t.client();
    let tree = BTreeMap::from([("k".to_owned(), vec![None, Some((1, 'c'))])]);
    let letter = letters(1, "Ann".into(), None, 2, vec![], 99, None, tree);
    let letter = client.enqueue(letter).await.expect("enqueued");
    let twelve =
        client.enqueue(twelve(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)).await.expect("enqueued");
    let deep = client.enqueue(shallow(4)).await.expect("enqueued");
    let nightly = client.enqueue(Reports::nightly(5)).await.expect("enqueued");
    let given = client.enqueue(given(7)).await.expect("enqueued");
    let local = client.enqueue(local(8)).await.expect("enqueued");
    client.enqueue((nothing(), kept_in(), ping(3))).await.expect("enqueued");
    t.run_until_idle().await;
    let soon = Duration::from_secs(5);
    let text = letter.wait(soon).await.expect("done");
    assert_eq!(text, r#"1 Ann None 2 [] 99 None {"k": [None, Some((1, 'c'))]}"#);
    assert_eq!(twelve.wait(soon).await.expect("done"), 13);
    assert_eq!(deep.wait(soon).await.expect("done"), 5);
    assert_eq!(nightly.wait(soon).await.expect("done"), 6);
    assert_eq!(given.wait(soon).await.expect("done"), "21 words");
    assert_eq!(local.wait(soon).await.expect("done"), 8);
    assert_eq!((t.succeeded("ping").await, t.succeeded("pong").await), (2, 2));
}

#[tokio::test]
async fn arguments_are_stored_by_name_and_read_leniently() {
    let tree = BTreeMap::new();
    let mut t = TestServer::new(jobs![letters]);
    let job = letters(1, "Ann".into(), Some("de".into()), 2, vec![], 99, None, tree);
    let job = t.client().enqueue(job).await.expect("enqueued");
    let stored = t.job(job.id()).await.0.args;
    assert_eq!(
        std::str::from_utf8(&stored).expect("text"),
        r#"{"type":1,"toWhom":"Ann","locale":"de","copies":2,"number":"99","absent":null,"tree":{}}"#
    );
    let older = serde_json::json!({"type": 3, "to": "Bob", "number": "5", "tree": {}, "gone": [1]});
    let older = older.as_object().expect("an object");
    let older = t.client().enqueue(jobkit::job_by_name("letters", older).expect("a job")).await;
    let older = older.expect("enqueued").id();
    t.run_until_idle().await;
    let result = t.job(older).await.0.result.expect("done");
    assert_eq!(std::str::from_utf8(&result).expect("text"), r#""3 Bob None 7 [] 5 None {}""#);
}

#[tokio::test]
async fn a_leading_underscore_is_not_stored_and_is_read_all_the_same() {
    let mut t = TestServer::new(jobs![described]);
    let client = t.client();
    let job = client.enqueue(described(1, "acme".into(), 2, "Ann".into(), true)).await;
    let job = t.job(job.expect("enqueued").id()).await.0;
    assert_eq!(
        std::str::from_utf8(&job.args).expect("text"),
        r#"{"user":1,"tenant":"acme","page":2,"name":"Ann","unused":true}"#
    );
    let extras = job.record.extras.expect("it has a display name");
    assert_eq!(extras.display_name.as_deref(), Some("welcome Ann"));
    assert_eq!(job.record.tags, ["page 2"]);
    assert_eq!(job.record.unique.expect("a key").key, "welcome:1");
    // As an older release stored it, when all of them had an underscore in the code.
    let older = serde_json::json!({
        "_user": 1, "_tenant": "acme", "_page": 2, "_name": "Ann", "_unused": true
    });
    let older = jobkit::job_by_name("described", older.as_object().expect("an object"));
    client.enqueue(older.expect("a job")).await.expect("enqueued");
    t.run_until_idle().await;
    assert_eq!(t.succeeded("described").await, 2);
}
