//! Algorithms of convolutions are measured once and remembered, and what a network launches is recorded.

use crate::demonstration::{Desk, small_on_cpu};
use crate::device::{Child, Ended};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const HALF: f64 = 5e-3;
const FILE: &str = "pdac-cascade/convolution-algorithms.json";
const MEASURED: &str = "cudnnFindConvolutionForwardAlgorithmEx";

fn logged(desk: &Desk) -> Child {
    desk.small(&["--device", "cuda"]).device("log")
}

/// Runs to a right result; how often algorithms were measured.
fn measurements(desk: &Desk, child: Child) -> usize {
    let ended: Ended = child.run().succeeded().did_not_say(&["ERROR "]);
    desk.outputs().assert_near(small_on_cpu(), HALF, &ended);
    ended.lines(MEASURED).count()
}

fn remembered(cache: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(cache.join(FILE)).unwrap()).unwrap()
}

#[test]
fn algorithms_are_measured_once() {
    let (cache, desk) = (TempDir::new().unwrap(), Desk::new());
    let run = || measurements(&desk, logged(&desk).with("XDG_CACHE_HOME", cache.path()));
    assert!(run() > 10);
    let first = remembered(cache.path());
    let devices = first["devices"].as_object().unwrap();
    let names: Vec<&String> = devices.keys().collect();
    assert_eq!(names, ["software device 8.6 driver 12.4 cuDNN 91002 f16"]);
    let bytes = desk.bytes();
    assert_eq!(run(), 0, "measured again");
    assert_eq!(remembered(cache.path()), first);
    assert_eq!(desk.bytes(), bytes, "a remembered algorithm gives other bytes");

    fs::write(cache.path().join(FILE), "{\"devices\": [").unwrap();
    assert!(run() > 10, "from a ruined file nothing is remembered");
    assert_eq!(remembered(cache.path())["devices"].as_object().unwrap().len(), 1);
}

#[test]
fn a_cache_that_cannot_be_used_is_no_error() {
    let (cache, desk) = (TempDir::new().unwrap(), Desk::new());
    // A file where the folder should be: also the superuser cannot write below it.
    let file = cache.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(measurements(&desk, logged(&desk).with("XDG_CACHE_HOME", &file)) > 10);
    let closed = cache.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    assert!(measurements(&desk, logged(&desk).with("XDG_CACHE_HOME", &closed)) > 10);
    assert!(measurements(&desk, logged(&desk).without("XDG_CACHE_HOME").without("HOME")) > 10);
}

/// With little memory there are several batches of one size, of which the second is recorded.
#[test]
fn batches_of_one_size_are_replayed() {
    let desk = Desk::new();
    let ended = desk.small(&["--device", "cuda"]).device("log,memory=12000000").run().succeeded();
    desk.outputs().assert_near(small_on_cpu(), HALF, &ended);
    let count = |text: &str| ended.lines(text).filter(|line| line.ends_with("-> 0")).count();
    let (recorded, launched) = (count("cuGraphInstantiate"), count("cuGraphLaunch"));
    eprintln!("measured: {recorded} graphs recorded, {launched} times launched");
    assert!(recorded > 0 && launched > recorded, "{recorded} graphs, {launched} launches");
}
