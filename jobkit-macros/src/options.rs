//! The options between the parentheses of `#[job(…)]`.

use std::time::Duration;

use proc_macro2::Span;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Expr, ExprLit, Ident, Lit, LitInt, LitStr, Path, Result, Token, parenthesized};

use crate::duration::{DURATIONS, parse_duration};

/// A duration, or a word for one.
#[derive(Clone)]
pub(crate) enum Until {
    Word(Ident),
    Period(Duration),
}

/// How long finished jobs are kept.
pub(crate) enum Keep {
    For(Duration),
    Forever,
    Computed(Expr),
}

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
    /// Where an option stands that means nothing without `unique`.
    needs_unique: Option<Span>,
    pub(crate) until: Option<Until>,
    pub(crate) on_conflict: Option<Ident>,
    pub(crate) limits: Vec<(LitStr, LitInt, Option<Duration>)>,
    pub(crate) version: Option<LitInt>,
    pub(crate) upgrades: Vec<(u32, Path)>,
    pub(crate) classify: Option<Path>,
    pub(crate) retry: Option<Expr>,
    pub(crate) retention: Option<Keep>,
    pub(crate) display_name: Option<LitStr>,
    pub(crate) tags: Vec<LitStr>,
    pub(crate) sensitive: Vec<Ident>,
    pub(crate) blocking: bool,
    pub(crate) krate: Option<Path>,
}

const KNOWN: &str = "name, aliases, version, upgrade, queue, priority, max_attempts, retry, classify, \
                     timeout, retention, unique, unique_until, on_conflict, limit, rate_limit, tags, \
                     display_name, sensitive, blocking, crate";

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
        if let (None, Some(span)) = (&options.unique, options.needs_unique) {
            return Err(Error::new(span, "needs `unique = \"…\"`"));
        }
        options.check_versions()?;
        Ok(options)
    }
}

impl Options {
    fn version(&self) -> Result<u32> {
        self.version.as_ref().map_or(Ok(1), LitInt::base10_parse)
    }

    fn check_versions(&mut self) -> Result<()> {
        let version = self.version()?;
        for (from, path) in &mut self.upgrades {
            // `upgrade = path`: from the version before.
            if *from == 0 {
                *from = version.saturating_sub(1);
            }
            if *from == 0 || *from >= version {
                let text = format!(
                    "only versions before the present one, {version}, can be upgraded; name that by `version = n`"
                );
                return Err(Error::new_spanned(path, text));
            }
        }
        for (i, (from, path)) in self.upgrades.iter().enumerate() {
            if self.upgrades[..i].iter().any(|(other, _)| other == from) {
                return Err(Error::new_spanned(path, format!("version {from} is upgraded twice")));
            }
        }
        Ok(())
    }

    fn parse_one(&mut self, input: ParseStream<'_>) -> Result<()> {
        let option: Ident = input.parse()?;
        match option.to_string().as_str() {
            "name" => self.name = Some(kind(&value(input)?)?),
            "queue" => self.queue = Some(name(&value(input)?)?),
            "aliases" => {
                let list;
                parenthesized!(list in input);
                let names = list.parse_terminated(<LitStr as Parse>::parse, Token![,])?;
                self.aliases = names.iter().map(kind).collect::<Result<_>>()?;
            }
            "priority" => self.priority = Some(number(input, 0, 9)?),
            "max_attempts" => self.max_attempts = Some(number(input, 1, 1000)?),
            "timeout" => self.timeout = Some(duration(&value(input)?)?),
            "unique" => self.unique = Some(value(input)?),
            "unique_until" => {
                self.needs_unique = Some(option.span());
                let text = value(input)?;
                self.until = Some(match text.value().as_str() {
                    "started" => Until::Word(Ident::new("Started", text.span())),
                    "finished" => Until::Word(Ident::new("Finished", text.span())),
                    _ => Until::Period(duration(&text).map_err(|_| {
                        let expected =
                            format!("must be `started`, `finished` or a duration; {DURATIONS}");
                        Error::new(text.span(), expected)
                    })?),
                });
            }
            "on_conflict" => {
                self.needs_unique = Some(option.span());
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
                self.limits.push((name, max, None));
            }
            "rate_limit" => {
                let limit;
                parenthesized!(limit in input);
                let name: LitStr = limit.parse()?;
                limit.parse::<Token![,]>()?;
                let max: LitInt = limit.parse()?;
                in_range(&max, 1, 100_000)?;
                limit.parse::<Token![,]>()?;
                let text: LitStr = limit.parse()?;
                let window = duration(&text)?;
                // The bounds of `jobkit_core::bounds::RATE_WINDOW`, which the submit would name too late.
                if window < Duration::from_secs(1) || window > Duration::from_secs(31 * 86_400) {
                    let words = "a rate limit counts starts in 1 s to 31 days: \"1s\" is the least, \"31d\" the most";
                    return Err(Error::new(text.span(), words));
                }
                self.limits.push((name, max, Some(window)));
            }
            "version" => self.version = Some(number(input, 1, 1_000_000)?),
            "upgrade" if input.peek(Token![=]) => {
                input.parse::<Token![=]>()?;
                self.upgrades.push((0, input.parse()?));
            }
            "upgrade" => {
                let list;
                parenthesized!(list in input);
                while !list.is_empty() {
                    let version: LitInt = list.parse()?;
                    in_range(&version, 1, 1_000_000)?;
                    list.parse::<Token![=]>()?;
                    self.upgrades.push((version.base10_parse()?, list.parse()?));
                    if !list.is_empty() {
                        list.parse::<Token![,]>()?;
                    }
                }
            }
            "classify" => {
                input.parse::<Token![=]>()?;
                self.classify = Some(input.parse()?);
            }
            "retry" => {
                input.parse::<Token![=]>()?;
                self.retry = Some(input.parse()?);
            }
            "retention" => {
                input.parse::<Token![=]>()?;
                self.retention = Some(match input.parse()? {
                    Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value() == "forever" => {
                        Keep::Forever
                    }
                    Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Keep::For(duration(&text)?),
                    other => Keep::Computed(other),
                });
            }
            "display_name" => self.display_name = Some(value(input)?),
            "tags" => {
                let list;
                parenthesized!(list in input);
                let tags = list.parse_terminated(<LitStr as Parse>::parse, Token![,])?;
                self.tags.extend(tags);
            }
            "sensitive" => {
                let list;
                parenthesized!(list in input);
                let names = list.parse_terminated(Ident::parse, Token![,])?;
                self.sensitive.extend(names);
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

/// A name as kinds may have it: not like a version of another one.
pub(crate) fn kind(text: &LitStr) -> Result<LitStr> {
    let value = text.value();
    if let Some((base, version)) = value.rsplit_once('@')
        && !version.is_empty()
        && version.bytes().all(|byte| byte.is_ascii_digit())
    {
        let text_of = format!("ends like a version of `{base}`; say `version = {version}` instead");
        return Err(Error::new(text.span(), text_of));
    }
    name(text)
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
    let duration =
        parse_duration(&text.value()).map_err(|reason| Error::new(text.span(), reason))?;
    match duration.is_zero() {
        true => Err(Error::new(text.span(), "must be longer than zero")),
        false => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeded numbers.
    struct Random(u64);

    impl Random {
        fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            of[usize::try_from((z ^ (z >> 31)) % of.len() as u64).unwrap_or(0)]
        }
    }

    #[test]
    fn durations_are_read_as_everywhere_and_zero_is_refused() {
        let read = |text| duration(&LitStr::new(text, Span::call_site()));
        assert_eq!(read("1h30m").ok(), Some(Duration::from_secs(5_400)));
        let refused = |text| read(text).expect_err("is refused").to_string();
        assert_eq!(refused("0s"), "must be longer than zero");
        assert_eq!(refused("1y"), format!("`1y` is not a duration; {DURATIONS}"));
    }

    #[test]
    fn no_options_make_the_parser_panic() {
        const PARTS: [&str; 44] = [
            "name",
            "aliases",
            "version",
            "upgrade",
            "queue",
            "priority",
            "max_attempts",
            "retry",
            "classify",
            "timeout",
            "retention",
            "unique",
            "unique_until",
            "on_conflict",
            "limit",
            "rate_limit",
            "tags",
            "display_name",
            "sensitive",
            "blocking",
            "crate",
            "=",
            "=",
            "=",
            ",",
            ",",
            "(\"a\")",
            "(\"a\", 1)",
            "(\"a\", 1, \"1m\")",
            "(1 = up)",
            "()",
            "\"2m\"",
            "\"a\"",
            "\"\"",
            "\"k@2\"",
            "0",
            "1",
            "99999999999999999999",
            "-1",
            "finished",
            "replace",
            "a::b",
            "\"{user}\"",
            "\"{{\"",
        ];
        let mut random = Random(20_261_123);
        let mut read = 0;
        for n in 0..40_000 {
            let words: Vec<&str> = (0..n % 9).map(|_| random.pick(&PARTS)).collect();
            read += u32::from(syn::parse_str::<Options>(&words.join(" ")).is_ok());
        }
        assert!(read > 500, "some of it is read: {read}");
    }
}
