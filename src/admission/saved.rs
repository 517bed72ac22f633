//! What has been used of the rates of connects, on its way to a successor process.

use std::io;
use std::net::IpAddr;

use super::bucket::Bucket;
use super::{Admission, lock};
use crate::handover::{Batch, Damaged, Decoder};

impl Admission {
    /// Writes what has been used of the server at that position, by all together and by each address.
    pub fn save(&self, server: usize, batch: &mut Batch<'_>) -> io::Result<()> {
        let now = self.now();
        let connects = *lock(&self.connects);
        let used = lock(&self.addresses).used(now);
        let addresses = used.into_iter().map(|(address, bucket)| (Some(address), bucket));
        for (address, bucket) in addresses.chain([(None, connects)]).filter(|(_, bucket)| !bucket.is_full(now)) {
            batch.item(|out| {
                out.u32(server as u32);
                out.option(address, |out, address| out.data(address.to_string().as_bytes()));
                out.u64(bucket.until_full(now));
            })?;
        }
        Ok(())
    }

    /// Reads one of them, behind the server's position. Before connections arrive.
    pub fn restore(&self, from: &mut Decoder<'_>) -> Result<(), Damaged> {
        let address = from.option(Decoder::text)?;
        let address = address.map(|text| text.parse::<IpAddr>().map_err(|_| Damaged("an address"))).transpose()?;
        let now = self.now();
        let bucket = Bucket::full_in(from.u64()?, now);
        match address {
            Some(address) => lock(&self.addresses).remember(address, bucket, now),
            None => *lock(&self.connects) = bucket,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Beyond;
    use super::*;
    use crate::config::Rate;
    use crate::handover::{Kind, Link, items};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn what_was_used_is_known_afterwards() {
        let hour = Rate { count: 2, per: Duration::from_secs(3600) };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (before, after) = (Arc::new(Admission::default()), Arc::new(Admission::default()));
        assert!(before.connect(hour) && before.connect(hour));
        let stays = before.enter(address("10.0.0.1"), hour, 5).unwrap();
        drop(before.enter(address("10.0.0.2"), hour, 5).unwrap());
        drop(before.enter(address("10.0.0.2"), hour, 5).unwrap());
        let (mut one, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut one, Kind::Admissions);
        before.save(3, &mut batch).unwrap();
        batch.finish().unwrap();
        let read = |from: &mut Decoder<'_>| {
            assert_eq!(from.u32()?, 3);
            after.restore(from)
        };
        items(&end.receive().unwrap().bytes, read).unwrap();
        assert!(!after.connect(hour));
        assert_eq!(after.enter(address("10.0.0.2"), hour, 5).err(), Some(Beyond::Rate));
        // Its connection arrives, whatever the bound is by now.
        let arrived = after.arrive(address("10.0.0.1"), 1).unwrap();
        assert_eq!(after.enter(address("10.0.0.1"), hour, 1).err(), Some(Beyond::Connections));
        drop((arrived, stays));
        assert_eq!(after.enter(address("10.0.0.1"), hour, 1).err(), Some(Beyond::Rate), "it had one left");
        assert!(after.arrive(address("10.0.0.1"), 0).is_none());
    }
}
