//! The results of a measurement, for people and for programs.

use serde_json::{Map, Value, json};

/// Named figures, in order.
pub(super) struct Report {
    name: &'static str,
    figures: Vec<(&'static str, f64, &'static str)>,
}

impl Report {
    pub(super) fn new(name: &'static str) -> Report {
        Report { name, figures: Vec::new() }
    }

    /// Adds a figure; its unit is for people.
    pub(super) fn figure(mut self, name: &'static str, value: f64, unit: &'static str) -> Report {
        self.figures.push((name, value, unit));
        self
    }

    /// Adds median, 99th percentile and maximum of times in nanoseconds, as microseconds.
    pub(super) fn times(self, names: [&'static str; 3], times: &mut [u64]) -> Report {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len().saturating_sub(1) as f64 * share) as usize;
            times.get(index).map_or(f64::NAN, |&t| t as f64 / 1e3)
        };
        let [median, late, last] = [at(0.5), at(0.99), at(1.0)];
        self.figure(names[0], median, "us").figure(names[1], late, "us").figure(names[2], last, "us")
    }

    pub(super) fn print(&self, as_json: bool) {
        if as_json {
            let mut object = Map::new();
            object.insert("benchmark".into(), json!(self.name));
            for (name, value, _) in &self.figures {
                // A figure that could not be taken is null.
                object.insert((*name).into(), json!(value));
            }
            println!("{}", Value::Object(object));
            return;
        }
        println!("{}", self.name);
        for (name, value, unit) in &self.figures {
            println!("  {:<28} {:>12} {unit}", name.replace('_', " "), grouped(*value));
        }
    }
}

/// 1234567.8 -> "1,234,568"; small numbers keep a decimal.
fn grouped(value: f64) -> String {
    if value.is_nan() {
        return "-".into();
    }
    if value < 100.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(1234567.8), "1,234,568");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(3.25), "3.2");
        assert_eq!(grouped(f64::NAN), "-");
    }
}
