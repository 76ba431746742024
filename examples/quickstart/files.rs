//! Which files there are, and how their paths are written down.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A path relative to the folder: text where it is UTF-8, else its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RelativePath {
    Text(String),
    Bytes(Vec<u8>),
}

impl RelativePath {
    fn new(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_encoded_bytes().to_vec()),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    pub fn to_path(&self) -> PathBuf {
        match self {
            Self::Text(text) => PathBuf::from(text),
            Self::Bytes(bytes) => PathBuf::from(os_string(bytes.clone())),
        }
    }
}

#[cfg(unix)]
fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn os_string(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// What lies below a folder.
pub struct Below {
    /// The regular files, sorted.
    pub files: Vec<RelativePath>,
    /// The folders that cannot be read, each with the reason.
    pub unread: Vec<String>,
}

/// All regular files below `folder`. Links are not followed; `.git`, `target` and the files in
/// `left_out` are left out. A folder inside that cannot be read is named, and the others are read.
pub fn below(folder: &Path, left_out: &[PathBuf]) -> Result<Below> {
    let mut found = Below { files: Vec::new(), unread: Vec::new() };
    let mut folders = vec![folder.to_path_buf()];
    while let Some(current) = folders.pop() {
        let entries = match std::fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) if current == folder => {
                return Err(error).with_context(|| format!("cannot read {}", folder.display()));
            }
            Err(error) => {
                found.unread.push(format!("{}: {error}", current.display()));
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let name = entry.file_name();
            if kind.is_dir() {
                if name != ".git" && name != "target" {
                    folders.push(path);
                }
            } else if kind.is_file() && !left_out.contains(&path) {
                found.files.push(RelativePath::new(path.strip_prefix(folder)?));
            }
        }
    }
    found.files.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(found)
}
