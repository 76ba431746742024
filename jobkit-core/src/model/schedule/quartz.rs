//! The Quartz dialect, by the crate `cron`, on the wall clock.

use std::str::FromStr;

use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, Utc};
use chrono_tz::Tz;
use cron::TimeUnitSpec;

use super::MAX_CRON_BYTES;
use super::wall_clock::{Pace, WallClock};
use crate::model::error::{Error, Result};

/// A checked expression.
pub(super) struct Quartz {
    text: String,
    cron: cron::Schedule,
    pace: Pace,
}

/// Equal when written alike; the rest follows from the text.
impl PartialEq for Quartz {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Name and range of each field. `cron` expands ranges before it checks them, so they are bounded here.
const FIELDS: [(&str, u32, u32); 7] = [
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 1, 7),
    ("year", 1970, 2100),
];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Quartz {
    pub(super) fn parse(expression: &str) -> Result<Self> {
        if expression.len() > MAX_CRON_BYTES {
            return Err(refused(format_args!(
                "is {} bytes long, {MAX_CRON_BYTES} are allowed",
                expression.len()
            )));
        }
        let text = expression.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        let fields: Vec<&str> = text.split(' ').collect();
        if !(6..=7).contains(&fields.len()) {
            return Err(refused(format_args!(
                "`{text}` has {} fields, there must be 6, seconds first, or 7 with the year; five are \
                 crontab: `Schedule::cron`",
                fields.len()
            )));
        }
        let mut checked = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            let field = check_field(index, field)
                .map_err(|reason| refused(format_args!("{}: {reason}", FIELDS[index].0)))?;
            checked.push(field);
        }
        let cron = cron::Schedule::from_str(&checked.join(" "))
            .map_err(|error| refused(format_args!("was not understood: {error}")))?;
        let is_hourly = cron.hours().iter().count() == 24;
        let with_step = checked[..3].iter().any(|field| field.contains(['*', '/']));
        let pace = Pace { is_interval: is_hourly || with_step, is_hourly };
        let quartz = Self { text, cron, pace };
        let start = NaiveDate::from_ymd_opt(1970, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0));
        if start.and_then(|start| quartz.next(start, true)).is_none() {
            let text = &quartz.text;
            return Err(refused(format_args!("`{text}` never fires: no year has such a day")));
        }
        Ok(quartz)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The first instant after `after` in `tz`.
    pub(super) fn next_after(&self, after: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
        WallClock { pace: self.pace, next: |from, inclusive| self.next(from, inclusive) }
            .next_after(after, tz)
    }

    /// `cron` corrects nothing in UTC, so the wall clock is told as if it were that.
    fn next(&self, from: NaiveDateTime, inclusive: bool) -> Option<NaiveDateTime> {
        let from = if inclusive { from.checked_sub_signed(Duration::seconds(1))? } else { from };
        self.cron.after(&from.and_utc()).next().map(|next| next.naive_utc())
    }
}

fn refused(reason: impl std::fmt::Display) -> Error {
    Error::invalid("quartz", reason)
}

/// A field in numbers.
fn check_field(index: usize, field: &str) -> Result<String, String> {
    let upper = field.to_ascii_uppercase();
    let is_day = index == 3 || index == 5;
    if upper == "?" {
        return if is_day { Ok(upper) } else { Err("`?` stands for days alone".to_owned()) };
    }
    let items: Result<Vec<_>, _> = upper.split(',').map(|item| check_item(index, item)).collect();
    Ok(items?.join(","))
}

fn check_item(index: usize, item: &str) -> Result<String, String> {
    let (_, min, max) = FIELDS[index];
    // A letter that belongs to no name is one of those that this dialect lacks here.
    let lacking = match index {
        3 => item.contains(['L', 'W', '#']),
        5 => item.contains('#') || item.strip_suffix('L').is_some(),
        _ => false,
    };
    if lacking {
        return Err(format!(
            "`{item}`: `L`, `W` and `#` are not part of this subset of Quartz; write the schedule as \
             crontab, with `Schedule::cron`"
        ));
    }
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (item, None),
    };
    let checked = match range.split_once('-') {
        _ if range == "*" => "*".to_owned(),
        Some((from, to)) => {
            let (from, to) = (value(index, from)?, value(index, to)?);
            if from > to {
                return Err(format!("`{item}`: the range runs backwards"));
            }
            format!("{from}-{to}")
        }
        // From there on to the end, by steps.
        None if step.is_some() => format!("{}-{max}", value(index, range)?),
        None => value(index, range)?.to_string(),
    };
    let Some(step) = step else { return Ok(checked) };
    match step.parse::<u32>() {
        Ok(step) if step >= 1 && step <= max - min => Ok(format!("{checked}/{step}")),
        _ => Err(format!("`{item}`: the step is outside 1-{}", max - min)),
    }
}

fn value(index: usize, text: &str) -> Result<u32, String> {
    let (_, min, max) = FIELDS[index];
    let names: &[&str] = match index {
        4 => &MONTHS,
        5 => &WEEKDAYS,
        _ => &[],
    };
    if let Some(place) = names.iter().position(|name| *name == text) {
        return u32::try_from(place + 1).map_err(|error| error.to_string());
    }
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>() {
        Ok(number) if digits && (min..=max).contains(&number) => Ok(number),
        _ if digits => Err(format!("{text} is outside {min}-{max}")),
        _ if text.is_empty() => Err("a value is missing".to_owned()),
        _ => Err(format!("`{text}` is not a number from {min} to {max}")),
    }
}
