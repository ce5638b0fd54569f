//! Decoding: bytes of machine code to one of the AMX-BF16 instructions.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, sections 2.1.5 (ModR/M and SIB),
//! 2.3.5 (VEX) and the instructions' own pages.

/// Shortest and longest instruction: VEX (3 bytes), opcode, ModR/M; then SIB and displacement (4).
pub const SHORTEST: usize = 5;
pub const LONGEST: usize = 10;

/// First byte of them all.
pub const VEX: u8 = 0xC4;

/// A general-purpose register by its number in instructions: 0 is RAX, 4 RSP, 15 R15.
pub type Register = u8;

/// What an instruction addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub base: Base,
    pub index: Option<Register>,
    /// Power of two by which the index is multiplied.
    pub scale: u8,
    pub displacement: i32,
}

/// What a memory operand's displacement is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Register(Register),
    /// The address of the next instruction.
    NextInstruction,
    Nothing,
}

/// An instruction; tiles by number, 0 to 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    LoadConfig(Memory),
    StoreConfig(Memory),
    Release,
    Zero {
        tile: usize,
    },
    /// TILELOADD and, with the hint that the data is not read again soon, TILELOADDT1.
    Load {
        tile: usize,
        from: Memory,
    },
    Store {
        tile: usize,
        to: Memory,
    },
    /// `sum += left · right`
    MultiplyBf16 {
        sum: usize,
        left: usize,
        right: usize,
    },
}

/// The instruction at the start of `code` and its length in bytes; `None` if it is none of ours.
pub fn decode(code: &[u8; LONGEST]) -> Option<(Instruction, usize)> {
    let [VEX, inverted, width, opcode, modrm, ..] = *code else { return None };
    let (map, w, length_bit, prefix) = (inverted & 0x1F, width >> 7, width >> 2 & 1, width & 3);
    if map != 2 || w != 0 || length_bit != 0 {
        return None;
    }
    let high = |bit: u8| if inverted >> bit & 1 == 0 { 8 } else { 0 };
    let extensions = Extensions { reg: high(7), index: high(6), base: high(5) };
    let vvvv = usize::from(!(width >> 3) & 0xF);
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7 | extensions.reg, modrm & 7);
    let tail = [code[5], code[6], code[7], code[8], code[9]];
    let memory = || memory_operand(modrm, extensions, tail);
    let (instruction, tail_length) = match (opcode, prefix, mode) {
        (0x5C, 2, 3) if reg < 8 && extensions.base == 0 && vvvv < 8 => {
            (Instruction::MultiplyBf16 { sum: reg.into(), left: rm.into(), right: vvvv }, 0)
        }
        _ if vvvv != 0 => return None,
        (0x49, 0, 3) if reg == 0 && rm == 0 => (Instruction::Release, 0),
        (0x49, 3, 3) if reg < 8 && rm == 0 => (Instruction::Zero { tile: reg.into() }, 0),
        (0x49, 0, 0..3) if reg == 0 => memory().map(|(m, n)| (Instruction::LoadConfig(m), n))?,
        (0x49, 1, 0..3) if reg == 0 => memory().map(|(m, n)| (Instruction::StoreConfig(m), n))?,
        (0x4B, 1 | 3, 0..3) if reg < 8 && rm == 4 => {
            memory().map(|(from, n)| (Instruction::Load { tile: reg.into(), from }, n))?
        }
        (0x4B, 2, 0..3) if reg < 8 && rm == 4 => {
            memory().map(|(to, n)| (Instruction::Store { tile: reg.into(), to }, n))?
        }
        _ => return None,
    };
    Some((instruction, SHORTEST + tail_length))
}

/// The VEX bits that extend register numbers, 8 or 0 each.
#[derive(Clone, Copy)]
struct Extensions {
    reg: u8,
    index: u8,
    base: u8,
}

/// The memory operand of a ModR/M byte and what follows it, and how many of those bytes belong to it.
fn memory_operand(modrm: u8, extensions: Extensions, tail: [u8; 5]) -> Option<(Memory, usize)> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let (mut memory, mut used) = (Memory { base: Base::Nothing, index: None, scale: 0, displacement: 0 }, 0);
    let low_base = if rm == 4 {
        let sib = tail[0];
        used = 1;
        let index = sib >> 3 & 7 | extensions.index;
        memory.index = (index != 4).then_some(index);
        memory.scale = sib >> 6;
        sib & 7
    } else {
        rm
    };
    let long = [tail[used], tail[used + 1], tail[used + 2], *tail.get(used + 3)?];
    (memory.base, memory.displacement, used) = match (mode, low_base) {
        (0, 5) if rm == 4 => (Base::Nothing, i32::from_le_bytes(long), used + 4),
        (0, 5) => (Base::NextInstruction, i32::from_le_bytes(long), used + 4),
        (0, low) => (Base::Register(low | extensions.base), 0, used),
        (1, low) => (Base::Register(low | extensions.base), i32::from(long[0] as i8), used + 1),
        (2, low) => (Base::Register(low | extensions.base), i32::from_le_bytes(long), used + 4),
        _ => return None,
    };
    Some((memory, used))
}
