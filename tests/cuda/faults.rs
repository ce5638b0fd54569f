//! What can be wrong with a GPU, its driver and its libraries: with `--device auto` the CPU computes and one line says why, with
//! `--device cuda` the program ends with code 8; a device that is lost ends it either way.

use crate::demonstration::{Desk, small_on_cpu};
use crate::device::{Child, Ended, software_device, without_library};
use std::path::Path;

/// Likelihood, float16 on the GPU.
const HALF: f64 = 5e-3;
const UNUSED: &str = "no GPU is used: ";

/// A folder of libraries, settings of the device, and the reason that is given.
type Fault<'a> = (&'a Path, &'a str, &'a str);

fn run(desk: &Desk, (libraries, settings, _): Fault<'_>, arguments: &[&str]) -> Ended {
    desk.small(arguments).libraries(libraries).device(settings).run()
}

/// The last line is an error and the only one.
#[track_caller]
fn assert_one_error(ended: &Ended, text: &str) {
    let errors: Vec<&str> = ended.lines("ERROR ").collect();
    assert_eq!(errors.len(), 1, "{}", ended.log);
    assert!(errors[0].contains(text) && ended.log.lines().last() == Some(errors[0]), "{}", ended.log);
}

/// The CPU computes with one word about it, unless the GPU is demanded.
fn check(fault: Fault<'_>) {
    let desk = Desk::new();
    let ended = run(&desk, fault, &[]).succeeded();
    assert_eq!(ended.lines(UNUSED).count(), 1, "{}", ended.log);
    let ended = ended.said(&[&format!("{UNUSED}{}", fault.2), "computing on the CPU"]);
    desk.outputs().assert_near(small_on_cpu(), 1e-6, &ended);
    let desk = Desk::new();
    let ended = run(&desk, fault, &["--device", "cuda"]).ended_with(8);
    assert_one_error(&ended, &format!("--device cuda: {}", fault.2));
    assert!(desk.names().is_empty());
}

#[test]
fn without_a_library_the_cpu_computes() {
    let none = tempfile::tempdir().unwrap();
    check((none.path(), "", "libcuda.so.1 cannot be opened: there is no NVIDIA driver"));
    for (name, reason) in [
        ("libcuda", "libcuda.so.1 cannot be opened"),
        ("libcublas", "libcublas.so.12 cannot be opened"),
        ("libcurand", "libcurand.so.10 cannot be opened"),
        ("libcudnn", "libcudnn.so.9 cannot be opened: install it for CUDA 12, or set LD_LIBRARY_PATH"),
    ] {
        check((without_library(name).path(), "", reason));
    }
}

#[test]
fn with_a_gpu_that_cannot_be_used_the_cpu_computes() {
    for (settings, reason) in [
        ("cudnn=8", "cuDNN is version 8.9.2, expected 9"),
        ("devices=0", "the driver finds no GPU ("),
        // A convolution is tried when the device is opened.
        ("lost-at=1", "GPU: "),
        ("busy", "GPU 0 is in use by another process alone, or closed to computing"),
        (
            "no-binary,no-ptx",
            "the kernels cannot be loaded by the driver for CUDA 12.4 on a GPU of compute capability 8.6: ",
        ),
    ] {
        check((software_device(), settings, reason));
    }
}

#[test]
fn other_drivers_and_their_compiler_give_the_same() {
    let whole = [
        ("no-binary", "kernels as PTX"),
        ("driver=11040", "driver for CUDA 11.4"),
        ("capability=120", "compute capability 12.0"),
        ("conv-unsupported=1", "kernels as machine code"),
    ];
    for (settings, text) in whole {
        let desk = Desk::new();
        let ended = run(&desk, (software_device(), settings, ""), &["--device", "cuda"]).succeeded();
        let ended = ended.said(&[text]).did_not_say(&["ERROR ", "on the CPU"]);
        if settings == "no-binary" {
            assert!(ended.says("the GPU's driver does not take the machine code"), "{}", ended.log);
        }
        desk.outputs().assert_near(small_on_cpu(), HALF, &ended);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_said() {
    let desk = Desk::new();
    let ended = run(&desk, (software_device(), "", ""), &["--device", "cuda:1"]).ended_with(8);
    assert_one_error(&ended, "--device cuda: there is no GPU number 1, the driver finds 1");
    assert!(desk.names().is_empty());
}

/// A device that is lost is neither silently left for the CPU nor are there outputs.
#[test]
fn a_lost_gpu_ends_the_program() {
    for (device, launches) in [("auto", &[4, 5, 33][..]), ("cuda", &[60, 100, 150])] {
        for number in launches {
            let desk = Desk::new();
            let settings = format!("memory=60000000,lost-at={number}");
            let ended = run(&desk, (software_device(), &settings, ""), &["--device", device]).ended_with(8);
            assert_one_error(&ended, "GPU: ");
            ended.did_not_say(&["on the CPU", "panicked"]);
            assert!(desk.names().is_empty(), "{settings}: {:?}", desk.names());
        }
    }
    let desk = Desk::new();
    let ended = run(&desk, (software_device(), "lost-at=1000000", ""), &[]).succeeded();
    desk.outputs().assert_near(small_on_cpu(), HALF, &ended);
}

#[test]
fn arguments_that_do_not_fit_are_said() {
    let ended = Child::program(&["run", "--device", "gpu"]).run().ended_with(2);
    ended.said(&["expected auto, cpu, cuda or cuda:N"]);
    let desk = Desk::new();
    let ended = desk.small(&["--precision", "bf16"]).run().succeeded();
    assert_eq!(ended.lines("WARN --precision bf16: the GPU's networks are float16 or float32").count(), 1);
    desk.outputs().assert_near(small_on_cpu(), HALF, &ended);
    let ended = desk.small(&["--precision", "f16", "--device", "cpu"]).run().succeeded();
    assert_eq!(ended.lines("WARN --precision f16: for GPUs, computing in float32").count(), 1);
    desk.outputs().assert_near(small_on_cpu(), 1e-6, &ended);
}
