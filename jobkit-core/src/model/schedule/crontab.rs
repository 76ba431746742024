//! Crontab expressions: checked here field by field, and evaluated by `croner` on the wall clock.
//!
//! The check comes first because `croner` replaces names in every field (`MON` is a minute to it),
//! reads years, and names no field in its messages.

use std::fmt::Write as _;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::MAX_CRON_BYTES;
use super::wall_clock::{Pace, WallClock};
use crate::model::error::{Error, Result};

/// A checked expression.
pub(super) struct Crontab {
    text: String,
    cron: Cron,
    pace: Pace,
}

/// Equal when written alike; the rest follows from the text.
impl PartialEq for Crontab {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Crontab {
    pub(super) fn parse(expression: &str) -> Result<Self> {
        if expression.len() > MAX_CRON_BYTES {
            return Err(refused(format_args!(
                "is {} bytes long, {MAX_CRON_BYTES} are allowed",
                expression.len()
            )));
        }
        if let Some(c) =
            expression.chars().find(|&c| c != '\t' && (c.is_control() || !c.is_ascii()))
        {
            return Err(refused(format_args!("contains the character {c:?}")));
        }
        let text = expression.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            return Err(refused("is empty"));
        }
        let fields = Fields::parse(&expand_nickname(&text)?)?;
        let cron = parse_checked(&fields.to_string())?;
        if !fires(&fields.to_string())? {
            return Err(refused(format_args!("`{text}` never fires: no year has such a day")));
        }
        let is_hourly = cron.pattern.hours.values().len() == 24;
        let pace = Pace { is_interval: is_hourly || fields.has_interval(), is_hourly };
        Ok(Self { pace, cron, text })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The first instant after `after` in `tz`.
    pub(super) fn next_after(&self, after: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
        let next = |from, inclusive| self.cron.find_next_occurrence(&from, inclusive).ok();
        WallClock { pace: self.pace, next }.next_after(after, tz)
    }
}

fn refused(reason: impl std::fmt::Display) -> Error {
    Error::invalid("cron", reason)
}

fn expand_nickname(text: &str) -> Result<String> {
    if !text.starts_with('@') {
        return Ok(text.to_owned());
    }
    let fields = match text.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        "@reboot" => {
            return Err(refused(
                "`@reboot` names no instant; enqueue the job when the program starts",
            ));
        }
        _ => {
            return Err(refused(format_args!(
                "`{text}` is unknown; there are @yearly, @annually, @monthly, @weekly, @daily, \
                 @midnight and @hourly"
            )));
        }
    };
    Ok(fields.to_owned())
}

fn parse_checked(fields: &str) -> Result<Cron> {
    CronParser::builder()
        .seconds(Seconds::Required)
        .year(Year::Optional)
        .build()
        .parse(fields)
        .map_err(|error| refused(format_args!("was not understood: {error}")))
}

/// Whether there is an occurrence in 28 years, after which leap years meet the same weekdays again.
///
/// `croner` alone would search to the year 5000 before it says no.
fn fires(fields: &str) -> Result<bool> {
    let bounded = parse_checked(&format!("{fields} 2001-2028"))?;
    let start = NaiveDate::from_ymd_opt(2001, 1, 1).and_then(|day| day.and_hms_opt(0, 0, 0));
    Ok(start.is_some_and(|start| bounded.find_next_occurrence(&start, true).is_ok()))
}

/// One field's rules.
struct Kind {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// What number the first name has.
    first_name: u32,
}

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

const fn number(name: &'static str, min: u32, max: u32) -> Kind {
    Kind { name, min, max, names: &[], first_name: 0 }
}

const DAY_OF_MONTH: usize = 3;
const DAY_OF_WEEK: usize = 5;

const KINDS: [Kind; 6] = [
    number("second", 0, 59),
    number("minute", 0, 59),
    number("hour", 0, 23),
    number("day of month", 1, 31),
    Kind { name: "month", min: 1, max: 12, names: &MONTHS, first_name: 1 },
    Kind { name: "day of week", min: 0, max: 7, names: &WEEKDAYS, first_name: 0 },
];

/// The six fields in numbers, as `croner` reads them.
struct Fields([String; 6]);

impl Fields {
    fn parse(text: &str) -> Result<Self> {
        let mut given: Vec<&str> = text.split(' ').collect();
        if given.len() == 5 {
            given.insert(0, "0");
        }
        let Ok(given) = <[&str; 6]>::try_from(given) else {
            return Err(refused(format_args!(
                "`{text}` has {} fields, there must be 5, or 6 with the seconds first",
                text.split(' ').count()
            )));
        };
        let mut fields: [String; 6] = Default::default();
        for (i, field) in given.into_iter().enumerate() {
            fields[i] = parse_field(i, field)
                .map_err(|reason| refused(format_args!("{}: {reason}", KINDS[i].name)))?;
        }
        Ok(Self(fields))
    }

    /// Whether second, minute or hour is written with `*` or a step.
    fn has_interval(&self) -> bool {
        self.0[..DAY_OF_MONTH].iter().any(|field| field.contains(['*', '/']))
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

fn parse_field(index: usize, field: &str) -> Result<String, String> {
    let upper = field.to_ascii_uppercase();
    if upper == "?" && (index == DAY_OF_MONTH || index == DAY_OF_WEEK) || upper == "*/1" {
        return Ok("*".to_owned());
    }
    let items: Vec<String> =
        upper.split(',').map(|item| parse_item(index, item)).collect::<Result<_, _>>()?;
    // `croner` keeps one mark for L and one for LW, and would forget the first.
    if items.iter().any(|item| item == "LW") && items.iter().any(|item| item == "L") {
        return Err("`L` and `LW` cannot stand together".to_owned());
    }
    Ok(items.join(","))
}

fn parse_item(index: usize, item: &str) -> Result<String, String> {
    let kind = &KINDS[index];
    if item.is_empty() {
        return Err("a value is missing".to_owned());
    }
    if let Some((range, step)) = item.split_once('/') {
        let span = kind.max - kind.min;
        let step = digits(step).ok_or_else(|| format!("`{item}`: the step is not a number"))?;
        if step == 0 || step > u64::from(span) {
            return Err(format!("`{item}`: the step is outside 1-{span}"));
        }
        return match range.split_once('-') {
            Some((from, to)) => Ok(format!("{}/{step}", parse_range(kind, item, from, to)?)),
            None if range == "*" => Ok(format!("*/{step}")),
            None => Err(format!("`{item}`: a step needs a range, such as `*/{step}`")),
        };
    }
    if let Some((from, to)) = item.split_once('-') {
        if from == "L" {
            return Err(format!("`{item}`: `L` takes no offset"));
        }
        return parse_range(kind, item, from, to);
    }
    match index {
        _ if item == "*" => return Ok("*".to_owned()),
        DAY_OF_MONTH if item == "L" || item == "LW" => return Ok(item.to_owned()),
        DAY_OF_MONTH => {
            if let Some(day) = item.strip_suffix('W') {
                return Ok(format!("{}W", parse_value(kind, day)?));
            }
        }
        DAY_OF_WEEK if item == "L" => {
            return Err("`L` needs a day, such as `5L` for the last Friday".to_owned());
        }
        DAY_OF_WEEK => {
            if let Some((day, nth)) = item.split_once('#') {
                return match digits(nth) {
                    Some(nth @ 1..=5) => Ok(format!("{}#{nth}", parse_value(kind, day)?)),
                    _ => Err(format!("`{item}`: the number after # is outside 1-5")),
                };
            }
            if let Some(day) = item.strip_suffix('L') {
                return Ok(format!("{}L", parse_value(kind, day)?));
            }
        }
        _ => {}
    }
    parse_value(kind, item).map(|value| value.to_string())
}

fn parse_range(kind: &Kind, item: &str, from: &str, to: &str) -> Result<String, String> {
    let from = parse_value(kind, from)?;
    // Sunday ends a week that it also begins.
    let to = if to == "SUN" && from > 0 { 7 } else { parse_value(kind, to)? };
    if from > to {
        return Err(format!("`{item}`: the range runs backwards"));
    }
    Ok(format!("{from}-{to}"))
}

fn parse_value(kind: &Kind, value: &str) -> Result<u32, String> {
    if let Some(number) = digits(value) {
        return match u32::try_from(number) {
            Ok(number) if (kind.min..=kind.max).contains(&number) => Ok(number),
            _ => Err(format!("{value} is outside {}-{}", kind.min, kind.max)),
        };
    }
    if let Some(position) = kind.names.iter().position(|name| *name == value) {
        return Ok(kind.first_name + u32::try_from(position).unwrap_or_default());
    }
    let mut expected = format!("`{value}` is not a number from {} to {}", kind.min, kind.max);
    if let [first, .., last] = kind.names {
        let _ = write!(expected, " or a name from {first} to {last}");
    }
    Err(expected)
}

/// A number in digits alone; one too large for any field is as large as can be.
fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}
