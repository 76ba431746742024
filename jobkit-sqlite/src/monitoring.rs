//! `Monitoring`.

mod list;
pub(crate) mod statistics;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jobkit_core::edge::Parent;
use jobkit_core::error_group::ErrorGroup;
use jobkit_core::state::StateName;
use jobkit_core::stats::{Histogram, Scope, Step, Tally};
use jobkit_core::storage::{
    Call, Count, Cursor, ErrorQuery, HistogramQuery, JobPage, JobQuery, Lane, Measure, Monitoring,
    PauseTarget, QueueSnapshot, Relation, RelationPage, SeriesPoint, SeriesQuery, ServerInfo,
    Snapshot,
};
use jobkit_core::{Error, JobId, Result, Timestamp, bounds};
use rusqlite::params;

pub(crate) use self::list::lanes_of_finished;
use self::statistics::{by_state, held, range, tail, total};
use crate::codec::sql_text::sql;
use crate::codec::{index, job_id, json, on_at, size, state_at, uint};
use crate::connection::Db;
use crate::error::SqlResult;
use crate::jobs::read::{find, parents, state_of};
use crate::operations::failures;
use crate::operations::pauses::pauses;
use crate::queue::claim_order::lanes_of;
use crate::recurring::running;
use crate::storage::SqliteStorage;

fn snapshot(db: &Db<'_>, now: Timestamp) -> SqlResult<Snapshot> {
    let tail = tail(db)?;
    let held = held(db)?;
    let by_state = by_state(&total(db, &tail, &Scope::Total)?, held.values().sum());

    let mut names = BTreeSet::new();
    let mut served = BTreeSet::new();
    let servers =
        db.all("SELECT info FROM jk_server ORDER BY name", [], |row| row.get::<_, String>(0))?;
    for server in &servers {
        served.extend(json::<ServerInfo>(server)?.queues);
    }
    names.extend(served.iter().cloned());
    let pauses: BTreeMap<PauseTarget, _> = pauses(db)?
        .into_iter()
        .filter(|record| record.pause.holds(now))
        .map(|record| (record.target, record.pause))
        .collect();
    names.extend(pauses.keys().filter_map(|target| match target {
        PauseTarget::Queue(name) => Some(name.clone()),
        PauseTarget::Kind(_) => None,
    }));
    for queue in statistics::queues(db, &tail)? {
        names.insert(queue);
    }
    for queue in held.keys() {
        names.insert(db.name(*queue)?);
    }

    let mut queues = Vec::new();
    for name in names {
        let gauge = total(db, &tail, &Scope::Queue(name.clone()))?.gauge;
        let id = db.name_id(&name)?;
        let processing = id.and_then(|id| held.get(&id)).copied().unwrap_or(0);
        let enqueued = uint(gauge[StateName::Enqueued.index()] - processing);
        let oldest_at = match id {
            Some(id) if enqueued > 0 => list::first_in_line(db, id)?,
            _ => None,
        };
        let queue = QueueSnapshot {
            enqueued,
            processing: uint(processing),
            scheduled: uint(gauge[StateName::Scheduled.index()]),
            oldest_at,
            pause: pauses.get(&PauseTarget::Queue(name.clone())).cloned(),
            name,
        };
        let jobs = queue.enqueued.max(queue.processing).max(queue.scheduled);
        if jobs > 0 || queue.pause.is_some() || served.contains(&queue.name) {
            queues.push(queue);
        }
    }
    let parked = db
        .one(
            "SELECT sum(waiting) FROM jk_limit INDEXED BY jk_limit_waiting WHERE waiting > 0",
            [],
            |row| row.get::<_, Option<i64>>(0),
        )?
        .flatten();
    Ok(Snapshot {
        now,
        by_state,
        queues,
        servers: u32::try_from(servers.len()).unwrap_or(u32::MAX),
        recurring: running(db, now)?,
        parked: uint(parked.unwrap_or(0)),
    })
}

fn lanes(db: &Db<'_>, limit: usize) -> SqlResult<Vec<Lane>> {
    let mut lanes = Vec::new();
    for (queue, id) in list::queues_in_use(db)? {
        for kind in lanes_of(db, id)? {
            let first_at = db.one(
                sql!(
                    "SELECT enqueued_at FROM jk_job INDEXED BY jk_ready \
                 WHERE state = {enqueued} AND parked IS NULL AND queue = ?1 AND kind = ?2 \
                 ORDER BY rank, seq LIMIT 1"
                ),
                [id, kind],
                |row| row.get::<_, Option<i64>>(0),
            )?;
            let first_at = first_at.flatten().map(Timestamp::from_micros);
            lanes.push(Lane { queue: queue.clone(), kind: db.name(kind)?, first_at });
        }
    }
    lanes.sort_unstable_by(|a, b| (&a.queue, &a.kind).cmp(&(&b.queue, &b.kind)));
    lanes.truncate(limit);
    Ok(lanes)
}

fn relations(
    db: &Db<'_>,
    id: JobId,
    after: Option<&Cursor>,
    limit: usize,
) -> SqlResult<RelationPage> {
    let Some(job) = find(db, id)? else { return Ok(RelationPage::default()) };
    // The number of parents already listed, then the last child with its edge.
    let (seen, (child, n)) = match after {
        Some(cursor) => {
            let numbers = list::numbers(cursor)?;
            match numbers[..] {
                [seen, child, n] => (index(seen), (child, n)),
                _ => return Err(list::bad_cursor().into()),
            }
        }
        None => (0, (0, -1)),
    };
    let mut relations = Vec::new();
    let mut cursors = Vec::new();
    for (place, status) in parents(db, job.seq)?.into_iter().enumerate().skip(seen) {
        let parent = status.edge.parent;
        let state = match parent {
            Parent::Job(id) => state_of(db, id)?,
            Parent::Batch(_) => None,
        };
        let (on, decided) = (status.edge.on, status.decided);
        relations.push(Relation::Parent { parent, on, decided, state });
        cursors.push(format!("{}:0:-1", place + 1));
    }
    // A derived id may have been used before; older children waited for that job.
    let children = db.all(
        "SELECT e.child, e.n, e.cond, e.decided, j.id, j.state \
         FROM jk_edge e INDEXED BY jk_edge_parent JOIN jk_job j ON j.seq = e.child \
         WHERE e.parent = ?1 AND e.batch = 0 AND (e.child, e.n) > (?2, ?3) AND j.created_at >= ?5 \
         ORDER BY e.child, e.n LIMIT ?4",
        params![&id.as_bytes()[..], child, n, size(limit + 1), job.created_at.as_micros()],
        |row| {
            Ok((
                (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?),
                on_at(row.get(2)?),
                row.get::<_, i64>(3)? != 0,
                job_id(row, 4)?,
                row.get::<_, i64>(5)?,
            ))
        },
    )?;
    for ((seq, n), on, decided, child, state) in children {
        let state = Some(state_at(state)?);
        relations.push(Relation::Child { child, on, decided, state });
        cursors.push(format!("{}:{seq}:{n}", job.parents));
    }
    let more = relations.len() > limit;
    relations.truncate(limit);
    let next = more.then(|| Cursor(cursors[limit - 1].clone()));
    Ok(RelationPage { relations, next })
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

#[async_trait]
impl Monitoring for SqliteStorage {
    async fn snapshot(&self, call: &Call) -> Result<Snapshot> {
        let now = call.time(self.clock());
        self.read("snapshot", move |db| snapshot(db, now)).await
    }

    async fn counters(&self, scope: &Scope) -> Result<Tally> {
        let scope = scope.clone();
        self.read("counters", move |db| total(db, &tail(db)?, &scope)).await
    }

    async fn series(&self, query: &SeriesQuery) -> Result<Vec<SeriesPoint>> {
        if query.step == Step::Minute && matches!(query.scope, Scope::Kind(_)) {
            return Err(Error::unsupported("series of a kind by the minute"));
        }
        let query = query.clone();
        self.read("series", move |db| {
            let from = query.step.bucket(query.from);
            let cells = range(db, &query.scope, query.step, from, query.to)?;
            Ok(cells.into_iter().map(|(at, tally)| SeriesPoint { at, tally }).collect())
        })
        .await
    }

    async fn histogram(&self, query: &HistogramQuery) -> Result<Histogram> {
        let query = query.clone();
        self.read("histogram", move |db| {
            let from = Step::Hour.bucket(query.from);
            let mut sum = Histogram::default();
            for tally in range(db, &query.scope, Step::Hour, from, query.to)?.values() {
                sum.add(match query.measure {
                    Measure::Wait => &tally.wait,
                    Measure::Run => &tally.run,
                });
            }
            Ok(sum)
        })
        .await
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage> {
        check_limit(query.limit)?;
        let query = query.clone();
        self.read("list", move |db| list::list(db, &query)).await
    }

    async fn lanes(&self, limit: usize) -> Result<Vec<Lane>> {
        self.read("lanes", move |db| lanes(db, limit)).await
    }

    async fn relations(
        &self,
        id: JobId,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<RelationPage> {
        check_limit(limit)?;
        self.read("relations", move |db| relations(db, id, after.as_ref(), limit)).await
    }

    async fn count(&self, query: &JobQuery, most: u64) -> Result<Count> {
        let query = query.clone();
        self.read("count", move |db| list::count_matching(db, &query, most)).await
    }

    async fn jobs_before(&self, id: JobId, most: u64) -> Result<Option<Count>> {
        self.read("jobs_before", move |db| list::jobs_before(db, id, most)).await
    }

    async fn error_groups(&self, query: &ErrorQuery) -> Result<Vec<ErrorGroup>> {
        let query = query.clone();
        self.read("error_groups", move |db| failures::groups(db, &query)).await
    }
}
