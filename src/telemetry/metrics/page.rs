//! Builds a page of metrics in Prometheus' text format.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary,
};

use std::sync::Arc;

use super::counted::{Before, Count, Counted};
use super::counter::BOUNDS;

/// The content type of such a page.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The families so far.
#[derive(Default)]
pub(super) struct Page {
    families: Vec<MetricFamily>,
    /// What is added to what this process has counted.
    before: Arc<Before>,
    /// Everything that was counted, for a successor; None: nobody asks.
    counted: Option<Vec<Counted>>,
}

/// A sample's labels.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl Page {
    /// An empty one of a process that goes on from what others have counted.
    pub fn after(before: Arc<Before>) -> Page {
        Page { before, ..Page::default() }
    }

    /// The same, to be asked for what was counted.
    pub fn counting(before: Arc<Before>) -> Page {
        Page { before, counted: Some(Vec::new()), ..Page::default() }
    }

    /// All that was counted, what others had counted included.
    pub fn counted(self) -> Vec<Counted> {
        self.counted.unwrap_or_default()
    }

    /// Adds counters of that name.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::COUNTER)
    }

    /// Adds gauges of that name.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::GAUGE)
    }

    /// Adds histograms of that name.
    pub fn histogram(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::HISTOGRAM)
    }

    /// Adds summaries of that name.
    pub fn summary(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        Family::new(self, name, help, MetricType::SUMMARY)
    }

    /// The text.
    pub fn text(&self) -> String {
        prometheus::TextEncoder.encode_to_string(&self.families).unwrap_or_else(|e| {
            tracing::error!("the metrics could not be written: {e}");
            String::new()
        })
    }
}

/// The samples of one name. They join the page in the end, if there are any.
pub(super) struct Family<'a> {
    page: &'a mut Page,
    family: MetricFamily,
    kind: MetricType,
    samples: Vec<Metric>,
    /// What was counted before, and is not on the page yet.
    before: Vec<Counted>,
}

impl<'a> Family<'a> {
    fn new(page: &'a mut Page, name: &str, help: &str, kind: MetricType) -> Family<'a> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        let before = page.before.get(name).cloned().unwrap_or_default();
        Family { page, family, kind, samples: Vec::new(), before }
    }

    /// A counter's or gauge's value.
    pub fn value(mut self, labels: Labels<'_>, value: f64) -> Self {
        if self.kind == MetricType::COUNTER {
            self.count(labels, Count::Value(value), [].into());
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            self.push(labels, |metric| metric.set_gauge(gauge));
        }
        self
    }

    /// A histogram: how often within each of [`BOUNDS`] and beyond, and the sum in nanoseconds.
    pub fn durations(mut self, labels: Labels<'_>, counts: [u64; BOUNDS.len() + 1], nanos: u64) -> Self {
        self.count(labels, Count::Durations(Box::new(counts), nanos), [].into());
        self
    }

    /// A summary: quantiles and their values in seconds, how many there have ever been, and their sum in nanoseconds.
    pub fn quantiles<const N: usize>(
        mut self,
        labels: Labels<'_>,
        quantiles: [(f64, f64); N],
        count: u64,
        nanos: u64,
    ) -> Self {
        let quantiles = quantiles.map(|(quantile, value)| {
            let mut one = Quantile::default();
            one.set_quantile(quantile);
            one.set_value(value);
            one
        });
        self.count(labels, Count::Summary(count, nanos), quantiles.into());
        self
    }

    /// What was counted under these labels here, to which comes what was counted before.
    fn count(&mut self, labels: &[(&str, &str)], mut count: Count, quantiles: Vec<Quantile>) {
        if let Some(at) = self.before.iter().position(|before| before.is_of(labels)) {
            count.add(&self.before.remove(at).count);
        }
        self.put(labels, count, quantiles);
    }

    fn put(&mut self, labels: &[(&str, &str)], count: Count, quantiles: Vec<Quantile>) {
        if let Some(counted) = &mut self.page.counted {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            counted.push(Counted { name: self.family.name().to_owned(), labels, count: count.clone() });
        }
        match count {
            Count::Value(value) => {
                let mut counter = Counter::default();
                counter.set_value(value);
                self.push(labels, |metric| metric.set_counter(counter));
            }
            Count::Durations(counts, nanos) => {
                let histogram = histogram(&counts, nanos);
                self.push(labels, |metric| metric.set_histogram(histogram));
            }
            Count::Summary(count, nanos) => {
                let mut summary = Summary::default();
                summary.set_quantile(quantiles);
                summary.set_sample_count(count);
                summary.set_sample_sum(nanos as f64 / 1e9);
                self.push(labels, |metric| metric.set_summary(summary));
            }
        }
    }

    /// Whether that belongs here: another version may have counted something else under the name.
    fn is_of_kind(&self, count: &Count) -> bool {
        self.kind
            == match count {
                Count::Value(_) => MetricType::COUNTER,
                Count::Durations(..) => MetricType::HISTOGRAM,
                Count::Summary(..) => MetricType::SUMMARY,
            }
    }

    fn push(&mut self, labels: &[(&str, &str)], fill: impl FnOnce(&mut Metric)) {
        let labels = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        fill(&mut metric);
        self.samples.push(metric);
    }
}

fn histogram(counts: &[u64; BOUNDS.len() + 1], nanos: u64) -> Histogram {
    let mut below = 0;
    let buckets = BOUNDS.iter().zip(counts).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1e9);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(nanos as f64 / 1e9);
    histogram
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        // What nothing has happened to since: a series that vanished would look like one that begins anew.
        for Counted { labels, count, .. } in std::mem::take(&mut self.before) {
            let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            if self.is_of_kind(&count) {
                self.put(&labels, count, Vec::new());
            }
        }
        // The encoder takes no family without samples.
        if !self.samples.is_empty() {
            let mut family = std::mem::take(&mut self.family);
            family.set_metric(std::mem::take(&mut self.samples));
            self.page.families.push(family);
        }
    }
}
