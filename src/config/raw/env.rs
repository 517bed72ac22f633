//! What a text says of the environment: `${NAME}` is the variable NAME of the process, `$${` is `${` itself.

use std::env::VarError;
use zeroize::Zeroizing;

use crate::telemetry::language::{Both, both};

/// The longest name of a variable.
const LONGEST: usize = 256;

fn no_name() -> Both {
    both!(
        "expected the name of an environment variable, such as ${{PASSWORD}}; ${{ itself is written $${{",
        "应为环境变量的名称，例如 ${{PASSWORD}}；要写 ${{ 本身，请写成 $${{"
    )
}

/// A text with its variables' values; None: it names none, and is what it is. An error says what is wrong, and nothing of
/// any value.
pub fn expand(text: &str) -> Result<Option<Zeroizing<String>>, Both> {
    expand_with(text, |name| std::env::var(name))
}

/// The text that stands for this one in a file.
pub fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

fn expand_with(
    text: &str,
    variable: impl Fn(&str) -> Result<String, VarError>,
) -> Result<Option<Zeroizing<String>>, Both> {
    if !text.contains("${") {
        return Ok(None);
    }
    // Put together at the end: a text that outgrows its memory would stay there.
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            parts.push(Zeroizing::new(format!("{before}${{")));
            rest = after;
            continue;
        }
        parts.push(Zeroizing::new(before.to_owned()));
        let (name, after) = after.split_once('}').filter(|(name, _)| is_name(name)).ok_or_else(no_name)?;
        let value = variable(name).map_err(|error| match error {
            VarError::NotPresent => both!("the environment variable {name} is not set", "环境变量 {name} 没有设置"),
            VarError::NotUnicode(_) => {
                both!("the environment variable {name} is not UTF-8 text", "环境变量 {name} 不是 UTF-8 文本")
            }
        })?;
        parts.push(Zeroizing::new(value));
        rest = after;
    }
    let mut whole = String::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + rest.len());
    parts.iter().for_each(|part| whole.push_str(part));
    whole.push_str(rest);
    Ok(Some(Zeroizing::new(whole)))
}

fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= LONGEST && name.starts_with(|c: char| word(c) && !c.is_ascii_digit()) && name.chars().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expanded(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "A" => Ok("alpha".to_owned()),
            "_b2" => Ok("${A}".to_owned()),
            "EMPTY" => Ok(String::new()),
            "BYTES" => Err(VarError::NotUnicode("x".into())),
            _ => Err(VarError::NotPresent),
        };
        expand_with(text, variable)
            .map(|found| found.map_or(text.to_owned(), |text| text.to_string()))
            .map_err(|why| why.en)
    }

    #[test]
    fn variables_are_put_in_and_the_rest_stays() {
        for (text, want) in [
            ("plain", "plain"),
            ("$A {A} $", "$A {A} $"),
            ("${A}", "alpha"),
            ("x${A}y${A}z", "xalphayalphaz"),
            ("${_b2}", "${A}"),
            ("<${EMPTY}>", "<>"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$${${A}", "${alpha"),
            ("100$ ${A}", "100$ alpha"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(expanded("${NONE}").unwrap_err(), "the environment variable NONE is not set");
        assert_eq!(expanded("${BYTES}").unwrap_err(), "the environment variable BYTES is not UTF-8 text");
        let long = format!("${{{}}}", "A".repeat(257));
        for bad in ["${", "${}", "${A", "${1A}", "${A B}", "${A:-x}", "x ${${A}}", &long] {
            assert_eq!(expanded(bad).unwrap_err(), no_name().en, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_what_it_was(text in "[${}Ax ]{0,12}") {
            let escaped = escape(&text);
            prop_assert_eq!(expanded(&escaped), Ok(text));
        }
    }
}
