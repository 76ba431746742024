use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::matching::is_like;
use super::*;
use crate::memory::MemoryStorage;
use crate::model::clock::{Clock, TestClock, Timestamp};
use crate::model::failure::ErrorDetail;
use crate::model::ids::{Incarnation, JobId};
use crate::model::name::Name;
use crate::model::record::{JobRecord, NewRecord};
use crate::model::state::{Reason, Start, StateName};
use crate::model::state_machine::Ending;
use crate::storage::{
    Action, Call, Change, ChangeRequest, ClaimRequest, Count, Guard, JobQueue, JobStore,
    Monitoring, QueueQuota, ServerInfo, ServerRegistry, Settle, SettleRequest, Submission,
    SubmitRequest,
};

fn parse(text: &str) -> JobFilter {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_filter_is_written_as_it_can_be_read_again() {
    let id = JobId::from_key("k", "1");
    let cases = [
        ("", ""),
        ("  state:failed   queue:mail ", "state:failed queue:mail"),
        ("state:failed,retrying,dead", "state:failed,retrying,failed"),
        ("-tag:vip,\"a b\"", "-tag:vip,\"a b\""),
        ("smtp timeout", "\"smtp timeout\""),
        ("\"a \\\"quoted\\\" word\"", "\"a \\\"quoted\\\" word\""),
        ("attempt:>2 priority:2..4,9", "attempt:>2 priority:2..4,9"),
        ("wait:>10s run:<90s", "wait:>10s run:<90s"),
        ("run:60s", "run:1m"),
        ("created:>48h", "created:>2d"),
        ("failed:2026-11-01..2026-11-02", "failed:2026-11-01..2026-11-02"),
        ("due:>2026-11-01T12:30:00+02:00", "due:>2026-11-01T10:30:00Z"),
        ("arg.user.id:42 meta.tenant:acme*", "arg.user.id:42 meta.tenant:acme*"),
        ("-ctx.tenant:acme,\"a b\"", "-ctx.tenant:acme,\"a b\""),
        ("error:\"timed out\" group:E-91C3", "error:\"timed out\" group:91c3"),
        ("has:result,error", "has:result,error"),
        ("http://x", "http://x"),
    ];
    for (text, shown) in cases.into_iter().take(cases.len() - 1) {
        let filter = parse(text);
        assert_eq!(filter.to_string(), shown, "{text}");
        assert_eq!(parse(shown), filter, "{text}");
    }
    assert_eq!(parse(&id.to_string()), JobFilter::ids(vec![id]));
    let json = serde_json::to_string(&parse("state:failed tag:\"a b\"")).expect("is written");
    let read: JobFilter = serde_json::from_str(&json).expect("is read");
    assert_eq!(read, parse("state:failed tag:\"a b\""));
}

#[test]
fn an_error_points_at_the_place() {
    let cases = [
        ("colour:red", 1, "`colour` is unknown; known are state"),
        ("state:failed  colour:red", 15, "`colour` is unknown"),
        ("state:failed,lost", 14, "`lost` is no state"),
        ("attempt:>two", 9, "`two` is no number"),
        ("run:>1y", 5, "`1y` is not a duration; write numbers"),
        ("created:yesterday", 9, "`yesterday` is neither a day or time"),
        ("id:7", 4, "`7` is no job id"),
        ("queue:", 7, "`queue` needs a value"),
        ("queue:a,,b", 9, "`queue` needs a value"),
        ("tag:\"open", 5, "a quote that is not closed"),
        ("has:luck", 5, "`luck` is nothing a job may have"),
        ("group:E-xyz", 7, "`E-xyz` is no error group"),
        ("arg.user.password:x", 1, "`arg.user.password` is hidden"),
        ("größe:1 q", 1, "`größe` is unknown"),
        ("a b\0", 4, "a NUL character"),
        ("-", 1, "an empty term"),
        ("created:9999999999999d", 9, "is neither a day or time"),
    ];
    for (text, column, reason) in cases {
        let error = text.parse::<JobFilter>().expect_err(text);
        let expected = format!("filter: at column {column}: ");
        assert!(error.to_string().starts_with(&expected), "{text}: {error}");
        assert!(error.to_string().contains(reason), "{text}: {error}");
        assert_eq!(error.field(), Some("filter"));
    }
    let long = "tag:x ".repeat(13);
    assert!(long.parse::<JobFilter>().expect_err("long").to_string().contains("12 terms"));
    let many = format!("tag:{}", vec!["x"; 51].join(","));
    assert!(many.parse::<JobFilter>().expect_err("many").to_string().contains("50 values"));
}

#[test]
fn a_star_stands_for_any_text() {
    for (text, pattern, fits) in [
        ("send_mail", "send_mail", true),
        ("send_mail", "send*", true),
        ("send_mail", "*mail", true),
        ("send_mail", "s*_*l", true),
        ("send_mail", "*", true),
        ("send_mail", "send", false),
        ("send_mail", "mail*", false),
        ("aa", "aa*aa", false),
        ("", "*", true),
        ("", "", true),
    ] {
        assert_eq!(is_like(text, pattern), fits, "{text} {pattern}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is typed is read or refused, and what was read is written so that it means the same.
    #[test]
    fn any_text_is_read_or_refused(text in filter_like()) {
        if let Ok(filter) = text.parse::<JobFilter>() {
            let shown = filter.to_string();
            let again = shown.parse::<JobFilter>();
            prop_assert_eq!(again.as_ref().ok(), Some(&filter), "{} became {}", text, shown);
        }
    }
}

/// Texts that look like filters, and texts that do not.
fn filter_like() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "state",
        "queue",
        "kind",
        "tag",
        "id",
        "priority",
        "attempt",
        "wait",
        "run",
        "created",
        "due",
        "failed",
        "arg.a.b",
        "meta.k",
        "ctx.k",
        "error",
        "group",
        "has",
        "recurring",
        "nothing",
        "",
    ]);
    let value = prop_oneof![
        prop::sample::select(vec![
            "failed",
            "retrying",
            ">2",
            "2..4",
            "<10s",
            "90000ms",
            "2026-11-01",
            "2026-11-01..2026-12-01",
            ">2h",
            "result",
            "E-91c3",
            "*",
            "a*b",
            "0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d",
        ])
        .prop_map(str::to_owned),
        "[a-z0-9\"\\\\,:.* -]{0,8}",
        any::<String>(),
    ];
    let term = (any::<bool>(), key, prop::collection::vec(value, 1..3)).prop_map(
        |(minus, key, values)| {
            let colon = if key.is_empty() { "" } else { ":" };
            format!("{}{key}{colon}{}", if minus { "-" } else { "" }, values.join(","))
        },
    );
    prop_oneof![
        3 => prop::collection::vec(term, 0..5).prop_map(|terms| terms.join(" ")),
        1 => any::<String>(),
    ]
}

/// A storage with jobs in every state, and the clock they were made by.
async fn filled() -> (Arc<MemoryStorage>, TestClock, Vec<JobId>) {
    let clock = TestClock::default();
    let storage = Arc::new(MemoryStorage::with_clock(Arc::new(clock.clone())));
    storage.accept_any_id_age();
    let name = |text: &str| Name::from_stored(text);
    let mut ids = Vec::new();
    let server = ServerInfo {
        name: name("web-1"),
        incarnation: Incarnation::from_i64(7),
        pid: 1,
        host: "here".into(),
        version: "0".into(),
        workers: 1,
        queues: vec![name("default"), name("mail")],
        kinds: vec![name("send_mail"), name("report")],
        started_at: clock.now(),
        draining: false,
    };
    storage.announce(&Call::default(), &server).await.expect("announces");
    for i in 0..60_u64 {
        let args = format!(r#"{{"n":{i},"user":{{"id":{}}},"pin":"{i}"}}"#, i % 4);
        let kind = if i % 3 == 0 { "report" } else { "send_mail" };
        let mut job = NewRecord::new(JobId::new(), name(kind), args.into_bytes());
        job.queue = name(if i % 2 == 0 { "mail" } else { "default" });
        job.priority = u8::try_from(i % 10).expect("is small");
        job.tags = if i % 5 == 0 { vec!["vip".into()] } else { vec![] };
        job.start = if i % 7 == 0 { Start::After(Duration::from_secs(600)) } else { Start::Now };
        job.extras_mut().metadata.insert("tenant".into(), format!("t{}", i % 3));
        job.extras_mut().context.insert("tenant".into(), format!("c{}", i % 4));
        job.extras_mut().sensitive = vec!["pin".into()];
        ids.push(job.id);
        let request = [Submission::one(job)];
        storage
            .submit(&Call::default(), SubmitRequest { submissions: &request })
            .await
            .expect("stores");
        clock.advance(Duration::from_secs(60));
        if i % 2 == 0 {
            continue;
        }
        let claim = ClaimRequest {
            server: server.name.clone(),
            incarnation: server.incarnation,
            sequence: i,
            queues: vec![
                QueueQuota { queue: name("mail"), max: 1 },
                QueueQuota { queue: name("default"), max: 1 },
            ],
            kinds: server.kinds.clone().into(),
            max: 1,
            started: 1,
            lease: Duration::from_secs(3600),
            hint: None,
            sleeps_below: 0,
        };
        let claimed = storage.claim(&Call::default(), &claim).await.expect("claims");
        for job in claimed.jobs {
            clock.advance(Duration::from_secs(i));
            let ending = match i % 5 {
                0 => Ending::Failed(Reason::Permanent),
                1 => Ending::Retry { delay: Duration::from_secs(3600) },
                2 | 3 => Ending::Succeeded,
                _ => continue,
            };
            let mut settle = Settle::new(job.lease, ending);
            settle.duration = Some(Duration::from_secs(i));
            if ending != Ending::Succeeded {
                let message = if i % 3 == 0 { "timed out" } else { "no route" };
                settle.error = Some(ErrorDetail::new("k", "SmtpError", message, [], None));
            }
            let settles = SettleRequest { server: server.name.clone(), settles: vec![settle] };
            storage.settle(&Call::default(), &settles).await.expect("settles");
        }
    }
    let delete = Change {
        operation: crate::OperationId::new(),
        job: ids[0],
        guard: Guard::None,
        action: Action::Delete { keep: None },
    };
    let request = ChangeRequest { changes: &[delete], actor: None };
    storage.change_state(&Call::default(), request).await.expect("deletes");
    (storage, clock, ids)
}

async fn found(storage: &MemoryStorage, filter: &str, limit: usize) -> Vec<JobRecord> {
    let filter = parse(filter);
    let plan = Plan::on(storage, &filter).await.expect("plans");
    let mut jobs = Vec::new();
    let mut after = None;
    loop {
        let page = walk(storage, &plan, after.as_deref(), limit).await.expect("reads");
        jobs.extend(page.jobs);
        after = page.next;
        if after.is_none() {
            return jobs;
        }
    }
}

/// Each filter finds what a look at every job finds, on pages of any size, and counts it.
#[tokio::test]
async fn what_a_filter_finds_is_what_holds() {
    type Holds = fn(&JobRecord, Timestamp) -> bool;
    let (storage, clock, ids) = filled().await;
    let now = clock.now();
    let cases: [(&str, Holds); 24] = [
        ("", |_, _| true),
        ("state:failed", |it, _| it.state() == StateName::Failed),
        ("state:retrying", |it, _| it.head.reason == Reason::Retry),
        ("-state:succeeded,failed", |it, _| {
            !matches!(it.state(), StateName::Succeeded | StateName::Failed)
        }),
        ("queue:mail", |it, _| &*it.queue == "mail"),
        ("queue:mail,default kind:rep*", |it, _| &*it.kind == "report"),
        ("-queue:mail", |it, _| &*it.queue != "mail"),
        ("tag:vip state:enqueued", |it, _| {
            it.state() == StateName::Enqueued && !it.tags.is_empty()
        }),
        ("has:tag -state:enqueued", |it, _| {
            it.state() != StateName::Enqueued && !it.tags.is_empty()
        }),
        ("priority:>7", |it, _| it.priority > 7),
        ("priority:2..3", |it, _| (2..=3).contains(&it.priority)),
        ("attempt:2", |it, _| it.head.failures == 1),
        ("created:<30m", |it, now| now.since(it.created_at) <= Duration::from_secs(1800)),
        ("created:>30m", |it, now| now.since(it.created_at) > Duration::from_secs(1800)),
        ("finished:<1h", |it, now| {
            it.state().is_finished() && now.since(it.head.entered_at) <= Duration::from_secs(3600)
        }),
        ("failed:>20m", |it, now| {
            it.state() == StateName::Failed
                && now.since(it.head.entered_at) > Duration::from_secs(1200)
        }),
        ("due:<30m", |it, now| {
            it.run_at().is_some_and(|at| at < now.plus(Duration::from_secs(1800)))
        }),
        ("run:>30s state:succeeded", |it, _| {
            it.state() == StateName::Succeeded && it.duration > Some(Duration::from_secs(30))
        }),
        ("server:web-*", |it, _| it.state() == StateName::Processing),
        ("meta.tenant:t1", |it, _| {
            it.extras.as_deref().is_some_and(|it| it.metadata["tenant"] == "t1")
        }),
        ("ctx.tenant:c1,c2", |it, _| {
            it.extras.as_deref().is_some_and(|it| ["c1", "c2"].contains(&&*it.context["tenant"]))
        }),
        ("ctx.locale:*", |_, _| false),
        ("recurring:*", |_, _| false),
        ("queue:\"no such name\"", |_, _| false),
    ];
    let all = storage.jobs(&ids).await.expect("reads");
    let all: Vec<JobRecord> = all.into_iter().flatten().collect();
    assert_eq!(all.len(), 60);
    for (filter, holds) in cases {
        let mut expected: Vec<_> =
            all.iter().filter(|job| holds(job, now)).map(|job| job.id).collect();
        expected.sort_unstable();
        for limit in [1, 7, 200] {
            let mut ids: Vec<_> =
                found(&storage, filter, limit).await.into_iter().map(|job| job.id).collect();
            ids.sort_unstable();
            assert_eq!(ids, expected, "{filter} by {limit}");
        }
        let counted = count(&*storage, &parse(filter), 1_000).await.expect("counts");
        assert_eq!(counted, Count::Exact(expected.len() as u64), "{filter}");
    }
}

/// What only details tell: arguments, errors, groups, results.
#[tokio::test]
async fn details_are_looked_at_where_records_do_not_tell() {
    let (storage, _clock, ids) = filled().await;
    let number = async |filter: &str| found(&storage, filter, 200).await.len();
    assert_eq!(number("arg.user.id:3").await, 15);
    assert_eq!(number("arg.n:3*").await, 11);
    assert_eq!(number("arg.user.name:x").await, 0);
    assert_eq!(number("arg.pin:7").await, 0, "a sensitive argument answers no filter");
    let timed_out = number("error:\"timed out\"").await;
    let all = number("has:error").await;
    assert_eq!(number("error:SmtpError").await, all);
    assert_eq!(number("-error:\"timed out\" has:error").await, all - timed_out);
    assert!(timed_out > 0 && timed_out < all);
    let groups = storage.error_groups(&Default::default()).await.expect("lists");
    let group = groups.iter().find(|it| it.message == "timed out").expect("is there");
    let digits = format!("{:?}", group.fingerprint);
    assert_eq!(number(&format!("group:{digits}")).await, timed_out);
    assert_eq!(number(&format!("group:{}", &digits[..8])).await, timed_out);
    assert_eq!(number("has:result").await, 0);
    assert_eq!(number("\"user\\\":{\\\"id\\\":3\"").await, 15);
    let wanted = format!("id:{},{},{}", ids[3], JobId::new(), ids[9]);
    assert_eq!(number(&wanted).await, 2);
    assert_eq!(number(&format!("{wanted} tag:vip")).await, 0);
}

/// The children of a job are found with it, each once.
#[tokio::test]
async fn children_are_found_by_their_parents() {
    use crate::model::edge::{Edge, On, Parent};
    let storage = MemoryStorage::new();
    let job = || NewRecord::new(JobId::new(), Name::from_stored("k"), *b"{}");
    let parents = [job(), job()];
    let of = |parent: &NewRecord| Edge { parent: Parent::Job(parent.id), on: On::Success };
    let mut jobs = parents.to_vec();
    jobs.push(NewRecord { edges: vec![of(&parents[0])], ..job() });
    jobs.push(NewRecord { edges: vec![of(&parents[0]), of(&parents[1])], ..job() });
    jobs.push(NewRecord { edges: vec![of(&parents[1])], ..job() });
    let request = [Submission::flow(jobs.clone())];
    storage
        .submit(&Call::default(), SubmitRequest { submissions: &request })
        .await
        .expect("stores");
    let children = async |filter: String| {
        let mut ids: Vec<_> =
            found(&storage, &filter, 1).await.into_iter().map(|job| job.id).collect();
        ids.sort_unstable();
        ids
    };
    let mut expected = [jobs[2].id, jobs[3].id];
    expected.sort_unstable();
    assert_eq!(children(format!("parent:{}", parents[0].id)).await, expected);
    let mut expected = [jobs[2].id, jobs[3].id, jobs[4].id];
    expected.sort_unstable();
    let both = format!("parent:{},{}", parents[0].id, parents[1].id);
    assert_eq!(children(both).await, expected);
    assert_eq!(children(format!("-parent:{} has:parent", parents[0].id)).await, [jobs[4].id]);
    let error = page(&storage, &JobFilter::default(), Some("x"), 10).await.expect_err("is refused");
    assert_eq!(error.field(), Some("after"));
    let error = page(&storage, &JobFilter::default(), None, 0).await.expect_err("is refused");
    assert_eq!(error.field(), Some("limit"));
}
