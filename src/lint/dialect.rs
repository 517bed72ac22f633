//! What the bundled LuaJIT accepts beyond Lua 5.1 and stock LuaJIT: operators of C, assignments with an operator,
//! `continue`, `const`, short functions. A script that uses it runs only here. Bytecode does not show it, so the tokens
//! are read.

use super::tokens::{Kind, Token, tokens};
use crate::telemetry::language::Both;

/// A use of it: the line, how it is spelt, and what to write instead.
pub(super) type Use = (u32, String, Both);

/// Operators that Lua 5.1 does not have, and what it has instead.
const OPERATORS: [(&str, &str); 25] = [
    ("!=", "write ~="),
    ("!", "write not"),
    ("&&", "write and"),
    ("||", "write or"),
    ("&", "write bit.band(a, b)"),
    ("|", "write bit.bor(a, b)"),
    ("<<", "write bit.lshift(a, n)"),
    (">>", "write bit.rshift(a, n)"),
    ("~>>", "write bit.arshift(a, n)"),
    ("+=", "write a = a + b"),
    ("-=", "write a = a - b"),
    ("*=", "write a = a * b"),
    ("/=", "write a = a / b"),
    ("%=", "write a = a % b"),
    ("..=", "write a = a .. b"),
    ("&=", "write a = bit.band(a, b)"),
    ("|=", "write a = bit.bor(a, b)"),
    ("<<=", "write a = bit.lshift(a, n)"),
    (">>=", "write a = bit.rshift(a, n)"),
    ("~>>=", "write a = bit.arshift(a, n)"),
    ("?.", "write a and a.b"),
    ("??", "write if a == nil then a = b end"),
    ("?", "write if, or a and b or c"),
    ("->", "write function(...) return ... end"),
    ("~", "write bit.bxor(a, b) or bit.bnot(a)"),
];

/// Reserved words, behind which a statement begins or none does: see [`begins_statement`].
const RESERVED: [&str; 21] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
];

/// All uses in a file that compiles, in its order.
pub(super) fn uses(text: &[u8]) -> Vec<Use> {
    let tokens = tokens(text);
    let found = (0..tokens.len()).filter_map(|at| {
        let (spelt, instead) = found(&tokens, at)?;
        Some((tokens[at].line, spelt.to_owned(), instead_in_both(instead)))
    });
    found.collect()
}

/// What to write instead: code, but for the words before it and between.
fn instead_in_both(en: &str) -> Both {
    let code = en.strip_prefix("write ").unwrap_or(en);
    let zh = match code {
        "goto and a label" => "请写成 goto 和标签".to_owned(),
        "the number without it" => "请去掉数字里的它".to_owned(),
        "if, or a and b or c" => "请写成 if，或者 a and b or c".to_owned(),
        "bit.bxor(a, b) or bit.bnot(a)" => "请写成 bit.bxor(a, b) 或 bit.bnot(a)".to_owned(),
        code => format!("请写成 {code}"),
    };
    Both { en: en.to_owned(), zh }
}

fn found(tokens: &[Token<'_>], at: usize) -> Option<(&'static str, &'static str)> {
    let token = tokens.get(at)?;
    let operator = |text: &[u8]| OPERATORS.into_iter().find(|(spelt, _)| spelt.as_bytes() == text);
    match (token.kind, token.text) {
        // Parameters of a short function stand between two of these.
        (Kind::Symbol, b"|" | b"||") if is_short_function(tokens, at) => None,
        (Kind::Symbol, b"|") if at.checked_sub(1).is_some_and(|before| closes_parameters(tokens, before + 1)) => None,
        (Kind::Symbol, b"~=") => {
            let first = first_of_prefix(tokens, at)?;
            begins_statement(tokens, first).then_some(("~=", "write a = bit.bxor(a, b)"))
        }
        (Kind::Symbol, text) => operator(text),
        (Kind::Name, b"continue") => {
            let ends_block = match tokens.get(at + 1) {
                Some(next) => is_word(next, &["end", "else", "elseif", "until"]),
                None => true,
            };
            (ends_block && begins_statement(tokens, at)).then_some(("continue", "write goto and a label"))
        }
        (Kind::Name, b"const") => {
            let next = tokens.get(at + 1).filter(|next| next.kind == Kind::Name)?;
            let declares = !is_word(next, &RESERVED) || is_word(next, &["function"]);
            (declares && begins_statement(tokens, at)).then_some(("const", "write local"))
        }
        (Kind::Number, text) if text.contains(&b'_') => Some(("_", "write the number without it")),
        _ => None,
    }
}

fn is_word(token: &Token<'_>, words: &[&str]) -> bool {
    token.kind == Kind::Name && words.iter().any(|word| word.as_bytes() == token.text)
}

fn is_symbol(token: &Token<'_>, symbol: &[u8]) -> bool {
    token.kind == Kind::Symbol && token.text == symbol
}

/// Whether a statement may begin at that token: what stands before it ends one, or opens a block.
fn begins_statement(tokens: &[Token<'_>], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).and_then(|before| tokens.get(before)) else { return true };
    // A field, a method, or the name of a label or function.
    let name_of = at.checked_sub(2).and_then(|before| tokens.get(before)).is_some_and(|t| is_word(t, &["goto"]));
    match before.kind {
        Kind::Number | Kind::Text => true,
        Kind::Symbol => matches!(before.text, b")" | b"]" | b"}" | b";" | b"::" | b"..."),
        Kind::Name if before.text == b"goto" => false,
        Kind::Name if is_word(before, &["break", "do", "else", "end", "false", "nil", "repeat", "then", "true"]) => {
            true
        }
        Kind::Name => name_of || !is_word(before, &RESERVED),
    }
}

/// The first token of the variable that ends before `end`: `a`, `a.b`, `f(x)[1]`. None: there is none.
fn first_of_prefix(tokens: &[Token<'_>], end: usize) -> Option<usize> {
    let mut at = end;
    loop {
        at = at.checked_sub(1)?;
        let token = tokens.get(at)?;
        let before = |at: usize| at.checked_sub(1).and_then(|before| tokens.get(before));
        match (token.kind, token.text) {
            (Kind::Name, _) if is_word(token, &RESERVED) => return None,
            (Kind::Name, _) => match before(at) {
                Some(dot) if matches!(dot.text, b"." | b":" | b"?.") && dot.kind == Kind::Symbol => at -= 1,
                _ => return Some(at),
            },
            (Kind::Text, _) => {}
            (Kind::Symbol, b")" | b"]" | b"}") => {
                at = opening(tokens, at)?;
                // A bracket that stands alone begins the variable; one behind a name or bracket belongs to that.
                let is_suffix = before(at).is_some_and(|t| match t.kind {
                    Kind::Name => !is_word(t, &RESERVED),
                    Kind::Text => true,
                    Kind::Symbol => matches!(t.text, b")" | b"]" | b"}"),
                    Kind::Number => false,
                });
                if !is_suffix {
                    return is_symbol(tokens.get(at)?, b"(").then_some(at);
                }
            }
            _ => return None,
        }
    }
}

/// Where the bracket opens that closes at `close`.
fn opening(tokens: &[Token<'_>], close: usize) -> Option<usize> {
    let mut depth = 0usize;
    for at in (0..=close).rev() {
        let token = tokens.get(at).filter(|token| token.kind == Kind::Symbol);
        match token.map(|token| token.text) {
            Some(b")" | b"]" | b"}") => depth += 1,
            Some(b"(" | b"[" | b"{") => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Whether the parameters of a short function begin here: `|a, b| ->`, `|| ->`. The arrow is what decides.
fn is_short_function(tokens: &[Token<'_>], at: usize) -> bool {
    let is_arrow = |at: usize| tokens.get(at).is_some_and(|t| is_symbol(t, b"->"));
    if tokens.get(at).is_some_and(|t| is_symbol(t, b"||")) {
        return is_arrow(at + 1);
    }
    let rest = tokens.get(at + 1..).unwrap_or_default();
    let parameters = rest.iter().take_while(|t| t.kind == Kind::Name || matches!(t.text, b"," | b"...")).count();
    let close = at + 1 + parameters;
    tokens.get(close).is_some_and(|t| is_symbol(t, b"|")) && is_arrow(close + 1)
}

/// Whether the parameters of a short function end here.
fn closes_parameters(tokens: &[Token<'_>], at: usize) -> bool {
    tokens.get(at + 1).is_some_and(|t| is_symbol(t, b"->"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::inspect::tests::{compiled, evaluated};

    fn spelt(text: &str) -> Vec<String> {
        uses(text.as_bytes()).into_iter().map(|(_, spelt, _)| spelt).collect()
    }

    /// What each gives on the VM of this build, so that the list holds only what it really accepts.
    #[test]
    fn each_is_taken_by_the_vm_and_told() {
        for (text, found, gives) in [
            ("return 1 != 2", "!=", "true"),
            ("return !nil", "!", "true"),
            ("return 1 && 2", "&&", "2"),
            ("return nil || 3", "||", "3"),
            ("return 6 & 3", "&", "2"),
            ("return 6 | 3", "|", "7"),
            ("return 6 ~ 3", "~", "5"),
            ("return ~0", "~", "-1"),
            ("return 1 << 4", "<<", "16"),
            ("return 16 >> 2", ">>", "4"),
            ("return -16 ~>> 2", "~>>", "-4"),
            ("local a = 1 a += 2 return a", "+=", "3"),
            ("local a = 1 a -= 2 return a", "-=", "-1"),
            ("local a = 3 a *= 2 return a", "*=", "6"),
            ("local a = 3 a /= 2 return a", "/=", "1.5"),
            ("local a = 3 a %= 2 return a", "%=", "1"),
            ("local a = 'x' a ..= 'y' return a", "..=", "xy"),
            ("local a = 6 a &= 3 return a", "&=", "2"),
            ("local a = 6 a |= 3 return a", "|=", "7"),
            ("local a = 6 a ~= 3 return a", "~=", "5"),
            ("local t = {{n = 6}} t[1].n ~= 3 return t[1].n", "~=", "5"),
            ("local a = 6 a <<= 3 return a", "<<=", "48"),
            ("local a = 6 a >>= 1 return a", ">>=", "3"),
            ("local a = -6 a ~>>= 1 return a", "~>>=", "-3"),
            ("for i = 1, 3 do if i < 3 then continue end return i end", "continue", "3"),
            ("const x = 5 return x", "const", "5"),
            ("const function x() return 7 end return x()", "const", "7"),
            ("local t return t?.x", "?.", "nil"),
            ("local t return t ?? 9", "??", "9"),
            ("local t = 1 return t ? 4 : 5", "?", "4"),
            ("local f = x -> x * 2 return f(4)", "->", "8"),
            ("local f = |a, b| -> a + b return f(4, 5)", "->", "9"),
            ("local f = || -> 5 return f()", "->", "5"),
            ("return 1_000", "_", "1000"),
        ] {
            assert_eq!(evaluated(text).as_deref(), Ok(gives), "{text}");
            assert_eq!(spelt(text), [found], "{text}");
        }
    }

    #[test]
    fn what_lua_has_too_is_not_told() {
        for text in [
            "local s = 'a != b && c += 1 -> x?.y' return s",
            "-- a != b\n--[[ x += 1 ]] return 1",
            "return [[ a || b ]], [==[ continue ]==], \"\\\" != \"",
            "local a, b = 1, 2 return a ~= b, a <= b, a >= b, a == b, a .. b, not a",
            "local a, b = 1, 2 if a ~= b then a = b ~= a end while a ~= nil do a = nil end return (a) ~= b",
            "local t = { a ~= b, [1 ~= 2] = 3 } return #t ~= 1 and -1 ~= t[1] or t.x ~= ({})[1]",
            "local f = tostring local x = f(1) ~= f(2) return f 'x' ~= f {} ",
            "local continue, const = 1, 2 continue = const const = continue return continue, const",
            "local t = { continue = 1, const = 2 } return t.continue, t.const, t['continue']",
            "for i = 1, 2 do goto continue ::continue:: end",
            "for i = 1, 2 do if i then goto continue end ::continue:: end",
            "local const = 1 local x = const y = 5",
            "local n = 0x10 + 1e-5 + 5. + .5 local s = '\\x41\\z  b' return n, s, 5LL",
            "local a = 1; return a - -1, - - a, a^2 ^ -a, a % 2, a / 2",
            "local s = ('x'):rep(3) return s:len() ~= 3",
        ] {
            assert!(compiled(text.as_bytes()).is_some(), "{text}");
            assert_eq!(spelt(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn lines_are_those_of_the_text() {
        let text = "local a = 1\n--[[\n\n]]\nlocal s = [[\n]]\nif a != 2 then\n  a += 1\nend";
        let found: Vec<_> = uses(text.as_bytes()).into_iter().map(|(line, spelt, _)| (line, spelt)).collect();
        assert_eq!(found, [(7, "!=".to_owned()), (8, "+=".to_owned())]);
    }
}
