//! The machine's name.

/// The name of this machine: what the system says, else what the environment says as `HOSTNAME` or
/// `COMPUTERNAME`. The environment comes last, since an image or a unit file may set it for many machines.
pub fn hostname() -> Option<String> {
    let var = |name| std::env::var(name).ok();
    let file = |path| std::fs::read_to_string(path).ok();
    let named = |name: String| Some(name.trim().to_owned()).filter(|name| !name.is_empty());
    file("/proc/sys/kernel/hostname")
        .and_then(named)
        .or_else(|| file("/etc/hostname").and_then(named))
        .or_else(|| var("HOSTNAME").and_then(named))
        .or_else(|| var("COMPUTERNAME").and_then(named))
}
