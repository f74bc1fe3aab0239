//! What is in an eBPF object: `cargo xtask ebpf --stats`.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

use crate::ebpf_stack;

/// Bytes of one instruction.
const INSTRUCTION: u64 = 8;

/// Programs and functions by size, maps, and sections, as a text.
pub(crate) fn describe(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("reading {} as ELF", path.display()))?;
    let mut text = String::new();

    let mut functions = Vec::new();
    let mut maps = Vec::new();
    for symbol in file.symbols() {
        let Some(section) = symbol.section_index().and_then(|index| file.section_by_index(index).ok()) else {
            continue;
        };
        let (Ok(name), Ok(section_name)) = (symbol.name(), section.name()) else { continue };
        match (section.kind(), symbol.kind()) {
            (SectionKind::Text, SymbolKind::Text) => {
                functions.push((section_name, symbol.size() / INSTRUCTION, name));
            }
            (_, SymbolKind::Data) if matches!(section_name, "maps" | ".maps") => {
                let start = usize::try_from(symbol.address()).context("a map's offset")?;
                let size = usize::try_from(symbol.size()).context("a map's size")?;
                maps.push((name, section.data()?.get(start..start.saturating_add(size)).unwrap_or_default()));
            }
            _ => {}
        }
    }

    let stack = ebpf_stack::functions(&bytes).context("reading the functions' instructions")?;
    writeln!(text, "\n{:<10} {:>12} {:>6} {:>8}  name", "section", "instructions", "stack", "deepest")?;
    functions.sort_by_key(|&(section, instructions, name)| (section, u64::MAX - instructions, name));
    for (section, instructions, name) in &functions {
        let own = stack.get(*name).map_or(0, |function| function.own);
        let (deepest, _) = ebpf_stack::deepest(&stack, name);
        writeln!(text, "{section:<10} {instructions:>12} {own:>6} {deepest:>8}  {name}")?;
    }
    writeln!(text, "\nThe deepest chains of calls, of {} bytes that there are:", ebpf_stack::STACK_MAX)?;
    for (_, _, name) in functions.iter().filter(|(section, ..)| *section != ".text") {
        let (bytes, chain) = ebpf_stack::deepest(&stack, name);
        writeln!(text, "{bytes:>9}  {}", chain.join(" -> "))?;
    }

    writeln!(text, "\n{:>4} {:>6} {:>6} {:>9} {:>6}  map", "type", "key", "value", "entries", "flags")?;
    maps.sort_unstable();
    for (name, definition) in &maps {
        // struct bpf_map_def: type, key size, value size, entries, flags. Maps of the BTF kind hold no numbers here.
        let field = |index: usize| {
            let bytes = definition.get(index * 4..index * 4 + 4).filter(|_| definition.len() >= 20);
            let number = bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        let [kind, key, value, entries, flags] = [0, 1, 2, 3, 4].map(field);
        writeln!(text, "{kind:>4} {key:>6} {value:>6} {entries:>9} {flags:>6}  {name}")?;
    }

    writeln!(text, "\n{:>9}  section", "bytes")?;
    for section in file.sections().filter(|section| section.size() > 0) {
        writeln!(text, "{:>9}  {}", section.size(), section.name().unwrap_or("?"))?;
    }
    writeln!(text, "{:>9}  the whole object", bytes.len())?;
    Ok(text)
}
