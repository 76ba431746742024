//! `impl Monitoring`.

use std::collections::BTreeSet;
use std::ops::Bound;

use async_trait::async_trait;

use crate::memory::MemoryStorage;
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::edge::Parent;
use crate::model::error::{Error, Result};
use crate::model::error_group::ErrorGroup;
use crate::model::ids::JobId;
use crate::model::name::Name;
use crate::model::state::StateName;
use crate::model::stats::{Histogram, Scope, Step, Tally};
use crate::storage::{
    Call, Count, Cursor, ErrorQuery, HistogramQuery, JobPage, JobQuery, Lane, Measure, Monitoring,
    PauseTarget, QueueSnapshot, Relation, RelationPage, SeriesPoint, SeriesQuery, Snapshot,
};

use super::state::{Job, Place, Tables, finished_list, on_index};

/// Rows that a search for text looks at in one page.
const SEARCH_WINDOW: u64 = 10_000;

#[async_trait]
impl Monitoring for MemoryStorage {
    async fn snapshot(&self, call: &Call) -> Result<Snapshot> {
        Ok(self.read_at(call, |tables, now| tables.snapshot(now)))
    }

    async fn counters(&self, scope: &Scope) -> Result<Tally> {
        Ok(self.read(|tables| tables.stats.total(scope)))
    }

    async fn series(&self, query: &SeriesQuery) -> Result<Vec<SeriesPoint>> {
        if query.step == Step::Minute && matches!(query.scope, Scope::Kind(_)) {
            return Err(Error::unsupported("series of a kind by the minute"));
        }
        let from = query.step.bucket(query.from);
        Ok(self.read(|tables| {
            let cells = tables.stats.range(&query.scope, query.step, from, query.to);
            cells.into_iter().map(|(at, tally)| SeriesPoint { at, tally }).collect()
        }))
    }

    async fn histogram(&self, query: &HistogramQuery) -> Result<Histogram> {
        let from = Step::Hour.bucket(query.from);
        Ok(self.read(|tables| {
            let mut sum = Histogram::default();
            for (_, tally) in tables.stats.range(&query.scope, Step::Hour, from, query.to) {
                sum.add(match query.measure {
                    Measure::Wait => &tally.wait,
                    Measure::Run => &tally.run,
                });
            }
            sum
        }))
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage> {
        check_limit(query.limit)?;
        self.read(|tables| tables.list(query))
    }

    async fn lanes(&self, limit: usize) -> Result<Vec<Lane>> {
        Ok(self.read(|tables| {
            let mut lanes = Vec::new();
            for (queue, row) in &tables.queues {
                let mut kinds: Vec<_> = row.lanes.iter().collect();
                kinds.sort_unstable_by_key(|(kind, _)| *kind);
                for (kind, lane) in kinds {
                    let Some((_, first)) = lane.first() else { continue };
                    let first_at = tables.job(*first).record.enqueued_at;
                    lanes.push(Lane { queue: queue.clone(), kind: kind.clone(), first_at });
                }
            }
            lanes.truncate(limit);
            lanes
        }))
    }

    async fn relations(
        &self,
        id: JobId,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<RelationPage> {
        check_limit(limit)?;
        self.read(|tables| tables.relations(id, after.as_ref(), limit))
    }

    async fn count(&self, query: &JobQuery, most: u64) -> Result<Count> {
        self.read(|tables| tables.count_matching(query, most))
    }

    async fn jobs_before(&self, id: JobId, most: u64) -> Result<Option<Count>> {
        Ok(self.read(|tables| {
            let job = tables.job(tables.find(id)?);
            if job.record.state() != StateName::Enqueued {
                return None;
            }
            let lanes = tables.queues.get(&job.record.queue)?.lanes.values();
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let before =
                lanes.flat_map(|lane| lane.range(..job.rank())).take(most.saturating_add(1));
            Some(counted(before.count() as u64, most as u64))
        }))
    }

    async fn error_groups(&self, query: &ErrorQuery) -> Result<Vec<ErrorGroup>> {
        Ok(self.read(|tables| {
            let mut groups: Vec<_> = tables
                .operator_state
                .groups()
                .filter(|group| query.matches(group))
                .cloned()
                .collect();
            groups.sort_by_key(|group| (std::cmp::Reverse(group.last_seen_at), group.fingerprint));
            groups
        }))
    }
}

fn counted(found: u64, most: u64) -> Count {
    if found > most { Count::AtLeast(most) } else { Count::Exact(found) }
}

fn check_limit(limit: usize) -> Result<()> {
    if (1..=bounds::PAGE).contains(&limit) {
        return Ok(());
    }
    Err(Error::invalid(
        "limit",
        format_args!("is {limit}, where 1 to {} are allowed", bounds::PAGE),
    ))
}

/// The numbers of a cursor, or the queue name and numbers of one.
fn parse_cursor(cursor: &Cursor) -> Result<(Option<Name>, i64, Place)> {
    let invalid = || Error::invalid("after", "is not a cursor of this list");
    let mut parts = cursor.0.rsplit(':');
    let place = parts.next().and_then(|part| part.parse().ok()).ok_or_else(invalid)?;
    let key = parts.next().and_then(|part| part.parse().ok()).ok_or_else(invalid)?;
    Ok((parts.next().map(Name::from_stored), key, place))
}

impl Tables {
    fn snapshot(&self, now: Timestamp) -> Snapshot {
        let mut by_state = [0; 7];
        let mut queues = Vec::new();
        let mut names: BTreeSet<&Name> = self.queues.keys().collect();
        names.extend(self.servers.values().flat_map(|server| &server.info.queues));
        names.extend(self.pauses.keys().filter_map(|target| match target {
            PauseTarget::Queue(name) => Some(name),
            PauseTarget::Kind(_) => None,
        }));
        for name in names {
            let queue = self.queues.get(name);
            let enqueued = queue.map_or(0, |queue| queue.enqueued.len() as u64);
            by_state[StateName::Enqueued.index()] += enqueued;
            let first = queue.and_then(|queue| queue.enqueued.first());
            let pause = self.pauses.get(&PauseTarget::Queue(name.clone()));
            let snapshot = QueueSnapshot {
                name: name.clone(),
                enqueued,
                processing: queue.map_or(0, |queue| queue.processing),
                scheduled: queue.map_or(0, |queue| queue.scheduled),
                oldest_at: first.and_then(|(_, place)| self.job(*place).record.enqueued_at),
                pause: pause.filter(|pause| pause.holds(now)).cloned(),
            };
            let served = self.servers.values().any(|server| server.info.queues.contains(name));
            let jobs = snapshot.enqueued + snapshot.processing + snapshot.scheduled;
            if jobs > 0 || served || snapshot.pause.is_some() {
                queues.push(snapshot);
            }
        }
        by_state[StateName::Awaiting.index()] = self.awaiting.len() as u64;
        by_state[StateName::Scheduled.index()] = self.due.len() as u64;
        by_state[StateName::Processing.index()] = self.processing.len() as u64;
        for state in [StateName::Succeeded, StateName::Failed, StateName::Deleted] {
            by_state[state.index()] = self.finished[finished_list(state)].len() as u64;
        }
        let running = |pause: Option<&crate::model::recurring::Pause>| {
            !pause.is_some_and(|pause| pause.holds(now))
        };
        let recurring =
            self.schedules.values().filter(|row| running(row.record.pause.as_ref())).count();
        Snapshot {
            now,
            by_state,
            queues,
            servers: u32::try_from(self.servers.len()).unwrap_or(u32::MAX),
            recurring: u32::try_from(recurring).unwrap_or(u32::MAX),
            parked: self.limits.values().map(|row| row.waiting.len() as u64).sum(),
        }
    }

    fn list(&self, query: &JobQuery) -> Result<JobPage> {
        let after = query.after.as_ref().map(parse_cursor).transpose()?;
        let mut page = JobPage { count: self.count(query), ..JobPage::default() };
        let mut looked = 0;
        let mut last = None;
        for place in self.places(query.state, query.queue.as_ref(), after) {
            let job = self.job(place);
            if query.text.is_some() && looked == SEARCH_WINDOW {
                page.searched = Some(looked);
                page.next = last.map(|place| self.cursor(place));
                break;
            }
            looked += 1;
            if matches(query, job) {
                if page.jobs.len() == query.limit {
                    page.next = last.map(|place| self.cursor(place));
                    break;
                }
                page.jobs.push(job.record.clone());
            }
            last = Some(place);
        }
        if query.text.is_some() {
            page.searched = Some(looked);
        }
        Ok(page)
    }

    fn count_matching(&self, query: &JobQuery, most: u64) -> Result<Count> {
        let after = query.after.as_ref().map(parse_cursor).transpose()?;
        if after.is_none()
            && let exact @ Count::Exact(_) = self.count(query)
        {
            return Ok(exact);
        }
        let (mut found, mut looked) = (0, 0);
        for place in self.places(query.state, query.queue.as_ref(), after) {
            if looked == SEARCH_WINDOW.max(most) {
                return Ok(Count::AtLeast(found));
            }
            looked += 1;
            if matches(query, self.job(place)) {
                if found == most {
                    return Ok(Count::AtLeast(found));
                }
                found += 1;
            }
        }
        Ok(Count::Exact(found))
    }

    /// What is known without counting.
    fn count(&self, query: &JobQuery) -> Count {
        let filtered = JobQuery {
            state: query.state,
            after: query.after.clone(),
            limit: query.limit,
            ..JobQuery::new(query.state)
        } != *query;
        if filtered {
            return Count::Unknown;
        }
        let count = match query.state {
            StateName::Awaiting => self.awaiting.len(),
            StateName::Scheduled => self.due.len(),
            StateName::Enqueued => self.queues.values().map(|queue| queue.enqueued.len()).sum(),
            StateName::Processing => self.processing.len(),
            state => self.finished[finished_list(state)].len(),
        };
        Count::Exact(count as u64)
    }

    /// The places of a list from a cursor on, in the list's order.
    fn places<'a>(
        &'a self,
        state: StateName,
        queue: Option<&'a Name>,
        after: Option<(Option<Name>, i64, Place)>,
    ) -> Box<dyn Iterator<Item = Place> + 'a> {
        let micros = Timestamp::from_micros;
        let later = |index: &'a BTreeSet<(Timestamp, Place)>| {
            let from = after.as_ref().map_or(Bound::Unbounded, |(_, key, place)| {
                Bound::Excluded((micros(*key), *place))
            });
            index.range((from, Bound::Unbounded)).map(|(_, place)| *place)
        };
        match state {
            StateName::Awaiting => {
                let from = after.map_or(Bound::Unbounded, |(_, _, place)| Bound::Excluded(place));
                Box::new(self.awaiting.range((from, Bound::Unbounded)).copied())
            }
            StateName::Scheduled => Box::new(later(&self.due)),
            StateName::Processing => Box::new(later(&self.processing)),
            StateName::Enqueued => {
                let (first, rank) = match after {
                    Some((name, priority, place)) => {
                        (name, Some((u8::try_from(priority).unwrap_or(u8::MAX), place)))
                    }
                    None => (None, None),
                };
                let start = match (&first, queue) {
                    (Some(name), _) => Bound::Included(name.clone()),
                    (None, Some(queue)) => Bound::Included(queue.clone()),
                    (None, None) => Bound::Unbounded,
                };
                let queues = self.queues.range((start, Bound::Unbounded));
                let wanted =
                    queues.filter(move |(name, _)| queue.is_none_or(|queue| queue == *name));
                Box::new(wanted.flat_map(move |(name, queue)| {
                    let from = match rank.filter(|_| first.as_ref() == Some(name)) {
                        Some(rank) => Bound::Excluded(rank),
                        None => Bound::Unbounded,
                    };
                    queue.enqueued.range((from, Bound::Unbounded)).map(|(_, place)| *place)
                }))
            }
            StateName::Succeeded | StateName::Failed | StateName::Deleted => {
                let to = after.map_or(Bound::Unbounded, |(_, key, place)| {
                    Bound::Excluded((micros(key), place))
                });
                let list = &self.finished[finished_list(state)];
                Box::new(list.range((Bound::Unbounded, to)).rev().map(|(_, place)| *place))
            }
        }
    }

    fn cursor(&self, place: Place) -> Cursor {
        let job = self.job(place);
        let record = &job.record;
        Cursor(match record.state() {
            StateName::Awaiting => format!("0:{place}"),
            StateName::Enqueued => format!("{}:{}:{place}", record.queue, job.rank().0),
            _ => format!("{}:{place}", listed_at(job).as_micros()),
        })
    }

    fn relations(&self, id: JobId, after: Option<&Cursor>, limit: usize) -> Result<RelationPage> {
        let Some(place) = self.find(id) else { return Ok(RelationPage::default()) };
        let job = self.job(place);
        // A cursor is (0, parents seen) or (which edge of the last child, counted from 1, its place).
        let (skipped, from) = match after.map(parse_cursor).transpose()? {
            None => (0, Some(Bound::Unbounded)),
            Some((_, 0, seen)) => (usize::try_from(seen).unwrap_or(usize::MAX), None),
            Some((_, n, child)) => {
                let n = usize::try_from(n.saturating_sub(1)).unwrap_or_default();
                (usize::MAX, Some(Bound::Excluded((child, n))))
            }
        };
        let mut relations = Vec::new();
        let mut cursors = Vec::new();
        for (i, status) in job.edges.iter().enumerate().skip(skipped) {
            let parent = status.edge.parent;
            let state = match parent {
                Parent::Job(id) => self.find(id).map(|place| self.job(place).record.state()),
                Parent::Batch(_) => None,
            };
            let (on, decided) = (status.edge.on, status.decided);
            relations.push(Relation::Parent { parent, on, decided, state });
            cursors.push(format!("0:{}", i + 1));
        }
        if let Some(children) = self.children.get(&Parent::Job(id)) {
            let range = children.all.range((from.unwrap_or(Bound::Unbounded), Bound::Unbounded));
            for (child, n) in range.take(limit + 1) {
                let job = self.job(*child);
                let on = job.edges[*n].edge.on;
                relations.push(Relation::Child {
                    child: job.record.id,
                    on,
                    decided: !children.open[on_index(on)].contains(child),
                    state: Some(job.record.state()),
                });
                cursors.push(format!("{}:{child}", n + 1));
            }
        }
        let more = relations.len() > limit;
        relations.truncate(limit);
        let next = more.then(|| Cursor(cursors[limit - 1].clone()));
        Ok(RelationPage { relations, next })
    }
}

/// The instant by which a job is listed.
fn listed_at(job: &Job) -> Timestamp {
    let record = &job.record;
    match record.state() {
        StateName::Scheduled => record.run_at().unwrap_or_default(),
        StateName::Processing => record.claimed_at.unwrap_or_default(),
        StateName::Succeeded | StateName::Failed | StateName::Deleted => record.head.entered_at,
        StateName::Awaiting | StateName::Enqueued => record.created_at,
    }
}

fn matches(query: &JobQuery, job: &Job) -> bool {
    let record = &job.record;
    let at = match record.state() {
        StateName::Processing => record.created_at,
        _ => listed_at(job),
    };
    query.queue.as_ref().is_none_or(|queue| *queue == record.queue)
        && query.kind.as_ref().is_none_or(|kind| *kind == record.kind)
        && query.tag.as_ref().is_none_or(|tag| record.tags.contains(tag))
        && query.batch.is_none_or(|batch| record.batch == Some(batch))
        && query.from.is_none_or(|from| at >= from)
        && query.to.is_none_or(|to| at < to)
        && query.text.as_ref().is_none_or(|text| contains(job, text))
        && query.error_group.is_none_or(|group| {
            job.errors.back().is_some_and(|error| error.detail.fingerprint == group)
        })
}

fn contains(job: &Job, text: &str) -> bool {
    let name = job.record.extras.as_deref().and_then(|extras| extras.display_name.as_deref());
    name.is_some_and(|name| name.contains(text))
        || String::from_utf8_lossy(&job.args).contains(text)
}
