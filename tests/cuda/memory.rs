//! Too little memory on the GPU: fewer runs at once, then sums on the host, then the CPU, and the result is the same.

use crate::demonstration::{Desk, small_on_cpu};
use crate::device::{Child, Ended, ROOT, open_gpu};
use crate::golden::{Golden, channels, open_model};
use crate::networks::{largest_difference, options};
use pdac_cascade::nnunet::export::SegmentationRequest;
use pdac_cascade::nnunet::predictor::Predictor;
use pdac_cascade::nnunet::sliding_window::Accumulate;
use std::path::Path;

const FEWER: &str = "tiles at once instead of";
const ON_HOST: &str = "trying again with the sums on the host";
const ON_CPU: &str = "computing on the CPU";
/// Four tiles of two folds, each with four mirrored copies.
const CASE: &str = "tests/golden/nnunet/transpose-masked";
const TILES: usize = 4;
const COPIES: usize = 4;

/// A prediction on a software device with these settings; it must be right.
fn predict(settings: &str) -> Ended {
    let child = Child::inner("memory::a_prediction_in_a_child").with("PDAC_TEST_PRECISION", "f32");
    child.remembering().device(settings).passes()
}

/// Runs of the network that were one batch, in each prediction.
fn batches(ended: &Ended) -> Vec<usize> {
    let number = |line: &str| {
        let digits = line.split("batch=").nth(1).unwrap().split(' ').next().unwrap();
        digits.parse().unwrap()
    };
    ended.lines("tiles and mirrored copies at once").map(number).collect()
}

#[test]
#[ignore = "runs on the software device, as a child of the tests below"]
fn a_prediction_in_a_child() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    log.with_writer(std::io::stderr).init();
    let golden = Golden::open(&Path::new(ROOT).join(CASE));
    let model = open_model(&golden);
    let gpu = open_gpu();
    let predictors =
        [None, Some(gpu)].map(|gpu| Predictor::new(&model, options(gpu, Accumulate::Float32)).unwrap());
    assert_eq!(1 << model.mirroring_axes.len(), COPIES);
    let [on_cpu, on_gpu] = predictors.each_ref().map(|predictor| {
        let (channels, spacing) = channels(&golden);
        let request = SegmentationRequest { probability_of: Some(1), ..Default::default() };
        let done = predictor.segment(channels, spacing, request, &|_| true).unwrap();
        (done.labels, done.probability.unwrap())
    });
    let differing = on_cpu.0.iter().zip(&on_gpu.0).filter(|(a, b)| a != b).count();
    assert!(differing * 10_000 <= on_cpu.0.len(), "{differing} labels differ");
    let (difference, _) = largest_difference(on_gpu.1.as_slice().unwrap(), on_cpu.1.as_slice().unwrap());
    assert!(difference <= 1e-3, "probability differs by {difference}");
}

/// With enough memory nothing is said; with less fewer copies are one batch, down to one.
#[test]
fn less_memory_means_fewer_copies_at_once() {
    for (settings, at_once) in [
        ("memory=60000000", TILES * COPIES),
        ("memory=30000000", 2 * COPIES),
        ("memory=16000000", COPIES),
        // Sums of a tile are continued in the next batch.
        ("memory=10000000", COPIES / 2),
        ("memory=6000000", 1),
        ("memory=10000000,lazy", COPIES / 2),
    ] {
        let ended = predict(settings).did_not_say(&["WARN"]);
        let found = batches(&ended);
        assert_eq!(found, [at_once], "{settings}");
    }
    for settings in ["memory=1000000", "memory=100000"] {
        let ended = predict(settings).said(&[ON_HOST, ON_CPU]);
        assert_eq!(ended.lines("WARN").count(), 2, "{}", ended.log);
    }
}

/// Whichever allocation fails once the device is open, the next smaller setting is enough.
#[test]
fn whichever_allocation_fails_the_result_is_right() {
    let (mut fewer, mut on_host) = (0, 0);
    for number in (12..60).step_by(7).chain([80, 95, 110]) {
        let ended = predict(&format!("memory=60000000,oom-at={number}")).did_not_say(&[ON_CPU]);
        fewer += usize::from(ended.says(FEWER));
        let ended = predict(&format!("memory=6000000,oom-at={number}")).did_not_say(&[FEWER, ON_CPU]);
        on_host += usize::from(ended.says(ON_HOST));
    }
    eprintln!("measured: {fewer} times fewer tiles at once, {on_host} times sums on the host");
    assert!(fewer > 0 && on_host > 0, "{fewer} and {on_host}");
}

/// The whole program, from plenty to nothing.
#[test]
fn the_program_succeeds_with_any_memory() {
    for (settings, says, keeps_silent) in [
        ("memory=100000000", &[][..], &[FEWER, ON_HOST, ON_CPU][..]),
        ("memory=30000000", &[], &[ON_HOST, ON_CPU]),
        ("memory=8000000", &[], &[ON_CPU]),
        ("memory=1000000", &[ON_HOST, ON_CPU], &[]),
        ("memory=100000", &[ON_HOST, ON_CPU], &[]),
        ("memory=60000000,oom-at=20", &[], &[ON_CPU]),
        ("memory=60000000,oom-at=140", &[], &[ON_CPU]),
    ] {
        let desk = Desk::new();
        let ended = desk.small(&["--device", "cuda"]).device(settings).run().succeeded();
        let ended = ended.said(says).did_not_say(keeps_silent);
        desk.outputs().assert_near(small_on_cpu(), 5e-3, &ended);
    }
}
