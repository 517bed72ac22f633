//! What the environment says of traces where the file does not: the variables that OpenTelemetry defines for all programs.

use super::keys::{Config, Tracing, TracingHeader, is_header_name, read_ratio, value_problem};
use super::raw::address::{NO_ENDPOINT, endpoint};
use super::raw::value::{Value, worded};
use crate::secret::Secret;
use crate::telemetry::language::{Both, both};

/// Where spans go below an endpoint; a URL of theirs alone names it.
const TRACES: &str = "/v1/traces";

/// Completes `tracing` from the environment of the process. What is not valid there is not used, and is noted.
pub fn settle(config: &mut Config, root: &Value<'_>) {
    let section = root.get("tracing");
    let is_set = |key: &str| section.get(key).is_set();
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    complete(&mut config.tracing, &mut config.notes, is_set, variable);
    for (header, at) in config.tracing.headers.iter().zip(section.get("headers").entries()) {
        if header.value.is_empty() && !at.get("value").is_set() {
            at.get("value").report(both!("missing; it must be given", "缺少；必须写出"));
        }
    }
}

fn complete(
    tracing: &mut Tracing,
    notes: &mut Vec<Both>,
    is_set: impl Fn(&str) -> bool,
    variable: impl Fn(&str) -> Option<String>,
) {
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, variable(name)?)));
    let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    if !is_set("endpoint")
        && !is_off
        && let Some((name, value)) = first(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
    {
        tracing.endpoint = endpoint(value.trim());
        if tracing.endpoint.is_none() {
            notes.push(unused(name, worded(NO_ENDPOINT)));
        }
    }
    if !is_set("headers")
        && let Some((name, value)) = first(["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"])
    {
        match headers(&value) {
            Some(headers) => tracing.headers = headers,
            None => notes.push(unused(name, both!("expected name=value,name=value", "应为 name=value,name=value"))),
        }
    }
    if let Some(name) = variable("OTEL_SERVICE_NAME").filter(|_| !is_set("serviceName")) {
        tracing.service_name = name;
    }
    if !is_set("sampleRatio") {
        let ratio = match variable("OTEL_TRACES_SAMPLER").as_deref().map(str::trim) {
            Some("always_off" | "parentbased_always_off") => Some(0.0),
            Some("always_on" | "parentbased_always_on") => Some(1.0),
            _ => variable("OTEL_TRACES_SAMPLER_ARG").and_then(|value| {
                let ratio = read_ratio(&value);
                if ratio.is_none() {
                    let why = both!("expected a number between 0 and 1", "应为 0 到 1 之间的数字");
                    notes.push(unused("OTEL_TRACES_SAMPLER_ARG", why));
                }
                ratio
            }),
        };
        tracing.sample_ratio = ratio.unwrap_or(tracing.sample_ratio);
    }
}

/// A variable that says nothing.
fn unused(name: &str, why: Both) -> Both {
    Both {
        en: format!("{name} of the environment is not used: {}", why.en),
        zh: format!("没有采用环境变量 {name}：{}", why.zh),
    }
}

/// `name=value,name=value`; a value may hold any bytes of UTF-8 as `%20`.
fn headers(text: &str) -> Option<Vec<TracingHeader>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim(), percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?);
        let is_valid = is_header_name(name) && value_problem(&value).is_none();
        is_valid.then(|| TracingHeader { name: name.to_owned(), value: Secret::from(&*value) })
    };
    pairs.map(header).collect()
}

impl Tracing {
    /// Whether anything is traced, and which part of the traces that begin here.
    pub fn ratio(&self) -> Option<f64> {
        self.endpoint.is_some().then_some(self.sample_ratio)
    }

    /// Where spans are posted to.
    pub fn url(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref()?.trim_end_matches('/');
        Some(if endpoint.ends_with(TRACES) { endpoint.to_owned() } else { format!("{endpoint}{TRACES}") })
    }
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    /// What comes of the variables where the file has these keys.
    fn completed(set: &[&str], variables: &[(&str, &str)]) -> (Tracing, Vec<Both>) {
        let (mut tracing, mut notes) = (load::defaults().tracing, Vec::new());
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        complete(&mut tracing, &mut notes, |key| set.contains(&key), variable);
        (tracing, notes)
    }

    #[test]
    fn without_an_endpoint_nothing_is_traced() {
        let (tracing, notes) = completed(&[], &[]);
        assert_eq!((tracing.ratio(), tracing.url(), tracing.service_name.as_str()), (None, None, "connmix"));
        assert!(notes.is_empty() && tracing.from_clients);
    }

    #[test]
    fn the_environment_says_what_the_file_does_not() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20x==, x-team = a%2Cb ,"),
            ("OTEL_SERVICE_NAME", "rooms"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ];
        let (tracing, notes) = completed(&[], &variables);
        assert_eq!(tracing.url().as_deref(), Some("http://a:4318/v1/traces"));
        assert_eq!((tracing.ratio(), tracing.service_name.as_str()), (Some(0.25), "rooms"));
        let headers: Vec<_> = tracing.headers.iter().map(|h| (h.name.as_str(), h.value.expose())).collect();
        assert_eq!(headers, [("Authorization", "Basic x=="), ("x-team", "a,b")]);
        assert!(notes.is_empty() && !format!("{tracing:?}").contains("Basic"));
        let (tracing, _) = completed(&["endpoint", "headers", "serviceName", "sampleRatio"], &variables);
        assert_eq!(tracing, load::defaults().tracing, "the file wins");
        let more = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b/in/v1/traces"), variables[0]];
        assert_eq!(completed(&[], &more).0.url().as_deref(), Some("https://b/in/v1/traces"));
        let off = [("OTEL_SDK_DISABLED", "true"), variables[0]];
        assert_eq!(completed(&[], &off).0.url(), None);
        for (sampler, want) in [("always_off", 0.0), ("parentbased_always_on", 1.0), ("traceidratio", 0.25)] {
            let (tracing, _) = completed(&[], &[("OTEL_TRACES_SAMPLER", sampler), variables[0], variables[3]]);
            assert_eq!(tracing.ratio(), Some(want), "{sampler}");
        }
    }

    #[test]
    fn what_is_wrong_there_is_noted_without_its_value() {
        let (tracing, notes) = completed(
            &[],
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@a"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "host=hunter2"),
                ("OTEL_TRACES_SAMPLER_ARG", "hunter2"),
            ],
        );
        assert_eq!((notes.len(), tracing), (3, load::defaults().tracing));
        assert!(!notes.iter().map(|note| note.en.clone()).collect::<String>().contains("hunter2"), "{notes:?}");
        for bad in ["x", "=y", "a b=c", "a=", "a=%ff", "a=%0d%0ab"] {
            assert!(headers(bad).is_none(), "{bad}");
        }
    }
}
