//! The books are checked: by the predicates that check the simulation, on the history that the storage,
//! the handlers' ledger and the clients tell together; and by what these cannot say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conformance_tests::history::{Remains, Witnesses};
use jobkit::JobId;
use jobkit::state::{Reason, StateName};
use jobkit::storage::Storage;

use super::books::Books;
use super::disturb::Disturbed;
use crate::ledger::{Line, What, by_job};

/// The schedule of the servers, and its pace.
pub(super) const SCHEDULES: [(&str, Duration); 1] = [("tick", Duration::from_secs(1))];

pub(super) async fn check(storage: &dyn Storage, books: &Books, lines: &[Line]) {
    let remains = Remains::of(storage, &SCHEDULES).await.unwrap();
    guarantees(&remains, books, lines);
    outcomes(&remains, books, lines);
    order(books, lines);
    let fired = |job: &&jobkit::record::JobDetails| {
        job.record.extras.as_ref().is_some_and(|extras| extras.occurrence.is_some())
    };
    let fired = remains.jobs.iter().filter(fired).count();
    assert!(fired > 5, "the schedule was fired: {fired}");
    let findings = storage.check().await.unwrap();
    let severe = findings.iter().find(|it| it.severity == jobkit::storage::Severity::Error);
    assert!(severe.is_none(), "{severe:?}");
}

/// The predicates of the guarantees.
fn guarantees(remains: &Remains, books: &Books, lines: &[Line]) {
    let starts = lines.iter().filter(|line| line.what == What::Start);
    let witnesses = Witnesses {
        told: books.accepted.iter().map(|(job, at)| (*job, *at)).collect(),
        submissions: books.together.clone(),
        started: starts.map(|line| (line.job.parse().unwrap(), line.fence, line.at)).collect(),
    };
    let history = remains.history(&witnesses);
    println!("{} facts of {} jobs are checked", history.events.len(), remains.jobs.len());
    let mut told = String::new();
    for violation in history.check() {
        told.push_str(&format!("{violation}\n"));
        for event in violation.job.into_iter().flat_map(|job| history.last_of(job, 40)) {
            told.push_str(&format!("    {event}\n"));
        }
    }
    assert!(told.is_empty(), "{told}");
}

/// What each job was to become, which no guarantee says, and what its handler saw of it.
fn outcomes(remains: &Remains, books: &Books, lines: &[Line]) {
    let told = by_job(lines);
    for details in &remains.jobs {
        let id = details.record.id;
        let (state, reason) = (details.record.state(), details.record.head.reason);
        let expected = match () {
            () if books.doomed.contains(&id) => StateName::Failed,
            () if reason == Reason::Unmeetable => StateName::Deleted,
            () => StateName::Succeeded,
        };
        assert_eq!(state, expected, "{details:?}");
        let runs = told.get(&id.to_string()).map(Vec::as_slice).unwrap_or_default();
        let fences: Vec<_> =
            runs.iter().filter(|line| line.what == What::Start).map(|line| line.fence).collect();
        let unique: BTreeSet<_> = fences.iter().collect();
        assert_eq!(unique.len(), fences.len(), "no claim starts twice: {runs:?}");
        if state == StateName::Succeeded {
            let done = details.history.entries.iter().rfind(|it| it.reason == Reason::Done);
            let fence = done.and_then(|entry| entry.fence);
            let by_holder = |line: &&Line| line.what == What::End && Some(line.fence) == fence;
            assert!(runs.iter().any(|line| by_holder(&line)), "settled by who ran it: {runs:?}");
        }
        if state == StateName::Deleted {
            assert!(runs.is_empty(), "what cannot be met never runs: {runs:?}");
        }
    }
    for (batch, members, _) in &books.batches {
        let record = remains.batches.iter().find(|it| it.id == *batch).expect("kept");
        assert_eq!(record.counts.succeeded, members.len() as u64);
        assert!(record.succeeded_at.is_some(), "{record:?}");
    }
    let mut children: BTreeMap<&str, &str> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.name.starts_with("child of ")) {
        let job = children.entry(&line.name).or_insert(&line.job);
        assert_eq!(*job, line.job, "a key names one job: {line:?}");
    }
    let ended: BTreeSet<&str> =
        lines.iter().filter(|line| line.what == What::End).map(|line| line.name.as_str()).collect();
    for parent in books.parents.iter().filter(|parent| ended.contains(parent.as_str())) {
        let name = format!("child of {parent}");
        assert!(children.contains_key(name.as_str()), "{parent} left no child");
    }
}

/// By the handlers' own words a child starts after its parent has ended, and what follows a batch after all members.
fn order(books: &Books, lines: &[Line]) {
    let mut first: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        first.entry((line.job.as_str(), line.what == What::Start)).or_insert(place);
    }
    let place = |id: &JobId, what: What| {
        first.get(&(id.to_string().as_str(), what == What::Start)).copied()
    };
    for (parent, child) in &books.after {
        let (ended, started) = (place(parent, What::End), place(child, What::Start));
        assert!(ended.is_some() && ended < started, "{child} started before {parent} had ended");
    }
    for (batch, members, then) in &books.batches {
        let started = place(then, What::Start);
        let early = members.iter().find(|member| place(member, What::End) >= started);
        assert_eq!(early, None, "of {batch}");
    }
}

/// Never more than three run at once, by the handlers' own words. What was killed ended with its process; what was frozen may go on
/// after it was rescued, and is told so by its token.
pub(super) fn limit(lines: &[Line], disturbed: &Disturbed) {
    let mut running: BTreeMap<&str, u32> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        running.retain(|_, pid| disturbed.killed.get(pid).is_none_or(|at| *at > place));
        if !line.name.starts_with("limited-") || disturbed.frozen.contains(&line.pid) {
            continue;
        }
        match line.what {
            What::Start => running.insert(&line.job, line.pid),
            What::End => running.remove(line.job.as_str()),
        };
        assert!(running.len() <= 3, "{running:?}");
    }
}
