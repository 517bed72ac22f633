//! `mix.parse_url` and `mix.parse_str`.
//!
//! URLs are read as Go's `net/url.Parse` reads them, which takes RFC 3986 with some leniency: any bytes from 0x80 on
//! pass, a host may hold more characters than the RFC allows, and relative references are URLs too. Brackets are as
//! strict as in Go's later versions: they hold an IPv6 address, with or without a zone (RFC 6874).

mod escape;

use std::net::Ipv6Addr;

use self::escape::{Part, decoded, escape, unescape};
use super::query;
use crate::script::push::Table;
use crate::script::stack::{Args, Raise};
use crate::shard::context::Value;

/// Adds this file's functions to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"parse_str", parse_str);
    mix.native(c"parse_url", parse_url);
    // The first name of parse_url.
    mix.native(c"url_parse", parse_url);
}

fn parse_str(args: &Args) -> Result<Result<Value, String>, Raise> {
    Ok(query::parse(&args.bytes(1)?).map_err(|e| format!("parse_str: {e}")))
}

fn parse_url(args: &Args) -> Result<Result<Value, String>, Raise> {
    let url = args.bytes(1)?;
    let fits = url.len() <= query::MAX_LENGTH;
    let url_or_err = if fits { parse(&url) } else { Err(format!("longer than {} MiB", query::MAX_LENGTH >> 20)) };
    let table = url_or_err.and_then(Url::into_value);
    Ok(table.map_err(|e| {
        let more = if url.len() > 100 { "..." } else { "" };
        format!("parse_url: {e}: '{}{more}'", url[..url.len().min(100)].escape_ascii())
    }))
}

/// A URL's parts: `scheme:opaque?raw_query#fragment` or `scheme://user@host/path?raw_query#fragment`.
#[derive(Debug, Default, PartialEq)]
pub struct Url {
    /// In lower case.
    pub scheme: Vec<u8>,
    /// What follows the scheme where no slash does, as in `mailto:a@b.c`.
    pub opaque: Vec<u8>,
    /// `name` or `name:password`, escaped.
    pub user: Vec<u8>,
    /// With its port.
    pub host: Vec<u8>,
    /// Decoded.
    pub path: Vec<u8>,
    /// As it was written, if encoding the decoded path gives something else; otherwise empty.
    pub raw_path: Vec<u8>,
    /// The URL ends with a `?` without a query.
    pub force_query: bool,
    /// As it was written.
    pub raw_query: Vec<u8>,
    /// Decoded.
    pub fragment: Vec<u8>,
    /// As `raw_path`.
    pub raw_fragment: Vec<u8>,
}

impl Url {
    fn into_value(self) -> Result<Value, String> {
        let query = query::parse(&self.raw_query).map_err(|e| format!("query: {e}"))?;
        let text = |name: &str, bytes: Vec<u8>| (Value::str(name), Value::Str(bytes.into()));
        Ok(Value::Table(Box::new([
            text("scheme", self.scheme),
            text("opaque", self.opaque),
            text("user", self.user),
            text("host", self.host),
            text("path", self.path),
            text("raw_path", self.raw_path),
            (Value::str("force_query"), Value::Bool(self.force_query)),
            text("raw_query", self.raw_query),
            text("fragment", self.fragment),
            text("raw_fragment", self.raw_fragment),
            (Value::str("query"), query),
        ])))
    }
}

/// Reads a URL or a relative reference (RFC 3986, sections 3 and 4.2).
pub fn parse(url: &[u8]) -> Result<Url, String> {
    let mut parts = Url::default();
    let (rest, fragment) = cut(url, b'#').unwrap_or((url, b""));
    if rest.iter().any(u8::is_ascii_control) {
        return Err("control character".into());
    }
    (parts.fragment, parts.raw_fragment) = decoded(fragment, Part::Fragment)?;
    // RFC 9112, section 3.2.4: the target of an OPTIONS request for the whole server.
    if rest == b"*" {
        parts.path = rest.into();
        return Ok(parts);
    }
    let rest = match scheme(rest)? {
        Some(length) => {
            parts.scheme = rest[..length].to_ascii_lowercase();
            &rest[length + 1..]
        }
        None => rest,
    };
    let rest = match cut(rest, b'?') {
        Some((before, b"")) => {
            parts.force_query = true;
            before
        }
        Some((before, query)) => {
            parts.raw_query = query.into();
            before
        }
        None => rest,
    };
    if !parts.scheme.is_empty() && !rest.starts_with(b"/") {
        parts.opaque = rest.into();
        return Ok(parts);
    }
    // RFC 3986, section 4.2: it would be taken for a scheme.
    if rest.split(|b| *b == b'/').next().is_some_and(|segment| segment.contains(&b':')) {
        return Err("the first path segment holds a colon".into());
    }
    let mut path = rest;
    // Without a scheme, three slashes are a path and not an empty host.
    if rest.starts_with(b"//") && (!parts.scheme.is_empty() || !rest.starts_with(b"///")) {
        let authority = &rest[2..];
        let end = authority.iter().position(|b| *b == b'/').unwrap_or(authority.len());
        path = &authority[end..];
        (parts.user, parts.host) = read_authority(&authority[..end])?;
    }
    (parts.path, parts.raw_path) = decoded(path, Part::Path)?;
    Ok(parts)
}

/// What is before and after the first occurrence of the byte.
fn cut(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    memchr::memchr(at, text).map(|i| (&text[..i], &text[i + 1..]))
}

/// The length of the scheme at the beginning, if there is one.
fn scheme(url: &[u8]) -> Result<Option<usize>, String> {
    let length = url.iter().take_while(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)).count();
    match (url.get(length), url.first()) {
        (Some(b':'), Some(b':')) => Err("missing protocol scheme".into()),
        (Some(b':'), Some(first)) if first.is_ascii_alphabetic() => Ok(Some(length)),
        _ => Ok(None),
    }
}

/// `user:password@host:port` -> user and host
fn read_authority(authority: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
    let Some(at) = memchr::memrchr(b'@', authority) else {
        return Ok((Vec::new(), read_host(authority)?));
    };
    let (user, host) = (&authority[..at], read_host(&authority[at + 1..])?);
    if !user.iter().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(b)) {
        return Err("invalid userinfo".into());
    }
    let (name, password) = match cut(user, b':') {
        Some((name, password)) => (name, Some(password)),
        None => (user, None),
    };
    let mut user = escape(&unescape(name, Part::User)?, Part::User);
    if let Some(password) = password {
        user.push(b':');
        user.extend(escape(&unescape(password, Part::User)?, Part::User));
    }
    Ok((user, host))
}

/// A host with its port (RFC 3986, section 3.2.2).
fn read_host(host: &[u8]) -> Result<Vec<u8>, String> {
    if !host.starts_with(b"[") {
        if let Some(colon) = memchr::memrchr(b':', host) {
            check_port(&host[colon..])?;
        }
        return unescape(host, Part::Host);
    }
    let end = memchr::memrchr(b']', host).ok_or("missing ']' in host")?;
    check_port(&host[end + 1..])?;
    let inner = &host[1..end];
    // RFC 6874: `%25` and then the zone, which may have any byte escaped.
    let zone = memchr::memmem::find(inner, b"%25");
    let (address, zone) = inner.split_at(zone.unwrap_or(inner.len()));
    let address = unescape(address, Part::Host)?;
    let valid = std::str::from_utf8(&address).is_ok_and(|a| a.parse::<Ipv6Addr>().is_ok());
    if !valid || zone == b"%25" {
        return Err("no IPv6 address in the brackets of the host".into());
    }
    let zone = unescape(zone, Part::Zone)?;
    Ok([b"[", &*address, &zone, &host[end..]].concat())
}

/// Nothing, or a colon and digits; the digits may be missing (RFC 3986, section 3.2.3).
fn check_port(port: &[u8]) -> Result<(), String> {
    match port {
        [] => Ok(()),
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => Ok(()),
        _ => Err(format!("invalid port '{}' after host", port.escape_ascii())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::mix::tests::{lua_with, raised};
    use proptest::prelude::*;

    /// The parts that are not empty: `scheme=http host=h path=/`.
    fn show(url: &str) -> String {
        let u = match parse(url.as_bytes()) {
            Ok(u) => u,
            Err(e) => return format!("error: {e}"),
        };
        let mut parts = String::new();
        for (name, bytes) in [
            ("scheme", u.scheme),
            ("opaque", u.opaque),
            ("user", u.user),
            ("host", u.host),
            ("path", u.path),
            ("raw_path", u.raw_path),
            ("force_query", if u.force_query { b"true".into() } else { Vec::new() }),
            ("raw_query", u.raw_query),
            ("fragment", u.fragment),
            ("raw_fragment", u.raw_fragment),
        ] {
            if !bytes.is_empty() {
                parts.push_str(&format!("{name}={} ", bytes.escape_ascii()));
            }
        }
        parts.trim_end().into()
    }

    /// The parts are those that Go gives.
    #[test]
    fn urls_are_read_as_go_reads_them() {
        for (url, expected) in [
            ("", ""),
            ("*", "path=*"),
            ("*?a", "path=* raw_path=* raw_query=a"),
            ("http://a.b", "scheme=http host=a.b"),
            ("HTTP://A.b/", "scheme=http host=A.b path=/"),
            ("ws://h:8080/chat?room=1#top", "scheme=ws host=h:8080 path=/chat raw_query=room=1 fragment=top"),
            ("http://h:/", "scheme=http host=h: path=/"),
            ("http://h/a%20b", "scheme=http host=h path=/a b"),
            ("http://h/a b", "scheme=http host=h path=/a b raw_path=/a b"),
            ("http://h/a%2Fb", "scheme=http host=h path=/a/b raw_path=/a%2Fb"),
            ("http://h/a%2fb!", "scheme=http host=h path=/a/b! raw_path=/a%2fb!"),
            ("http://h/a:b@c$&+,;=", "scheme=http host=h path=/a:b@c$&+,;="),
            ("http://h/%E6%BC%A2", "scheme=http host=h path=/\\xe6\\xbc\\xa2"),
            ("http://h/?", "scheme=http host=h path=/ force_query=true"),
            ("http://h/??", "scheme=http host=h path=/ raw_query=?"),
            ("http://h?a=%zz", "scheme=http host=h raw_query=a=%zz"),
            ("http://h/#", "scheme=http host=h path=/"),
            ("http://h/#a%20b#c", "scheme=http host=h path=/ fragment=a b#c raw_fragment=a%20b#c"),
            ("http://h/#a?b(c)", "scheme=http host=h path=/ fragment=a?b(c)"),
            ("http://h/#a\x01", "scheme=http host=h path=/ fragment=a\\x01 raw_fragment=a\\x01"),
            // Users
            ("http://u@h/", "scheme=http user=u host=h path=/"),
            ("http://u:p@h/", "scheme=http user=u:p host=h path=/"),
            ("http://u:@h/", "scheme=http user=u: host=h path=/"),
            ("http://@h/", "scheme=http host=h path=/"),
            ("http://u:p:q@r@h/", "scheme=http user=u:p%3Aq%40r host=h path=/"),
            ("http://j%C3%B6:a%2fb!@h/", "scheme=http user=j%C3%B6:a%2Fb%21 host=h path=/"),
            // Hosts
            ("http://[::1]:80/", "scheme=http host=[::1]:80 path=/"),
            ("http://[fe80::1%25en0]/", "scheme=http host=[fe80::1%en0] path=/"),
            ("http://[fe80::1%25%65n%200]:1", "scheme=http host=[fe80::1%en 0]:1"),
            ("http://%E6%BC%A2.jp/", "scheme=http host=\\xe6\\xbc\\xa2.jp path=/"),
            ("http://a%25b/", "scheme=http host=a%b path=/"),
            ("http://a;b\"<>/", "scheme=http host=a;b\\\"<> path=/"),
            ("file:///etc/x", "scheme=file path=/etc/x"),
            ("unix://", "scheme=unix"),
            // No authority
            ("mailto:a@b.c?subject=x#f", "scheme=mailto opaque=a@b.c raw_query=subject=x fragment=f"),
            ("a:b%zz", "scheme=a opaque=b%zz"),
            ("a:", "scheme=a"),
            ("a:?", "scheme=a force_query=true"),
            ("http:/x", "scheme=http path=/x"),
            ("h2+x-y.z:/x", "scheme=h2+x-y.z path=/x"),
            // References
            ("/a/b?c", "path=/a/b raw_query=c"),
            ("a/b:c", "path=a/b:c"),
            ("//h/p", "host=h path=/p"),
            ("///p", "path=///p"),
            ("?a=1", "raw_query=a=1"),
            ("#f", "fragment=f"),
            ("a?b:c", "path=a raw_query=b:c"),
        ] {
            assert_eq!(show(url), expected, "{url}");
        }
    }

    /// Go refuses all of these too: those with other things than an IPv6 address in brackets from version 1.25.2 on.
    #[test]
    fn malformed_urls_are_refused() {
        for (url, problem) in [
            (":a", "missing protocol scheme"),
            ("://h", "missing protocol scheme"),
            ("1a:b", "the first path segment holds a colon"),
            ("a_b:c", "the first path segment holds a colon"),
            ("a b:c/d", "the first path segment holds a colon"),
            ("http://h/\n", "control character"),
            ("http://h/?a\x7f", "control character"),
            ("http://h:8a/", "invalid port ':8a' after host"),
            ("http://h:80:x/", "invalid port ':x' after host"),
            ("http://h:-1", "invalid port ':-1' after host"),
            ("http://[::1]80", "invalid port '80' after host"),
            ("http://[::1", "missing ']' in host"),
            ("http://[::g]/", "no IPv6 address in the brackets of the host"),
            ("http://[1.2.3.4]/", "no IPv6 address in the brackets of the host"),
            ("http://[a.b]/", "no IPv6 address in the brackets of the host"),
            ("http://[]/", "no IPv6 address in the brackets of the host"),
            ("http://[fe80::1%25]/", "no IPv6 address in the brackets of the host"),
            ("http://[fe80::1%en0]/", "invalid escape '%en'"),
            ("http://[fe80::1%25%2f]/", "invalid escape '%2f'"),
            ("http://a b/", "invalid character ' ' in host name"),
            ("http://a\\b/", "invalid character '\\\\' in host name"),
            ("http://a%41/", "invalid escape '%41'"),
            ("http://h/%", "invalid escape '%'"),
            ("http://h/%4", "invalid escape '%4'"),
            ("http://h/%zz", "invalid escape '%zz'"),
            ("http://h/#%zz", "invalid escape '%zz'"),
            ("http://u%zz@h/", "invalid escape '%zz'"),
            ("http://u v@h/", "invalid userinfo"),
            ("http://u\u{e4}@h/", "invalid userinfo"),
            ("http://u[@h/", "invalid userinfo"),
        ] {
            assert_eq!(show(url), format!("error: {problem}"), "{url}");
        }
    }

    #[test]
    fn scripts_get_tables() {
        let lua = lua_with(register);
        let same = |code: &str| assert!(lua.load(code).eval::<bool>().unwrap(), "{code}");
        same(
            "local q, e = mix.parse_str('a=1&c[]=x&c[]=y&d[k]=v&i[5]=z') \
              return e == nil and q.a == '1' and #q.c == 2 and q.c[1] == 'x' and q.d.k == 'v' and q.i[5] == 'z'",
        );
        same(
            "local u, e = mix.parse_url('ws://u:p@h:1/a%20b?x[]=1&y=2#f') \
              return e == nil and u.scheme == 'ws' and u.opaque == '' and u.user == 'u:p' and u.host == 'h:1' \
              and u.path == '/a b' and u.raw_path == '' and u.force_query == false and u.raw_query == 'x[]=1&y=2' \
              and u.fragment == 'f' and u.raw_fragment == '' and u.query.x[1] == '1' and u.query.y == '2'",
        );
        same("return next(mix.parse_url('/').query) == nil");
        same("return mix.parse_str('a' .. ('[x]'):rep(64)).a.x.x.x ~= nil");
        let failed = |code: &str| lua.load(format!("return mix.{code}")).eval::<(mlua::Value, String)>().unwrap();
        let (nothing, error) = failed("parse_url('http://h:x/')");
        assert!(nothing.is_nil());
        assert_eq!(error, "parse_url: invalid port ':x' after host: 'http://h:x/'");
        assert_eq!(failed("parse_str(('a&'):rep(1001))").1, "parse_str: more than 1000 variables");
        assert_eq!(
            failed("parse_url('/?' .. ('a&'):rep(1001))").1.get(..40),
            Some("parse_url: query: more than 1000 variabl")
        );
        assert_eq!(
            raised(&lua, "mix.parse_url()"),
            "app.lua:1: bad argument #1 to 'parse_url' (string expected, got no value)"
        );
        assert_eq!(
            raised(&lua, "mix.parse_str(true)"),
            "app.lua:1: bad argument #1 to 'parse_str' (string expected, got boolean)"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(url: Vec<u8>) {
            let _ = parse(&url);
        }

        #[test]
        fn any_url_is_parsed(url in "([a1+]{0,3}:)?/{0,3}[ab:@%25\\[\\]é]{0,10}[/a%4?#!]{0,10}") {
            let _ = parse(url.as_bytes()).map(Url::into_value);
        }
    }
}
