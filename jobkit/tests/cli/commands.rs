//! Reading commands, pages, exit codes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jobkit::limit::Limit;
use jobkit::{Batch, Recurring};
use serde_json::{Value, json};

use crate::world::{World, full, job, run};

/// What the pages of a list hold, each of `limit` items, by this field; none of them is empty.
fn pages(world: &World, list: &[&str], limit: &str, field: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut arguments = [list, &["--json", "--limit", limit]].concat();
        if let Some(after) = &after {
            arguments.extend(["--after", after.as_str()]);
        }
        let page = world.run(&arguments).expect(0).json();
        let items = page["items"].as_array().expect("items").iter();
        pages.push(items.map(|it| it[field].clone()).collect());
        match &page["next"] {
            Value::String(next) => after = Some(next.clone()),
            _ => return pages,
        }
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_the_last_one_is_known() {
    let world = World::empty().await;
    for n in 0..4 {
        world.enqueue(job("mail", &json!({ "n": n }))).await;
        let limit = Limit::new(format!("it's {n}"), 5);
        world.client.operator("ann").define_limit(limit).await.expect("is defined");
        let nightly = Recurring::cron(format!("nightly {n}"), "0 3 * * *");
        let nightly = nightly.job(job("mail", &json!({})));
        world.client.save_recurring(nightly).await.expect("is stored");
        let batch = Batch::new(format!("batch {n}")).job(job("resize", &json!({})));
        world.client.enqueue(batch).await.expect("is stored");
    }
    for (list, field) in [
        (&["jobs", "kind:mail"][..], "id"),
        (&["limits"], "name"),
        (&["recurring"], "id"),
        (&["recurring", "list"], "id"),
        (&["batches"], "id"),
        (&["audit"], "operation"),
    ] {
        for (limit, sizes) in
            [("1", &[1, 1, 1, 1][..]), ("2", &[2, 2]), ("3", &[3, 1]), ("4", &[4])]
        {
            let pages = pages(&world, list, limit, field);
            let found: Vec<_> = pages.iter().map(Vec::len).collect();
            assert_eq!(found, sizes, "{list:?} --limit {limit}");
            let different: BTreeSet<_> = pages.iter().flatten().map(Value::to_string).collect();
            assert_eq!(different.len(), 4, "{list:?} --limit {limit}");
        }
        let ran = world.run(&[list, &["--limit", "3"]].concat()).expect(0);
        assert_eq!(ran.out.lines().count(), 4, "{ran:?}");
        // What is told can be typed.
        let told = ran.err.strip_prefix("more: --after '").expect("a place");
        let next = told.trim_end().strip_suffix('\'').expect("the end of a quote");
        assert!(!next.contains('\''), "{next}");
        let ran = world.run(&[list, &["--limit", "3", "--after", next]].concat()).expect(0);
        assert_eq!((ran.out.lines().count(), ran.err.as_str()), (2, ""), "{ran:?}");
        world.run(&[list, &["--after", "no place"]].concat()).expect(2);
    }
}

#[tokio::test]
async fn a_list_without_places_tells_that_it_was_cut() {
    let (world, _) = full().await;
    for n in 0..2 {
        let filter = format!("kind:nothing{n}").parse().expect("a filter");
        let action = jobkit::storage::Action::RunNow;
        let operator = world.client.operator("ann");
        operator.begin_bulk(filter, action, 0, Duration::ZERO).await.expect("is begun");
    }
    for list in ["errors", "bulk"] {
        world.run(&[list, "--limit", "0"]).expect(2);
        let ran = world.run(&[list, "--limit", "1"]).expect(0);
        assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
        assert_eq!(ran.err, "more: a higher --limit shows it\n");
        for (limit, more) in [("1", true), ("2", false)] {
            let cut = world.run(&[list, "--limit", limit, "--json"]).expect(0).json();
            assert_eq!((&cut["next"], &cut["more"]), (&Value::Null, &json!(more)), "{cut}");
        }
    }
}

#[tokio::test]
async fn exit_codes_are_those_that_are_documented() {
    let (world, ids) = full().await;
    let some = "0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d";
    let failed = ids.failed.to_string();
    let cases: [(i32, &[&str]); 22] = [
        (0, &["status"]),
        (0, &["jobs", "--count"]),
        (0, &["help"]),
        (0, &["--version"]),
        (1, &["jobs", "kind:nothing"]),
        (1, &["job", some]),
        (1, &["why", some]),
        (1, &["retry", some]),
        (1, &["delete", "--where", "kind:nothing", "--yes"]),
        (1, &["resume", "queue", "default"]),
        (1, &["errors", "mute", "E-0"]),
        (1, &["recurring", "run", "nothing"]),
        (1, &["servers", "quiet", "nobody"]),
        (1, &["bulk", some]),
        (1, &["batches", some]),
        (2, &["jobs", "statee:failed"]),
        (2, &["why", "x"]),
        (2, &["nonsense"]),
        (2, &["recurring", "preview", "61 * * * *"]),
        (2, &["enqueue", "mail", "[1]"]),
        (4, &["delete", "--where", "state:failed"]),
        (4, &["servers", "stop", "web-1"]),
    ];
    for (code, arguments) in cases {
        world.run(arguments).expect(code);
    }
    world.run(&["retry", &failed, some]).expect(1);
    assert_eq!(
        world.client.state(ids.failed).await.expect("is read").map(|it| it.as_str()),
        Some("enqueued")
    );
    let gone = format!("{}.gone", world.url);
    let ran = run(Some(&gone), &["status"]).expect(3);
    assert!(ran.err.contains("there is no such file, and looking makes none"), "{ran:?}");
    run(None, &["status"]).expect(2);
    // A mistake in the address cannot be fixed by a repetition.
    for wrong in ["?bogus=1", "?readers=many", "?namespace=A-B"] {
        run(Some(&format!("{}{wrong}", world.url)), &["status"]).expect(2);
    }
    for wrong in ["sqlite::memory:", "sqlite:", "nothing://here"] {
        run(Some(wrong), &["status"]).expect(2);
    }
    run(Some("sqlite:///proc/nothing/here.db"), &["migrate"]).expect(3);
}

#[tokio::test]
async fn an_empty_list_is_an_answer_that_nothing_was_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("new.db").display());
    run(Some(&url), &["migrate"]).expect(0);
    for list in
        ["jobs", "queues", "recurring", "batches", "limits", "servers", "errors", "bulk", "audit"]
    {
        let ran = run(Some(&url), &[list]).expect(1);
        assert!(ran.out.is_empty() && ran.err.lines().count() == 1, "{ran:?}");
        let ran = run(Some(&url), &[list, "--json"]).expect(1);
        assert_eq!((&ran.json()["items"], &ran.json()["next"]), (&json!([]), &Value::Null));
    }
}

#[tokio::test]
async fn a_wrong_filter_is_shown_with_the_place() {
    let world = World::empty().await;
    let ran = world.run(&["jobs", "kind:a statee:b"]).expect(2);
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(lines[1..], ["  kind:a statee:b", "         ^"], "{ran:?}");
}

#[tokio::test]
async fn looking_makes_no_file_and_changes_none_and_migrating_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = || {
        let entries = std::fs::read_dir(folder.path()).expect("a folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        // What processes that read share is no part of a database.
        let paths = paths.filter(|path| path.extension().is_none_or(|it| it != "db-shm"));
        let file = |path: PathBuf| {
            let bytes = std::fs::read(&path).expect("a file");
            (path, bytes)
        };
        paths.map(file).collect::<BTreeMap<_, _>>()
    };
    let url = format!("sqlite://{}", folder.path().join("new.db").display());
    std::fs::write(folder.path().join("empty.db"), "").expect("is written");
    std::fs::write(folder.path().join("text.db"), "no database ".repeat(100)).expect("is written");
    let other = format!("sqlite://{}?namespace=other", folder.path().join("other.db").display());
    run(Some(&other), &["migrate"]).expect(0);
    let before = files();
    for (name, words) in [
        ("new", "there is no such file"),
        ("empty", "no tables of namespace jobkit"),
        ("text", "no SQLite database"),
        ("other", "no tables of namespace jobkit"),
    ] {
        let url = format!("sqlite://{}", folder.path().join(format!("{name}.db")).display());
        for command in ["status", "jobs", "doctor", "export"] {
            let ran = run(Some(&url), &[command]).expect(3);
            assert!(ran.err.contains(words), "{ran:?}");
        }
        run(Some(&url), &["move", "--from", &url, "--to", "dump:nowhere"]).expect(3);
        let after = files();
        let sizes = |files: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<_> {
            files.iter().map(|(path, bytes)| (path.clone(), bytes.len())).collect()
        };
        assert!(after == before, "{name}: {:?}, {:?}", sizes(&before), sizes(&after));
    }
    let ran = run(Some(&url), &["migrate"]).expect(0);
    assert!(ran.out.contains("schema"), "{ran:?}");
    run(Some(&url), &["status"]).expect(0);
    let ran = run(Some(&url), &["migrate", "--print"]).expect(0);
    assert!(ran.out.contains("CREATE TABLE jobkit_job"));
    // The last one counts, as where it is opened.
    let twice = format!("{url}?namespace=one&namespace=other");
    let ran = run(Some(&twice), &["migrate", "--print", "--from", "3", "--json"]).expect(0).json();
    assert!(ran["statements"].as_str().is_some_and(|it| it.contains("other_")), "{ran}");
    let ran = run(Some(&url), &["migrate", "--print", "--from", "99"]).expect(2);
    assert!(ran.out.is_empty() && ran.err.contains("from: is 99"), "{ran:?}");
}

#[tokio::test]
async fn an_export_holds_every_job_that_matches() {
    let (world, ids) = full().await;
    let all = world.run(&["jobs", "--count", "--json"]).json()["count"].as_u64();
    let ran = world.run(&["export"]).expect(0);
    let lines: Vec<Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(Some(lines.len() as u64), all);
    let failed = lines.iter().find(|it| it["id"] == ids.failed.to_string()).expect("is there");
    assert_eq!(failed["errors"][0]["message"], "timed out after 30 s");
    let ran = world.run(&["export", "state:failed", "--format", "csv"]).expect(0);
    let lines: Vec<_> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("id,kind,") && lines[1].starts_with(&ids.failed.to_string()));
}

#[tokio::test]
async fn what_has_no_document_refuses_to_make_one() {
    let (world, ids) = full().await;
    for arguments in
        [&["export"][..], &["export", "--format", "csv"], &["completion", "bash"], &["top"]]
    {
        let ran = world.run(&[arguments, &["--json"]].concat()).expect(2);
        assert!(ran.out.is_empty() && ran.err.starts_with("error: "), "{ran:?}");
    }
    // Not even one that says so is written for what is not there.
    let gone = ids.failed.to_string().replace(['1', '2', '3'], "4");
    for arguments in [["job", &gone], ["why", &gone], ["batches", &gone], ["bulk", &gone]] {
        let ran = world.run(&[&arguments[..], &["--json"]].concat()).expect(1);
        assert!(ran.out.is_empty() && ran.err.starts_with("error: there is no "), "{ran:?}");
    }
}

#[tokio::test]
async fn figures_for_prometheus_are_printed() {
    let (world, _) = full().await;
    let ran = world.run(&["metrics"]).expect(0);
    for line in [
        "# TYPE jobkit_jobs gauge",
        "jobkit_jobs{state=\"failed\"} 1",
        "jobkit_queue_paused{queue=\"mail\"} 1",
        "jobkit_server_up{server=\"web-1\"} 1",
        "jobkit_limit_waiting{limit=\"reports\"} 1",
    ] {
        assert!(ran.out.lines().any(|it| it == line), "{line}\n{}", ran.out);
    }
}

#[tokio::test]
async fn all_log_lines_are_asked_for_in_front_of_the_id_too() {
    let (world, ids) = full().await;
    let id = ids.succeeded.to_string();
    for arguments in [["job", "--logs", &id], ["job", &id, "--logs"], ["job", &id, "--logs=5"]] {
        assert!(world.run(&arguments).expect(0).out.contains("connected"), "{arguments:?}");
    }
    assert!(!world.run(&["job", &id, "--logs=0"]).expect(0).out.contains("connected"));
    world.run(&["job", &id, "--logs=many"]).expect(2);
}

#[test]
fn shells_are_completed_and_help_tells_the_exit_codes() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(None, &["completion", shell]).expect(0).out.contains("recurring"));
    }
    let help = run(None, &["--help"]).expect(0).out;
    assert!(help.contains("4 refused without confirmation"), "{help}");
    for command in ["job", "retry", "export", "recurring"] {
        run(None, &["help", command]).expect(0);
    }
}

#[tokio::test]
async fn without_a_terminal_nothing_is_coloured_and_top_refuses() {
    let (world, _) = full().await;
    let ran = world.run(&["status"]).expect(0);
    assert!(!ran.out.contains('\u{1b}'));
    let ran = world.run(&["top"]).expect(2);
    assert!(ran.out.is_empty() && ran.err.contains("terminal"), "{ran:?}");
}

#[tokio::test]
async fn the_reason_is_shown_wherever_a_job_is_deleted() {
    let world = World::empty().await;
    let deleted = world.enqueue(job("mail", &json!({ "user": 1 }))).await;
    let child = job("mail", &json!({ "user": 2 })).after(deleted);
    let child = world.enqueue(child).await;
    world.client.delete(deleted).await.expect("is deleted");
    let members = [job("resize", &json!({ "n": 1 })), job("resize", &json!({ "n": 2 }))];
    let batch = world.client.enqueue(Batch::new("thumbnails").jobs(members)).await;
    let batch = batch.expect("is stored");
    batch.cancel().await.expect("is cancelled");
    let [deleted, child] = [deleted, child].map(|id| id.to_string());
    let batch = batch.id().to_string();
    let unmeetable = "its condition can no longer be met";

    for (arguments, code, words) in [
        (&["jobs", "state:deleted", "kind:mail"][..], 0, &["  on request", unmeetable][..]),
        (&["jobs", "kind:resize"], 0, &["its batch was cancelled"]),
        (
            &["job", &deleted],
            0,
            &[
                "deleted (on request)",
                &format!("child job {child} on success: deleted ({unmeetable})"),
            ],
        ),
        (
            &["job", &child],
            0,
            &[
                &format!("deleted ({unmeetable})"),
                &format!("parent job {deleted} on success: deleted (on request)"),
            ],
        ),
        (
            &["why", &child],
            0,
            &[unmeetable, &format!("in vain for job {deleted} (deleted) to succeed")],
        ),
        (&["retry", &child], 1, &[&format!("the job is deleted ({unmeetable}); `requeue`")]),
        (&["batches", &batch], 0, &["2 deleted (its batch was cancelled: 2)"]),
        (&["export", "--format", "csv"], 0, &[",deleted,unmeetable,", ",deleted,batch_cancelled,"]),
        (&["export", "--format", "ndjson"], 0, &["\"reason\":\"unmeetable\""]),
    ] {
        let ran = world.run(arguments).expect(code);
        for words in words {
            assert!(ran.out.contains(words), "{words}: {ran:?}");
        }
    }
    // What would be changed is told apart, and nobody is asked here.
    let ran = world.run(&["requeue", "--where", "state:deleted kind:resize"]).expect(4);
    assert!(ran.err.contains("its batch was cancelled"), "{ran:?}");
    let shown = world.run(&["job", &child, "--json"]).expect(0).json();
    assert_eq!(
        (&shown["reason"], &shown["relations"][0]["reason"]),
        (&json!("unmeetable"), &json!("deleted"))
    );
    let shown = world.run(&["batches", &batch, "--json"]).expect(0).json();
    assert_eq!(shown["deleted_by_reason"], json!({ "batch_cancelled": 2 }));
    let listed = world.run(&["batches"]).expect(0).out;
    let columns: Vec<&str> = listed.lines().next().expect("heads").split_whitespace().collect();
    let at = columns.iter().position(|column| *column == "deleted").expect("a column");
    let cells: Vec<&str> = listed.lines().nth(1).expect("a batch").split_whitespace().collect();
    assert_eq!(cells[at], "2", "{listed}");
}
