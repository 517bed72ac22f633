//! Reading what LuaJIT compiled: functions, their instructions with lines, and the scopes of their locals. The compiler
//! has already told globals from locals, more exactly than a second parser could. Nothing of a script runs here. The
//! format is that of `lj_bcdump.h` (version 2), the instructions those of `lj_bc.h`.

/// One compiled function.
#[derive(Debug, Default)]
pub(super) struct Proto {
    pub code: Vec<Ins>,
    /// Constants by the number that instructions use.
    pub constants: Vec<Constant>,
    /// The line of its `function`; 0 for a whole file.
    pub first_line: u32,
    /// The line of its `end`.
    pub last_line: u32,
    pub params: usize,
    /// How many registers it has.
    pub registers: usize,
    /// In the order in which their scopes begin; parameters first.
    pub locals: Vec<Local>,
    /// What it takes from the functions around it, by the number that instructions use.
    pub upvalues: Vec<Upvalue>,
}

/// A variable of a function further out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upvalue {
    /// A local of the function in which this one is written, by its register.
    Local(usize),
    /// An upvalue of that function.
    Outer(usize),
}

/// A local variable and the instructions that see it.
#[derive(Debug)]
pub(super) struct Local {
    pub name: String,
    /// The register that it has while it is seen.
    pub slot: usize,
    pub from: usize,
    pub to: usize,
}

#[derive(Debug)]
pub(super) enum Constant {
    Text(String),
    /// The number of a function in [`parse`]'s result.
    Function(usize),
    Other,
}

/// One instruction: what it does, and the line that it is from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ins {
    word: u32,
    pub line: u32,
}

impl Ins {
    pub fn op(self) -> u8 {
        self.word as u8
    }

    pub fn a(self) -> usize {
        usize::from((self.word >> 8) as u8)
    }

    pub fn b(self) -> usize {
        (self.word >> 24) as usize
    }

    pub fn c(self) -> usize {
        usize::from((self.word >> 16) as u8)
    }

    pub fn d(self) -> usize {
        (self.word >> 16) as usize
    }

    /// Where it may jump to, if it is one that jumps and stands at `at`.
    pub fn target(self, at: usize) -> Option<usize> {
        let jumps = matches!(self.op(), op::UCLO | op::ISNEXT | op::FORI..=op::JMP);
        jumps.then(|| (at + 1 + self.d()).saturating_sub(0x8000))
    }
}

/// The instructions that the linter uses, in the order of `BCDEF`.
pub(super) mod op {
    pub const ISEQP: u8 = 10;
    pub const ISNEP: u8 = 11;
    pub const ISTC: u8 = 12;
    pub const IST: u8 = 14;
    pub const ISF: u8 = 15;
    pub const ISNUM: u8 = 17;
    pub const MOV: u8 = 18;
    pub const NOT: u8 = 19;
    pub const ADDVN: u8 = 22;
    pub const CAT: u8 = 38;
    pub const KSTR: u8 = 39;
    pub const KSHORT: u8 = 41;
    pub const KPRI: u8 = 43;
    pub const KNIL: u8 = 44;
    pub const UGET: u8 = 45;
    pub const USETV: u8 = 46;
    pub const USETP: u8 = 49;
    pub const UCLO: u8 = 50;
    pub const FNEW: u8 = 51;
    pub const TNEW: u8 = 52;
    pub const TDUP: u8 = 53;
    pub const GGET: u8 = 54;
    pub const GSET: u8 = 55;
    pub const TGETV: u8 = 56;
    pub const TGETS: u8 = 57;
    pub const TGETR: u8 = 59;
    pub const TSETV: u8 = 60;
    pub const TSETS: u8 = 61;
    pub const TSETR: u8 = 64;
    pub const CALLM: u8 = 65;
    pub const CALL: u8 = 66;
    pub const CALLMT: u8 = 67;
    pub const CALLT: u8 = 68;
    pub const ITERC: u8 = 69;
    pub const VARG: u8 = 71;
    pub const ISNEXT: u8 = 72;
    pub const FORI: u8 = 77;
    pub const LOOP: u8 = 85;
    pub const JMP: u8 = 88;
    pub const BNOT: u8 = 89;
    pub const BSAR: u8 = 95;
}

impl Proto {
    /// The name of its first parameter.
    pub fn first_param(&self) -> Option<&str> {
        self.locals.first().filter(|_| self.params > 0).map(|local| local.name.as_str())
    }

    /// The text constant of that number.
    pub fn text(&self, number: usize) -> Option<&str> {
        match self.constants.get(number)? {
            Constant::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The function constant of that number.
    pub fn function(&self, number: usize) -> Option<usize> {
        match self.constants.get(number)? {
            Constant::Function(function) => Some(*function),
            _ => None,
        }
    }
}

/// Reads the bytecode of a file: its functions, the file itself last. None if the bytecode is not of the compiler that
/// this was written for.
pub(super) fn parse(dump: &[u8]) -> Option<Vec<Proto>> {
    const STRIPPED: u32 = 2;
    const BIG_ENDIAN: u32 = 1;
    let mut from = Reader(dump);
    if from.bytes(4)? != b"\x1bLJ\x02" {
        return None;
    }
    if from.number()? & (STRIPPED | BIG_ENDIAN) != 0 {
        return None;
    }
    let name = from.number()? as usize;
    from.bytes(name)?;
    let (mut protos, mut open) = (Vec::new(), Vec::new());
    loop {
        let len = from.number()? as usize;
        if len == 0 {
            return Some(protos);
        }
        protos.push(proto(&mut Reader(from.bytes(len)?), &mut open)?);
        open.push(protos.len() - 1);
    }
}

/// `open`: the functions read so far that no other holds yet.
fn proto(from: &mut Reader<'_>, open: &mut Vec<usize>) -> Option<Proto> {
    let (_flags, params, registers, upvalues) = (from.byte()?, from.byte()?, from.byte()?, from.byte()?);
    let (constants, numbers, count) = (from.number()? as usize, from.number()? as usize, from.number()? as usize);
    let debug = from.number()? as usize;
    let (first_line, lines) = if debug > 0 { (from.number()?, from.number()?) } else { (0, 0) };
    let words = from.bytes(count.checked_mul(4)?)?;
    const LOCAL: u16 = 0x8000;
    let outer = from.bytes(usize::from(upvalues) * 2)?.chunks_exact(2).map(|two| {
        let (word, number) = (u16::from_le_bytes([two[0], two[1]]), usize::from(two[0]));
        if word & LOCAL != 0 { Upvalue::Local(number) } else { Upvalue::Outer(number) }
    });
    let outer = outer.collect();
    let mut known = Vec::new();
    for _ in 0..constants {
        known.push(constant(from, open)?);
    }
    known.reverse();
    for _ in 0..numbers {
        // The lowest bit of a number's first byte tells a double, which has a second half.
        let double = from.0.first()? & 1 == 1;
        from.number()?;
        if double {
            from.number()?;
        }
    }
    let width = match lines {
        0..256 => 1,
        256..65536 => 2,
        _ => 4,
    };
    let line_bytes = from.bytes(count.checked_mul(width)?)?;
    let offset = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
    let code = words.chunks_exact(4).zip(line_bytes.chunks_exact(width));
    let code =
        code.map(|(word, line)| Ins { word: offset(word), line: first_line.wrapping_add(offset(line)) }).collect();
    for _ in 0..upvalues {
        from.name()?;
    }
    let locals = locals(from)?;
    let (params, registers) = (usize::from(params), usize::from(registers));
    let last_line = first_line.saturating_add(lines);
    Some(Proto { code, constants: known, first_line, last_line, params, registers, locals, upvalues: outer })
}

fn constant(from: &mut Reader<'_>, open: &mut Vec<usize>) -> Option<Constant> {
    const FUNCTION: u32 = 0;
    const TABLE: u32 = 1;
    const COMPLEX: u32 = 4;
    const TEXT: u32 = 5;
    Some(match from.number()? {
        FUNCTION => Constant::Function(open.pop()?),
        TABLE => {
            let (array, hash) = (from.number()?, from.number()?);
            for _ in 0..u64::from(array) + 2 * u64::from(hash) {
                match from.number()? {
                    0..=2 => {}
                    3 => drop(from.number()?),
                    4 => drop((from.number()?, from.number()?)),
                    text => drop(from.bytes(text as usize - 5)?),
                }
            }
            Constant::Other
        }
        kind @ 2..=COMPLEX => {
            for _ in 0..if kind == COMPLEX { 4 } else { 2 } {
                from.number()?;
            }
            Constant::Other
        }
        text => Constant::Text(String::from_utf8_lossy(from.bytes((text - TEXT) as usize)?).into_owned()),
    })
}

/// Scopes are counted with the function's header, which is not among the instructions of a dump.
fn locals(from: &mut Reader<'_>) -> Option<Vec<Local>> {
    /// Smaller bytes stand for the nameless variables of loops.
    const NAMED: u8 = 7;
    let (mut locals, mut start) = (Vec::new(), 0);
    // Where each scope so far ends, those of nameless variables too: a register for each that is open.
    let mut ends: Vec<usize> = Vec::new();
    loop {
        let name = match from.0.first()? {
            0 => return Some(locals),
            1..NAMED => {
                from.byte()?;
                String::new()
            }
            _ => from.name()?,
        };
        start += from.number()? as usize;
        let end = start + from.number()? as usize;
        ends.retain(|open| *open > start);
        let slot = ends.len();
        ends.push(end);
        if !name.is_empty() {
            locals.push(Local { name, slot, from: start.saturating_sub(1), to: end.saturating_sub(1) });
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    /// ULEB128, of 33 bits at most.
    fn number(&mut self) -> Option<u32> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value as u32);
            }
        }
        None
    }

    /// Up to a zero byte.
    fn name(&mut self) -> Option<String> {
        let len = self.0.iter().position(|b| *b == 0)?;
        let name = String::from_utf8_lossy(self.bytes(len)?).into_owned();
        self.byte()?;
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::inspect::tests::compiled;

    fn read(text: &[u8]) -> Option<Vec<Proto>> {
        parse(&compiled(text)?)
    }

    #[test]
    fn a_file_is_read_with_its_functions_lines_and_scopes() {
        let text = "local a, t = 1.5, { 1, 'x', k = true }\nfunction f(p, q)\n  local b = g(p)\n  return b, 7, 2^60\nend\n\
                    local function h() return a, t end";
        let protos = read(text.as_bytes()).unwrap();
        let [f, h, main] = protos.as_slice() else { panic!("{protos:#?}") };
        let globals = |proto: &Proto, op: u8| -> Vec<(String, u32)> {
            let found = proto.code.iter().filter(|ins| ins.op() == op);
            found.map(|ins| (proto.text(ins.d()).unwrap().to_owned(), ins.line)).collect()
        };
        assert_eq!(globals(f, op::GGET), [("g".to_owned(), 3)]);
        assert_eq!(globals(main, op::GSET), [("f".to_owned(), 2)]);
        assert_eq!((f.first_line, f.params, h.first_line, main.first_line), (2, 2, 6, 0));
        let names = |proto: &Proto| proto.locals.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(f), names(main)),
            (vec!["p".into(), "q".into(), "b".into()], vec!["a".into(), "t".into(), "h".into()])
        );
        let fnews: Vec<_> = main.code.iter().filter(|i| i.op() == op::FNEW).map(|i| main.function(i.d())).collect();
        assert_eq!(fnews, [Some(0), Some(1)]);
    }

    /// Every instruction that is named here, as the compiler of this build spells it.
    #[test]
    fn the_instructions_have_the_numbers_that_the_compiler_gives_them() {
        for (text, wanted) in [
            ("local a = x == nil", op::ISEQP),
            ("if x ~= nil then y() end", op::ISEQP),
            ("if x == nil then y() end", op::ISNEP),
            ("return x and y", op::ISF),
            ("return x or y", op::IST),
            ("local a, b = x, y; local c = a or b", op::ISTC),
            ("local a = x; local b = a", op::MOV),
            ("return not x", op::NOT),
            ("local a, b = x and y, z", op::ISF),
            ("return x + 1", op::ADDVN),
            ("return x .. y", op::CAT),
            ("x(1)", op::KSHORT),
            ("x(nil)", op::KPRI),
            ("local a; function f() return a end a = 1", op::UGET),
            ("local a; function f() a = nil end", op::USETP),
            ("x({})", op::TNEW),
            ("x({ 1 })", op::TDUP),
            ("for k in x do end", op::ITERC),
            ("x(...)", op::VARG),
            ("return ~x", op::BNOT),
            ("return x ~>> y", op::BSAR),
            ("return 'x'", op::KSTR),
            ("local a, b", op::KNIL),
            ("local a; function f() a = x end", op::USETV),
            ("do local a; function f() a = x end end", op::UCLO),
            ("return function() end", op::FNEW),
            ("x()", op::GGET),
            ("x = 1", op::GSET),
            ("local a, b = x, y; return a[b]", op::TGETV),
            ("return x.y", op::TGETS),
            ("local a, b = x, y; a[b] = 1", op::TSETV),
            ("x.y = 1", op::TSETS),
            ("x(y())", op::CALLM),
            ("x()", op::CALL),
            ("return x(y())", op::CALLMT),
            ("return x()", op::CALLT),
            ("for k in pairs(x) do end", op::ISNEXT),
            ("for i = 1, x do end", op::FORI),
            ("while x do end", op::JMP),
            ("while x do end", op::LOOP),
        ] {
            let protos = read(text.as_bytes()).unwrap();
            let ops: Vec<u8> = protos.iter().flat_map(|p| p.code.iter().map(|ins| ins.op())).collect();
            assert!(ops.contains(&wanted), "{text}: {wanted} in {ops:?}");
        }
    }

    #[test]
    fn a_damaged_dump_gives_nothing_and_never_panics() {
        let text = "local t = { 1, 'x', k = 2.5 } for i = 1, 9 do x(function() return t end) end";
        let dump = compiled(text.as_bytes()).unwrap();
        assert!(parse(&dump).is_some());
        for cut in 0..dump.len() {
            assert!(parse(&dump[..cut]).is_none(), "{cut}");
        }
        for at in 0..dump.len() {
            for bit in 0..8 {
                let mut damaged = dump.clone();
                damaged[at] ^= 1 << bit;
                let _ = parse(&damaged);
            }
        }
        assert!(read(b"not lua (").is_none());
    }
}
