//! Pages of jobs, what they are filtered by, and what else is listed.

use jobkit_core::batch::Starts;
use jobkit_core::edge::{Edge, On, Parent};
use jobkit_core::failure::Fingerprint;
use jobkit_core::record::{JobRecord, NewRecord};
use jobkit_core::state::{Reason, Start, StateName};
use jobkit_core::state_machine::Ending;
use jobkit_core::storage::{Count, Cursor, JobQuery, Relation, Settle, Submission};
use jobkit_core::unique::OnConflict;
use jobkit_core::{BatchId, ErrorKind, JobId};

use super::workload;
use crate::fixtures::*;

/// All pages of a list.
async fn pages(env: &Env, query: &JobQuery) -> Vec<JobId> {
    let mut query = query.clone();
    let mut seen = Vec::new();
    for _ in 0..1000 {
        let page = env.storage.list(&query).await.expect("lists");
        assert!(page.jobs.len() <= query.limit);
        assert!(page.jobs.iter().all(|job| job.state() == query.state));
        seen.extend(page.jobs.iter().map(|job| job.id));
        query.after = page.next;
        if query.after.is_none() {
            return seen;
        }
    }
    panic!("pages never end");
}

fn sorted(ids: &[JobId]) -> Vec<JobId> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids
}

fn sorted_ids(records: &[&JobRecord]) -> Vec<JobId> {
    sorted(&records.iter().map(|it| it.id).collect::<Vec<_>>())
}

/// Those expected are seen, newest first; those that finished at one instant in any order.
fn same_but_for_ties(mut seen: &[JobId], expected: &[&JobRecord]) {
    for ties in expected.chunk_by(|a, b| a.head.entered_at == b.head.entered_at) {
        let (these, rest) = seen.split_at_checked(ties.len()).expect("as many are seen");
        assert_eq!(sorted(these), sorted_ids(ties), "at {}", ties[0].head.entered_at);
        seen = rest;
    }
    assert!(seen.is_empty(), "{seen:?} are seen besides");
}

/// MON-4: each state's list is paged by key in its own order, and every job is seen exactly once.
pub async fn lists_are_paged_in_the_order_of_their_state(env: Env) {
    let ids = workload(&env).await;
    let mut records = Vec::new();
    for id in &ids {
        records.push(env.record(*id).await);
    }
    for state in StateName::ALL {
        let mut expected: Vec<_> = records.iter().filter(|it| it.state() == state).collect();
        match state {
            StateName::Awaiting => expected.sort_by_key(|it| it.sequence),
            StateName::Scheduled => expected.sort_by_key(|it| (it.run_at(), it.sequence)),
            StateName::Enqueued => {
                expected.sort_by_key(|it| (it.queue.clone(), 9 - it.priority, it.sequence));
            }
            StateName::Processing => expected.sort_by_key(|it| (it.claimed_at, it.sequence)),
            _ => {
                expected.sort_by_key(|it| std::cmp::Reverse(it.head.entered_at));
            }
        }
        for limit in [1, 3, 200] {
            let seen = pages(&env, &JobQuery { limit, ..JobQuery::new(state) }).await;
            assert_eq!(seen.len(), expected.len(), "{state}, {limit} a page");
            if state == StateName::Processing {
                // By claim or by sequence, as the storage likes: each once.
                assert_eq!(sorted(&seen), sorted_ids(&expected), "{limit} a page");
            } else if state.is_finished() {
                same_but_for_ties(&seen, &expected);
            } else {
                let expected: Vec<JobId> = expected.iter().map(|it| it.id).collect();
                assert_eq!(seen, expected, "{state}, {limit} a page");
            }
        }
        let page = env.storage.list(&JobQuery::new(state)).await.expect("lists");
        match page.count {
            Count::Exact(count) => assert_eq!(count, expected.len() as u64, "{state}"),
            Count::AtLeast(count) => assert!(count <= expected.len() as u64, "{state}"),
            Count::Unknown | Count::About(_) => {}
        }
    }
}

/// MON-4, MON-5: finished jobs are listed newest first, whatever queues and kinds they are of, and however
/// unevenly they are spread; also those that finished at one instant, and those of one queue or kind alone.
pub async fn finished_jobs_of_many_queues_and_kinds_are_listed_in_one_order(env: Env) {
    let (queues, kinds) = (["default", "mail", "slow"], ["k", "x", "y"]);
    let start = env.now();
    let mut server = env.claimer("s").await.queues(&queues).kinds(&kinds);
    for round in 0..12_usize {
        let mut new = Vec::new();
        for i in 0..9 {
            // Most are of one lane, some lanes have one job alone.
            let lane = if i < 5 { 4 } else { (round + i * i) % 9 };
            let (queue, kind) = (name(queues[lane / 3]), name(kinds[lane % 3]));
            new.push(NewRecord { queue, kind, ..job() });
        }
        env.add_many(new).await;
        if round % 3 > 0 {
            env.advance(1);
        }
        for (i, claimed) in server.claim(9).await.into_iter().enumerate() {
            let failed = (round * 9 + i) % 6 == 1;
            let ending = if failed { Ending::Failed(Reason::Permanent) } else { Ending::Succeeded };
            server.settled(claimed.lease, ending).await;
        }
    }
    let mut all =
        pages(&env, &JobQuery { limit: 200, ..JobQuery::new(StateName::Succeeded) }).await;
    all.extend(pages(&env, &JobQuery { limit: 200, ..JobQuery::new(StateName::Failed) }).await);
    assert_eq!(all.len(), 12 * 9);
    let mut records = Vec::new();
    for id in all {
        records.push(env.record(id).await);
    }
    records.sort_by_key(|it| std::cmp::Reverse(it.head.entered_at));
    for state in [StateName::Succeeded, StateName::Failed] {
        for queue in queues.iter().map(|queue| Some(name(queue))).chain([None]) {
            for kind in kinds.iter().map(|kind| Some(name(kind))).chain([None]) {
                for (to, limit) in [(None, 1), (None, 7), (Some(start.plus(seconds(5))), 30)] {
                    let (queue, kind) = (queue.clone(), kind.clone());
                    let query = JobQuery { queue, kind, to, limit, ..JobQuery::new(state) };
                    let matches = records.iter().filter(|it| {
                        it.state() == state
                            && query.queue.as_ref().is_none_or(|queue| *queue == it.queue)
                            && query.kind.as_ref().is_none_or(|kind| *kind == it.kind)
                            && to.is_none_or(|to| it.head.entered_at < to)
                    });
                    let expected: Vec<&JobRecord> = matches.collect();
                    same_but_for_ties(&pages(&env, &query).await, &expected);
                }
            }
        }
    }
}

/// MON-4: a job that stays in the list is seen once while others come and go between the pages.
pub async fn a_list_that_changes_while_it_is_paged_shows_each_job_once(env: Env) {
    let ids = env.add_many(jobs(60)).await;
    let mut server = env.claimer("s").await;
    for _ in 0..40 {
        env.advance(1);
        server.run_one(Ending::Succeeded).await;
    }
    let mut query = JobQuery { limit: 5, ..JobQuery::new(StateName::Succeeded) };
    let mut seen: Vec<JobId> = Vec::new();
    let mut gone = Vec::new();
    loop {
        let page = env.storage.list(&query).await.expect("lists");
        seen.extend(page.jobs.iter().map(|job| job.id));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
        env.advance(1);
        // A new one in front, the last one of the page out.
        if seen.len() < 30 {
            server.run_one(Ending::Succeeded).await;
            env.delete(*seen.last().expect("seen")).await;
            gone.push(*seen.last().expect("seen"));
        }
    }
    let expected: Vec<JobId> = ids[..40].iter().rev().copied().collect();
    assert_eq!(seen, expected);
    assert!(!gone.is_empty());
}

/// MON-5: filters combine by "and".
pub async fn filters_combine_by_and(env: Env) {
    let batch = BatchId::new();
    let mut jobs = Vec::new();
    for i in 0..16 {
        let pick = |bit: usize| i >> bit & 1 == 1;
        let mut new = job();
        new.kind = name(if pick(0) { "x" } else { "k" });
        new.queue = name(if pick(1) { "mail" } else { "default" });
        new.tags = if pick(2) { vec!["a".into(), "red".into()] } else { vec!["a".into()] };
        new.batch = pick(3).then_some(batch);
        jobs.push(new);
    }
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    env.submit(batch_of(batch, Starts::AtOnce, jobs)).await;
    let base = JobQuery { limit: 3, ..JobQuery::new(StateName::Enqueued) };
    for i in 0..16_usize {
        let pick = |bit: usize| i >> bit & 1 == 1;
        let query = JobQuery {
            kind: pick(0).then(|| name("x")),
            queue: pick(1).then(|| name("mail")),
            tag: pick(2).then(|| "red".into()),
            batch: pick(3).then_some(batch),
            ..base.clone()
        };
        let mut seen = match env.storage.list(&query).await {
            Ok(_) => pages(&env, &query).await,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{query:?}");
                assert!(i > 3, "queue and kind are filters of every storage: {query:?}");
                continue;
            }
        };
        seen.sort_unstable();
        let mut expected: Vec<JobId> =
            (0..16).filter(|job| job & i == i).map(|job| ids[job]).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected, "{query:?}");
    }
    let none = JobQuery { tag: Some("re".into()), ..base };
    if env.storage.list(&none).await.is_ok() {
        assert!(pages(&env, &none).await.is_empty(), "a tag is matched as a whole");
    }
}

/// MON-5: a range of time is by the end of finished jobs, the instant of scheduled ones and the
/// submission of others.
pub async fn lists_are_filtered_by_time(env: Env) {
    let start = env.now();
    let mut done = Vec::new();
    let mut server = env.claimer("s").await;
    for _ in 0..5 {
        env.add(job()).await;
        env.advance(10);
        done.push(server.run_one(Ending::Succeeded).await);
    }
    let mut due = Vec::new();
    for seconds in [100, 200, 300] {
        let start = Start::At(env.after(seconds));
        due.push(env.add(NewRecord { start, ..job() }).await);
    }
    let query = |state, from: u64, to: u64| JobQuery {
        from: Some(start.plus(seconds(from))),
        to: Some(start.plus(seconds(to))),
        ..JobQuery::new(state)
    };
    let seen = pages(&env, &query(StateName::Succeeded, 20, 40)).await;
    assert_eq!(seen, [done[2], done[1]], "from is part of the range, to is not");
    assert_eq!(pages(&env, &query(StateName::Scheduled, 150, 251)).await, due[..2]);
    assert!(pages(&env, &query(StateName::Enqueued, 0, 1000)).await.is_empty());
}

/// MON-5: failures are found by their group, that of the last failure.
pub async fn failed_jobs_are_found_by_error_group(env: Env) {
    let ids = env.add_many(jobs(2)).await;
    let mut server = env.claimer("s").await;
    for job in server.claim(2).await {
        let message = if job.lease.job == ids[0] { "no route" } else { "disk full" };
        let mut settle = Settle::new(job.lease, Ending::Failed(Reason::OutOfAttempts));
        settle.error = Some(error(message));
        server.settle_with(settle).await;
    }
    let query = |group: Fingerprint| JobQuery {
        error_group: Some(group),
        ..JobQuery::new(StateName::Failed)
    };
    match env.storage.list(&query(error("no route").fingerprint)).await {
        Ok(_) => {
            let seen = pages(&env, &query(error("no route").fingerprint)).await;
            assert_eq!(seen, [ids[0]]);
            assert!(pages(&env, &query(Fingerprint(1))).await.is_empty());
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
    }
}

/// MON-5: text is found in arguments and display names, and the answer says how far it looked.
pub async fn text_is_found_in_arguments_and_names(env: Env) {
    let with_args = |args: &str| NewRecord { args: payload(args), ..job() };
    let by_args = env.add(with_args("{\"user\":\"ada@example.com\"}")).await;
    let mut named = job();
    named.extras_mut().display_name = Some("Welcome ada@example.org".into());
    let by_name = env.add(named).await;
    env.add(with_args("{\"user\":\"bob%\"}")).await;
    let query =
        |text: &str| JobQuery { text: Some(text.into()), ..JobQuery::new(StateName::Enqueued) };
    assert_eq!(pages(&env, &query("ada@example")).await, [by_args, by_name]);
    assert_eq!(pages(&env, &query("bob%")).await.len(), 1, "it is text, not a pattern");
    assert!(pages(&env, &query("b%b")).await.is_empty());
    let page = env.storage.list(&query("nobody")).await.expect("lists");
    assert!(page.jobs.is_empty());
    if env.storage.capabilities().text_search == jobkit_core::storage::TextSearch::Window {
        assert_eq!(page.searched, Some(3));
    }
}

/// MON-4, G20: a page holds 1 to 200 rows; other limits, and cursors of nowhere, are refused.
pub async fn a_page_out_of_range_is_refused(env: Env) {
    env.add_many(jobs(3)).await;
    for limit in [0, 201] {
        let query = JobQuery { limit, ..JobQuery::new(StateName::Enqueued) };
        let error = env.storage.list(&query).await.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let nowhere = JobQuery {
        after: Some(jobkit_core::storage::Cursor("nowhere".into())),
        ..JobQuery::new(StateName::Enqueued)
    };
    let error = env.storage.list(&nowhere).await.expect_err("is refused");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// MON-6: relations tell parents and children with their states, in pages; the edges of one child in the
/// order in which it names them.
pub async fn relations_tell_parents_and_children_in_pages(env: Env) {
    let batch = BatchId::new();
    env.submit(batch_of(batch, Starts::AtOnce, vec![member(batch)])).await;
    let parents = env.add_many(jobs(2)).await;
    let mut middle = job();
    middle.edges = vec![
        Edge { parent: Parent::Job(parents[0]), on: On::Success },
        Edge { parent: Parent::Job(parents[1]), on: On::Failed },
        Edge { parent: Parent::Batch(batch), on: On::Any },
    ];
    let middle = env.add(middle).await;
    let children = env.add_many((0..5).map(|_| after(middle, On::Any)).collect()).await;
    let mut server = env.claimer("s").await;
    server.run_one(Ending::Succeeded).await;
    assert_eq!(server.run_one(Ending::Succeeded).await, parents[0]);
    for limit in [1, 3, 4, 100] {
        let mut after = None;
        let mut all = Vec::new();
        for _ in 0..20 {
            let page = env.storage.relations(middle, after, limit).await.expect("reads");
            assert!(page.relations.len() <= limit);
            all.extend(page.relations);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(all.len(), 8, "{limit} a page: {all:?}");
        let parent = |at: usize, parent, on, decided, state| {
            assert_eq!(all[at], Relation::Parent { parent, on, decided, state });
        };
        let succeeded = Some(StateName::Succeeded);
        parent(0, Parent::Job(parents[0]), On::Success, true, succeeded);
        parent(1, Parent::Job(parents[1]), On::Failed, false, Some(StateName::Enqueued));
        parent(2, Parent::Batch(batch), On::Any, true, None);
        let mut seen = Vec::new();
        for relation in &all[3..] {
            let Relation::Child { child, on, decided, state } = relation else {
                panic!("{relation:?}");
            };
            assert_eq!((*on, *decided, *state), (On::Any, false, Some(StateName::Awaiting)));
            seen.push(*child);
        }
        seen.sort_unstable();
        let mut expected = children.clone();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
    // One child with two edges from a job that stands in the place of both that it named.
    let twin = keyed("key", OnConflict::ReturnExisting);
    let parent = env.add(twin.clone()).await;
    for conditions in [[On::Any, On::Failed], [On::Failed, On::Any], [On::Success, On::Any]] {
        let twins = [(); 2].map(|()| NewRecord { id: JobId::new(), ..twin.clone() });
        let mut child = after(twins[0].id, conditions[0]);
        child.edges.push(Edge { parent: Parent::Job(twins[1].id), on: conditions[1] });
        env.submit(Submission::flow(twins.into_iter().chain([child]).collect())).await;
    }
    let (mut next, mut conditions) = (None, Vec::new());
    loop {
        let page = env.storage.relations(parent, next, 1).await.expect("reads");
        for relation in page.relations {
            let Relation::Child { on, .. } = relation else { panic!("{relation:?}") };
            conditions.push(on);
        }
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(conditions, [On::Any, On::Failed, On::Failed, On::Any, On::Success, On::Any]);
    let lonely = env.storage.relations(JobId::new(), None, 10).await.expect("reads");
    assert!(lonely.relations.is_empty() && lonely.next.is_none());
}

/// MON-7: lanes name every queue and kind with Enqueued jobs that are not parked, and since when the
/// first in line has been claimable.
pub async fn lanes_name_what_waits_and_since_when(env: Env) {
    assert_eq!(env.storage.lanes(10).await.expect("lanes"), []);
    let first = env.now();
    env.add(NewRecord { kind: name("b"), ..job() }).await;
    env.advance(5);
    let second = env.now();
    env.add(NewRecord { kind: name("b"), ..job() }).await;
    env.add(NewRecord { kind: name("a"), queue: name("mail"), ..job() }).await;
    // The first in line is the first by priority.
    env.add(NewRecord { kind: name("a"), ..job() }).await;
    env.advance(5);
    let third = env.now();
    env.add(NewRecord { kind: name("a"), priority: 9, ..job() }).await;
    env.add(NewRecord { kind: name("later"), start: Start::After(seconds(60)), ..job() }).await;
    for _ in 0..2 {
        env.add(NewRecord { kind: name("limited"), ..limited("l", 1) }).await;
    }
    let mut server = env.claimer("w").await.kinds(&["limited"]);
    assert_eq!(server.claim(2).await.len(), 1, "the other one is parked");

    let lanes = env.storage.lanes(10).await.expect("lanes");
    let lanes: Vec<_> = lanes.iter().map(|l| (&*l.queue, &*l.kind, l.first_at)).collect();
    let expected =
        [("default", "a", Some(third)), ("default", "b", Some(first)), ("mail", "a", Some(second))];
    assert_eq!(lanes, expected);
    assert_eq!(env.storage.lanes(2).await.expect("lanes").len(), 2);

    let mut server = env.claimer("x").await.kinds(&["b"]);
    let claimed = server.claim(1).await;
    let lanes = env.storage.lanes(10).await.expect("lanes");
    assert_eq!(lanes[1].first_at, Some(second), "the next one is the first now");
    server.settle_with(Settle::new(claimed[0].lease, Ending::Succeeded)).await;
}

/// MON-8: what a list would page is counted exactly, or up to a bound.
pub async fn what_matches_is_counted(env: Env) {
    workload(&env).await;
    let second = env.second().await;
    let mut queries = Vec::new();
    for state in StateName::ALL {
        queries.push(JobQuery::new(state));
        queries.push(JobQuery { queue: Some(name("mail")), ..JobQuery::new(state) });
        queries.push(JobQuery { kind: Some(name("x")), ..JobQuery::new(state) });
        queries.push(JobQuery { to: Some(env.now()), ..JobQuery::new(state) });
    }
    let mut counted = 0;
    for query in queries {
        let all = {
            let page = JobQuery { limit: 200, ..query.clone() };
            let page = env.storage.list(&page).await.expect("lists");
            assert_eq!(page.next, None);
            page.jobs.len() as u64
        };
        counted += all;
        let count = |most| second.storage.count(&query, most);
        assert_eq!(count(1_000).await.expect("counts"), Count::Exact(all), "{query:?}");
        assert_eq!(count(all).await.expect("counts"), Count::Exact(all), "{query:?}");
        if all > 1 {
            let bounded = count(all - 1).await.expect("counts");
            // A storage may know the number without counting.
            assert!(
                [Count::AtLeast(all - 1), Count::Exact(all)].contains(&bounded),
                "{query:?}: {bounded:?} of {all}"
            );
            let page = JobQuery { limit: 1, ..query.clone() };
            let first = env.storage.list(&page).await.expect("lists");
            let rest = JobQuery { after: first.next, ..query.clone() };
            let rest = second.storage.count(&rest, 1_000).await.expect("counts");
            assert_eq!(rest, Count::Exact(all - 1), "{query:?}");
        }
    }
    assert!(counted > 50, "there was much to count: {counted}");
}

/// MON-9: the claimable jobs of the queue that run before a job are counted; those of other queues and
/// those that are parked are not.
pub async fn jobs_that_go_before_are_counted(env: Env) {
    let low = env.add(NewRecord { priority: 1, ..job() }).await;
    let first = env.add(job()).await;
    env.add(job_in("mail")).await;
    let other = env.add(job_of("x")).await;
    let last = env.add(job()).await;
    let parked = [env.add(limited("l", 1)).await, env.add(limited("l", 1)).await][1];
    let scheduled = env.add(NewRecord { start: Start::After(seconds(60)), ..job() }).await;
    let before = |id, most| {
        let storage = env.storage.clone();
        async move { storage.jobs_before(id, most).await.expect("counts") }
    };
    assert_eq!(before(first, 100).await, Some(Count::Exact(0)));
    assert_eq!(before(other, 100).await, Some(Count::Exact(1)));
    assert_eq!(before(last, 100).await, Some(Count::Exact(2)));
    assert_eq!(before(last, 1).await, Some(Count::AtLeast(1)));
    assert_eq!(before(scheduled, 100).await, None);
    assert_eq!(before(JobId::new(), 100).await, None);
    let mut server = env.claimer("s").await.queues(&["default"]).kinds(&["k", "x"]);
    assert_eq!(server.claim(100).await.len(), 5, "all but the one that is parked");
    assert_eq!(env.state(parked).await, StateName::Enqueued);
    let late = env.add(NewRecord { priority: 0, ..job() }).await;
    assert_eq!(before(late, 100).await, Some(Count::Exact(0)));
    assert_eq!(before(low, 100).await, None, "it runs");
}

/// MON-4, G20: what is no place in a list is refused, whatever stands in it; what looks like one and is
/// out of the list's bounds is at most an empty page.
pub async fn a_place_that_no_list_gave_is_refused(env: Env) {
    let parent = env.add(job()).await;
    env.add(after(parent, On::Success)).await;
    env.add_many(jobs(3)).await;
    let nonsense = ["", " ", "x", ":", "::::", "\u{1f980}", "\0", "null", "{}", "-", "%00"];
    let extreme = [i64::MIN, -1, 0, i64::MAX].map(|n| n.to_string());
    for state in StateName::ALL {
        for text in nonsense {
            let query = JobQuery { after: Some(Cursor(text.into())), ..JobQuery::new(state) };
            let error = env.storage.list(&query).await.expect_err("is refused");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{state} after {text:?}: {error}");
        }
        let mut looks_right = vec!["1:2:3:4:5:6:7".to_owned()];
        looks_right.extend(extreme.clone());
        for (a, b) in extreme.iter().flat_map(|a| extreme.iter().map(move |b| (a, b))) {
            looks_right.extend([
                format!("{a}:{b}"),
                format!("default:{a}:{b}"),
                format!("{a}:{b}:{a}"),
            ]);
        }
        for text in looks_right {
            let query = JobQuery { after: Some(Cursor(text.clone())), ..JobQuery::new(state) };
            if let Err(error) = env.storage.list(&query).await {
                assert_eq!(
                    error.kind(),
                    ErrorKind::InvalidInput,
                    "{state} after {text:?}: {error}"
                );
            }
            let page = env.storage.relations(parent, Some(Cursor(text.clone())), 5).await;
            if let Err(error) = page {
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text:?}: {error}");
            }
        }
    }
    for text in nonsense {
        let page = env.storage.relations(parent, Some(Cursor(text.into())), 5).await;
        let error = page.expect_err("is refused");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "relations after {text:?}: {error}");
    }
}
