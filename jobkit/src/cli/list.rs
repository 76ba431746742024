//! Lists: their pages, as words or as JSON.

use std::fmt::Write;

use jobkit_core::{Result, bounds};
use serde_json::{Value, json};

use super::args::Page;
use super::{Context, Done, Exit, Stop};

/// So many are read at least. Rows that cannot be read are left out, so what is shorter than was asked
/// for need not be the end; and nothing at all is the end, so a few of them must not look like it.
const READ: usize = 20;

/// What a list shows, and what stands behind it.
pub(super) struct Listed<T> {
    items: Vec<T>,
    rest: Rest,
}

enum Rest {
    /// The place of the next page, if there is one.
    Next(Option<String>),
    /// Whether a higher `--limit` shows more: of a list without places.
    Cut(bool),
}

impl<T> Listed<T> {
    /// Everything there is.
    pub(super) fn all(items: Vec<T>) -> Self {
        Self { items, rest: Rest::Next(None) }
    }

    /// With the place of the next page.
    pub(super) fn with_next(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, rest: Rest::Next(next) }
    }

    /// The first of a list without places.
    pub(super) fn first(mut items: Vec<T>, limit: usize) -> Self {
        let cut = items.len() > limit;
        items.truncate(limit);
        Self { items, rest: Rest::Cut(cut) }
    }

    /// The page that was asked for of a list that goes on after a key, which `fetch` reads.
    pub(super) async fn page(
        page: &Page,
        fetch: impl AsyncFn(Option<String>, usize) -> Result<Vec<T>>,
        key: impl Fn(&T) -> String,
    ) -> Done<Self> {
        let limit = page.limit();
        let mut items: Vec<T> = Vec::new();
        let mut after = page.after.as_deref().map(key_at).transpose()?;
        // One more than is shown tells whether this is the last page.
        while items.len() <= limit {
            let wanted = (limit + 1 - items.len()).clamp(READ, bounds::PAGE);
            let found = fetch(after.take(), wanted).await?;
            if found.is_empty() {
                break;
            }
            items.extend(found);
            after = items.last().map(&key);
        }
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more);
        let next = last.map(|item| place_of(&key(item)));
        Ok(Self { items, rest: Rest::Next(next) })
    }
}

/// The place behind a key. Names may tell secrets, which lists hide, and a place cannot hide what it has
/// to find again: it is not to be read, and a shell takes it as it is.
fn place_of(key: &str) -> String {
    key.bytes().fold(String::new(), |mut place, byte| {
        // A text takes everything.
        let _ = write!(place, "{byte:02x}");
        place
    })
}

fn key_at(place: &str) -> Done<String> {
    let wrong = || Stop::Usage("--after must be the `next` value of a previous page".to_owned());
    let digit = |digit: &u8| char::from(*digit).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let (pairs, rest) = place.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
    let bytes: Option<Vec<u8>> = bytes.collect();
    let key = bytes.filter(|_| rest.is_empty()).and_then(|bytes| String::from_utf8(bytes).ok());
    key.ok_or_else(wrong)
}

impl Context<'_, '_> {
    /// Shows a list: as one JSON document, or as a table; `none` is told where it is empty.
    pub(super) fn listed<T>(
        &mut self,
        listed: &Listed<T>,
        none: &str,
        json: impl Fn(&T) -> Value,
        table: impl FnOnce(&mut Self, &[T]) -> Done<()>,
    ) -> Done {
        let Listed { items, rest } = listed;
        if self.globals.json {
            let items: Vec<Value> = items.iter().map(json).collect();
            self.console.json(&match rest {
                Rest::Next(next) => json!({ "items": items, "next": next }),
                Rest::Cut(more) => json!({ "items": items, "next": null, "more": more }),
            })?;
        } else {
            if items.is_empty() {
                self.console.tell(none)?;
            } else {
                table(self, items)?;
            }
            match rest {
                Rest::Next(Some(next)) => self.console.tell(&format!("more: --after '{next}'"))?,
                Rest::Cut(true) => self.console.tell("more: a higher --limit shows it")?,
                Rest::Next(None) | Rest::Cut(false) => {}
            }
        }
        Ok(if items.is_empty() { Exit::Nothing } else { Exit::Done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_finds_its_key_again_and_does_not_tell_it() {
        for key in ["", "reports", "it's", "password=hunter2", "größe\u{202e}"] {
            let place = place_of(key);
            assert!(place.bytes().all(|byte| byte.is_ascii_hexdigit()), "{place}");
            assert_eq!(key_at(&place).expect("a place"), key);
        }
        for wrong in ["reports", "0", "0x", "ff", "+1", "é"] {
            assert_eq!(key_at(wrong).expect_err(wrong).exit(), Exit::Usage);
        }
    }

    #[tokio::test]
    async fn a_page_that_is_exactly_full_is_the_last() {
        let numbers: Vec<u32> = (0..450).collect();
        // Every tenth cannot be read, so that what is fetched is shorter than was asked for.
        let fetch = async |after: Option<String>, wanted: usize| {
            assert!((1..=bounds::PAGE).contains(&wanted), "{wanted}");
            let after = after.map(|it| it.parse::<u32>().expect("a number"));
            let behind = numbers.iter().filter(|it| after.is_none_or(|after| **it > after));
            Ok(behind.take(wanted).filter(|it| !it.is_multiple_of(10)).copied().collect())
        };
        for limit in [1, 44, 45, 46, 199, 200, 201, 404, 405, 406, 10_000] {
            let mut seen = Vec::new();
            let mut after = None;
            loop {
                let page = Page { limit, after };
                let page = Listed::page(&page, fetch, u32::to_string).await.expect("is read");
                assert!(!page.items.is_empty(), "limit {limit}: an empty page");
                seen.extend(page.items);
                let Rest::Next(next) = page.rest else { panic!("a page has a place") };
                after = next;
                if after.is_none() {
                    break;
                }
            }
            let all = numbers.iter().filter(|it| !it.is_multiple_of(10));
            assert!(seen.iter().eq(all), "limit {limit}: {seen:?}");
        }
    }
}
