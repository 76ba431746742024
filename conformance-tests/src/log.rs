//! What handlers tell while they run.

use jobkit_core::bounds;
use jobkit_core::record::{Lease, Progress};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{LogLevel, LogLine, LogPage, LogWrite, WriteAnswer};
use jobkit_core::{ErrorKind, Incarnation, JobId};

use crate::fixtures::*;

fn line(env: &Env, text: impl Into<String>) -> LogLine {
    LogLine { at: env.now(), level: LogLevel::Info, text: text.into() }
}

async fn write(env: &Env, lease: Lease, lines: Vec<LogLine>) -> WriteAnswer {
    let write = LogWrite { lease, lines, dropped: 0, progress: Vec::new() };
    env.storage.write_log(&env.call(), &[write]).await.expect("writes").remove(0)
}

async fn read(env: &Env, job: JobId, fence: Option<u64>, after: u64) -> LogPage {
    env.storage.read_log(job, fence, after, 2_000).await.expect("reads")
}

fn texts(page: &LogPage) -> Vec<&str> {
    page.lines.iter().map(|(_, line)| line.text.as_str()).collect()
}

/// LOG-1, G5: only the holder writes; others learn `LeaseLost` and change nothing.
pub async fn only_the_holder_writes(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let value = payload("1");
    let wrong = [
        Lease { fence: lease.fence + 1, ..lease },
        Lease { incarnation: Incarnation::new(), ..lease },
        Lease { job: JobId::new(), ..lease },
    ];
    let bar = Progress { name: "p".into(), done: 1, total: 2, message: String::new() };
    for wrong in wrong {
        let write = LogWrite {
            lease: wrong,
            lines: vec![line(&env, "stale")],
            dropped: 1,
            progress: vec![bar.clone()],
        };
        let answers = env.storage.write_log(&env.call(), &[write]).await.expect("writes");
        assert_eq!(answers, [WriteAnswer::LeaseLost]);
        assert_eq!(
            env.storage.put_memo(&env.call(), wrong, "m", &value).await.expect("asks"),
            None
        );
        let checkpoint =
            env.storage.put_checkpoint(&env.call(), wrong, &value).await.expect("asks");
        assert_eq!(checkpoint, WriteAnswer::LeaseLost);
    }
    let page = read(&env, id, None, 0).await;
    assert_eq!((page.lines.len(), page.dropped), (0, 0));
    assert!(env.details(id).await.progress.is_empty());
    assert_eq!(env.storage.memo(id, "m").await.expect("reads"), None);
    assert_eq!(env.storage.checkpoint(id).await.expect("reads"), None);
    // One that is lost disturbs no neighbour.
    let of = |lease| LogWrite {
        lease,
        lines: vec![line(&env, "fresh")],
        dropped: 0,
        progress: Vec::new(),
    };
    let answers =
        env.storage.write_log(&env.call(), &[of(wrong[0]), of(lease)]).await.expect("writes");
    assert_eq!(answers, [WriteAnswer::LeaseLost, WriteAnswer::Written]);
    server.settled(lease, Ending::Succeeded).await;
    assert_eq!(write(&env, lease, vec![line(&env, "late")]).await, WriteAnswer::LeaseLost);
    assert_eq!(texts(&read(&env, id, None, 0).await), ["fresh"]);
}

/// LOG-2: lines are read back in the order appended, by attempt, after a given number.
pub async fn lines_are_read_back_in_order_by_attempt(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let first = server.claim_one().await.lease;
    write(&env, first, vec![line(&env, "one"), line(&env, "zwei \u{1F600}")]).await;
    let warning = LogLine { level: LogLevel::Error, ..line(&env, "three\nlines") };
    write(&env, first, vec![warning.clone()]).await;
    server.settled(first, RETRY_NOW).await;
    let second = server.claim_one().await.lease;
    write(&env, second, vec![line(&env, "again")]).await;
    let page = read(&env, id, Some(1), 0).await;
    assert_eq!(texts(&page), ["one", "zwei \u{1F600}", "three\nlines"]);
    assert_eq!(page.lines.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((page.fence, &page.lines[2].1, page.dropped), (1, &warning, 0));
    assert_eq!(texts(&read(&env, id, Some(1), 2).await), ["three\nlines"]);
    let bounded = env.storage.read_log(id, Some(1), 1, 1).await.expect("reads");
    assert_eq!(texts(&bounded), ["zwei \u{1F600}"]);
    let latest = read(&env, id, None, 0).await;
    assert_eq!((latest.fence, texts(&latest)), (2, vec!["again"]));
    assert!(read(&env, id, Some(7), 0).await.lines.is_empty());
    assert!(read(&env, JobId::new(), None, 0).await.lines.is_empty());
}

/// LOG-3: at most 1,000 lines an attempt are kept; older ones go, and how many is told, with those that
/// were dropped before they were sent.
pub async fn the_oldest_lines_go_and_are_counted(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    for part in 0..5 {
        let lines = (0..250).map(|i| line(&env, format!("{}", part * 250 + i + 1))).collect();
        write(&env, lease, lines).await;
    }
    let page = read(&env, id, None, 0).await;
    assert_eq!((page.lines.len(), page.dropped), (bounds::LOG_LINES, 250));
    assert_eq!((page.lines[0].0, &*page.lines[0].1.text), (251, "251"));
    assert_eq!((page.lines[999].0, &*page.lines[999].1.text), (1250, "1250"));
    let lines = vec![line(&env, "last")];
    let dropping = LogWrite { lease, lines, dropped: 17, progress: Vec::new() };
    env.storage.write_log(&env.call(), &[dropping]).await.expect("writes");
    let page = read(&env, id, None, 1249).await;
    assert_eq!(page.dropped, 251 + 17);
    assert_eq!(texts(&page), ["1250", "last"]);
}

/// LOG-4: progress replaces the bar of the same name.
pub async fn progress_replaces_the_bar_of_the_same_name(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let bar = |name: &str, done| Progress {
        name: name.into(),
        done,
        total: u64::from(u32::MAX) * 2,
        message: "läuft".into(),
    };
    let tell = async |progress| {
        let write = LogWrite { lease, lines: Vec::new(), dropped: 0, progress };
        env.storage.write_log(&env.call(), &[write]).await.expect("writes");
    };
    tell(vec![bar("", 1), bar("rows", 2)]).await;
    tell(vec![bar("rows", 50)]).await;
    let mut bars = env.details(id).await.progress;
    bars.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(bars, [bar("", 1), bar("rows", 50)]);
}

/// LOG-5, G6: a memo belongs to the job's run: the first write stays, every later one answers it, and a
/// requeue begins anew.
pub async fn the_first_memo_of_a_run_stays(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let lease = server.claim_one().await.lease;
    let (one, two) = (payload("1"), payload("{\"two\": 2}"));
    let put = async |lease, key: &str, value| {
        env.storage.put_memo(&env.call(), lease, key, value).await.expect("keeps")
    };
    assert_eq!(put(lease, "charge", &one).await, Some(one.clone()));
    assert_eq!(put(lease, "charge", &two).await, Some(one.clone()));
    assert_eq!(put(lease, "other", &two).await, Some(two.clone()));
    server.settled(lease, RETRY_NOW).await;
    let lease = server.claim_one().await.lease;
    assert_eq!(
        put(lease, "charge", &two).await,
        Some(one.clone()),
        "another attempt, the same run"
    );
    assert_eq!(env.storage.memo(id, "charge").await.expect("reads"), Some(one.clone()));
    assert_eq!(env.storage.memo(id, "none").await.expect("reads"), None);
    server.settled(lease, Ending::Succeeded).await;
    env.requeue(id).await;
    assert_eq!(env.storage.memo(id, "charge").await.expect("reads"), None);
    let lease = server.claim_one().await.lease;
    assert_eq!(put(lease, "charge", &two).await, Some(two));
}

/// LOG-6: a checkpoint outlives attempts and is replaced by the next; a requeue clears it.
pub async fn a_checkpoint_outlives_attempts(env: Env) {
    let id = env.add(job()).await;
    let mut server = env.claimer("s").await;
    let mut lease = server.claim_one().await.lease;
    for cursor in ["1", "2"] {
        let value = payload(cursor);
        let answer = env.storage.put_checkpoint(&env.call(), lease, &value).await.expect("keeps");
        assert_eq!(answer, WriteAnswer::Written);
        server.settled(lease, RETRY_NOW).await;
        assert_eq!(env.storage.checkpoint(id).await.expect("reads"), Some(value));
        lease = server.claim_one().await.lease;
    }
    server.settled(lease, Ending::Succeeded).await;
    env.requeue(id).await;
    assert_eq!(env.storage.checkpoint(id).await.expect("reads"), None);
}

/// LOG-5, LOG-6, G20: a memo or checkpoint that is too large is refused and changes nothing.
pub async fn what_is_too_large_to_keep_is_refused(env: Env) {
    let id = env.add(job()).await;
    let lease = env.claimer("s").await.claim_one().await.lease;
    let large = vec![b'1'; bounds::RESULT_BYTES + 1].into();
    let error =
        env.storage.put_memo(&env.call(), lease, "m", &large).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error =
        env.storage.put_checkpoint(&env.call(), lease, &large).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(env.storage.checkpoint(id).await.expect("reads"), None);
    let fits = vec![b'1'; bounds::RESULT_BYTES].into();
    let answer = env.storage.put_checkpoint(&env.call(), lease, &fits).await.expect("keeps");
    assert_eq!(answer, WriteAnswer::Written);
}
