use connmix::cluster::{bus::{Bus, zenoh::*}, counts::*, drive::Driver, interest::hash, link::*, members::*, node::*, protocol::*};
use std::sync::{Arc, atomic::{AtomicU64, Ordering::*}};
use std::time::{Duration, Instant};
struct C(Arc<AtomicU64>);
impl Clients for C {
    fn deliver(&mut self, d: Delivery) -> Option<Waiting> { if let Delivery::Publish { counts, .. } = d { self.0.fetch_add(1, Relaxed); if let Some(c) = counts { c.ack().settle(Counts { reached: 1, ..Default::default() }); } } None }
    fn count(&self) -> u64 { 0 }
}
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    tracing_subscriber::fmt().with_max_level(if std::env::var("DEBUG").is_ok() { tracing::Level::DEBUG } else { tracing::Level::INFO }).with_writer(std::io::stderr).init();
    let a: Vec<String> = std::env::args().collect();
    let run = Run(std::process::id() as u64 * 7919 + 1);
    let (tx, rx) = tokio::sync::mpsc::channel(WAITING);
    let bus = Arc::new(ZenohBus::open(&zenoh_settings(&a, run), tx).unwrap());
    let shared = Arc::new(Shared::default());
    let got = Arc::new(AtomicU64::new(0));
    let (s2, g2) = (shared.clone(), got.clone());
    let center = a[1] == "center";
    let settings = connmix::cluster::node::Settings { run, secret: b"s".to_vec(), nonce: [run.0 as u8; 16], engine: !center, center, needs_center: !center, number: 5, started: run.0, api: a[1].clone(), mesh: String::new(), reply_timeout: 500, leave: 3000 };
    let _d = Driver::start(move |now| Node::new(settings, s2, C(g2), now), shared.clone(), bus.clone() as Arc<dyn Bus>, rx).unwrap();
    let t = Instant::now();
    while shared.phase() != Phase::Serving { tokio::time::sleep(Duration::from_millis(5)).await; }
    println!("{} serving after {:?}, members {}", a[1], t.elapsed(), shared.members().len());
    match a[1].as_str() {
        "sub" => { shared.own.first(hash("c")); let w = shared.own.told(hash("c")); let t = Instant::now(); if let Some(w) = w { w.await.unwrap(); } println!("subscribed after {:?}", t.elapsed());
            loop { tokio::time::sleep(Duration::from_secs(2)).await; println!("got {}", got.load(Relaxed)); } }
        "pub" => {
            let n: usize = a[4].parse().unwrap(); let window: usize = a[5].parse().unwrap();
            while shared.links_of(hash("c")).is_empty() { tokio::time::sleep(Duration::from_millis(5)).await; }
            let link = shared.links_of(hash("c")).remove(0);
            let data = vec![b'x'; 150];
            let mut lat = vec![];
            let t = Instant::now(); let mut q = std::collections::VecDeque::new(); let mut silent = 0;
            for _ in 0..n {
                let m = Message::Publish { channel: "c", binary: false, data: &data }.to_bytes();
                let (p, r) = PendingCounts::new();
                let mut req = Some(Request::Counts(p.ack())); drop(p);
                loop { match link.offer(&m, req.take(), shared.now()) { Ok(()) => break, Err(Full(r)) => { req = r; std::future::poll_fn(|cx| link.poll_room(m.len(), cx)).await } } }
                q.push_back((Instant::now(), r));
                if q.len() >= window { let (t, r) = q.pop_front().unwrap(); silent += r.await.unwrap().silent; lat.push(t.elapsed().as_micros() as u64); }
            }
            for (_, r) in q { silent += r.await.unwrap().silent; }
            lat.sort();
            println!("{n} publishes, window {window}: {:.0} k/s, p50 {} us p99 {} us, silent {silent}", n as f64 / t.elapsed().as_secs_f64() / 1e3, lat[lat.len() / 2], lat[lat.len() * 99 / 100]);
        }
        "chan" => { let n: u64 = a[4].parse().unwrap(); let t = Instant::now(); for i in 0..n { shared.own.first(i.wrapping_mul(0x9E37_79B9_7F4A_7C15)); } let w = shared.own.told((n-1).wrapping_mul(0x9E37_79B9_7F4A_7C15)); if let Some(w) = w { w.await.unwrap(); } println!("{n} channels known everywhere after {:?}", t.elapsed()); tokio::time::sleep(Duration::from_secs(2)).await; }
        _ => loop { tokio::time::sleep(Duration::from_secs(1)).await; let rss = std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("VmRSS")).unwrap().to_string(); println!("{} members {:?} others {} {rss}", a[1], shared.members().len(), shared.others.len()); },
    }
}
fn zenoh_settings(a: &[String], run: Run) -> connmix::cluster::bus::zenoh::Settings {
    let center = a[1] == "center";
    connmix::cluster::bus::zenoh::Settings { run, router: center, listen: vec![format!("127.0.0.1:{}", a[2])], connect: if center { vec![] } else { vec![format!("127.0.0.1:{}", a[3])] }, lease: 2000, secret: std::env::var("SECRET").unwrap_or_default().into_bytes(), tls: std::env::var("TLS").ok().map(|d| connmix::cluster::bus::zenoh::Tls { cert: format!("{d}/c.pem"), key: format!("{d}/k.pem"), ca: Some(format!("{d}/ca.pem")) }) }
}
