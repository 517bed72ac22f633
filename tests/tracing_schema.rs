//! What is sent to a collector, read by OpenTelemetry's own schema: the Python package opentelemetry-proto.

mod common;

use common::collector::Collector;
use common::optional::{Outcome, need};
use common::*;
use std::fs;
use std::process::Command;

optional_tests!(a_request_is_one_of_the_protocol);

/// Reads a request strictly: an unknown field is an error. Ids stand in hexadecimal digits there, which is the one difference
/// from the usual JSON of Protocol Buffers.
const READ: &str = r#"
import base64, json, sys
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

request = json.load(open(sys.argv[1]))
for span in request["resourceSpans"][0]["scopeSpans"][0]["spans"]:
    for key in {"traceId", "spanId", "parentSpanId"} & span.keys():
        span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
spans = ParseDict(request, ExportTraceServiceRequest(), ignore_unknown_fields=False).resource_spans[0].scope_spans[0].spans
for span in spans:
    assert len(span.trace_id) == 16 and len(span.span_id) == 8 and len(span.parent_span_id) in (0, 8)
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    print(span.name, span.kind, len(span.attributes), [event.name for event in span.events], span.status.code)
"#;

async fn a_request_is_one_of_the_protocol() -> Outcome {
    need("python3", &["-c", "import opentelemetry.proto.collector.trace.v1.trace_service_pb2"])?;
    let collector = Collector::start().await;
    let script = "function on_message(msg, conn) mix.mesh.publish('news', 'x'); conn:send('ok'); error('oh') end";
    let top = format!("tracing: {{endpoint: 'http://{}'}}", collector.addr);
    let engine = TestEngine::with_top(script, "", "workers: 1", &top);
    let mut client = engine.connect().await;
    assert_eq!(client.ask("x").await, "ok");
    let traced = "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\ntracestate: a=1\r\n\
                  traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let (status, _) =
        http(engine.at.api, &format!("{traced}Content-Length: 20\r\n\r\n{}", r#"{"c":"news","d":"x"}"#)).await;
    assert_eq!(status, 200);
    collector.span("on_message").await;
    collector.all("publish", 2).await;
    let mut read = String::new();
    for request in collector.received() {
        let file = engine.path("request.json");
        fs::write(&file, request.body).unwrap();
        let ran = Command::new("python3").args(["-c", READ]).arg(&file).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        read += &String::from_utf8(ran.stdout).unwrap();
    }
    let mut lines: Vec<&str> = read.lines().collect();
    lines.sort();
    assert_eq!(lines, ["on_message 5 1 [] 2", "publish 2 4 ['deliveries'] 0", "publish 4 4 ['deliveries'] 0"]);
    Ok(())
}
