//! Query strings as PHP's `parse_str` reads them, as Lua tables.
//!
//! PHP has one kind of array, while Lua's tables start at 1 and distinguish numbers from strings. So here:
//!
//! - A variable's name is always a string: `5=x` gives `tb["5"]`.
//! - Below that, a table whose keys are exactly the integers 0 to n-1, which PHP takes for a list, becomes a Lua array
//!   1 to n: `c[]=x` and `c[0]=x` give `tb.c[1]`. In any other table integer keys stay the numbers they are: `c[5]=x`
//!   gives `tb.c[5]`, and `c[]=x&c[k]=y` gives `tb.c[0]` and `tb.c.k`.
//! - What counts as an integer key is PHP's rule: an integer of 64 bits in its shortest form, so `05` and `1.5` are
//!   strings. One beyond 2^53 stays text, as a Lua number would change it.
//!
//! PHP cuts off variables beyond `max_input_vars` and names nested beyond `max_input_nesting_level` with a warning.
//! Here both are errors.

use memchr::memchr;
use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::shard::context::Value;

/// The most variables in a query: PHP's default `max_input_vars`.
pub const MAX_VARIABLES: usize = 1000;
/// The most pairs of brackets after a name: PHP's default `max_input_nesting_level`.
pub const MAX_NESTING: usize = 64;
/// The longest query or URL, in bytes.
pub const MAX_LENGTH: usize = 8 << 20;
/// The integers that a Lua number holds exactly.
const EXACT: u64 = 1 << 53;

/// Integers sort before text: [`next_index`] and [`is_list`] rely on it. Ordered trees keep the cost of a hostile
/// query near its length, and their order is always the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Integer(i64),
    Text(Box<[u8]>),
}

type Table = BTreeMap<Key, Node>;

#[derive(Debug)]
enum Node {
    Text(Box<[u8]>),
    Table(Table),
}

/// Reads a query string. An invalid `%xx` stays as it is, a later variable replaces an earlier one of the same name,
/// variables without a name are dropped, and a NUL byte ends the query or a name, as in PHP.
pub fn parse(query: &[u8]) -> Result<Value, String> {
    if query.len() > MAX_LENGTH {
        return Err(format!("longer than {} MiB", MAX_LENGTH >> 20));
    }
    let mut root = Table::new();
    let pairs = until_nul(query).split(|b| *b == b'&').filter(|pair| !pair.is_empty());
    for (i, pair) in pairs.enumerate() {
        if i == MAX_VARIABLES {
            return Err(format!("more than {MAX_VARIABLES} variables"));
        }
        let (name, value) = match memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        assign(&mut root, &decode(name), decode(value).into())?;
    }
    let pairs = root.into_iter().map(|(key, node)| (key_value(key, 0), node_value(node)));
    Ok(Value::Table(pairs.collect()))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    memchr(0, bytes).map_or(bytes, |end| &bytes[..end])
}

/// `+` and `%xx`; a `%` that no two hexadecimal digits follow is a plain one.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|b| matches!(b, b'+' | b'%')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => match escaped(tail) {
                Some(byte) => {
                    rest = &tail[2..];
                    byte
                }
                None => b'%',
            },
            b => *b,
        });
    }
    Cow::Owned(bytes)
}

/// The byte that the two hexadecimal digits after a `%` stand for, if they are there.
pub(in crate::script::mix) fn escaped(after: &[u8]) -> Option<u8> {
    let digit = |i: usize| after.get(i).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Puts a value where its name says: `a`, `a[b][c]`, `a[]`.
fn assign(root: &mut Table, name: &[u8], value: Box<[u8]>) -> Result<(), String> {
    let name = until_nul(name);
    let name = &name[name.iter().take_while(|b| **b == b' ').count()..];
    let head = memchr(b'[', name).map_or(name, |at| &name[..at]);
    if head.is_empty() {
        return Ok(());
    }
    let keys = brackets(name, head.len())?;
    // A first bracket without a closing one is part of the name.
    let head = if keys.is_empty() { name } else { head };
    let mut table = root;
    let mut key = Key::Text(head.iter().map(|b| if matches!(b, b' ' | b'.' | b'[') { b'_' } else { *b }).collect());
    for next in keys {
        let node = table.entry(key).or_insert_with(|| Node::Table(Table::new()));
        if let Node::Text(_) = node {
            *node = Node::Table(Table::new());
        }
        let Node::Table(inner) = node else { return Ok(()) };
        table = inner;
        key = match next {
            Some(text) => key_of(text),
            None => match next_index(table) {
                Some(i) => Key::Integer(i),
                // The greatest integer is in use: PHP drops the variable.
                None => return Ok(()),
            },
        };
    }
    table.insert(key, Node::Text(value));
    Ok(())
}

/// The keys in the adjacent brackets from `at` on; None for `[]`. Anything else ends them, and the rest is ignored.
fn brackets(name: &[u8], mut at: usize) -> Result<Vec<Option<&[u8]>>, String> {
    let mut keys = Vec::new();
    while let Some((b'[', inner)) = name.get(at..).and_then(<[u8]>::split_first) {
        if keys.len() == MAX_NESTING {
            let start = name[..name.len().min(40)].escape_ascii();
            return Err(format!("the variable '{start}' is nested deeper than {MAX_NESTING} levels"));
        }
        // A single space counts as nothing: `a[ ]` is `a[]`.
        let spaces = usize::from(inner.first().is_some_and(|b| b.is_ascii_whitespace() || *b == 0x0B));
        let Some(end) = memchr(b']', inner) else { break };
        keys.push((end > spaces).then(|| &inner[..end]));
        at += end + 2;
    }
    Ok(keys)
}

fn key_of(text: &[u8]) -> Key {
    integer_key(text).map_or_else(|| Key::Text(text.into()), Key::Integer)
}

/// The integer that PHP's arrays make of a string key: only its shortest form is one, not `05`, `+5` or `-0`.
pub(in crate::script::mix) fn integer_key(text: &[u8]) -> Option<i64> {
    let integer = std::str::from_utf8(text).ok().filter(|t| t.len() <= 20)?.parse::<i64>().ok()?;
    (itoa::Buffer::new().format(integer).as_bytes() == text).then_some(integer)
}

/// The key that `[]` stands for: one more than the greatest integer key.
fn next_index(table: &Table) -> Option<i64> {
    match table.range(..Key::Text(Box::default())).next_back() {
        Some((Key::Integer(greatest), _)) => greatest.checked_add(1),
        _ => Some(0),
    }
}

fn is_list(table: &Table) -> bool {
    // n distinct integers from 0 to n-1 must be all of them.
    let last = i64::try_from(table.len()).unwrap_or(i64::MAX) - 1;
    matches!(
        (table.first_key_value(), table.last_key_value()),
        (Some((Key::Integer(0), _)), Some((Key::Integer(greatest), _))) if *greatest == last
    )
}

fn key_value(key: Key, shift: i64) -> Value {
    match key {
        Key::Integer(i) if i.unsigned_abs() <= EXACT => Value::Number((i + shift) as f64),
        Key::Integer(i) => Value::str(i.to_string()),
        Key::Text(text) => Value::Str(text),
    }
}

fn node_value(node: Node) -> Value {
    match node {
        Node::Text(text) => Value::Str(text),
        Node::Table(table) => {
            let shift = i64::from(is_list(&table));
            Value::Table(table.into_iter().map(|(key, node)| (key_value(key, shift), node_value(node))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::mix::tests::{php_cases, unhex};
    use proptest::prelude::*;

    /// `{b='x',1='y'}`: keys that are numbers stand bare, keys that are strings in quotes where they look like one.
    fn show(value: &Value) -> String {
        match value {
            Value::Table(pairs) => {
                let key = |k: &Value| match k {
                    Value::Number(n) => n.to_string(),
                    Value::Str(s) if s.first().is_some_and(u8::is_ascii_lowercase) => s.escape_ascii().to_string(),
                    other => show(other),
                };
                let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{}={}", key(k), show(v))).collect();
                format!("{{{}}}", pairs.join(","))
            }
            Value::Str(s) => format!("'{}'", s.escape_ascii()),
            other => format!("{other:?}"),
        }
    }

    fn parsed(query: &str) -> String {
        show(&parse(query.as_bytes()).unwrap())
    }

    /// What PHP 8.2 makes of these, but for the keys of lists.
    #[test]
    fn queries_are_read_as_php_reads_them() {
        for (query, expected) in [
            ("a=1&b=x%20y&c[]=1&c[]=2&d[k]=v", "{a='1',b='x y',c={1='1',2='2'},d={k='v'}}"),
            ("", "{}"),
            ("a", "{a=''}"),
            ("a&b=", "{a='',b=''}"),
            ("&&a=1&&", "{a='1'}"),
            ("=1", "{}"),
            (" =1", "{}"),
            ("a=1&a=2", "{a='2'}"),
            ("a=b=c", "{a='b=c'}"),
            ("a;b=1", "{a;b='1'}"),
            // Decoding
            ("a+b=c+d", "{a_b='c d'}"),
            ("a=%zz&b=%4&c=%&d=%+1", "{a='%zz',b='%4',c='%',d='% 1'}"),
            ("a%=1", "{a%='1'}"),
            ("a%5Bb%5d=%5b", "{a={b='['}}"),
            ("x%C3%A9[%FF]=%FE", "{x\\xc3\\xa9={'\\xff'='\\xfe'}}"),
            ("a%00b=1&c=%00x", "{a='1',c='\\x00x'}"),
            ("a[x%00y]=1", "{a_x='1'}"),
            ("a=1\0&b=2", "{a='1'}"),
            // Names
            ("a.b=1&c d=2", "{a_b='1',c_d='2'}"),
            ("  a=1", "{a='1'}"),
            ("%20a=1", "{a='1'}"),
            (".a=1", "{'_a'='1'}"),
            ("[a]=1", "{}"),
            ("[=1", "{}"),
            ("[]=1", "{}"),
            ("a]=1", "{a]='1'}"),
            ("a]b[c]=1", "{a]b={c='1'}}"),
            ("a[b=1", "{a_b='1'}"),
            ("a.[b=1", "{a__b='1'}"),
            ("a[ b=1", "{a__b='1'}"),
            ("a[ ", "{a__=''}"),
            ("a[b.c d[e=1", "{a_b_c_d_e='1'}"),
            ("this=1", "{this='1'}"),
            // Brackets
            ("a[b][c]=1&a[b][d]=2", "{a={b={c='1',d='2'}}}"),
            ("a[][b]=1&a[][b]=2", "{a={1={b='1'},2={b='2'}}}"),
            ("a[.b c]=1", "{a={'.b c'='1'}}"),
            ("a[[b]=1", "{a={'[b'='1'}}"),
            ("a[[]=1", "{a={'['='1'}}"),
            ("a[b[c]=1", "{a={b[c='1'}}"),
            ("a[]]=1", "{a={1='1'}}"),
            ("a[ ]=1", "{a={1='1'}}"),
            ("a[+]=1", "{a={1='1'}}"),
            ("a[\x0b]=1", "{a={1='1'}}"),
            ("a[  ]=1", "{a={'  '='1'}}"),
            ("a[ x]=1", "{a={' x'='1'}}"),
            ("a[b][c=1", "{a={b='1'}}"),
            ("a[b.c d][e=1", "{a={b.c d='1'}}"),
            ("a[][c=1", "{a={1='1'}}"),
            ("a[b]c=1", "{a={b='1'}}"),
            ("a[b]c[d]=1", "{a={b='1'}}"),
            ("a[b].[c]=1", "{a={b='1'}}"),
            // Replacing one kind by the other
            ("a=1&a[b]=2", "{a={b='2'}}"),
            ("a[b]=1&a=2", "{a='2'}"),
            ("a[b]=1&a[b][c]=2", "{a={b={c='2'}}}"),
        ] {
            assert_eq!(parsed(query), expected, "{query}");
        }
    }

    /// Checked against PHP 8.2 too; the shift of lists is ours.
    #[test]
    fn lists_start_at_one_and_other_integer_keys_stay() {
        for (query, expected) in [
            ("a[0]=x&a[]=y", "{a={1='x',2='y'}}"),
            ("a[1]=y&a[0]=x", "{a={1='x',2='y'}}"),
            ("a[1]=y", "{a={1='y'}}"),
            ("a[1]=x&a[2]=y", "{a={1='x',2='y'}}"),
            ("a[]=1&a[5]=x&a[]=y", "{a={0='1',5='x',6='y'}}"),
            ("a[]=1&a[b]=2&a[]=3", "{a={0='1',1='3',b='2'}}"),
            ("a[b]=1&a[]=2&a[1]=3", "{a={0='2',1='3',b='1'}}"),
            ("a[-5]=x&a[]=y", "{a={-5='x',-4='y'}}"),
            ("a[05]=x&a[]=y", "{a={0='y','05'='x'}}"),
            ("a[-0]=x&a[+1]=y&a[1.5]=z&a[1e3]=u", "{a={' 1'='y','-0'='x','1.5'='z','1e3'='u'}}"),
            ("a[9223372036854775807]=1&a[]=2", "{a={'9223372036854775807'='1'}}"),
            ("a[-9223372036854775808]=1", "{a={'-9223372036854775808'='1'}}"),
            ("a[9223372036854775808]=1&a[]=2", "{a={0='2','9223372036854775808'='1'}}"),
            ("a[9007199254740992]=1&a[]=2", "{a={9007199254740992='1','9007199254740993'='2'}}"),
            ("5=x&0=y", "{'0'='y','5'='x'}"),
        ] {
            assert_eq!(parsed(query), expected, "{query}");
        }
    }

    /// What PHP made of a query, in the form of [`sorted`].
    fn php_result(result: &serde_json::Value, top: bool) -> String {
        let Some(pairs) = result.as_array() else {
            return format!("'{}'", unhex(result.as_str().unwrap()).escape_ascii());
        };
        let integer = |pair: &serde_json::Value| match pair[0][0].as_str().unwrap() {
            "i" => pair[0][1].as_str().unwrap().parse::<i64>().ok(),
            _ => None,
        };
        let list = (0..pairs.len() as i64).all(|i| pairs.iter().any(|pair| integer(pair) == Some(i)));
        let mut parts = Vec::new();
        for pair in pairs {
            let key = match integer(pair) {
                Some(i) if top || i.unsigned_abs() > EXACT => format!("'{i}'"),
                Some(i) => (i + i64::from(list)).to_string(),
                None => format!("'{}'", unhex(pair[0][1].as_str().unwrap()).escape_ascii()),
            };
            parts.push(format!("{key}={}", php_result(&pair[1], false)));
        }
        parts.sort();
        format!("{{{}}}", parts.join(","))
    }

    fn sorted(value: &Value) -> String {
        match value {
            Value::Table(pairs) => {
                let mut parts: Vec<_> = pairs.iter().map(|(k, v)| format!("{}={}", sorted(k), sorted(v))).collect();
                parts.sort();
                format!("{{{}}}", parts.join(","))
            }
            Value::Str(s) => format!("'{}'", s.escape_ascii()),
            Value::Number(n) => n.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn generated_queries_are_read_as_php_reads_them() {
        let cases = php_cases("query");
        assert!(cases.len() > 900);
        for case in cases {
            let query = unhex(case[0].as_str().unwrap());
            let got = sorted(&parse(&query).unwrap());
            assert_eq!(got, php_result(&case[1], true), "{}", query.escape_ascii());
        }
    }

    #[test]
    fn too_much_is_refused() {
        let variables = |n: usize| (0..n).map(|i| format!("a[]={i}&")).collect::<String>();
        assert!(parse(variables(MAX_VARIABLES).as_bytes()).is_ok());
        assert_eq!(parse(variables(MAX_VARIABLES + 1).as_bytes()), Err("more than 1000 variables".into()));
        let nested = |n: usize| format!("a{}=1", "[x]".repeat(n));
        assert!(parse(nested(MAX_NESTING).as_bytes()).is_ok());
        let refused = parse(nested(MAX_NESTING + 1).as_bytes()).unwrap_err();
        assert!(refused.ends_with("is nested deeper than 64 levels"), "{refused}");
    }

    #[test]
    fn a_megabyte_takes_no_time() {
        let start = std::time::Instant::now();
        for unit in ["&", "a[", "a[]", "[", "%", "%41", "a&", "a=1&", "a[b", "a[]=&", " ", "+", "a]"] {
            let _ = parse(unit.repeat((1 << 20) / unit.len()).as_bytes());
            let _ = parse(format!("x[{}]=1", unit.repeat((1 << 20) / unit.len())).as_bytes());
        }
        // Many long keys that differ at their ends only.
        let key = "k".repeat(1000);
        let query: String = (0..1000).map(|i| format!("a[{key}{i}]=1&")).collect();
        assert!(parse(query.as_bytes()).is_ok());
        // Far more than it needs even without optimization, and far less than quadratic work would take.
        assert!(start.elapsed().as_secs() < 10);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(query: Vec<u8>) {
            let _ = parse(&query);
        }

        #[test]
        fn any_query_is_parsed(query in "[ab0-2=&%+. \\[\\]-]{0,80}") {
            prop_assert!(parse(query.as_bytes()).is_ok());
        }
    }
}
