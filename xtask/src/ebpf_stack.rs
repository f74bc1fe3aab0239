//! How much stack the programs of an eBPF object take, as the verifier counts it: every function by its lowest access below r10,
//! and of every program the deepest chain of calls. There are 512 bytes for a chain.
//!
//! This file is compiled twice: as a module of xtask (`cargo xtask ebpf --stats`) and, through `#[path]`, of the performance suite.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};

/// Bytes of one instruction (RFC 9669 section 3).
const INSTRUCTION: usize = 8;
/// Bytes for a chain of calls (`MAX_BPF_STACK`).
pub(crate) const STACK_MAX: u32 = 512;
/// A frame counts in steps of this, and no frame counts as less: so do interpreters, and kernels before 6.8 always.
const STEP: u32 = 32;
/// Deepest chain of calls that the kernel takes (`MAX_CALL_FRAMES`).
const FRAMES_MAX: usize = 8;
/// The read-only register that points to the frame's end.
const FRAME_POINTER: u8 = 10;

/// One function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Function {
    /// Bytes below r10 that it uses.
    pub(crate) own: u32,
    /// Names of the functions that it calls.
    pub(crate) calls: BTreeSet<String>,
}

/// Every function of the object, by name.
pub(crate) fn functions(bytes: &[u8]) -> Result<BTreeMap<String, Function>, object::Error> {
    let file = object::File::parse(bytes)?;
    // By section and where in it.
    let mut names: BTreeMap<(usize, u64), String> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        if let Some(section) = symbol.section_index() {
            names.insert((section.0, symbol.address()), symbol.name()?.to_owned());
        }
    }
    let mut all = BTreeMap::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data()?;
        // Calls by a function's symbol, or by that of its section and where in it.
        let mut symbols = BTreeMap::new();
        for (at, relocation) in section.relocations() {
            if let RelocationTarget::Symbol(index) = relocation.target() {
                let symbol = file.symbol_by_index(index)?;
                symbols.insert(at, (symbol.section_index().map(|section| section.0), symbol.address()));
            }
        }
        let starts = names.iter().filter(|((index, _), _)| *index == section.index().0);
        for ((_, start), name) in starts.clone() {
            let end = starts.clone().map(|((_, other), _)| *other).find(|other| other > start);
            let range = *start as usize..end.map_or(code.len(), |end| end as usize);
            let found = walk(code.get(range).unwrap_or_default(), |at, immediate| {
                let here = (section.index().0, start + at);
                let (section, base) = match symbols.get(&(start + at)) {
                    Some((section, address)) => ((*section)?, *address),
                    None => here,
                };
                // From the next instruction on; of a symbol that is -1.
                let ahead = (i64::from(immediate) + 1) * INSTRUCTION as i64;
                names.get(&(section, base.checked_add_signed(ahead)?)).cloned()
            });
            all.insert(name.clone(), found);
        }
    }
    Ok(all)
}

/// Looks through a function's instructions; `callee` names the function that is called at an offset by an immediate.
fn walk(code: &[u8], callee: impl Fn(u64, i32) -> Option<String>) -> Function {
    const LD_IMM64: u8 = 0x18;
    const MOV64_REGISTER: u8 = 0xbf;
    const ADD64_IMMEDIATE: u8 = 0x07;
    const CALL: u8 = 0x85;
    const BPF_PSEUDO_CALL: u8 = 1;
    let mut function = Function::default();
    // Registers that hold r10 itself.
    let mut copies = [false; 16];
    let mut instructions = code.chunks_exact(INSTRUCTION).zip((0..).step_by(INSTRUCTION));
    while let Some((bytes, at)) = instructions.next() {
        let &[opcode, registers, off_low, off_high, i0, i1, i2, i3] = bytes else { break };
        let (destination, source) = (registers & 0xf, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([off_low, off_high]));
        let immediate = i32::from_le_bytes([i0, i1, i2, i3]);
        let reached = match opcode & 7 {
            // Loads, and stores.
            1 if source == FRAME_POINTER => offset,
            2 | 3 if destination == FRAME_POINTER => offset,
            7 if opcode == ADD64_IMMEDIATE && copies[usize::from(destination)] => immediate,
            _ => 0,
        };
        function.own = function.own.max(u32::try_from(-reached).unwrap_or_default());
        if !matches!(opcode & 7, 2 | 3 | 5 | 6) {
            copies[usize::from(destination)] = opcode == MOV64_REGISTER && source == FRAME_POINTER;
        }
        match opcode {
            LD_IMM64 => drop(instructions.next()),
            CALL if source == BPF_PSEUDO_CALL => function.calls.extend(callee(at, immediate)),
            _ => {}
        }
    }
    function
}

/// The deepest chain of calls that begins with this function: bytes of stack, and its functions in order.
pub(crate) fn deepest(all: &BTreeMap<String, Function>, name: &str) -> (u32, Vec<String>) {
    chain(all, name, FRAMES_MAX)
}

fn chain(all: &BTreeMap<String, Function>, name: &str, frames: usize) -> (u32, Vec<String>) {
    let Some(function) = all.get(name).filter(|_| frames > 0) else { return (0, Vec::new()) };
    let below = function.calls.iter().map(|callee| chain(all, callee, frames - 1));
    let (bytes, mut names) = below.max_by_key(|(bytes, _)| *bytes).unwrap_or_default();
    names.insert(0, name.to_owned());
    (bytes + function.own.max(1).next_multiple_of(STEP), names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let [low, high] = offset.to_le_bytes();
        let [i0, i1, i2, i3] = immediate.to_le_bytes();
        [opcode, source << 4 | destination, low, high, i0, i1, i2, i3]
    }

    #[test]
    fn the_lowest_access_counts() {
        let code = [
            instruction(0x7b, 10, 1, -24, 0),  // *(u64 *)(r10 - 24) = r1
            instruction(0x79, 1, 10, -16, 0),  // r1 = *(u64 *)(r10 - 16)
            instruction(0xbf, 2, 10, 0, 0),    // r2 = r10
            instruction(0x07, 2, 0, 0, -100),  // r2 += -100
            instruction(0x07, 2, 0, 0, -1000), // no longer r10 itself
            instruction(0x7b, 3, 1, -400, 0),  // through another register
            EXIT,
        ]
        .concat();
        assert_eq!(walk(&code, |_, _| None), Function { own: 100, calls: BTreeSet::new() });
    }

    #[test]
    fn the_second_half_of_a_wide_load_is_no_instruction() {
        let code = [
            instruction(0x18, 1, 0, 0, 5),
            instruction(0x7b, 10, 1, -400, 0),
            instruction(0x62, 10, 0, -8, 1),
            EXIT,
        ]
        .concat();
        assert_eq!(walk(&code, |_, _| None).own, 8);
    }

    #[test]
    fn calls_of_our_own_functions_are_followed_and_helpers_are_not() {
        let code = [instruction(0x85, 0, 0, 0, 51), instruction(0x85, 0, 1, 0, -1), EXIT].concat();
        let function = walk(&code, |at, immediate| Some(format!("{at} {immediate}")));
        assert_eq!(function.calls, BTreeSet::from(["8 -1".to_owned()]));
    }

    #[test]
    fn the_deepest_chain_is_counted_in_steps() {
        let function = |own, calls: &[&str]| Function {
            own,
            calls: calls.iter().map(|name| (*name).to_owned()).collect(),
        };
        let all: BTreeMap<_, _> = [
            ("a", function(100, &["b", "c"])),
            ("b", function(0, &["d"])),
            ("c", function(33, &[])),
            ("d", function(33, &[])),
            ("loop", function(1, &["loop"])),
        ]
        .map(|(name, function)| (name.to_owned(), function))
        .into();
        assert_eq!(deepest(&all, "a"), (128 + 32 + 64, vec!["a".into(), "b".into(), "d".into()]));
        assert_eq!(deepest(&all, "c"), (64, vec!["c".into()]));
        assert_eq!(deepest(&all, "loop").1.len(), FRAMES_MAX, "it ends");
        assert_eq!(deepest(&all, "nobody"), (0, Vec::new()));
    }
}
