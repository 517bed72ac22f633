//! What the metrics have counted, on its way to a successor process.

use std::io;

use crate::handover::{Batch, Damaged, Decoder, Encoder};
use crate::telemetry::metrics::counted::{Count, Counted};
use crate::telemetry::metrics::{Metrics, Totals};

/// The kinds of items.
const TOTALS: u8 = 0;
const VALUE: u8 = 1;
const DURATIONS: u8 = 2;
const SUMMARY: u8 = 3;

/// Writes all of it.
pub(super) fn save(metrics: &Metrics, batch: &mut Batch<'_>) -> io::Result<()> {
    let Totals { read, sent, delivered, dropped, published, errors, handlers, handlers_nanos, cpu_micros, .. } =
        metrics.totals();
    batch.item(|out| {
        out.byte(TOTALS);
        for figure in [read, sent, delivered, dropped, published, errors, handlers_nanos, cpu_micros] {
            out.u64(figure);
        }
        numbers(out, &handlers);
    })?;
    for Counted { name, labels, count } in metrics.counted() {
        batch.item(|out| {
            out.byte(match count {
                Count::Value(_) => VALUE,
                Count::Durations(..) => DURATIONS,
                Count::Summary(..) => SUMMARY,
            });
            out.data(name.as_bytes());
            out.count(labels.len());
            for (label, value) in &labels {
                out.data(label.as_bytes());
                out.data(value.as_bytes());
            }
            match &count {
                Count::Value(value) => out.u64(value.to_bits()),
                Count::Durations(counts, nanos) => {
                    numbers(out, &counts[..]);
                    out.u64(*nanos);
                }
                Count::Summary(count, nanos) => [*count, *nanos].into_iter().for_each(|figure| out.u64(figure)),
            }
        })?;
    }
    Ok(())
}

fn numbers(out: &mut Encoder, numbers: &[u64]) {
    out.count(numbers.len());
    numbers.iter().for_each(|number| out.u64(*number));
}

/// Reads one item. A histogram with other bounds than here begins anew.
pub(super) fn restore(metrics: &Metrics, from: &mut Decoder<'_>) -> Result<(), Damaged> {
    let kind = from.byte()?;
    if kind == TOTALS {
        let mut figure = || from.u64();
        let (read, sent, delivered, dropped) = (figure()?, figure()?, figure()?, figure()?);
        let (published, errors, handlers_nanos, cpu_micros) = (figure()?, figure()?, figure()?, figure()?);
        let handlers = from.list(Decoder::u64)?.try_into().unwrap_or_default();
        let counts = Totals { read, sent, delivered, dropped, published, errors, ..Totals::default() };
        metrics.go_on_totals(&Totals { handlers, handlers_nanos, cpu_micros, ..counts });
        return Ok(());
    }
    let name = from.text()?.to_owned();
    let labels = from.list(|from| Ok((from.text()?.to_owned(), from.text()?.to_owned())))?;
    let count = match kind {
        VALUE => Some(Count::Value(f64::from_bits(from.u64()?))),
        DURATIONS => {
            let (counts, nanos) = (from.list(Decoder::u64)?, from.u64()?);
            counts.try_into().ok().map(|counts| Count::Durations(Box::new(counts), nanos))
        }
        SUMMARY => Some(Count::Summary(from.u64()?, from.u64()?)),
        _ => return Err(Damaged("a kind of figure")),
    };
    count.into_iter().for_each(|count| metrics.go_on(Counted { name: name.clone(), labels: labels.clone(), count }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::{Kind, Link, items};
    use std::time::Duration;

    #[test]
    fn every_kind_of_count_goes_over() {
        let metrics = || Metrics::new(Vec::new(), Duration::from_secs(60), 5);
        let one = |name: &str, count| Counted {
            name: name.to_owned(),
            labels: vec![("a".to_owned(), "b\"c".to_owned())],
            count,
        };
        let (before, after) = (metrics(), metrics());
        let value = one("connmix_api_failed_logins_total", Count::Value(0.25));
        before.go_on(value.clone());
        before.go_on_totals(&Totals { sent: 7, handlers: [3; _], ..Totals::default() });
        let (mut link, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut link, Kind::Metrics);
        save(&before, &mut batch).unwrap();
        batch.finish().unwrap();
        items(&end.receive().unwrap().bytes, |from| restore(&after, from)).unwrap();
        assert_eq!((after.totals().sent, after.totals().handlers), (7, [3; _]));
        assert!(after.counted().contains(&value));
        let mut odd = Encoder::default();
        odd.byte(DURATIONS);
        odd.data(b"x");
        odd.count(0);
        numbers(&mut odd, &[1, 2]);
        odd.u64(5);
        assert!(restore(&after, &mut Decoder::new(&odd.bytes)).is_ok(), "it begins anew");
        assert!(restore(&after, &mut Decoder::new(&[9, 0, 0, 0, 0])).is_err());
    }
}
