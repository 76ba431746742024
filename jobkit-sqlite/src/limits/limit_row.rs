//! Rows of limits.

use jobkit_core::limit::Window;

use crate::codec::sql_text::columns;
use crate::codec::{length, micros};
use crate::connection::Db;
use crate::error::SqlResult;

/// A limit, as far as its capacity depends on it.
pub(crate) struct LimitRow {
    pub(crate) id: i64,
    pub(crate) max: i64,
    pub(crate) used: i64,
    pub(crate) waiting: i64,
    pub(crate) window: Option<Window>,
    /// Starts that counted when the limit was last looked at.
    pub(crate) started: i64,
    /// When the first of these starts ceases to count.
    pub(crate) room_at: Option<i64>,
    /// The lane behind which the next scan continues.
    pub(crate) lane: Option<(i64, i64)>,
    pub(crate) idle: i64,
}

columns! {
    /// The columns of a [`LimitRow`].
    column, limit_columns,
    ID = "id",
    MAX = "max",
    USED = "used",
    WAITING = "waiting",
    WIN = "win",
    LEN = "len",
    STARTED = "started",
    ROOM_AT = "room_at",
    LANE_QUEUE = "lane_queue",
    LANE_KIND = "lane_kind",
    ASLEEP = "asleep",
}

/// Selects the columns of a [`LimitRow`].
macro_rules! select_limit {
    ($rest:literal) => {
        concat!("SELECT ", $crate::limits::limit_row::limit_columns!(), " FROM jk_limit ", $rest)
    };
}
pub(crate) use select_limit;

impl LimitRow {
    pub(crate) fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(column::ID)?,
            max: row.get(column::MAX)?,
            used: row.get(column::USED)?,
            waiting: row.get(column::WAITING)?,
            window: window_at(row.get(column::WIN)?, row.get(column::LEN)?),
            started: row.get(column::STARTED)?,
            room_at: row.get(column::ROOM_AT)?,
            lane: row.get::<_, Option<i64>>(column::LANE_QUEUE)?.zip(row.get(column::LANE_KIND)?),
            idle: row.get(column::ASLEEP)?,
        })
    }
}

pub(crate) fn load(db: &Db<'_>, name: &str) -> SqlResult<Option<LimitRow>> {
    Ok(db.one(select_limit!("WHERE name = ?1"), [name], LimitRow::read)?)
}

/// The columns of a limit's window: its kind, and its length.
pub(crate) fn window_numbers(window: Option<Window>) -> (i64, i64) {
    let kind = match window {
        None => 0,
        Some(Window::Fixed(_)) => 1,
        // An unknown kind is treated as the strictest known one.
        Some(_) => 2,
    };
    (kind, window.map_or(0, |window| micros(window.length())))
}

pub(crate) fn window_at(kind: i64, len: i64) -> Option<Window> {
    match kind {
        0 => None,
        1 => Some(Window::Fixed(length(len))),
        _ => Some(Window::Sliding(length(len))),
    }
}
