//! Pauses of queues and kinds.

use std::collections::HashSet;

use jobkit_core::recurring::Pause;
use jobkit_core::storage::{PauseRecord, PauseTarget};
use jobkit_core::{Name, Timestamp};

use crate::codec::json;
use crate::connection::Db;
use crate::error::SqlResult;

/// Numbers of the queues and kinds that are paused now.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    pub(crate) queues: HashSet<i64>,
    pub(crate) kinds: HashSet<i64>,
    /// Some of these pauses end by themselves.
    pub(crate) ends: bool,
}

impl Paused {
    pub(crate) fn read(db: &Db<'_>, now: Timestamp) -> SqlResult<Self> {
        let mut paused = Self::default();
        for record in pauses(db)? {
            if !record.pause.holds(now) {
                continue;
            }
            let (numbers, name) = match &record.target {
                PauseTarget::Queue(name) => (&mut paused.queues, name),
                PauseTarget::Kind(name) => (&mut paused.kinds, name),
            };
            numbers.extend(db.name_id(name)?);
            paused.ends |= record.pause.until.is_some();
        }
        Ok(paused)
    }
}

/// All pauses, also those that have ended by themselves.
pub(crate) fn pauses(db: &Db<'_>) -> SqlResult<Vec<PauseRecord>> {
    db.all("SELECT of_kind, name, body FROM jk_pause", [], |row| {
        Ok((row.get::<_, bool>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?
    .into_iter()
    .map(|(of_kind, name, body)| {
        let name = Name::from_stored(name);
        let target = if of_kind { PauseTarget::Kind(name) } else { PauseTarget::Queue(name) };
        Ok(PauseRecord { target, pause: json::<Pause>(&body)? })
    })
    .collect()
}

/// The key of a pause: whether it is of a kind, and the name.
pub(crate) fn target_key(target: &PauseTarget) -> (bool, Name) {
    match target {
        PauseTarget::Queue(name) => (false, name.clone()),
        PauseTarget::Kind(name) => (true, name.clone()),
    }
}
