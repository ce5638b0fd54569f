//! The whole program on the GPU: `run`, `self-check` and `serve`.

use crate::demonstration::{Desk, expected, input, small_weights};
use crate::device::{Child, Ended};
use pdac_cascade::ops::Arithmetic;

/// Likelihood that may differ, by precision.
const PRECISIONS: [(&str, f64); 2] = [("f16", 5e-3), ("f32", 1e-3)];

#[test]
fn the_demonstration_case_gives_the_expected_outputs() {
    for (precision, tolerance) in PRECISIONS {
        let desk = Desk::new();
        let arguments = ["--device", "cuda", "--precision", precision];
        let ended = desk.whole(&arguments).run().succeeded().did_not_say(&["ERROR ", "on the CPU"]);
        let ended = ended.said(&["computing on GPU 0: software device", &format!("cuda {precision}")]);
        desk.outputs().assert_near(&expected(), tolerance, &ended);
        let (output, input) = (desk.output(), input());
        let folders = [output.to_str().unwrap(), input.to_str().unwrap()];
        let valid = ["validate", "--output", folders[0], "--input", folders[1]];
        let valid = if precision == "f32" {
            Child::program(&[&valid[..], &["--expected", "test_output"]].concat())
        } else {
            Child::program(&valid)
        };
        let valid = valid.run().succeeded();
        assert!(valid.out.ends_with("valid\n"), "{}", valid.out);
        eprintln!("measured: {precision}: {}", valid.out.trim().replace('\n', "; "));
    }
}

/// Late and early, with guards checked or not, and again: always the same bytes.
#[test]
fn outputs_are_the_same_bytes_however_late_work_is_done() {
    let run = |settings: &str| {
        let desk = Desk::new();
        desk.small(&["--device", "cuda"]).device(settings).run().succeeded();
        desk.bytes()
    };
    let first = run("");
    for settings in ["", "lazy", "check-guards", "lazy,check-guards", "threads=1"] {
        assert!(run(settings) == first, "{settings}: other bytes");
    }
}

/// The lines of a self-check with `N` for numbers.
fn redacted(out: &str) -> String {
    let out = out.replace(&format!(" {}, ", Arithmetic::detect()), " ARITHMETIC, ");
    let mut text = String::new();
    let mut characters = out.chars().peekable();
    while let Some(c) = characters.next() {
        if !c.is_ascii_digit() {
            text.push(c);
            continue;
        }
        while characters.next_if(|&c| c.is_ascii_digit() || ".e-".contains(c)).is_some() {}
        text.push('N');
    }
    text
}

#[test]
fn a_self_check_compares_gpu_and_cpu() {
    let ended = self_check(&["--device", "cuda"]);
    assert_eq!(redacted(&ended.out), SELF_CHECK);
    let ended = self_check(&["--device", "cpu"]);
    let end = "GPU         none is used: it is not asked for\npassed      on the CPU alone\n";
    assert!(ended.out.ends_with(end), "{}", ended.out);
}

fn self_check(arguments: &[&str]) -> Ended {
    let weights = small_weights().to_str().unwrap();
    let command = ["self-check", "--threads", "2", "--quiet", "--weights", weights];
    Child::program(&[&command, arguments].concat()).run().succeeded()
}

/// What [`redacted`] leaves of a self-check.
const SELF_CHECK: &str = "\
program     pdac-cascade N
case        synthetic CT, [N, N, N] voxels (x, y, z)
CPU         ARITHMETIC, N threads: N s, likelihood N, lesion candidates: N
device      software device, compute capability N
memory      N MB
driver      for CUDA N
libraries   cuDNN N; kernels as machine code
GPU         fN, first run: N s, likelihood N, lesion candidates: N
GPU         fN, later run: N s, likelihood N, lesion candidates: N
deviation   likelihood N (allowed N)
            lesion labels N in N,N (allowed N)
            lesion candidates N and N, regions the same
passed
";
