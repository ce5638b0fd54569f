use super::*;

const DOCKER_V1: &str = "\
12:memory:/docker/abc
4:cpu,cpuacct:/docker/abc
1:name=systemd:/docker/abc
0::/system.slice/containerd.service";
const DOCKER_V1_MOUNTS: &str = "\
1 0 8:1 / / rw,relatime - overlay overlay rw
30 25 0:26 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:11 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/systemd ro - cgroup systemd rw,xattr,name=systemd";
const V2_MOUNTS: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";

fn paths(found: &[(Version, PathBuf)]) -> Vec<&str> {
    found.iter().map(|(_, p)| p.to_str().unwrap().trim_end_matches('/')).collect()
}

#[test]
fn a_container_of_version_1_sees_its_group_at_the_mount_point() {
    assert_eq!(paths(&groups("cpu", DOCKER_V1, DOCKER_V1_MOUNTS)), ["/sys/fs/cgroup/cpu,cpuacct"]);
    assert_eq!(paths(&groups("memory", DOCKER_V1, DOCKER_V1_MOUNTS)), ["/sys/fs/cgroup/memory"]);
    assert_eq!(groups("memory", DOCKER_V1, DOCKER_V1_MOUNTS)[0].0, Version::V1);
}

#[test]
fn ancestors_limit_too() {
    let found = groups("cpu", "0::/user.slice/job.scope", V2_MOUNTS);
    assert_eq!(
        paths(&found),
        ["/sys/fs/cgroup/user.slice/job.scope", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"]
    );
    assert!(found.iter().all(|(version, _)| *version == Version::V2));
}

#[test]
fn a_membership_outside_the_mount_falls_back_to_the_mount_point() {
    let mounts = V2_MOUNTS.replace(" / /sys", " /kubepods/pod1 /sys");
    assert_eq!(paths(&groups("cpu", "0::/../other", &mounts)), ["/sys/fs/cgroup"]);
    assert_eq!(paths(&groups("cpu", "0::/", &mounts)), ["/sys/fs/cgroup"]);
}

#[test]
fn texts_that_say_nothing_are_no_limit() {
    assert_eq!(groups("cpu", "", ""), []);
    assert_eq!(groups("cpu", "nonsense\n4:cpuset:/", DOCKER_V1_MOUNTS), []);
    assert_eq!(quota_of("max 100000"), None);
    assert_eq!(quota_of("-1\n 100000\n"), None);
    assert_eq!(quota_of("50000"), None);
    assert_eq!(allowed_cpus("Name:\tcat\n"), None);
    assert_eq!(allowed_cpus("Cpus_allowed_list:\t0-x\n"), None);
    assert_eq!(memory_field("MemTotal: 5 kB", "MemAvailable:"), None);
    assert_eq!(room("max\n", "5\n", "", "inactive_file"), None);
    let nowhere = System { root: "/nowhere/at/all" };
    assert_eq!(nowhere.available_memory(), None);
    assert_eq!(nowhere.cpu_quota(), None);
    assert!(nowhere.threads() >= 1);
}

#[test]
fn numbers_are_read() {
    assert_eq!(quota_of("150000 100000\n"), Some(1.5));
    assert_eq!(allowed_cpus("Cpus_allowed:\tf\nCpus_allowed_list:\t0-3,8,10-11\n"), Some(7));
    assert_eq!(memory_field("MemTotal: 9 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12 * 1024));
    assert_eq!(room("1000\n", "700\n", "cache 5\ninactive_file 200\n", "inactive_file"), Some(500));
    assert_eq!(room("1000", "1200", "", "inactive_file"), Some(0));
}

#[test]
fn a_fraction_of_a_processor_is_worth_a_thread() {
    let table = [(8, None, 8), (8, Some(1.5), 2), (8, Some(0.25), 1), (2, Some(16.0), 2), (0, None, 1)];
    for (allowed, quota, expected) in table {
        assert_eq!(threads(allowed, quota), expected, "{allowed} processors, quota {quota:?}");
    }
}

fn write(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

#[test]
fn the_smallest_limit_of_all_groups_holds() {
    let root = tempfile::tempdir().unwrap();
    let group = "sys/fs/cgroup/job";
    write(root.path(), "proc/self/cgroup", "0::/job/part");
    write(root.path(), "proc/self/mountinfo", V2_MOUNTS);
    write(root.path(), "proc/self/status", "Cpus_allowed_list:\t0-15\n");
    write(root.path(), "proc/meminfo", "MemAvailable: 1000 kB\n");
    write(root.path(), &format!("{group}/part/cpu.max"), "900000 100000");
    write(root.path(), &format!("{group}/cpu.max"), "250000 100000");
    write(root.path(), &format!("{group}/part/memory.max"), "max");
    write(root.path(), &format!("{group}/part/memory.current"), "100000");
    let system = System { root: root.path().to_str().unwrap() };
    assert_eq!((system.threads(), system.available_memory()), (3, Some(1_024_000)));
    write(root.path(), &format!("{group}/memory.max"), "500000");
    write(root.path(), &format!("{group}/memory.current"), "400000");
    write(root.path(), &format!("{group}/memory.stat"), "anon 1\ninactive_file 50000\n");
    assert_eq!(system.available_memory(), Some(150_000));
}

#[test]
fn both_versions_may_be_mounted() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "proc/self/cgroup", DOCKER_V1);
    write(root.path(), "proc/self/mountinfo", DOCKER_V1_MOUNTS);
    write(root.path(), "proc/self/status", "Cpus_allowed_list:\t0-7\n");
    write(root.path(), "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "120000\n");
    write(root.path(), "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    write(root.path(), "sys/fs/cgroup/memory/memory.limit_in_bytes", "3000\n");
    write(root.path(), "sys/fs/cgroup/memory/memory.usage_in_bytes", "2000\n");
    write(root.path(), "sys/fs/cgroup/memory/memory.stat", "inactive_file 9\ntotal_inactive_file 10\n");
    let system = System { root: root.path().to_str().unwrap() };
    assert_eq!((system.threads(), system.available_memory()), (2, Some(1010)));
}

#[test]
fn limits_of_the_process_itself_count_what_is_reserved() {
    let limits = "\
Limit                     Soft Limit           Hard Limit           Units
Max data size             1073741824           unlimited            bytes
Max address space         unlimited            unlimited            bytes";
    let status =
        "VmSize:\t  900000 kB\nVmData:\t  409600 kB\nRssAnon:\t  81920 kB\nVmSwap:\t20480 kB\nThreads:\t4\n";
    let room = |limit, reserved| own_room(limits, limit, status, reserved);
    // 1 GiB, less 100 MiB that were written to, less what the process and its threads need.
    assert_eq!(room("Max data size", "VmData:"), Some((1024 - 100 - 16 - 4 * 3) << 20));
    assert_eq!(room("Max address space", "VmSize:"), None);
    assert_eq!(own_room("", "Max data size", status, "VmData:"), None);
}
