//! The default number of threads under a real CPU quota, where this process may make control groups.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group of version 1 for processors, removed again when dropped.
struct Group(PathBuf);

impl Group {
    /// `None`, said on standard error, where there are no such groups or none may be made.
    fn new() -> Option<Self> {
        let name = format!("pdac-cascade-test-{}", std::process::id());
        let folder = Path::new("/sys/fs/cgroup/cpu").join(name);
        let made = fs::create_dir(&folder).is_ok() && folder.join("cpu.cfs_quota_us").is_file();
        if !made {
            let _removed = fs::remove_dir(&folder);
            let _unwritable = writeln!(std::io::stderr(), "skipped: no control group can be made");
            return None;
        }
        Some(Self(folder))
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _busy = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_quota_decides_the_number_of_threads() {
    let Some(group) = Group::new() else { return };
    let processors = std::thread::available_parallelism().unwrap().get();
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir_all(empty.path().join("images/venous-ct")).unwrap();
    for (quota, expected) in [("50000", 1), ("100000", 1), ("150000", 2), ("-1", processors)] {
        group.write("cpu.cfs_period_us", "100000");
        group.write("cpu.cfs_quota_us", quota);
        let join_and_run = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        let done = Command::new("sh")
            .args(["-c", join_and_run])
            .arg(&group.0)
            .arg(assert_cmd::cargo::cargo_bin("pdac-cascade"))
            .args(["--output", "/dev/null", "--input"])
            .arg(empty.path())
            .output()
            .unwrap();
        let text = String::from_utf8(done.stderr).unwrap();
        let line = format!("threads={} ", expected.min(processors));
        assert!(text.contains(&line), "quota {quota}: {line:?} is not in:\n{text}");
    }
}
