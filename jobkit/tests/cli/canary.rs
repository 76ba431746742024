//! No output holds a secret, or a character that moves a cursor.

use std::time::Duration;

use jobkit::limit::Limit;
use jobkit::record::ErrorDetail;
use jobkit::record::Progress;
use jobkit::state::Ending;
use jobkit::state::Reason;
use jobkit::storage::{LogLevel, LogLine, Settle};
use jobkit::{Batch, JobId, Recurring, Timestamp};
use serde_json::json;

use crate::world::{World, job, run};

const SECRET: &str = "hunter2canary";

/// Clears the screen, turns the text round, hides, and ends a line.
const HOSTILE: &str = "\u{1b}[2J\u{9b}1A\u{202e}\u{200b}\u{feff}\r\u{7}\u{e0041}";

fn is_hostile(c: char) -> bool {
    c != '\n' && (c.is_control() || HOSTILE.contains(c) && !"[2J1A".contains(c))
}

/// A text that tells a secret, and more.
fn text(around: &str) -> String {
    format!("{around}{HOSTILE} password={SECRET} postgres://ann:{SECRET}@db/x {HOSTILE}")
}

async fn poisoned() -> (World, JobId, jobkit::BatchId) {
    let mut world = World::empty().await;
    let args = json!({
        "password": SECRET,
        "deep": [{ "Api-Key": SECRET, "note": text("note") }],
        "url": format!("https://ann:{SECRET}@host/path"),
        HOSTILE: HOSTILE,
    });
    let batch = world.client.enqueue(
        Batch::new(text("batch")).job(
            job("canary", &args)
                .tag(format!("token={SECRET}{HOSTILE}"))
                .unique(text("key"))
                .display_name(text("name"))
                .limit(text("limit"), 1)
                .metadata("api_key", SECRET)
                .metadata(HOSTILE, text("metadata"))
                .capture("cookie", SECRET),
        ),
    );
    let batch = batch.await.expect("is stored").id();
    let lease = world.claim(&["canary"]).await[0];
    let chain = [text("cause"), format!("Authorization: Bearer {SECRET}")];
    let detail = ErrorDetail::new(
        "canary",
        &text("Type"),
        &text("failed"),
        chain,
        Some(text("  0: a::b\n")),
    );
    let at = Timestamp::from_micros(1_767_225_600_000_000);
    let line = LogLine { at, level: LogLevel::Warn, text: text("line") };
    let progress = Progress { name: text("bar"), done: 1, total: 2, message: text("at") };
    world
        .settle(vec![Settle {
            error: Some(detail),
            log: vec![line],
            progress: vec![progress],
            ..Settle::new(lease, Ending::Retry { delay: Duration::from_secs(3600) })
        }])
        .await;
    let done = world.enqueue(job("sync", &args)).await;
    let other = world.claim(&["sync"]).await[0];
    let result = json!({ "secret": SECRET, "text": text("result") }).to_string();
    world
        .settle(vec![Settle {
            result: Some(result.into_bytes().into()),
            ..Settle::new(other, Ending::Succeeded)
        }])
        .await;
    let failing = world.enqueue(job("report", &args)).await;
    let lease = world.claim(&["report"]).await[0];
    let detail = ErrorDetail::new("report", "E", &text("failed"), [], None);
    world
        .settle(vec![Settle {
            error: Some(detail),
            ..Settle::new(lease, Ending::Failed(Reason::Permanent))
        }])
        .await;
    for id in [text("schedule"), text("schedule of another")] {
        let recurring = Recurring::cron(id, "0 3 * * *").job(job("sync", &args));
        world.client.save_recurring(recurring).await.expect("is stored");
    }
    let operator = world.client.operator(text("actor")).because(text("reason"));
    operator.define_limit(Limit::new(text("limit of another"), 1)).await.expect("is defined");
    world.client.enqueue(Batch::new(text("another batch"))).await.expect("is stored");
    operator.pause_queue("mail", None).await.expect("is paused");
    operator.pause_kind("report", None).await.expect("is paused");
    operator.quiet_server("web-1", None).await.expect("is told");
    let filter = "kind:nothing".parse().expect("a filter");
    let action = jobkit::storage::Action::RunNow;
    operator.begin_bulk(filter, action, 0, Duration::ZERO).await.expect("is begun");
    let _ = (done, failing);
    (world, lease.job, batch)
}

#[track_caller]
fn check(ran: &crate::world::Ran, arguments: &[&str]) {
    for stream in [&ran.out, &ran.err] {
        assert!(!stream.contains(SECRET), "{arguments:?} tells a secret:\n{stream}");
        let hostile = stream.chars().find(|c| is_hostile(*c));
        assert_eq!(hostile, None, "{arguments:?}:\n{stream:?}");
    }
}

#[tokio::test]
async fn no_output_tells_a_secret_or_moves_the_cursor() {
    let (world, failed, batch) = poisoned().await;
    let all = world.run(&["jobs", "--json"]).expect(0).json();
    let ids: Vec<String> = all["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|it| it["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len(), 3);
    let schedule = text("schedule");
    let (batch, failed) = (batch.to_string(), failed.to_string());
    let mut commands: Vec<(i32, Vec<&str>)> = [
        "status",
        "jobs",
        "jobs --limit 1",
        "queues",
        "recurring",
        "recurring --limit 1",
        "batches",
        "batches --limit 1",
        "limits",
        "limits --limit 1",
        "servers",
        "errors",
        "errors --limit 1",
        "audit",
        "audit --limit 1",
        "doctor",
        "bulk",
        "metrics",
        "export",
        "export --format csv",
    ]
    .iter()
    .map(|command| (0, command.split(' ').collect()))
    .collect();
    for id in &ids {
        commands.push((0, vec!["job", id, "--logs", "--backtrace"]));
        commands.push((0, vec!["why", id]));
    }
    commands.push((0, vec!["recurring", "show", &schedule]));
    commands.push((0, vec!["batches", &batch]));
    commands.push((1, vec!["run-now", &failed]));
    commands.push((4, vec!["delete", "--where", "state:failed"]));
    commands.push((4, vec!["delete", "--where", "state:failed -tag:password=hunter2canary"]));
    commands.push((2, vec!["delete", "--where", "arg.password:hunter2canary"]));
    commands.push((1, vec!["delete", "--where", "tag:token=hunter2canary"]));
    commands.push((0, vec!["retry", "--where", "state:failed", "--yes"]));
    commands.push((0, vec!["audit"]));
    for (code, arguments) in commands {
        // What was done is not there to be done again.
        let again = match arguments[0] {
            "retry" => 1,
            // It has no document.
            "export" => 2,
            _ => code,
        };
        let as_json = [&arguments[..], &["--json"]].concat();
        for (code, arguments) in [(code, arguments), (again, as_json)] {
            let ran = world.run(&arguments).expect(code);
            check(&ran, &arguments);
            // These show a secret that is stored, or a filter; a list of servers has none in words.
            let tells = match arguments[0] {
                "servers" => arguments.contains(&"--json"),
                "export" => !arguments.contains(&"--json"),
                "why" | "run-now" | "delete" | "retry" => false,
                _ => true,
            };
            let hides = ran.out.contains("(hidden)");
            assert!(hides || !tells, "{arguments:?} shows nothing that is to be hidden:\n{ran:?}");
        }
    }
}

/// What was typed is on the screen already, but not in the log of whoever runs the command.
#[tokio::test]
async fn no_output_repeats_a_secret_that_was_typed() {
    let world = World::empty().await;
    let secret = format!("password={SECRET}");
    let nightly = Recurring::cron(secret.clone(), "0 3 * * *").job(job("sync", &json!({})));
    world.client.save_recurring(nightly).await.expect("is stored");
    for (code, arguments) in [
        (0, &["limits", "set", &secret, "3"][..]),
        (1, &["limits", "release", &secret]),
        (0, &["pause", "recurring", &secret]),
        (0, &["resume", "recurring", &secret]),
        (0, &["recurring", "run", &secret]),
        (1, &["recurring", "run", "token=hunter2canary"]),
        (2, &["pause", "queue", &secret]),
        (2, &["servers", "stop", &secret, "--yes"]),
        (4, &["servers", "stop", &secret]),
    ] {
        for form in [&[][..], &["--json"]] {
            let arguments = [arguments, form].concat();
            let ran = world.run(&arguments).expect(code);
            check(&ran, &arguments);
        }
    }
}

#[test]
fn no_output_tells_the_password_of_an_address() {
    let address = format!("postgres://ann:{SECRET}@db.example/jobs");
    for command in ["status", "jobs", "migrate", "doctor", "top", "metrics"] {
        let ran = run(Some(&address), &[command]).expect(2);
        check(&ran, &[command]);
        check(&run(None, &["--url", &address, command]).expect(2), &[command]);
        // At the wrong place.
        check(&run(None, &[command, &address, "--nonsense"]), &[command]);
    }
    check(&run(Some(&address), &["migrate", "--print"]).expect(2), &["migrate"]);
    check(&run(Some(&address), &["--help"]).expect(0), &["--help"]);
}
