//! The JSON of OTLP over HTTP (OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding"): ids are hexadecimal, numbers of 64 bits are
//! texts, enums are numbers.

use serde_json::{Value as Json, json};

use super::span::{Attribute, Event, Span, SpanKind, Value};

/// Where a collector takes spans, below its endpoint.
pub const PATH: &str = "/v1/traces";

/// Bits of `flags`: it is known whether the parent is another program's, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// Who sends spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `service.name`
    pub service: String,
    /// `service.instance.id`
    pub instance: String,
}

/// The body of a request (`ExportTraceServiceRequest`).
pub fn request(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let attributes = [
        ("service.name", &*resource.service),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", &resource.instance),
    ];
    let attributes = attributes.map(|(name, text)| json!({"key": name, "value": {"stringValue": text}}));
    let scope = json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION")});
    let spans: Vec<Json> = spans.iter().map(span).collect();
    let request = json!({"resourceSpans": [{
        "resource": {"attributes": attributes},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    request.to_string().into_bytes()
}

fn span(span: &Span) -> Json {
    let Span { context, parent, name, kind, time, attributes, events, error, .. } = span;
    let kind = match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    };
    let remote = if span.is_remote { IS_REMOTE } else { 0 };
    let mut json = json!({
        "traceId": format!("{:032x}", context.trace_id),
        "spanId": format!("{:016x}", context.span_id),
        "flags": u32::from(context.sampled) | HAS_IS_REMOTE | remote,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": time.0.to_string(),
        "endTimeUnixNano": time.1.to_string(),
        "attributes": all(attributes),
        "events": events.iter().map(event).collect::<Vec<_>>(),
        // 2 is an error, 0 unset: that nothing failed is no judgement of ours.
        "status": error.as_ref().map_or(json!({}), |why| json!({"code": 2, "message": why})),
    });
    if let Some(parent) = parent {
        json["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(state) = &context.state {
        json["traceState"] = (**state).into();
    }
    json
}

fn event(event: &Event) -> Json {
    json!({"timeUnixNano": event.at.to_string(), "name": event.name, "attributes": all(&event.attributes)})
}

fn all(attributes: &[Attribute]) -> Vec<Json> {
    let one = |(name, value): &Attribute| {
        let value = match value {
            Value::Text(text) => json!({"stringValue": text}),
            Value::Integer(number) => json!({"intValue": number.to_string()}),
        };
        json!({"key": name, "value": value})
    };
    attributes.iter().map(one).collect()
}

/// What a collector says of a request that it has taken (`ExportTraceServiceResponse`): how many spans it rejects, and why.
/// One that says nothing of it rejects none.
pub fn rejected(body: &[u8]) -> (u64, String) {
    let response: Json = serde_json::from_slice(body).unwrap_or_default();
    let partial = &response["partialSuccess"];
    // By the encoding a text; some send a number.
    let count = &partial["rejectedSpans"];
    let count = count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0);
    (count, partial["errorMessage"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::context::TraceContext;
    use super::*;

    #[test]
    fn a_span_is_encoded_as_the_protocol_says() {
        let context = TraceContext { trace_id: 0xab, span_id: 0xcd, sampled: true, state: Some("a=1".into()) };
        let whole = Span {
            context: context.clone(),
            parent: Some(0xef),
            is_remote: true,
            name: "publish".into(),
            kind: SpanKind::Server,
            time: (1_544_712_660_000_000_001, u64::MAX),
            attributes: vec![("messaging.destination.name", "房间".into()), ("connmix.x", 7u64.into())],
            events: vec![Event { name: "deliveries", at: 5, attributes: vec![("connmix.reached", 3u64.into())] }],
            error: Some("it \"failed\"".into()),
        };
        let bare = Span {
            context: TraceContext { state: None, ..context },
            parent: None,
            is_remote: false,
            attributes: Vec::new(),
            events: Vec::new(),
            error: None,
            ..whole.clone()
        };
        let resource = Resource { service: "rooms".into(), instance: "9".into() };
        let sent: Json = serde_json::from_slice(&request(&resource, &[whole, bare])).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let want = json!({"resourceSpans": [{
            "resource": {"attributes": [
                {"key": "service.name", "value": {"stringValue": "rooms"}},
                {"key": "service.version", "value": {"stringValue": version}},
                {"key": "service.instance.id", "value": {"stringValue": "9"}},
            ]},
            "scopeSpans": [{"scope": {"name": "connmix", "version": version}, "spans": [
                {
                    "traceId": "000000000000000000000000000000ab",
                    "spanId": "00000000000000cd",
                    "parentSpanId": "00000000000000ef",
                    "traceState": "a=1",
                    "flags": 0x301,
                    "name": "publish",
                    "kind": 2,
                    "startTimeUnixNano": "1544712660000000001",
                    "endTimeUnixNano": "18446744073709551615",
                    "attributes": [
                        {"key": "messaging.destination.name", "value": {"stringValue": "房间"}},
                        {"key": "connmix.x", "value": {"intValue": "7"}},
                    ],
                    "events": [{
                        "timeUnixNano": "5",
                        "name": "deliveries",
                        "attributes": [{"key": "connmix.reached", "value": {"intValue": "3"}}],
                    }],
                    "status": {"code": 2, "message": "it \"failed\""},
                },
                {
                    "traceId": "000000000000000000000000000000ab",
                    "spanId": "00000000000000cd",
                    "flags": 0x101,
                    "name": "publish",
                    "kind": 2,
                    "startTimeUnixNano": "1544712660000000001",
                    "endTimeUnixNano": "18446744073709551615",
                    "attributes": [],
                    "events": [],
                    "status": {},
                },
            ]}],
        }]});
        assert_eq!(sent, want);
    }

    #[test]
    fn what_a_collector_rejects_is_read_however_it_says_so() {
        for (body, want) in [
            ("", (0, "")),
            ("{}", (0, "")),
            ("[1]", (0, "")),
            ("\u{0}", (0, "")),
            (r#"{"partialSuccess":{}}"#, (0, "")),
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#, (3, "too old")),
            (r#"{"partialSuccess":{"rejectedSpans":3}}"#, (3, "")),
            (r#"{"partialSuccess":{"rejectedSpans":-3,"errorMessage":7}}"#, (0, "")),
        ] {
            assert_eq!(rejected(body.as_bytes()), (want.0, want.1.to_owned()), "{body}");
        }
    }
}
