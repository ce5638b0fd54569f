//! What a processor refuses ends the process, and what is no tile instruction is not swallowed.

#![expect(unsafe_code, reason = "the instructions under test")]

use crate::emulator::{Amx, provide};
use crate::sequences::Config;
use std::arch::asm;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Names one of [`FAULTS`] in a child process.
const VARIABLE: &str = "AMX_FAULT";

/// What is done, whether a processor refuses it, and how.
const FAULTS: [(&str, bool, fn()); 17] = [
    ("a good configuration", false, || with(|_| {}).load()),
    ("palette 2", true, || with(|c| c[0] = 2).load()),
    ("a reserved byte before the rows' lengths", true, || with(|c| c[15] = 1).load()),
    ("a ninth tile", true, || with(|c| c[32] = 1).load()),
    ("a reserved byte at the end", true, || with(|c| c[63] = 1).load()),
    ("17 rows", true, || with(|c| c[48] = 17).load()),
    ("rows of 65 bytes", true, || with(|c| c[16] = 65).load()),
    ("rows of 256 bytes", true, || with(|c| (c[16], c[17]) = (0, 1)).load()),
    ("rows without columns", true, || with(|c| c[51] = 1).load()),
    ("columns without rows", true, || with(|c| c[22] = 1).load()),
    ("a tile before any configuration", true, || {
        // SAFETY: no Rust value lives in a tile.
        unsafe { asm!("tilezero tmm0", out("tmm0") _) }
    }),
    ("a tile that is not configured", true, || {
        with(|_| {}).load();
        // SAFETY: no Rust value lives in a tile.
        unsafe { asm!("tilezero tmm5", out("tmm5") _) }
    }),
    ("a load of rows that are no whole pairs", true, || {
        with(|c| c[16] = 18).load();
        load_one_tile();
    }),
    ("a load of rows that are whole pairs", false, || {
        with(|_| {}).load();
        load_one_tile();
    }),
    ("tiles that do not fit", true, || {
        with(|c| c[49] = 3).load();
        product();
    }),
    ("tiles that fit", false, || {
        with(|_| {}).load();
        product();
    }),
    ("an instruction that is none", true, || {
        // SAFETY: raises the exception that it is for.
        unsafe { asm!("ud2") }
    }),
];

/// Tiles 0, 1 and 2 as a product of 4 × 3 pairs × 5 needs them, then changed.
fn with(change: impl FnOnce(&mut [u8; 64])) -> Config {
    let mut config = Config::of(&[(4, 20), (4, 12), (3, 20)]);
    change(&mut config.0);
    config
}

fn load_one_tile() {
    let bytes = [0u8; 1024];
    // SAFETY: reads at most sixteen rows of 64 bytes; no Rust value lives in a tile.
    unsafe {
        asm!("tileloadd tmm0, [{0} + {1}]", in(reg) bytes.as_ptr(), in(reg) 64usize, out("tmm0") _);
    }
}

fn product() {
    // SAFETY: no Rust value lives in a tile.
    unsafe { asm!("tdpbf16ps tmm0, tmm1, tmm2", out("tmm0") _, out("tmm1") _, out("tmm2") _) }
}

#[test]
#[ignore = "run by the test below, in a process that it may kill"]
fn child() {
    if provide() == Amx::Absent {
        return;
    }
    let Ok(name) = std::env::var(VARIABLE) else { return };
    let (_, _, act) = FAULTS.iter().find(|(n, ..)| *n == name).unwrap();
    act();
}

#[test]
fn what_a_processor_refuses_ends_the_process() {
    let amx = provide();
    if amx == Amx::Absent {
        return;
    }
    for (name, refused, _) in FAULTS {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output =
            child.args(["--ignored", "--exact", "faults::child", "--nocapture"]).env(VARIABLE, name).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let ended = (output.status.code(), output.status.signal());
        match (refused, amx) {
            (false, _) => assert_eq!(ended.0, Some(0), "{name}: {said}"),
            (true, _) if name == "an instruction that is none" => {
                assert_eq!(ended.1, Some(libc::SIGILL), "{name}: {said}");
            }
            (true, Amx::Emulated) => {
                assert_eq!(ended.1, Some(libc::SIGABRT), "{name}: {said}");
                assert!(said.contains("AMX emulation: "), "{name}: {said}");
            }
            (true, _) => {
                assert!(matches!(ended.1, Some(libc::SIGILL | libc::SIGSEGV)), "{name}: {ended:?}, {said}");
            }
        }
    }
}
