//! What differs from one storage to the next: how its server is started and disturbed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A storage's server, and what can be done to it. The next storage adds one of these, and its name to
/// [`start`] and to `cargo xtask chaos`.
pub(super) trait Place: Send + Sync {
    /// What server processes and clients connect to.
    fn url(&self) -> String;

    /// Makes its life hard for so long, on a thread that may wait; what was done.
    fn disturb(&self, length: Duration) -> &'static str;
}

/// Starts the server of a storage, with room for a run of that length.
///
/// # Panics
/// When no storage has that name.
pub(super) fn start(storage: &str, folder: &Path, seconds: u64) -> Box<dyn Place> {
    match storage {
        "sqlite" => Box::new(Sqlite(Disk::new(folder, 128 + seconds * 2))),
        other => panic!("JOBKIT_CHAOS_STORAGE is {other:?}, and there is: sqlite"),
    }
}

/// A file on a disk that fills up.
struct Sqlite(Disk);

impl Place for Sqlite {
    fn url(&self) -> String {
        format!("sqlite://{}", self.0.path.join("jobs.db").display())
    }

    fn disturb(&self, length: Duration) -> &'static str {
        self.0.fill(length);
        "disk full"
    }
}

/// A small disk of its own, where that is allowed; else the folder it stands in.
struct Disk {
    path: PathBuf,
    mounted: bool,
}

impl Disk {
    fn new(folder: &Path, mebibytes: u64) -> Self {
        let path = folder.join("disk");
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("the disk is never full in this run: mounting one needs privileges");
        }
        Self { path, mounted }
    }

    /// Takes all the room there is, for so long.
    fn fill(&self, length: Duration) {
        if !self.mounted {
            return;
        }
        let filler = self.path.join("filler");
        let mut file = File::create(&filler).unwrap();
        let chunk = vec![1; 1 << 16];
        while file.write_all(&chunk).is_ok() {}
        // The last page too.
        while file.write_all(&[1]).is_ok() {}
        std::thread::sleep(length);
        std::fs::remove_file(filler).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a process that is about to end may still hold a file.
            let _ = Command::new("umount").arg("-l").arg(&self.path).output();
        }
    }
}
