//! What the operating system lets this process have: processors and memory, as far as Linux and its control groups
//! (version 1 and 2, also mixed) tell. A file that is missing or not understood means no limit.
//!
//! The standard library's `available_parallelism` rounds a container's quota of 1.5 processors down to one thread,
//! which then leaves a third of the quota unused, and it knows nothing of memory; so the files are read here.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

/// The folder for what may be lost and is better kept: the user's cache folder, where there is one.
pub fn cache_folder() -> Option<PathBuf> {
    let folder = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|f| f.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("pdac-cascade"))
}

/// The system whose files lie under a folder.
pub struct System<'a> {
    root: &'a str,
}

/// This machine.
pub const HERE: System<'static> = System { root: "/" };

/// Version of a control group's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl System<'_> {
    /// Threads worth starting: one for every processor that may be used, but no more than the quota keeps busy.
    pub fn threads(&self) -> usize {
        let status = self.read(Path::new("/proc/self/status"));
        let allowed = status.as_deref().and_then(allowed_cpus);
        let allowed = allowed.or_else(|| available_parallelism().ok().map(Into::into));
        threads(allowed.unwrap_or(1), self.cpu_quota())
    }

    /// Bytes that may still be taken before the system or a control group would have to take them from others.
    pub fn available_memory(&self) -> Option<u64> {
        let meminfo = self.read(Path::new("/proc/meminfo"));
        let host = meminfo.as_deref().and_then(|text| memory_field(text, "MemAvailable:"));
        let groups = self.groups("memory").into_iter().filter_map(|(version, folder)| {
            let [limit, usage, cache] = match version {
                Version::V1 => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
                Version::V2 => ["memory.max", "memory.current", "inactive_file"],
            };
            let stat = self.read(&folder.join("memory.stat")).unwrap_or_default();
            room(&self.read(&folder.join(limit))?, &self.read(&folder.join(usage))?, &stat, cache)
        });
        groups.chain(host).chain(self.own_limits()).min()
    }

    /// Bytes that the process's own limits (`RLIMIT_DATA`, `RLIMIT_AS`) leave. They count what is reserved; what of it was
    /// not written to yet counts as left all the same, as it does for the other limits.
    fn own_limits(&self) -> Option<u64> {
        let limits = self.read(Path::new("/proc/self/limits"))?;
        let status = self.read(Path::new("/proc/self/status"))?;
        let rooms = [("Max data size", "VmData:"), ("Max address space", "VmSize:")];
        rooms.into_iter().filter_map(|(limit, reserved)| own_room(&limits, limit, &status, reserved)).min()
    }

    /// Processors' worth of time that the control groups grant.
    fn cpu_quota(&self) -> Option<f64> {
        let quotas = self.groups("cpu").into_iter().filter_map(|(version, folder)| match version {
            Version::V1 => {
                let quota = self.read(&folder.join("cpu.cfs_quota_us"))?;
                quota_of(&format!("{quota} {}", self.read(&folder.join("cpu.cfs_period_us"))?))
            }
            Version::V2 => quota_of(&self.read(&folder.join("cpu.max"))?),
        });
        quotas.reduce(f64::min)
    }

    /// Folders of the control groups, with their ancestors, whose limits of a resource hold for this process.
    fn groups(&self, controller: &str) -> Vec<(Version, PathBuf)> {
        let membership = self.read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let mounts = self.read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
        groups(controller, &membership, &mounts)
    }

    fn read(&self, path: &Path) -> Option<String> {
        fs::read_to_string(Path::new(self.root).join(path.strip_prefix("/").unwrap_or(path))).ok()
    }
}

/// Threads for so many processors and a quota; a fraction of a processor is worth a thread.
fn threads(allowed: usize, quota: Option<f64>) -> usize {
    quota.map_or(allowed, |quota| allowed.min(quota.ceil() as usize)).max(1)
}

/// Processors in `Cpus_allowed_list` of `/proc/self/status`, such as `0-3,8`.
fn allowed_cpus(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.trim().split(',').map(count).sum()
}

/// A field of `/proc/meminfo` or `/proc/self/status`, such as `MemAvailable:`, in bytes.
pub fn memory_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Memory that is needed beside what is asked for: the allocator's own, and stack and scratch of each thread.
const OWN: u64 = 16 << 20;
const OF_A_THREAD: u64 = 3 << 20;

/// What a soft limit of `/proc/self/limits` on a field of `/proc/self/status` leaves.
fn own_room(limits: &str, limit: &str, status: &str, reserved: &str) -> Option<u64> {
    let soft = limits.lines().find_map(|l| l.strip_prefix(limit))?.split_whitespace().next()?;
    let field = |name| memory_field(status, name);
    let threads: u64 = status.lines().find_map(|l| l.strip_prefix("Threads:"))?.trim().parse().ok()?;
    let written = field("RssAnon:")? + field("VmSwap:").unwrap_or(0);
    let to_be_written = field("VmData:")?.saturating_sub(written);
    let own = OWN + OF_A_THREAD * threads;
    Some((soft.parse::<u64>().ok()?.saturating_add(to_be_written)).saturating_sub(field(reserved)? + own))
}

/// Processors from a quota and a period in microseconds; `max` and negative quotas are none.
fn quota_of(text: &str) -> Option<f64> {
    let mut numbers = text.split_whitespace().map(|n| n.parse::<f64>().ok().filter(|n| *n > 0.0));
    Some(numbers.next()?? / numbers.next()??)
}

/// Bytes left in a memory group; the file cache that is not in use would be given up first and counts as free.
fn room(limit: &str, usage: &str, stat: &str, cache: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let usage: u64 = usage.trim().parse().ok()?;
    let mut lines = stat.lines().filter_map(|l| l.split_once(' '));
    let cache = lines.find(|(name, _)| *name == cache).and_then(|(_, n)| n.trim().parse().ok());
    Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
}

/// Folders of the groups of `controller` from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`: the
/// process's own first, then its ancestors up to the mount point.
///
/// Inside a container the membership may name a folder of the host; the mount point itself is the container's group.
fn groups(controller: &str, membership: &str, mounts: &str) -> Vec<(Version, PathBuf)> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version = match controllers {
            "" => Version::V2,
            list if list.split(',').any(|c| c == controller) => Version::V1,
            _ => continue,
        };
        for (root, mount_point) in mounts.lines().filter_map(|l| mount(l, version, controller)) {
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            let ancestors = below.ancestors().map(|p| (version, Path::new(mount_point).join(p)));
            found.extend(ancestors);
        }
    }
    found
}

/// Root and mount point of a line of `mountinfo` (`proc_pid_mountinfo(5)`), if it mounts the wanted groups.
fn mount<'a>(line: &'a str, version: Version, controller: &str) -> Option<(&'a str, &'a str)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (file_system, options) = (kind.next()?, kind.nth(1)?);
    let wanted = match version {
        Version::V1 => file_system == "cgroup" && options.split(',').any(|o| o == controller),
        Version::V2 => file_system == "cgroup2",
    };
    let mut place = place.split(' ').skip(3);
    wanted.then_some((place.next()?, place.next()?))
}

#[cfg(test)]
mod tests;
