//! Server options from the environment and from configuration files.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::model::duration::parse_duration;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::state::Keep;
use crate::server::options::{Prefetch, ServerOptions};

type Setter = fn(&mut ServerOptions, &str) -> Result<(), String>;

/// Every setting: its name in files, and in capitals after `JOBKIT_` in the environment.
const SETTINGS: [(&str, Setter); 20] = [
    ("server_name", |o, v| text(v).map(|v| o.name = Some(v))),
    ("queues", |o, v| list(v).map(|v| o.queues = Some(v))),
    ("workers", |o, v| number(v).map(|v| *o = o.clone().workers(v))),
    ("queue_workers", |o, v| numbers(v).map(|v| o.queue_workers = v)),
    ("lease", |o, v| length(v).map(|v| o.lease = v)),
    ("poll_interval", |o, v| length(v).map(|v| o.poll_interval = v)),
    ("max_poll_interval", |o, v| length(v).map(|v| o.max_poll_interval = v)),
    ("janitor_interval", |o, v| length(v).map(|v| o.janitor_interval = v)),
    ("dead_after", |o, v| length(v).map(|v| o.dead_after = v)),
    ("prefetch", |o, v| prefetch(v).map(|v| o.prefetch = v)),
    ("timeout", |o, v| none_or_length(v).map(|v| o.timeout = v)),
    ("max_attempts", |o, v| number(v).map(|v| o.retry = o.retry.clone().max_attempts(v))),
    ("keep_succeeded", |o, v| keep(v).map(|v| o.retention.succeeded = v)),
    ("keep_failed", |o, v| keep(v).map(|v| o.retention.failed = v)),
    ("keep_deleted", |o, v| keep(v).map(|v| o.retention.deleted = v)),
    ("crash_limit", |o, v| number(v).map(|v| o.crash_limit = v)),
    ("cancel_grace", |o, v| length(v).map(|v| o.cancel_grace = v)),
    ("shutdown_grace", |o, v| length(v).map(|v| o.shutdown_grace = v)),
    ("max_result_bytes", |o, v| number(v).map(|v| o.max_result_bytes = v)),
    ("unserved_after", |o, v| length(v).map(|v| o.unserved_after = v)),
];

impl ServerOptions {
    /// The defaults, with what the environment says over them.
    ///
    /// | variable | example | |
    /// |---|---|---|
    /// | `JOBKIT_SERVER_NAME` | `web-1` | |
    /// | `JOBKIT_QUEUES` | `mail,default` | strictly in this order |
    /// | `JOBKIT_WORKERS` | `50` | |
    /// | `JOBKIT_QUEUE_WORKERS` | `mail=5,default=20` | the most of each queue at once |
    /// | `JOBKIT_LEASE` | `30s` | |
    /// | `JOBKIT_POLL_INTERVAL`, `JOBKIT_MAX_POLL_INTERVAL` | `1s`, `5s` | |
    /// | `JOBKIT_JANITOR_INTERVAL`, `JOBKIT_DEAD_AFTER` | `15s`, `60s` | |
    /// | `JOBKIT_PREFETCH` | `adaptive`, `0` | |
    /// | `JOBKIT_TIMEOUT` | `2m`, `none` | |
    /// | `JOBKIT_MAX_ATTEMPTS` | `11` | of the server's retry policy |
    /// | `JOBKIT_KEEP_SUCCEEDED`, `JOBKIT_KEEP_FAILED`, `JOBKIT_KEEP_DELETED` | `1d`, `forever` | |
    /// | `JOBKIT_CRASH_LIMIT` | `3` | |
    /// | `JOBKIT_CANCEL_GRACE`, `JOBKIT_SHUTDOWN_GRACE` | `5s`, `25s` | |
    /// | `JOBKIT_MAX_RESULT_BYTES` | `65536` | |
    /// | `JOBKIT_UNSERVED_AFTER` | `30s` | |
    ///
    /// Durations are numbers with the units `ms`, `s`, `m` or `min`, `h` and `d`, such as `90s` or `1h30m`.
    /// Other variables are left alone. What a builder is told by [`workers`](crate::ServerBuilder::workers),
    /// [`queues`](crate::ServerBuilder::queues) or [`name`](crate::ServerBuilder::name) takes
    /// precedence.
    ///
    /// # Errors
    /// All values that cannot be read, together; ranges are checked when the server is built.
    ///
    /// # Example: a program that is configured where it is deployed
    /// ```
    /// use jobkit::ServerOptions;
    ///
    /// # fn main() -> jobkit::Result<()> {
    /// let options = ServerOptions::from_env()?;
    /// # drop(options);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env() -> Result<Self> {
        let var = |name: String| match std::env::var(&name) {
            Ok(value) => Some((name, Ok(value))),
            Err(std::env::VarError::NotPresent) => None,
            Err(error) => Some((name, Err(error.to_string()))),
        };
        Self::from_vars(var)
    }

    fn from_vars(var: impl Fn(String) -> Option<(String, Result<String, String>)>) -> Result<Self> {
        let mut options = Self::default();
        let mut errors = Vec::new();
        for (name, set) in SETTINGS {
            let Some((name, value)) = var(format!("JOBKIT_{}", name.to_ascii_uppercase())) else {
                continue;
            };
            let done = value.and_then(|value| set(&mut options, value.trim()));
            errors.extend(done.err().map(|reason| format!("{name} {reason}")));
        }
        if errors.is_empty() {
            return Ok(options);
        }
        Err(Error::new(ErrorKind::Configuration, errors.join("; ")))
    }
}

/// Reads a map with the names of [`from_env`](ServerOptions::from_env) in lower case and without
/// `JOBKIT_`: lengths as texts such as `"30s"`, numbers as numbers or texts, `queues` as a list or text,
/// `queue_workers` as a map or text.
///
/// # Example: a part of the application's configuration
/// ```
/// use jobkit::ServerOptions;
///
/// #[derive(serde::Deserialize)]
/// struct Config {
///     #[serde(default)]
///     jobs: ServerOptions,
/// }
///
/// # fn main() -> Result<(), serde_json::Error> {
/// let text = r#"{ "jobs": { "workers": 50, "lease": "1m", "queues": ["mail", "default"] } }"#;
/// let config: Config = serde_json::from_str(text)?;
/// # drop(config.jobs);
/// # Ok(())
/// # }
/// ```
impl<'de> Deserialize<'de> for ServerOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Settings)
    }
}

struct Settings;

impl<'de> Visitor<'de> for Settings {
    type Value = ServerOptions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the options of a server")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ServerOptions, A::Error> {
        use serde::de::Error as _;
        let mut options = ServerOptions::default();
        while let Some(name) = map.next_key::<String>()? {
            let Some((_, set)) = SETTINGS.iter().find(|(known, _)| *known == name) else {
                let known: Vec<_> = SETTINGS.iter().map(|(known, _)| *known).collect();
                let known = known.join(", ");
                return Err(A::Error::custom(format!(
                    "`{name}` is not an option of a server; there are: {known}"
                )));
            };
            let value = map.next_value::<Scalar>()?.into_text();
            set(&mut options, &value)
                .map_err(|reason| A::Error::custom(format!("{name} {reason}")))?;
        }
        Ok(options)
    }
}

/// A value as files write it.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Text(String),
    List(Vec<String>),
    Numbers(BTreeMap<String, u64>),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
            Self::List(list) => list.join(","),
            Self::Numbers(numbers) => {
                let pairs: Vec<_> =
                    numbers.iter().map(|(name, number)| format!("{name}={number}")).collect();
                pairs.join(",")
            }
        }
    }
}

fn text(value: &str) -> Result<String, String> {
    if value.is_empty() { Err("is empty".to_owned()) } else { Ok(value.to_owned()) }
}

fn list(value: &str) -> Result<Vec<String>, String> {
    let list: Vec<_> = value.split(',').map(|item| item.trim().to_owned()).collect();
    if list.iter().any(String::is_empty) {
        return Err(format!("is {value:?}, where names separated by commas are expected"));
    }
    Ok(list)
}

/// Numbers by name, such as `mail=5,default=20`.
fn numbers(value: &str) -> Result<BTreeMap<String, usize>, String> {
    let pair = |pair: &str| {
        let (name, number) = pair.split_once('=')?;
        let name = Some(name.trim().to_owned()).filter(|name| !name.is_empty());
        Some((name?, number.trim().parse().ok()?))
    };
    let wrong = || {
        format!("is {value:?}, where names with numbers, such as mail=5,default=20, are expected")
    };
    let mut numbers = BTreeMap::new();
    for text in value.split(',') {
        let (name, number) = pair(text).ok_or_else(wrong)?;
        if numbers.insert(name.clone(), number).is_some() {
            return Err(format!("names `{name}` twice"));
        }
    }
    Ok(numbers)
}

fn number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("is {value:?}, where a number is expected"))
}

fn prefetch(value: &str) -> Result<Prefetch, String> {
    match value {
        "adaptive" => Ok(Prefetch::Adaptive),
        _ => number(value)
            .map(Prefetch::Fixed)
            .map_err(|_| format!("is {value:?}, where `adaptive` or a number is expected")),
    }
}

fn none_or_length(value: &str) -> Result<Option<Duration>, String> {
    if value == "none" { Ok(None) } else { length(value).map(Some) }
}

fn keep(value: &str) -> Result<Keep, String> {
    if value == "forever" { Ok(Keep::Forever) } else { length(value).map(Keep::For) }
}

fn length(value: &str) -> Result<Duration, String> {
    parse_duration(value).map_err(|reason| format!("is wrong: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<ServerOptions> {
        ServerOptions::from_vars(|name| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (name, Ok((*value).to_owned())))
        })
    }

    #[test]
    fn every_variable_is_read() {
        let options = from(&[
            ("JOBKIT_WORKERS", " 50 "),
            ("JOBKIT_QUEUES", "mail, default"),
            ("JOBKIT_QUEUE_WORKERS", "mail=5, default = 20"),
            ("JOBKIT_SERVER_NAME", "web-1"),
            ("JOBKIT_LEASE", "1m"),
            ("JOBKIT_PREFETCH", "0"),
            ("JOBKIT_TIMEOUT", "none"),
            ("JOBKIT_MAX_ATTEMPTS", "3"),
            ("JOBKIT_KEEP_FAILED", "forever"),
            ("JOBKIT_KEEP_SUCCEEDED", "2h"),
            ("JOBKIT_URL", "not an option of a server"),
        ])
        .expect("valid");
        assert_eq!((options.workers, options.workers_said), (50, true));
        let mails = [("default".to_owned(), 20), ("mail".to_owned(), 5)];
        assert_eq!(options.queue_workers, BTreeMap::from(mails));
        assert_eq!(options.queues, Some(vec!["mail".to_owned(), "default".to_owned()]));
        assert_eq!(options.name.as_deref(), Some("web-1"));
        assert_eq!(options.lease, Duration::from_secs(60));
        assert_eq!(options.prefetch, Prefetch::Fixed(0));
        assert_eq!(options.retry.attempts(), 3);
        assert_eq!(options.retention.failed, Keep::Forever);
        assert_eq!(options.retention.succeeded, Keep::For(Duration::from_secs(7200)));
        assert_eq!(options.errors().len(), 0);
    }

    #[test]
    fn all_errors_are_reported_together() {
        let error = from(&[
            ("JOBKIT_WORKERS", "many"),
            ("JOBKIT_LEASE", "30"),
            ("JOBKIT_QUEUES", "a,,b"),
            ("JOBKIT_PREFETCH", "-1"),
            ("JOBKIT_QUEUE_WORKERS", "mail:5"),
        ])
        .expect_err("none of them is valid");
        let expected = "JOBKIT_QUEUES is \"a,,b\", where names separated by commas are expected; \
                        JOBKIT_WORKERS is \"many\", where a number is expected; \
                        JOBKIT_QUEUE_WORKERS is \"mail:5\", where names with numbers, such as \
                        mail=5,default=20, are expected; \
                        JOBKIT_LEASE is wrong: `30` is not a duration; write numbers with the units ms, s, \
                        m (or min), h and d, such as 250ms, 90s, 1h30m or 2d, up to 36500d; \
                        JOBKIT_PREFETCH is \"-1\", where `adaptive` or a number is expected";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_map_is_read_and_unknown_names_are_refused() {
        let read = |text| serde_json::from_str::<ServerOptions>(text);
        let options = read(
            r#"{"workers":7,"queues":["a","b"],"queue_workers":{"a":3},"cancel_grace":"500ms"}"#,
        )
        .expect("valid");
        assert_eq!((options.workers, options.cancel_grace.as_millis()), (7, 500));
        assert_eq!(options.queues, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(options.queue_workers, BTreeMap::from([("a".to_owned(), 3)]));
        let error = read(r#"{"worker":7}"#).expect_err("misspelt").to_string();
        assert!(
            error.starts_with("`worker` is not an option of a server; there are: server_name,"),
            "{error}"
        );
        assert!(read(r#"{"lease":30}"#).is_err(), "a length without a unit");
        assert!(read("[]").is_err());
    }
}
