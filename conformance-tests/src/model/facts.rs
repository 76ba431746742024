//! Everything that can be read, as named facts.

use std::fmt::Debug;

use jobkit_core::record::{JobDetails, JobRecord, Payload};
use jobkit_core::recurring::Pause;
use jobkit_core::state::StateName;
use jobkit_core::stats::{Scope, Step as Span};
use jobkit_core::storage::*;
use jobkit_core::{BatchId, ErrorKind, JobId, Result, Timestamp};

use super::world::{LIMITS, SCHEDULES, kind, queue};

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Scopes {
    pub(super) level: Level,
    pub(super) text: bool,
    pub(super) jobs: Vec<JobId>,
    pub(super) batches: Vec<BatchId>,
    pub(super) now: Timestamp,
}

/// What a storage need not tell, or not exactly.
const UNTOLD: &str = "untold";

/// A fact, and what it says.
pub(super) type Facts = Vec<(String, String)>;

/// The first fact about which the two differ.
pub(super) fn difference(subject: &Facts, reference: &Facts) -> Option<String> {
    for (ours, theirs) in subject.iter().zip(reference) {
        let told = ours.1 != UNTOLD && theirs.1 != UNTOLD;
        if ours.0 != theirs.0 || (told && ours.1 != theirs.1) {
            return Some(format!(
                "{}: the storage tells\n  {}\nand the model, of {},\n  {}",
                ours.0, ours.1, theirs.0, theirs.1
            ));
        }
    }
    let (ours, theirs) = (subject.len(), reference.len());
    (ours != theirs).then(|| format!("{ours} facts of the storage, {theirs} of the model"))
}

/// Reads what there is to read.
pub(super) async fn read(on: &dyn Storage, of: &Scopes) -> Result<Facts> {
    let mut facts = Facts::new();
    jobs(on, of, &mut facts).await?;
    push(&mut facts, "servers", &on.servers().await?);
    if of.level >= Level::Standard {
        standard(on, of, &mut facts).await?;
    }
    if of.level >= Level::Full {
        counted(on, of, &mut facts).await?;
        kept_for_operators(on, of, &mut facts).await?;
        listed(on, of, &mut facts).await?;
    }
    Ok(facts)
}

fn push(facts: &mut Facts, name: impl Into<String>, value: &dyn Debug) {
    facts.push((name.into(), format!("{value:?}")));
}

fn bytes(payload: Option<&Payload>) -> Option<&[u8]> {
    payload.map(Payload::as_bytes)
}

fn plain(mut details: JobDetails) -> JobDetails {
    // Each storage counts in its own way; the order is compared where it shows.
    details.record.sequence = 0;
    details.progress.sort_by(|a, b| a.name.cmp(&b.name));
    details
}

async fn jobs(on: &dyn Storage, of: &Scopes, facts: &mut Facts) -> Result<()> {
    let mut sequences = Vec::new();
    for id in &of.jobs {
        let details = on.job(*id).await?;
        sequences.extend(details.as_ref().map(|details| (details.record.sequence, *id)));
        let content = details.as_ref().map(|details| {
            (details.args.as_bytes().to_vec(), bytes(details.result.as_ref()).map(<[u8]>::to_vec))
        });
        push(facts, format!("job {id}"), &details.map(plain));
        push(facts, format!("content of {id}"), &content);
    }
    sequences.sort_unstable();
    let order: Vec<_> = sequences.into_iter().map(|(_, id)| id).collect();
    push(facts, "order of the jobs", &order);
    for ids in of.jobs.chunks(100) {
        let records = on.jobs(ids).await?.into_iter().map(|record| {
            record.map(|mut record| {
                record.sequence = 0;
                record
            })
        });
        push(facts, "jobs at once", &records.collect::<Vec<_>>());
    }
    Ok(())
}

async fn standard(on: &dyn Storage, of: &Scopes, facts: &mut Facts) -> Result<()> {
    for id in &of.jobs {
        push(facts, format!("log of {id}"), &on.read_log(*id, None, 0, 100).await?);
        push(facts, format!("first lines of {id}"), &on.read_log(*id, Some(1), 1, 2).await?);
        let checkpoint = on.checkpoint(*id).await?;
        push(facts, format!("checkpoint of {id}"), &bytes(checkpoint.as_ref()));
        let memo = on.memo(*id, "m").await?;
        push(facts, format!("memo of {id}"), &bytes(memo.as_ref()));
    }
    for id in &of.batches {
        push(facts, format!("batch {id}"), &on.batch(*id).await?);
    }
    let batches = on.batches(None, None, 1000).await?;
    push(facts, "batches", &batches);
    if let Some(second) = batches.get(1) {
        push(facts, "later batches", &on.batches(None, Some(second.id), 2).await?);
        push(facts, "such batches", &on.batches(Some(second.state()), None, 5).await?);
    }
    push(facts, "limits", &on.limits(&Call::at(of.now), None, 10).await?);
    push(facts, "later limits", &on.limits(&Call::at(of.now), Some(LIMITS[1]), 1).await?);
    for limit in LIMITS {
        push(facts, format!("limit {limit}"), &on.limit(&Call::at(of.now), limit).await?);
        push(facts, format!("holders of {limit}"), &on.limit_holders(limit, 10).await?);
    }
    push(facts, "schedules", &on.list_recurring(None, 10).await?);
    push(facts, "later schedules", &on.list_recurring(Some(SCHEDULES[0]), 10).await?);
    for id in SCHEDULES {
        push(facts, format!("schedule {id}"), &on.recurring(id).await?);
        push(facts, format!("runs of {id}"), &on.recurring_runs(id, 200).await?);
    }
    Ok(())
}

async fn counted(on: &dyn Storage, of: &Scopes, facts: &mut Facts) -> Result<()> {
    push(facts, "snapshot", &on.snapshot(&Call::at(of.now)).await?);
    push(facts, "lanes", &on.lanes(100).await?);
    let mut pauses = on.pauses(&Call::at(of.now)).await?;
    pauses.sort_by(|a, b| a.target.cmp(&b.target));
    let pauses: Vec<(PauseTarget, Pause)> =
        pauses.into_iter().map(|record| (record.target, record.pause)).collect();
    push(facts, "pauses", &pauses);
    let (from, to) = (Timestamp::MIN, Timestamp::MAX);
    for scope in [Scope::Total, Scope::Queue(queue(0)), Scope::Kind(kind(1))] {
        let mut tally = on.counters(&scope).await?;
        // Claims that have not ended are counted by each in its own way.
        tally.gauge = Default::default();
        push(facts, format!("counters of {scope:?}"), &tally);
        for step in [Span::Hour, Span::Day] {
            let query = SeriesQuery { scope: scope.clone(), step, from, to };
            push(facts, format!("{step:?} series of {scope:?}"), &on.series(&query).await?);
        }
        for measure in [Measure::Wait, Measure::Run] {
            let query = HistogramQuery { scope: scope.clone(), measure, from, to };
            let name = format!("{measure:?} histogram of {scope:?}");
            push(facts, name, &on.histogram(&query).await?);
        }
    }
    for id in &of.jobs {
        let (mut after, mut relations) = (None, Vec::new());
        loop {
            let page = on.relations(*id, after, 2).await?;
            relations.push(page.relations);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        push(facts, format!("relations of {id}"), &relations);
    }
    Ok(())
}

async fn kept_for_operators(on: &dyn Storage, of: &Scopes, facts: &mut Facts) -> Result<()> {
    push(facts, "error groups", &on.error_groups(&ErrorQuery::default()).await?);
    push(facts, "bulk operations", &on.bulks(10).await?);
    push(facts, "audit", &on.audit(None, 10).await?);
    for id in &of.jobs {
        push(facts, format!("before {id}"), &on.jobs_before(*id, 100).await?);
    }
    for state in StateName::ALL {
        let query = JobQuery { kind: Some(kind(0)), ..JobQuery::new(state) };
        push(facts, format!("count of {state}"), &on.count(&query, 1000).await?);
    }
    let (mut after, mut items, mut running) = (None, Vec::new(), 0);
    loop {
        let page = on.export(after.as_deref(), 5).await?;
        running += page.running;
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for item in &mut items {
        if let Whole::Job(job) = item {
            job.details = plain(job.details.clone());
            job.details.record.parked_at = None;
        }
    }
    push(facts, "export", &(items, running));
    Ok(())
}

/// Puts in one order what a storage may list in any (MON-4).
fn sort_ties(state: StateName, jobs: &mut [JobRecord]) {
    let tie = |a: &JobRecord, b: &JobRecord| match state {
        StateName::Processing => true,
        _ => state.is_finished() && a.head.entered_at == b.head.entered_at,
    };
    for ties in jobs.chunk_by_mut(tie) {
        ties.sort_by_key(|job| job.id);
    }
}

async fn listed(on: &dyn Storage, of: &Scopes, facts: &mut Facts) -> Result<()> {
    for state in StateName::ALL {
        for (in_queue, of_kind, tagged, text) in [
            (false, false, false, false),
            (true, false, false, false),
            (false, true, true, false),
            (true, true, false, true),
        ] {
            if text && !of.text {
                continue;
            }
            let mut query = JobQuery::new(state);
            query.limit = 7;
            query.queue = in_queue.then(|| queue(1));
            query.kind = of_kind.then(|| kind(0));
            query.tag = tagged.then(|| "tag".into());
            query.text = text.then(|| "Nam".into());
            let name = format!("list of {query:?}");
            let (mut jobs, mut counts) = (Vec::new(), Vec::new());
            loop {
                let page = match on.list(&query).await {
                    // A filter that this storage does not serve: MON-5.
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        facts.push((name.clone(), UNTOLD.into()));
                        facts.push((format!("count of the {name}"), UNTOLD.into()));
                        break;
                    }
                    page => page?,
                };
                // A page may be short, so it is the list that is compared.
                let records = page.jobs.into_iter().map(|job| JobRecord { sequence: 0, ..job });
                jobs.extend(records);
                counts.push(page.count);
                query.after = page.next;
                if query.after.is_none() {
                    sort_ties(state, &mut jobs);
                    counts.dedup();
                    push(facts, name.clone(), &jobs);
                    let sure = counts.iter().all(|count| matches!(count, Count::Exact(_)));
                    let counts = if sure { format!("{counts:?}") } else { UNTOLD.into() };
                    facts.push((format!("count of the {name}"), counts));
                    break;
                }
            }
        }
    }
    Ok(())
}
