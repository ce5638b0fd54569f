//! The signal handler: decodes the instruction at the program counter, does to this thread's tiles and to memory what the
//! processor would have done, and goes on behind it.
//!
//! A processor raises an invalid-opcode exception for instructions it lacks, which Linux delivers as SIGILL to the thread.
//! Nothing in here allocates or locks. An instruction that is not known here goes to whoever handled SIGILL before; what a
//! processor with AMX would refuse too ends the process with a line on standard error.

#![expect(unsafe_code, reason = "acts on registers and memory as a processor does")]

use super::instruction::{Base, Instruction, LONGEST, Memory, Register, SHORTEST, VEX, decode};
use super::tiles::{CONFIG_BYTES, Fault, Tiles};
use std::cell::UnsafeCell;
use std::sync::OnceLock;

/// Who handled SIGILL before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

thread_local! {
    // Constant and without a destructor: the first access allocates nothing.
    static TILES: UnsafeCell<Tiles> = const { UnsafeCell::new(Tiles::UNCONFIGURED) };
}

/// Handles SIGILL from now on, once a process.
pub fn install() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_invalid_opcode;
    // SAFETY: both structures live across the calls, all-zero is a valid `sigaction`, and the handler has the signature that
    // SA_SIGINFO asks for. The previous action is kept before the handler can run.
    unsafe {
        let mut previous: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGILL, std::ptr::null(), &raw mut previous), 0);
        assert!(PREVIOUS.set(previous).is_ok(), "installed once");
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&raw mut action.sa_mask);
        assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn on_invalid_opcode(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the interrupted thread's context, which nobody else has.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let program_counter = registers[libc::REG_RIP as usize] as *const u8;
    let Some((instruction, length)) = decode(&code_at(program_counter)) else {
        hand_on();
        return;
    };
    registers[libc::REG_RIP as usize] += length as i64;
    let done = TILES.with(|tiles| {
        // SAFETY: the tiles belong to this thread, which was interrupted inside an AMX instruction, not inside this handler,
        // whose code has none. AVX-512 is there, or the handler would not have been installed. The memory that
        // the instruction names is the interrupted code's to answer for, as it is on a processor.
        unsafe { execute(instruction, &mut *tiles.get(), registers) }
    });
    if let Err(fault) = done {
        refuse(fault);
    }
}

/// The bytes at the program counter; none of the next page unless the instruction reaches into it.
fn code_at(program_counter: *const u8) -> [u8; LONGEST] {
    const PAGE: usize = 4096;
    let mut code = [0; LONGEST];
    let in_page = PAGE - program_counter as usize % PAGE;
    let first = in_page.min(LONGEST);
    // SAFETY: the processor fetched an instruction here, so the page is readable; the next one is read only where
    // the instruction reaches into it, so that the processor has fetched from it too.
    unsafe {
        std::ptr::copy_nonoverlapping(program_counter, code.as_mut_ptr(), first);
        let unsure = code[0] == VEX && first < SHORTEST;
        if unsure || decode(&code).is_some_and(|(_, length)| length > first) {
            std::ptr::copy_nonoverlapping(
                program_counter.add(first),
                code[first..].as_mut_ptr(),
                LONGEST - first,
            );
        }
    }
    code
}

/// Gives the signal back: the instruction is run again and meets the previous action.
fn hand_on() {
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: the structure was filled by the same call.
        unsafe { libc::sigaction(libc::SIGILL, previous, std::ptr::null_mut()) };
    }
}

/// Ends the process as an exception of the processor would.
fn refuse(fault: Fault) {
    // SAFETY: both calls may be made in a signal handler; the texts outlive them.
    unsafe {
        for text in ["AMX emulation: ", fault, "\n"] {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len());
        }
        libc::abort();
    }
}

type Registers = [libc::greg_t; 23];

/// Does what one instruction does; the program counter already points behind it.
///
/// # Safety
/// The processor must have AVX-512 F, and the memory operand must be what the instruction needs.
unsafe fn execute(instruction: Instruction, tiles: &mut Tiles, registers: &Registers) -> Result<(), Fault> {
    match instruction {
        Instruction::LoadConfig(from) => {
            let from = row_address(from, 1, registers) as *const [u8; CONFIG_BYTES];
            // SAFETY: the caller's promise.
            tiles.configure(&unsafe { from.read_unaligned() })?;
        }
        Instruction::StoreConfig(to) => {
            let to = row_address(to, 1, registers) as *mut [u8; CONFIG_BYTES];
            // SAFETY: the caller's promise.
            unsafe { to.write_unaligned(*tiles.config()) };
        }
        Instruction::Release => tiles.release(),
        Instruction::Zero { tile } => tiles.zero(tile)?,
        Instruction::Load { tile, from } => {
            let (rows, row_bytes) = tiles.shape_in_pairs(tile)?;
            tiles.zero(tile)?;
            for row in 0..rows {
                let from = row_address(from, row, registers) as *const u8;
                let to = tiles.row_mut(tile, row, row_bytes);
                // SAFETY: the source is the caller's promise; the row has that many bytes.
                unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), row_bytes) };
            }
        }
        Instruction::Store { tile, to } => {
            let (rows, row_bytes) = tiles.shape_in_pairs(tile)?;
            for row in 0..rows {
                let from = tiles.row(tile, row, row_bytes);
                let to = row_address(to, row, registers) as *mut u8;
                // SAFETY: the destination is the caller's promise; the row has that many bytes.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, row_bytes) };
            }
        }
        Instruction::MultiplyBf16 { sum, left, right } => {
            // SAFETY: the caller's promise.
            unsafe { tiles.multiply_bf16(sum, left, right)? };
        }
    }
    Ok(())
}

/// Address of a row of a tile in memory: the scaled index is the distance between rows, and with `row` 1 the address
/// of everything that is not a tile.
fn row_address(memory: Memory, row: usize, registers: &Registers) -> i64 {
    let base = match memory.base {
        Base::Register(number) => value(number, registers),
        Base::NextInstruction => registers[libc::REG_RIP as usize],
        Base::Nothing => 0,
    };
    let index = memory.index.map_or(0, |number| value(number, registers) << memory.scale);
    base.wrapping_add(memory.displacement.into()).wrapping_add(index.wrapping_mul(row as i64))
}

fn value(number: Register, registers: &Registers) -> i64 {
    use libc::*;
    const IN_ORDER: [c_int; 16] = [
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10,
        REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
    ];
    registers[IN_ORDER[usize::from(number)] as usize]
}
