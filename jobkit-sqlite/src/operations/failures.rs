//! Failures by fingerprint.

use jobkit_core::error_group::ErrorGroup;
use jobkit_core::failure::Fingerprint;
use jobkit_core::recurring::Pause;
use jobkit_core::storage::ErrorQuery;
use rusqlite::params;

use crate::codec::json;
use crate::connection::Db;
use crate::error::SqlResult;

/// Groups, the one seen last first. At most a thousand are stored, so all are read.
pub(crate) fn groups(db: &Db<'_>, query: &ErrorQuery) -> SqlResult<Vec<ErrorGroup>> {
    let mut groups = Vec::new();
    for (body, mute) in db.all(
        "SELECT body, mute FROM jk_failure INDEXED BY jk_failure_seen WHERE last_seen >= ?1 \
         ORDER BY last_seen DESC, fingerprint",
        [query.since.map_or(i64::MIN, jobkit_core::Timestamp::as_micros)],
        |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)),
    )? {
        // A group that cannot be read begins again with its next failure.
        let Ok(mut group) = json::<ErrorGroup>(&body) else { continue };
        group.mute = mute.and_then(|mute| json(&mute).ok());
        if query.matches(&group) {
            groups.push(group);
        }
    }
    groups.sort_by_key(|group| (std::cmp::Reverse(group.last_seen_at), group.fingerprint));
    Ok(groups)
}

/// Mutes a group; `false` if there is none.
pub(super) fn mute(db: &Db<'_>, group: Fingerprint, mute: Option<&Pause>) -> SqlResult<bool> {
    let body = mute.map(serde_json::to_string).transpose()?;
    let known = db.run(
        "UPDATE jk_failure SET mute = ?2 WHERE fingerprint = ?1",
        params![group.0.cast_signed(), body],
    )?;
    Ok(known > 0)
}

/// Removes groups not seen since an instant, up to a number.
pub(super) fn forget_old(db: &Db<'_>, before: [i64; 2]) -> SqlResult {
    db.run(
        "DELETE FROM jk_failure WHERE fingerprint IN (SELECT fingerprint \
         FROM jk_failure INDEXED BY jk_failure_seen WHERE last_seen < ?1 \
         ORDER BY last_seen LIMIT ?2)",
        before,
    )?;
    Ok(())
}
