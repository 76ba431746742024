//! Reading a filter. An error points at the place.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime};

use super::filter::{Field, JobFilter, Property, Range, StateTerm, Term, When};
use crate::model::bounds;
use crate::model::clock::Timestamp;
use crate::model::duration::{DURATIONS, parse_duration};
use crate::model::error::{Error, Result};
use crate::model::ids::{BatchId, JobId};
use crate::model::redact::is_secret;

/// The most terms of a filter.
const TERMS: usize = 12;
/// The most values of a term but for ids.
const VALUES: usize = 50;
/// The most ids of a term.
const IDS: usize = 1_000;

/// The keys that can be written, for the message to one that cannot.
const KEYS: &str = "state, queue, kind, tag, id, parent, batch, recurring, server, priority, attempt, \
                    wait, run, created, entered, finished, failed, due, arg.…, meta.…, ctx.…, error, group, has";

/// A word of a filter: where it begins, and what it is without its quotes.
struct Word {
    at: usize,
    negated: bool,
    /// What stands before the first colon outside of quotes.
    key: Option<String>,
    /// What stands behind it, by commas, each with its place.
    values: Vec<(usize, String)>,
}

fn wrong(at: usize, reason: impl std::fmt::Display) -> Error {
    Error::invalid("filter", format_args!("at column {}: {reason}", at + 1))
}

impl FromStr for JobFilter {
    type Err = Error;

    /// Reads a filter.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) with field `filter`: the column, counted in
    /// characters from 1, and what is wrong there.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() > bounds::FILTER_BYTES {
            return Err(Error::invalid(
                "filter",
                format_args!(
                    "has {} bytes, where at most {} are allowed",
                    text.len(),
                    bounds::FILTER_BYTES
                ),
            ));
        }
        let words = words(text)?;
        if words.len() > TERMS {
            let more = &words[TERMS];
            return Err(wrong(more.at, format_args!("a filter has at most {TERMS} terms")));
        }
        let mut filter = Self::default();
        let mut alone: Vec<String> = Vec::new();
        for word in words {
            let negated = word.negated;
            match field(word)? {
                // Words that stand alone are one text, as they were typed.
                Field::Text(text) if !negated => alone.push(text),
                field => filter.terms.push(Term { negated, field }),
            }
        }
        if !alone.is_empty() {
            filter.terms.push(Term::new(Field::Text(alone.join(" "))));
        }
        Ok(filter)
    }
}

fn words(text: &str) -> Result<Vec<Word>> {
    let mut words: Vec<Word> = Vec::new();
    let mut chars = text.chars().enumerate().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some((at, c)) = chars.peek().copied() else { return Ok(words) };
        let mut word = Word { at, negated: false, key: None, values: Vec::new() };
        if c == '-' {
            chars.next();
            word.negated = true;
        }
        let mut value = String::new();
        let mut began = None;
        let mut quoted = false;
        let mut end = at;
        while let Some((at, c)) = chars.next_if(|(_, c)| !c.is_whitespace()) {
            began.get_or_insert(at);
            end = at + 1;
            match c {
                '"' => {
                    quoted = true;
                    read_quoted(&mut chars, at, &mut value)?;
                }
                ':' if word.key.is_none() && word.values.is_empty() && !quoted => {
                    word.key = Some(std::mem::take(&mut value));
                    began = None;
                }
                ',' if word.key.is_some() => {
                    let at = began.take().unwrap_or(at);
                    word.values.push((at, std::mem::take(&mut value)));
                }
                '\0' => return Err(wrong(at, "a NUL character, which nothing contains")),
                c => value.push(c),
            }
        }
        word.values.push((began.unwrap_or(end), value));
        words.push(word);
    }
}

fn read_quoted(
    chars: &mut std::iter::Peekable<impl Iterator<Item = (usize, char)>>,
    opened: usize,
    value: &mut String,
) -> Result<()> {
    loop {
        match chars.next() {
            Some((_, '"')) => return Ok(()),
            Some((_, '\\')) => value.extend(chars.next().map(|(_, c)| c)),
            Some((at, '\0')) => return Err(wrong(at, "a NUL character, which nothing contains")),
            Some((_, c)) => value.push(c),
            None => return Err(wrong(opened, "a quote that is not closed")),
        }
    }
}

fn field(word: Word) -> Result<Field> {
    let Word { at, values, key, .. } = word;
    let Some(key) = key else {
        let text = values.into_iter().map(|(_, text)| text).next().unwrap_or_default();
        if text.is_empty() {
            return Err(wrong(at, "an empty term"));
        }
        return Ok(match text.parse::<JobId>() {
            Ok(id) => Field::Id(vec![id]),
            Err(_) => Field::Text(text),
        });
    };
    let most = if matches!(key.as_str(), "id" | "parent" | "batch") { IDS } else { VALUES };
    if let Some((at, _)) = values.get(most) {
        return Err(wrong(*at, format_args!("`{key}` has at most {most} values")));
    }
    if let Some((at, _)) = values.iter().find(|(_, value)| value.is_empty()) {
        return Err(wrong(*at, format_args!("`{key}` needs a value")));
    }
    let texts = || values.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>();
    Ok(match key.as_str() {
        "state" => Field::State(each(&values, |value| {
            StateTerm::parse(value).ok_or_else(|| {
                format!(
                    "`{value}` is no state: awaiting, scheduled, enqueued, processing, succeeded, failed, \
                     deleted, retrying, throttled, cancelled"
                )
            })
        })?),
        "queue" => Field::Queue(texts()),
        "kind" => Field::Kind(texts()),
        "tag" => Field::Tag(texts()),
        "id" => Field::Id(each(&values, |value| id::<JobId>(value, "job"))?),
        "parent" => Field::Parent(each(&values, |value| id::<JobId>(value, "job"))?),
        "batch" => Field::Batch(each(&values, |value| id::<BatchId>(value, "batch"))?),
        "recurring" => Field::Recurring(texts()),
        "server" => Field::Server(texts()),
        "priority" => Field::Priority(each(&values, |value| range(value, number))?),
        "attempt" => Field::Attempt(each(&values, |value| range(value, number))?),
        "wait" => Field::Wait(each(&values, |value| range(value, parse_duration))?),
        "run" => Field::Run(each(&values, |value| range(value, parse_duration))?),
        "created" => Field::Created(each(&values, |value| range(value, when))?),
        "entered" => Field::Entered(each(&values, |value| range(value, when))?),
        "finished" => Field::Finished(each(&values, |value| range(value, when))?),
        "failed" => Field::Failed(each(&values, |value| range(value, when))?),
        "due" => Field::Due(each(&values, |value| range(value, when))?),
        "error" => Field::Error(texts()),
        "group" => Field::Group(each(&values, group)?),
        "has" => Field::Has(each(&values, |value| {
            let property = Property::ALL.iter().find(|(name, _)| *name == value);
            property.map(|(_, property)| *property).ok_or_else(|| {
                let names: Vec<_> = Property::ALL.iter().map(|(name, _)| *name).collect();
                format!("`{value}` is nothing a job may have: {}", names.join(", "))
            })
        })?),
        key => match key.split_once('.') {
            Some(("arg", path)) if !path.is_empty() => {
                let path: Vec<String> = path.split('.').map(str::to_owned).collect();
                if path.iter().any(|part| is_secret(part)) {
                    // Else a filter would answer what is not shown.
                    return Err(wrong(
                        at,
                        format_args!("`{key}` is hidden, so it cannot be searched"),
                    ));
                }
                Field::Arg(path, texts())
            }
            Some(("meta" | "ctx", name)) if is_secret(name) => {
                return Err(wrong(at, format_args!("`{key}` is hidden, so it cannot be searched")));
            }
            Some(("meta", key)) if !key.is_empty() => Field::Meta(key.to_owned(), texts()),
            Some(("ctx", key)) if !key.is_empty() => Field::Context(key.to_owned(), texts()),
            _ => return Err(wrong(at, format_args!("`{key}` is unknown; known are {KEYS}"))),
        },
    })
}

fn each<T>(
    values: &[(usize, String)],
    read: impl Fn(&str) -> std::result::Result<T, String>,
) -> Result<Vec<T>> {
    values.iter().map(|(at, value)| read(value).map_err(|reason| wrong(*at, reason))).collect()
}

fn id<T: FromStr>(value: &str, what: &str) -> std::result::Result<T, String> {
    value.parse().map_err(|_| {
        format!("`{value}` is no {what} id, such as 0197a2c4-8d3e-7b10-9c55-2f6f0a1b3c4d")
    })
}

fn group(value: &str) -> std::result::Result<String, String> {
    let digits = value.strip_prefix("E-").or_else(|| value.strip_prefix("e-")).unwrap_or(value);
    if (1..=16).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(digits.to_ascii_lowercase());
    }
    Err(format!("`{value}` is no error group, such as E-91c3"))
}

fn range<T>(
    value: &str,
    read: impl Fn(&str) -> std::result::Result<T, String>,
) -> std::result::Result<Range<T>, String> {
    Ok(if let Some(rest) = value.strip_prefix('>') {
        Range::Over(read(rest)?)
    } else if let Some(rest) = value.strip_prefix('<') {
        Range::Under(read(rest)?)
    } else if let Some((from, to)) = value.split_once("..") {
        Range::Between(read(from)?, read(to)?)
    } else {
        Range::Exactly(read(value)?)
    })
}

fn number(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

fn when(text: &str) -> std::result::Result<When, String> {
    if let Ok(day) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        let from = Timestamp::from(day.and_time(NaiveTime::MIN).and_utc());
        return in_range(When::At(from, from.plus(Duration::from_secs(24 * 3600))), text);
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        let from = Timestamp::from(at);
        return in_range(When::At(from, from.plus(Duration::from_micros(1))), text);
    }
    match parse_duration(text) {
        Ok(length) => Ok(When::Ago(length)),
        Err(_) => Err(format!(
            "`{text}` is neither a day or time, such as 2026-11-01 or 2026-11-01T12:00:00Z, nor a duration; \
             {DURATIONS}"
        )),
    }
}

fn in_range(when: When, text: &str) -> std::result::Result<When, String> {
    match when {
        When::At(from, _) if !from.is_in_range() => {
            Err(format!("`{text}` lies before 1970 or after 9999"))
        }
        when => Ok(when),
    }
}
