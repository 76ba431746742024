//! Pages of what a filter finds, on any storage with lists.

use super::filter::{Field, JobFilter};
use super::plan::{Plan, Source};
use crate::model::bounds;
use crate::model::error::{Error, Result, offered};
use crate::model::ids::JobId;
use crate::model::record::JobRecord;
use crate::storage::{Count, Cursor, ErrorQuery, JobQuery, Relation, Storage};

/// Rows that one page looks at where records tell whether they match, and where details have to.
const WINDOW: u64 = 10_000;
const DEEP_WINDOW: u64 = 1_000;

/// A page of what a filter finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The jobs: those that run, wait for a worker, for an instant, for others; then those that failed,
    /// succeeded, were deleted; in each state in its list's order.
    pub jobs: Vec<JobRecord>,
    /// Where the next page begins; `None` on the last. A page may be empty and not the last, where the
    /// search was bounded.
    pub next: Option<String>,
    /// How many rows were looked at.
    pub searched: u64,
}

/// A place of a walk: which list, and what of it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    list: usize,
    after: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.list)?;
        self.after.as_ref().map_or(Ok(()), |after| write!(f, "|{after}"))
    }
}

impl std::str::FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (list, after) = match text.split_once('|') {
            Some((list, after)) => (list, Some(after.to_owned())),
            None => (text, None),
        };
        let list = list.parse().map_err(|_| Error::invalid("after", "is no place of this walk"))?;
        Ok(Self { list, after })
    }
}

impl Plan {
    /// The plan for a filter on this storage, now.
    ///
    /// # Errors
    /// The storage's.
    pub async fn on<S: Storage + ?Sized>(storage: &S, filter: &JobFilter) -> Result<Self> {
        let mut filter = filter.clone();
        resolve_groups(storage, &mut filter).await?;
        let now = storage.now().await?;
        Ok(Self::new(&filter, storage.capabilities().text_search, now))
    }
}

/// The beginning of a fingerprint is made a whole one where there is one group that it can mean: then
/// the storage finds its jobs.
async fn resolve_groups<S: Storage + ?Sized>(storage: &S, filter: &mut JobFilter) -> Result<()> {
    for term in &mut filter.terms {
        let Field::Group(groups) = &mut term.field else { continue };
        let [digits] = &mut groups[..] else { continue };
        if digits.len() == 16 {
            continue;
        }
        let answer = storage.error_groups(&ErrorQuery::default()).await;
        let Some(known) = offered(answer)? else { continue };
        let mut meant = known
            .iter()
            .map(|group| format!("{:016x}", group.fingerprint.0))
            .filter(|known| known.starts_with(digits.as_str()));
        if let (Some(one), None) = (meant.next(), meant.next()) {
            *digits = one;
        }
    }
    Ok(())
}

/// A page of the jobs that a filter finds, after a place that a page answered.
///
/// It holds `limit` jobs, 1 to 200, and may hold up to 199 more where rows are checked one by one, so
/// that none is read twice.
///
/// # Errors
/// [`Unsupported`](crate::model::error::ErrorKind::Unsupported) on a storage without lists; a wrong `after` is invalid
/// input; otherwise the storage's.
///
/// # Cancel safety
/// It only reads.
pub async fn page<S: Storage + ?Sized>(
    storage: &S,
    filter: &JobFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Page> {
    let plan = Plan::on(storage, filter).await?;
    walk(storage, &plan, after, limit).await
}

/// The same with a plan, whose ages stay as they are from page to page.
///
/// # Errors
/// As [`page`].
///
/// # Cancel safety
/// It only reads.
pub async fn walk<S: Storage + ?Sized>(
    storage: &S,
    plan: &Plan,
    after: Option<&str>,
    limit: usize,
) -> Result<Page> {
    if !(1..=bounds::PAGE).contains(&limit) {
        return Err(Error::invalid(
            "limit",
            format_args!("is {limit}, where 1 to {} are allowed", bounds::PAGE),
        ));
    }
    let mut place = match after {
        Some(after) => after.parse()?,
        None => Place::default(),
    };
    let mut page = Page::default();
    let mut deep = 0;
    loop {
        let left = if plan.rest.is_empty() { limit - page.jobs.len() } else { bounds::PAGE };
        let Some((found, searched, next)) = read(storage, &plan.source, place, left).await? else {
            return Ok(page);
        };
        // The storage has looked for long enough.
        let bounded = searched > found.len() as u64;
        page.searched += searched;
        for job in found {
            let matches = match plan.matches_record(&job) {
                Some(matches) => matches,
                None => {
                    deep += 1;
                    let details = storage.job(job.id).await?;
                    details.is_some_and(|details| plan.matches_details(&details))
                }
            };
            if matches {
                page.jobs.push(job);
            }
        }
        place = next;
        let enough = page.jobs.len() >= limit || page.searched >= WINDOW || deep >= DEEP_WINDOW;
        if enough || bounded {
            page.next = (!is_over(&plan.source, &place)).then(|| place.to_string());
            return Ok(page);
        }
    }
}

fn is_over(source: &Source, place: &Place) -> bool {
    let lists = match source {
        Source::Lists(queries) => queries.len(),
        Source::Ids(ids) => ids.len(),
        Source::Children(parents) => parents.len(),
    };
    place.list >= lists
}

/// The next rows of a source, how many were looked at for them, and the place behind them; `None` at its
/// end.
async fn read<S: Storage + ?Sized>(
    storage: &S,
    source: &Source,
    place: Place,
    limit: usize,
) -> Result<Option<(Vec<JobRecord>, u64, Place)>> {
    if is_over(source, &place) {
        return Ok(None);
    }
    let list = place.list;
    let behind = |next: Option<String>| match next {
        Some(after) => Place { list, after: Some(after) },
        None => Place { list: list + 1, after: None },
    };
    match source {
        Source::Lists(queries) => {
            let query = JobQuery { after: place.after.map(Cursor), limit, ..queries[list].clone() };
            let page = storage.list(&query).await?;
            let searched = page.searched.unwrap_or(page.jobs.len() as u64);
            Ok(Some((page.jobs, searched, behind(page.next.map(|cursor| cursor.0)))))
        }
        Source::Ids(ids) => {
            let end = (list + limit).min(ids.len());
            let found = storage.jobs(&ids[list..end]).await?;
            let next = Place { list: end, after: None };
            let searched = found.len() as u64;
            Ok(Some((found.into_iter().flatten().collect(), searched, next)))
        }
        Source::Children(parents) => {
            let page = storage.relations(parents[list], place.after.map(Cursor), limit).await?;
            let children: Vec<JobId> = page
                .relations
                .iter()
                .filter_map(|relation| match relation {
                    Relation::Child { child, .. } => Some(*child),
                    Relation::Parent { .. } => None,
                })
                .collect();
            let found = storage.jobs(&children).await?;
            // A child of several parents was found with the first of them.
            let mut rows = Vec::new();
            for job in found.into_iter().flatten() {
                if list == 0 || !waits_for_any(storage, &job, &parents[..list]).await? {
                    rows.push(job);
                }
            }
            let searched = children.len() as u64;
            Ok(Some((rows, searched, behind(page.next.map(|cursor| cursor.0)))))
        }
    }
}

async fn waits_for_any<S: Storage + ?Sized>(
    storage: &S,
    job: &JobRecord,
    parents: &[JobId],
) -> Result<bool> {
    let Some(details) = storage.job(job.id).await? else { return Ok(false) };
    Ok(details.parents.iter().any(|status| match status.edge.parent {
        crate::model::edge::Parent::Job(id) => parents.contains(&id),
        crate::model::edge::Parent::Batch(_) => false,
    }))
}

/// How many jobs a filter finds, up to `most`: exactly, or at least this many where there are more or a
/// bounded look did not reach the end.
///
/// # Errors
/// As [`page`].
///
/// # Cancel safety
/// It only reads.
pub async fn count<S: Storage + ?Sized>(
    storage: &S,
    filter: &JobFilter,
    most: u64,
) -> Result<Count> {
    let plan = Plan::on(storage, filter).await?;
    let mut found: u64 = 0;
    if let (Source::Lists(queries), true) = (&plan.source, plan.rest.is_empty()) {
        let mut exact = true;
        for query in queries {
            match storage.count(query, most.saturating_sub(found)).await? {
                Count::Exact(count) => found += count,
                Count::AtLeast(count) | Count::About(count) => {
                    found += count;
                    exact = false;
                }
                Count::Unknown => exact = false,
            }
            if !exact && found >= most {
                break;
            }
        }
        return Ok(if exact { Count::Exact(found) } else { Count::AtLeast(found) });
    }
    let mut after = None;
    let mut searched = 0;
    loop {
        let page = walk(storage, &plan, after.as_deref(), bounds::PAGE).await?;
        found += page.jobs.len() as u64;
        searched += page.searched;
        after = page.next;
        if found > most {
            return Ok(Count::AtLeast(most));
        }
        if after.is_none() {
            return Ok(Count::Exact(found));
        }
        if searched >= 10 * WINDOW {
            return Ok(Count::AtLeast(found));
        }
    }
}
