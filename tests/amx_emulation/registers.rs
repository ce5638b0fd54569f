//! Configuration, addressing and tile state.

#![expect(unsafe_code, reason = "the instructions under test")]

use crate::emulator::{Amx, provide};
use crate::sequences::{Config, GAP, Rows, release};
use std::arch::asm;
use std::sync::Barrier;

/// Rows of different bytes, as far as there are so many.
fn numbered(rows: usize, row_bytes: usize) -> Vec<Vec<u8>> {
    (0..rows).map(|r| (0..row_bytes).map(|c| (r * row_bytes + c) as u8 ^ (r as u8) << 3).collect()).collect()
}

#[test]
fn the_configuration_is_stored_as_it_was_loaded() {
    if provide() == Amx::Absent {
        return;
    }
    let config = Config::of(&[(16, 64), (1, 4), (3, 12), (16, 2), (7, 63), (1, 1), (2, 2), (5, 20)]);
    config.load();
    assert_eq!(Config::stored(), config);
    release();
    assert_eq!(Config::stored(), Config([0; 64]));
    config.load();
    Config([0; 64]).load();
    assert_eq!(Config::stored(), Config([0; 64]), "palette 0 is no configuration");
}

#[test]
fn a_tile_is_stored_as_it_was_loaded_and_configuring_clears_it() {
    if provide() == Amx::Absent {
        return;
    }
    for (rows, row_bytes) in [(16, 64), (1, 4), (3, 60), (16, 8), (7, 20)] {
        let from = Rows::new(&numbered(rows, row_bytes), 9);
        let mut copies = [(); 3].map(|()| Rows::new(&vec![vec![GAP; row_bytes]; rows], 30));
        let [loaded, zeroed, configured] = copies.each_mut().map(|copy| copy.bytes.as_mut_ptr());
        let config = Config::of(&[
            (2, 2),
            (2, 2),
            (2, 2),
            (2, 2),
            (2, 2),
            (2, 2),
            (2, 2),
            (rows as u8, row_bytes as u16),
        ]);
        // SAFETY: tile 7 is configured with the shape of these matrices.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm7, [{from} + {from_stride}]",
                "tilestored [{loaded} + {stride}], tmm7",
                "tilezero tmm7",
                "tilestored [{zeroed} + {stride}], tmm7",
                "tileloadd tmm7, [{from} + {from_stride}]",
                "ldtilecfg [{config}]",
                "tilestored [{configured} + {stride}], tmm7",
                "tilerelease",
                config = in(reg) &config,
                from = in(reg) from.bytes.as_ptr(), from_stride = in(reg) from.stride,
                loaded = in(reg) loaded, zeroed = in(reg) zeroed, configured = in(reg) configured,
                stride = in(reg) copies[0].stride,
                out("tmm7") _,
                options(nostack),
            );
        }
        for (copy, what) in copies.iter().zip(["loaded", "zeroed", "configured"]) {
            for row in 0..rows {
                let expected = if what == "loaded" { from.row(row, row_bytes) } else { &vec![0; row_bytes] };
                assert_eq!(
                    copy.row(row, row_bytes),
                    expected,
                    "{what}: row {row} of {rows} × {row_bytes} bytes"
                );
                assert!(
                    copy.row(row, copy.stride)[row_bytes..].iter().all(|&b| b == GAP),
                    "{what}: behind row {row}"
                );
            }
        }
    }
}

/// Loads two rows of 4 bytes as the operand says and returns them.
macro_rules! load_two_rows {
    ($operand:literal, $($register:tt = $value:expr),*) => {{
        let config = Config::of(&[(2, 4)]);
        let mut got = [0u8; 8];
        // SAFETY: the operand names two rows of four bytes of a live array.
        unsafe {
            asm!(
                "ldtilecfg [rax]",
                concat!("tileloadd tmm0, ", $operand),
                "mov eax, 4",
                "tilestored [rdx + rax], tmm0",
                "tilerelease",
                inout("rax") &config => _,
                in("rdx") got.as_mut_ptr(),
                $(in($register) $value,)*
                out("tmm0") _,
            );
        }
        got
    }};
}

#[test]
fn every_way_to_address_memory_is_understood() {
    if provide() == Amx::Absent {
        return;
    }
    let bytes: Vec<u8> = (0..1024).map(|i| (i % 251) as u8).collect();
    let at = |first: usize, second: usize| {
        let mut rows = [0; 8];
        rows[..4].copy_from_slice(&bytes[first..first + 4]);
        rows[4..].copy_from_slice(&bytes[second..second + 4]);
        rows
    };
    let from = |n: usize| bytes[n..].as_ptr();
    let middle = from(512);
    let stride = |n: isize| n;
    assert_eq!(load_two_rows!("[rcx + rsi]", "rcx" = middle, "rsi" = stride(7)), at(512, 519));
    assert_eq!(load_two_rows!("[rcx + rsi*2]", "rcx" = middle, "rsi" = stride(7)), at(512, 526));
    assert_eq!(load_two_rows!("[rdi + r8*4]", "rdi" = middle, "r8" = stride(-7)), at(512, 484));
    assert_eq!(load_two_rows!("[r9 + r10*8 + 100]", "r9" = middle, "r10" = stride(3)), at(612, 636));
    assert_eq!(load_two_rows!("[r11 + r12 - 128]", "r11" = middle, "r12" = stride(40)), at(384, 424));
    assert_eq!(load_two_rows!("[r12 + r13 + 300]", "r12" = middle, "r13" = stride(1)), at(812, 813));
    assert_eq!(load_two_rows!("[r13 + r14 - 400]", "r13" = middle, "r14" = stride(60)), at(112, 172));
    assert_eq!(load_two_rows!("[r14 + r15*2]", "r14" = middle, "r15" = stride(50)), at(512, 612));
    assert_eq!(load_two_rows!("[r15 + rcx]", "r15" = middle, "rcx" = stride(-512)), at(512, 0));
    assert_eq!(load_two_rows!("[rsi + rdi*1 + 128]", "rsi" = middle, "rdi" = stride(2)), at(640, 642));
    assert_eq!(load_two_rows!("[r8 + r9 + 127]", "r8" = middle, "r9" = stride(2)), at(639, 641));
    assert_eq!(load_two_rows!("[r10 + r11]", "r10" = middle, "r11" = stride(0)), at(512, 512));
    // Without an index all rows are the same.
    assert_eq!(load_two_rows!("[rcx + riz]", "rcx" = middle), at(512, 512));
    // Rust does not let RBP and RBX be named as operands.
    assert_eq!(
        load_two_rows!(
            "[rcx + r8]\npush rbp\nmov rbp, rcx\ntileloadd tmm0, [rbp + r8 + 4]\npop rbp",
            "rcx" = middle,
            "r8" = stride(9)
        ),
        at(516, 525)
    );
    assert_eq!(
        load_two_rows!(
            "[rcx + r8]\npush rbx\nmov rbx, r8\ntileloadd tmm0, [rcx + rbx*2]\npop rbx",
            "rcx" = middle,
            "r8" = stride(9)
        ),
        at(512, 530)
    );
}

#[test]
fn a_configuration_is_read_from_the_stack_from_code_and_by_index() {
    if provide() == Amx::Absent {
        return;
    }
    let config = Config::of(&[(3, 8), (4, 16)]);
    let quarter = &raw const config as usize / 4;
    // SAFETY: each operand names the 64 bytes of the configuration or of a copy of it.
    unsafe {
        asm!(
            "sub rsp, 64",
            "vmovups zmm0, [{config}]",
            "vmovups [rsp], zmm0",
            "ldtilecfg [rsp]",
            "add rsp, 64",
            config = in(reg) &config, out("xmm0") _,
        );
        assert_eq!(Config::stored(), config, "from the stack");
        release();
        asm!("ldtilecfg [{quarter}*4]", quarter = in(reg) quarter, options(nostack));
        assert_eq!(Config::stored(), config, "by index alone");
        release();
        asm!("ldtilecfg [{half} + {half}]", half = in(reg) quarter * 2, options(nostack));
        assert_eq!(Config::stored(), config, "base and index");
        asm!("ldtilecfg [rip + {}]", sym OF_THE_PROGRAM, options(nostack));
        assert_eq!(Config::stored(), OF_THE_PROGRAM, "relative to the next instruction");
    }
    release();
}

/// One tile of 2 rows, 4 bytes each.
static OF_THE_PROGRAM: Config = {
    let mut bytes = [0; 64];
    (bytes[0], bytes[16], bytes[48]) = (1, 4, 2);
    Config(bytes)
};

#[test]
fn every_thread_has_its_own_tiles() {
    if provide() == Amx::Absent {
        return;
    }
    let barrier = Barrier::new(3);
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let barrier = &barrier;
            scope.spawn(move || {
                let config = Config::of(&[(thread + 1, 4)]);
                barrier.wait();
                config.load();
                barrier.wait();
                assert_eq!(Config::stored(), config);
                if thread == 1 {
                    release();
                }
                barrier.wait();
                assert_eq!(Config::stored(), if thread == 1 { Config([0; 64]) } else { config });
                release();
            });
        }
    });
}
