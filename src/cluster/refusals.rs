//! Links that were refused, for the log: a node with a wrong secret tries again every few seconds, so each address and
//! reason has a line at once, and then one a minute with how often it came meanwhile.

use std::collections::HashMap;
use std::net::IpAddr;

use super::bus::Refusal;

/// Milliseconds between two lines of one address and reason.
const PAUSE: u64 = 60_000;
/// The most addresses and reasons that are told apart; all others share a line.
const MOST: usize = 256;

/// Which lines were written.
#[derive(Default)]
pub struct Refusals(HashMap<(Option<IpAddr>, &'static str), Told>);

struct Told {
    at: u64,
    since: u64,
}

impl Refusals {
    /// Whether a line is due, and how many there were since the last one.
    fn due(&mut self, refusal: &Refusal, now: u64) -> Option<u64> {
        if self.0.len() >= MOST {
            self.0.retain(|_, told| now < told.at + PAUSE);
        }
        let mut key = (refusal.from.map(|from| from.ip()), refusal.why);
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            key = (None, "");
        }
        match self.0.get_mut(&key) {
            None => {
                self.0.insert(key, Told { at: now, since: 0 });
                Some(0)
            }
            Some(told) if now >= told.at + PAUSE => {
                told.at = now;
                Some(std::mem::take(&mut told.since))
            }
            Some(told) => {
                told.since += 1;
                None
            }
        }
    }

    /// Logs a refusal, if a line of it is due.
    pub fn tell(&mut self, refusal: &Refusal, now: u64) {
        let Some(left_out) = self.due(refusal, now) else { return };
        let left_out = (left_out > 0).then_some(left_out);
        let why = refusal.why;
        match refusal.from {
            Some(from) => tracing::warn!(%from, left_out, "a link is refused: {why}"),
            None => tracing::warn!(left_out, "a link is refused: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_and_reason_has_a_line_at_once_and_then_one_a_minute() {
        let mut refusals = Refusals::default();
        let refusal = |last: u8, why| Refusal { from: Some(([10, 0, 0, last], 5000).into()), why };
        assert_eq!(refusals.due(&refusal(1, "a"), 1), Some(0));
        assert_eq!(refusals.due(&refusal(1, "a"), 2), None);
        assert_eq!(refusals.due(&refusal(1, "b"), 2), Some(0));
        assert_eq!(refusals.due(&refusal(2, "a"), 2), Some(0));
        assert_eq!(refusals.due(&Refusal { from: None, why: "a" }, 2), Some(0));
        assert_eq!(refusals.due(&refusal(1, "a"), PAUSE), None);
        assert_eq!(refusals.due(&refusal(1, "a"), PAUSE + 1), Some(2));
        assert_eq!(refusals.due(&refusal(1, "a"), PAUSE + 2), None);
    }

    #[test]
    fn many_addresses_take_bounded_memory_and_share_lines() {
        let mut refusals = Refusals::default();
        let lines = (0..100_000u32).filter(|i| {
            let from = Some((i.to_be_bytes(), 1).into());
            refusals.due(&Refusal { from, why: "a" }, 1).is_some()
        });
        assert_eq!(lines.count(), MOST + 1);
        assert!(refusals.0.len() <= MOST + 1);
    }
}
