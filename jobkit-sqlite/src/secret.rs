//! Shared secrets.

use crate::connection::Db;
use crate::error::SqlResult;

/// The secret of a name. The first call creates it with the generator of SQLite, which the operating
/// system seeds.
pub(crate) fn secret(db: &Db<'_>, name: &str) -> SqlResult<[u8; 32]> {
    db.run("INSERT OR IGNORE INTO jk_secret (name, body) VALUES (?1, randomblob(32))", [name])?;
    let body = db.one("SELECT body FROM jk_secret WHERE name = ?1", [name], |row| {
        row.get::<_, Vec<u8>>(0)
    })?;
    let body = body.and_then(|body| body.try_into().ok());
    Ok(body.ok_or_else(|| jobkit_core::Error::corrupt("a shared secret is not 32 bytes long"))?)
}
