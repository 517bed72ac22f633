//! `connmix bench` as a user runs it, small: every measurement runs to its end and tells its figures.

use serde_json::Value;
use std::process::Command;

/// The report of a small measurement by an engine that it starts.
fn bench(arguments: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_connmix")).arg("bench").args(arguments).arg("--json").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
}

/// A figure that must be there and above zero.
fn positive(report: &Value, name: &str) -> f64 {
    let figure = report[name].as_f64().unwrap_or_else(|| panic!("{name}: {report}"));
    assert!(figure > 0.0, "{name}: {report}");
    figure
}

#[test]
fn a_fan_out_is_measured() {
    let report = bench(&["fanout", "--subscribers", "20", "--messages", "50", "--window", "4"]);
    assert_eq!(report["deliveries"], 1000.0, "{report}");
    let rate = positive(&report, "deliveries_per_second");
    assert!((positive(&report, "publishes_per_second") * 20.0 / rate - 1.0).abs() < 0.01, "{report}");
    let (median, p99, max) =
        (positive(&report, "delay_median"), positive(&report, "delay_p99"), positive(&report, "delay_max"));
    assert!(median <= p99 && p99 <= max, "{report}");

    let report = bench(&["fanout", "--subscribers", "2", "--messages", "3", "--size", "100000"]);
    assert_eq!(report["deliveries"], 6.0, "{report}");

    let report = bench(&["fanout", "--subscribers", "20", "--messages", "50", "--unheard"]);
    assert_eq!(report["deliveries"], 0.0, "{report}");
    positive(&report, "publishes_per_second");
}

#[test]
fn a_handler_is_measured() {
    let report = bench(&["handler", "--connections", "4", "--messages", "400"]);
    assert_eq!(report["messages"], 400.0, "{report}");
    positive(&report, "messages_per_second");
    positive(&report, "round_trip_median");
}

#[test]
fn connecting_is_measured() {
    positive(&bench(&["connect", "--connections", "50", "--parallel", "5"]), "connections_per_second");
}

#[test]
fn a_silent_connection_is_measured() {
    let report = bench(&["idle", "--connections", "200"]);
    assert!(positive(&report, "resident_after") >= positive(&report, "resident_before"), "{report}");
}
