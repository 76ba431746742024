//! What of a filter the storage answers, and what is left to be looked at row by row.

use std::time::Duration;

use super::filter::{Field, JobFilter, Range, StateTerm, Term, When};
use crate::model::clock::Timestamp;
use crate::model::failure::Fingerprint;
use crate::model::ids::{BatchId, JobId};
use crate::model::name::Name;
use crate::model::state::StateName;
use crate::storage::{JobQuery, TextSearch};

/// States in the order in which people look for jobs.
const ORDER: [StateName; 7] = [
    StateName::Processing,
    StateName::Enqueued,
    StateName::Scheduled,
    StateName::Awaiting,
    StateName::Failed,
    StateName::Succeeded,
    StateName::Deleted,
];

/// How a filter is answered: where jobs come from, and which terms are left to be checked on each.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub(super) source: Source,
    /// Terms that are checked on each row.
    pub(super) rest: Vec<Term>,
    /// The instant that ages are counted from.
    pub(super) now: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Source {
    /// Lists, one state after the other.
    Lists(Vec<JobQuery>),
    /// Jobs by their ids.
    Ids(Vec<JobId>),
    /// The children of jobs.
    Children(Vec<JobId>),
}

impl Plan {
    /// The plan for a filter on a storage that searches text so, at an instant.
    pub fn new(filter: &JobFilter, text: TextSearch, now: Timestamp) -> Self {
        let mut rest = filter.terms.clone();
        let positive = |wanted: fn(&Field) -> bool, rest: &mut Vec<Term>| {
            let found = rest.iter().position(|term| !term.negated && wanted(&term.field))?;
            Some(rest.remove(found).field)
        };
        if let Some(Field::Id(mut ids)) = positive(|it| matches!(it, Field::Id(_)), &mut rest) {
            let mut seen = std::collections::HashSet::new();
            ids.retain(|id| seen.insert(*id));
            return Self { source: Source::Ids(ids), rest, now };
        }
        if let Some(Field::Parent(mut ids)) =
            positive(|it| matches!(it, Field::Parent(_)), &mut rest)
        {
            ids.sort_unstable();
            ids.dedup();
            // A child of two of them is found with the first, so this one is checked too.
            let checked = (ids.len() > 1).then(|| Term::new(Field::Parent(ids.clone())));
            rest.extend(checked);
            return Self { source: Source::Children(ids), rest, now };
        }
        let states =
            ORDER.into_iter().filter(|state| filter.terms.iter().all(|it| admits(it, *state)));
        let states: Vec<_> = states.collect();
        let mut base = JobQuery::new(StateName::Failed);
        rest.retain(|term| !(is_told_by_state(term) || pushed(term, &mut base, text)));
        let queries = states.into_iter().map(|state| {
            let mut query = JobQuery { state, ..base.clone() };
            for term in filter.terms.iter().filter(|term| !term.negated) {
                if let Some(span) = span_of(&term.field, state, now) {
                    // Of several terms the narrowest counts.
                    query.from = query.from.max(span.from);
                    query.to = match (query.to, span.to) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    };
                }
            }
            query
        });
        Self { source: Source::Lists(queries.collect()), rest, now }
    }
}

/// Whether jobs in a state may hold a term.
fn admits(term: &Term, state: StateName) -> bool {
    match (&term.field, term.negated) {
        (Field::State(states), false) => states.iter().any(|it| it.state() == state),
        (Field::State(states), true) => !states.contains(&StateTerm::Is(state)),
        (Field::Failed(_), false) => state == StateName::Failed,
        (Field::Finished(_), false) => state.is_finished(),
        (Field::Due(_), false) => state == StateName::Scheduled,
        (Field::Server(_), false) => state == StateName::Processing,
        _ => true,
    }
}

/// Whether a term says nothing beyond the states.
fn is_told_by_state(term: &Term) -> bool {
    matches!(&term.field, Field::State(states)
        if states.iter().all(|state| matches!(state, StateTerm::Is(_))))
}

/// Whether the storage answers a term; then it is put into the query.
fn pushed(term: &Term, query: &mut JobQuery, text: TextSearch) -> bool {
    if term.negated {
        return false;
    }
    match &term.field {
        Field::Queue(names) => one_name(names, &mut query.queue),
        Field::Kind(names) => one_name(names, &mut query.kind),
        Field::Tag(tags) => match &tags[..] {
            [tag] if query.tag.is_none() => {
                query.tag = Some(tag.clone());
                true
            }
            _ => false,
        },
        Field::Batch(batches) => one_batch(batches, query),
        Field::Group(groups) => match &groups[..] {
            [digits] if query.error_group.is_none() && digits.len() == 16 => {
                query.error_group = u64::from_str_radix(digits, 16).ok().map(Fingerprint);
                query.error_group.is_some()
            }
            _ => false,
        },
        Field::Text(wanted) if query.text.is_none() && text != TextSearch::None => {
            query.text = Some(wanted.clone());
            true
        }
        _ => false,
    }
}

fn one_name(names: &[String], into: &mut Option<Name>) -> bool {
    let [name] = names else { return false };
    if into.is_some() || name.contains('*') {
        return false;
    }
    // What cannot be a name is checked row by row, and never found.
    *into = Name::new("name", name.as_str()).ok();
    into.is_some()
}

fn one_batch(batches: &[BatchId], query: &mut JobQuery) -> bool {
    let [batch] = batches else { return false };
    query.batch.is_none() && query.batch.replace(*batch).is_none()
}

/// Instants from the first on, before the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
}

impl Span {
    pub(super) fn contains(self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| at >= from) && self.to.is_none_or(|to| at < to)
    }
}

/// What a list of a state can be narrowed to: the list's own instant is asked for, and one range of it.
fn span_of(field: &Field, state: StateName, now: Timestamp) -> Option<Span> {
    let (ranges, ahead) = match field {
        Field::Created(ranges)
            if matches!(
                state,
                StateName::Awaiting | StateName::Enqueued | StateName::Processing
            ) =>
        {
            (ranges, false)
        }
        Field::Entered(ranges) | Field::Finished(ranges) | Field::Failed(ranges)
            if state.is_finished() =>
        {
            (ranges, false)
        }
        Field::Due(ranges) if state == StateName::Scheduled => (ranges, true),
        _ => return None,
    };
    match &ranges[..] {
        [range] => Some(span(*range, ahead, now)),
        _ => None,
    }
}

/// The instants of a range; ages lie ahead where instants to come are meant.
pub(super) fn span(range: Range<When>, ahead: bool, now: Timestamp) -> Span {
    let tick = Duration::from_micros(1);
    let at = |age: Duration| if ahead { now.plus(age) } else { now.minus(age) };
    let ends = |when: When| match when {
        When::At(from, to) => (from, to),
        When::Ago(age) => (at(age), at(age).plus(tick)),
    };
    let within = |age: Duration| match ahead {
        true => Span { from: None, to: Some(at(age)) },
        false => Span { from: Some(at(age)), to: None },
    };
    match range {
        // "Two hours ago" is nearly never an instant: within the last two hours is meant.
        Range::Exactly(When::Ago(age)) | Range::Under(When::Ago(age)) => within(age),
        Range::Over(When::Ago(age)) => match ahead {
            true => Span { from: Some(at(age)), to: None },
            false => Span { from: None, to: Some(at(age)) },
        },
        Range::Exactly(when) => Span { from: Some(ends(when).0), to: Some(ends(when).1) },
        Range::Over(when) => Span { from: Some(ends(when).1), to: None },
        Range::Under(when) => Span { from: None, to: Some(ends(when).0) },
        Range::Between(a, b) => {
            let (a, b) = (ends(a), ends(b));
            Span { from: Some(a.0.min(b.0)), to: Some(a.1.max(b.1)) }
        }
    }
}
