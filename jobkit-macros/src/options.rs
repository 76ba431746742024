//! The options between the parentheses of `#[job(…)]`.

use std::time::Duration;

use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, LitInt, LitStr, Path, Result, Token, parenthesized};

/// What was named; everything is optional.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) aliases: Vec<LitStr>,
    pub(crate) queue: Option<LitStr>,
    pub(crate) priority: Option<LitInt>,
    pub(crate) max_attempts: Option<LitInt>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) unique: Option<LitStr>,
    pub(crate) until: Option<Ident>,
    pub(crate) on_conflict: Option<Ident>,
    pub(crate) limits: Vec<(LitStr, LitInt)>,
    pub(crate) blocking: bool,
    pub(crate) krate: Option<Path>,
}

const KNOWN: &str = "name, aliases, queue, priority, max_attempts, timeout, unique, unique_until, \
                     on_conflict, limit, blocking, crate";

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            if input.peek(Token![crate]) {
                input.parse::<Token![crate]>()?;
                input.parse::<Token![=]>()?;
                options.krate = Some(input.call(Path::parse_mod_style)?);
            } else {
                options.parse_one(input)?;
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        if options.unique.is_none() && (options.until.is_some() || options.on_conflict.is_some()) {
            return Err(input.error("`unique_until` and `on_conflict` need `unique = \"…\"`"));
        }
        Ok(options)
    }
}

impl Options {
    fn parse_one(&mut self, input: ParseStream<'_>) -> Result<()> {
        let option: Ident = input.parse()?;
        match option.to_string().as_str() {
            "name" => self.name = Some(name(&value(input)?)?),
            "queue" => self.queue = Some(name(&value(input)?)?),
            "aliases" => {
                let list;
                parenthesized!(list in input);
                let names = list.parse_terminated(<LitStr as Parse>::parse, Token![,])?;
                self.aliases = names.iter().map(name).collect::<Result<_>>()?;
            }
            "priority" => self.priority = Some(number(input, 0, 9)?),
            "max_attempts" => self.max_attempts = Some(number(input, 1, 1000)?),
            "timeout" => self.timeout = Some(duration(&value(input)?)?),
            "unique" => self.unique = Some(value(input)?),
            "unique_until" => {
                self.until =
                    Some(choice(input, &[("started", "Started"), ("finished", "Finished")])?);
            }
            "on_conflict" => {
                let choices = [
                    ("return_existing", "ReturnExisting"),
                    ("reject", "Reject"),
                    ("replace", "Replace"),
                ];
                self.on_conflict = Some(choice(input, &choices)?);
            }
            "limit" => {
                let limit;
                parenthesized!(limit in input);
                let name: LitStr = limit.parse()?;
                limit.parse::<Token![,]>()?;
                let max: LitInt = limit.parse()?;
                in_range(&max, 1, 100_000)?;
                self.limits.push((name, max));
            }
            "blocking" => self.blocking = true,
            other => {
                let text = format!("`{other}` is not an option of a job; there are: {KNOWN}");
                return Err(Error::new(option.span(), text));
            }
        }
        Ok(())
    }
}

fn value(input: ParseStream<'_>) -> Result<LitStr> {
    input.parse::<Token![=]>()?;
    input.parse()
}

fn number(input: ParseStream<'_>, min: u64, max: u64) -> Result<LitInt> {
    input.parse::<Token![=]>()?;
    let number: LitInt = input.parse()?;
    in_range(&number, min, max)?;
    Ok(number)
}

fn in_range(number: &LitInt, min: u64, max: u64) -> Result<()> {
    let value: u64 = number.base10_parse()?;
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::new(number.span(), format!("must be {min} to {max}")))
}

fn choice(input: ParseStream<'_>, choices: &[(&str, &str)]) -> Result<Ident> {
    let text = value(input)?;
    match choices.iter().find(|(word, _)| *word == text.value()) {
        Some((_, variant)) => Ok(Ident::new(variant, text.span())),
        None => {
            let words: Vec<_> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
            Err(Error::new(text.span(), format!("must be one of {}", words.join(", "))))
        }
    }
}

/// A name as queues and kinds may have it.
pub(crate) fn name(text: &LitStr) -> Result<LitStr> {
    let value = text.value();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
    if value.is_empty() || value.len() > 64 || !value.chars().all(allowed) {
        let text = Error::new(text.span(), "must be 1 to 64 letters, digits or . _ @ -");
        return Err(text);
    }
    Ok(text.clone())
}

fn duration(text: &LitStr) -> Result<Duration> {
    let value = text.value();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let millis = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    match (number.parse::<u64>(), millis) {
        (Ok(number), Some(millis)) if number > 0 => {
            Ok(Duration::from_millis(number.saturating_mul(millis)))
        }
        _ => Err(Error::new(
            text.span(),
            "must be a length such as \"500ms\", \"30s\", \"2m\", \"1h\" or \"1d\"",
        )),
    }
}
