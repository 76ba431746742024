//! Texts of SQL: the numbers of states by their names, and lists of columns with their indices.
//!
//! SQLite uses a partial index only where its condition is written literally, so these numbers cannot
//! be parameters. A text says `{enqueued}`, and the compiler puts in the number from core.

use jobkit_core::edge::On;
use jobkit_core::state::StateName;

use super::on_number;

/// A text of SQL in which the name of a state in braces stands for its number, such as `{awaiting}`.
/// `{finished}` is the first finished state: all later ones are finished, too. `{on_success}` is the
/// number of that condition of an edge.
///
/// The text is `'static`, and each use has one address: prepared statements are kept by it.
macro_rules! sql {
    ($text:expr) => {{
        const TEXT: &str = $text;
        const BYTES: [u8; $crate::codec::sql_text::expanded_len(TEXT)] =
            $crate::codec::sql_text::expand(TEXT);
        static SQL: &str = $crate::codec::sql_text::utf8(&BYTES);
        SQL
    }};
}
pub(crate) use sql;

/// Names the columns of a statement once. `$module` holds the index of each and their `COUNT`, and
/// `$names!()` is their list for the text.
macro_rules! columns {
    (
        $(#[$doc:meta])* $module:ident, $names:ident,
        $first:ident = $first_name:literal, $($column:ident = $name:literal),+ $(,)?
    ) => {
        $(#[$doc])*
        pub(crate) mod $module {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "counts the columns")]
            enum Index { $first, $($column,)+ COUNT }
            pub(crate) const $first: usize = Index::$first as usize;
            $(pub(crate) const $column: usize = Index::$column as usize;)+
            #[allow(dead_code, reason = "not every list is followed by more columns")]
            pub(crate) const COUNT: usize = Index::COUNT as usize;
        }
        macro_rules! $names {
            () => { concat!($first_name, $(", ", $name),+) };
        }
        #[allow(unused_imports, reason = "used by the macros of the same file")]
        pub(crate) use $names;
    };
}
pub(crate) use columns;

/// The number for a name in braces.
const fn digit(name: &[u8]) -> u8 {
    const DIGITS: &[u8; 10] = b"0123456789";
    let mut index = 0;
    while index < StateName::ALL.len() {
        let state = StateName::ALL[index];
        if is_same(name, state.as_str().as_bytes()) {
            return DIGITS[state.index()];
        }
        index += 1;
    }
    if is_same(name, b"finished") {
        return DIGITS[FIRST_FINISHED.index()];
    }
    if is_same(name, b"on_success") && on_number(On::Success) == 0 {
        return b'0';
    }
    panic!("a text of SQL has a name in braces that is not known")
}

/// The first state in which a job is finished.
const FIRST_FINISHED: StateName = StateName::Succeeded;

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

/// The length of the brace at the beginning of what is left, if there is one.
const fn brace(left: &[u8]) -> usize {
    if left[0] != b'{' {
        return 0;
    }
    let mut length = 0;
    while left[length] != b'}' {
        length += 1;
    }
    length + 1
}

/// The length of a text once the numbers are put in.
pub(crate) const fn expanded_len(text: &str) -> usize {
    let mut left = text.as_bytes();
    let mut length = 0;
    while !left.is_empty() {
        let brace = brace(left);
        left = left.split_at(if brace > 0 { brace } else { 1 }).1;
        length += 1;
    }
    length
}

/// A text with the numbers put in.
pub(crate) const fn expand<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    let mut left = text.as_bytes();
    let mut bytes = [0; LENGTH];
    let mut length = 0;
    while !left.is_empty() {
        let brace = brace(left);
        if brace > 0 {
            let (name, rest) = left.split_at(brace);
            let (_, name) = name.split_at(1);
            let (name, _) = name.split_at(brace - 2);
            bytes[length] = digit(name);
            left = rest;
        } else {
            bytes[length] = left[0];
            left = left.split_at(1).1;
        }
        length += 1;
    }
    bytes
}

pub(crate) const fn utf8(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("putting numbers in keeps a text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows, and the conditions of partial indexes, hold these numbers: none may ever change.
    #[test]
    fn states_have_the_numbers_that_rows_and_indexes_hold() {
        let stored = [
            (StateName::Awaiting, 0, sql!("{awaiting}")),
            (StateName::Scheduled, 1, sql!("{scheduled}")),
            (StateName::Enqueued, 2, sql!("{enqueued}")),
            (StateName::Processing, 3, sql!("{processing}")),
            (StateName::Succeeded, 4, sql!("{succeeded}")),
            (StateName::Failed, 5, sql!("{failed}")),
            (StateName::Deleted, 6, sql!("{deleted}")),
        ];
        assert_eq!(stored.len(), StateName::ALL.len());
        for (state, number, text) in stored {
            assert_eq!((state.index(), text), (number, number.to_string().as_str()), "{state:?}");
            assert_eq!(state.is_finished(), number >= FIRST_FINISHED.index(), "{state:?}");
        }
    }

    #[test]
    fn numbers_are_put_in_and_all_else_stays() {
        let text = sql!("WHERE state = {enqueued} AND note = 'ö' AND j.state < {finished}");
        assert_eq!(text, "WHERE state = 2 AND note = 'ö' AND j.state < 4");
        assert_eq!(sql!("cond = {on_success}"), "cond = 0");
    }
}
