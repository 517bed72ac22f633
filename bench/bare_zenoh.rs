//! What two processes on this machine exchange over bare Zenoh, the engine of the links between nodes, without connmix: the
//! bound for what a cluster can do, to be measured in the same sitting as `connmix bench`.
//!
//!     cargo run --release --features cluster --example bare_zenoh
//!
//! Starts itself a second time, as the other node. Both are peers with one TCP link on loopback, and a key each, as nodes of a
//! cluster have. Each figure is the median of five runs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use zenoh::qos::CongestionControl;
use zenoh::sample::Sample;
use zenoh::{Session, Wait};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a message, as of a publish to one subscriber.
const SIZE: usize = 150;
const RUNS: usize = 5;
/// Messages of a run that go one way.
const ONE_WAY: u64 = 1_000_000;
/// Messages of a run that are answered.
const ANSWERED: usize = 20_000;

const THERE: &str = "bench/there";
const BACK: &str = "bench/back";
/// Kinds of messages, by their first byte: counted, or answered.
const COUNTED: u8 = 0;
const ASKED: u8 = 1;

fn main() -> Result<(), Failed> {
    match std::env::args().nth(1).as_deref() {
        Some("serve") => serve(),
        _ => measure(),
    }
}

fn open(listen: Option<u16>, connect: Option<u16>) -> Result<Session, Failed> {
    let endpoint = |port: Option<u16>| port.map_or("[]".to_owned(), |port| format!("[\"tcp/127.0.0.1:{port}\"]"));
    let mut config = zenoh::Config::default();
    for (name, value) in [
        ("mode", "\"peer\""),
        ("scouting/multicast/enabled", "false"),
        ("listen/endpoints", &endpoint(listen)),
        ("connect/endpoints", &endpoint(connect)),
    ] {
        config.insert_json5(name, value)?;
    }
    zenoh::open(config).wait()
}

/// Answers what is asked, and says when the last of those that are only counted has come. Ends with its input.
fn serve() -> Result<(), Failed> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let session = open(Some(port), None)?;
    let back = session.declare_publisher(BACK).congestion_control(CongestionControl::Block).express(true).wait()?;
    let mut next = 0;
    let came = move |sample: Sample| {
        let bytes = sample.payload().to_bytes();
        let number = bytes.get(1..9).and_then(|number| number.try_into().ok()).map_or(0, u64::from_le_bytes);
        if bytes[0] == COUNTED {
            next = if number == next { number + 1 } else { u64::MAX };
            if number + 1 < ONE_WAY {
                return;
            }
            assert_eq!(std::mem::take(&mut next), ONE_WAY, "something was lost or out of order");
        }
        if let Err(error) = back.put(&bytes[..9]).wait() {
            eprintln!("no answer: {error}");
        }
    };
    let _subscriber = session.declare_subscriber(THERE).callback_mut(came).wait()?;
    println!("{port}");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn measure() -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    let mut other = Command::new(program).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(other.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let session = open(None, Some(line.trim().parse()?))?;
    let (came, answers) = mpsc::channel();
    let answered = move |_: Sample| {
        // Nobody waits any more: the program ends.
        let _ = came.send(());
    };
    let _subscriber = session.declare_subscriber(BACK).callback(answered).wait()?;
    let publisher = |express: bool| {
        session.declare_publisher(THERE).congestion_control(CongestionControl::Block).express(express).wait()
    };
    let (together, at_once) = (publisher(false)?, publisher(true)?);
    // The other one's subscription takes a moment to be known.
    while !together.matching_status().wait()?.matching() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let message = |kind: u8, number: u64| {
        let mut bytes = vec![b'x'; SIZE];
        bytes[0] = kind;
        bytes[1..9].copy_from_slice(&number.to_le_bytes());
        bytes
    };

    let (mut rates, mut halves, mut slowest, mut windows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        for number in 0..ONE_WAY {
            together.put(message(COUNTED, number)).wait()?;
        }
        answers.recv()?;
        rates.push(ONE_WAY as f64 / start.elapsed().as_secs_f64());

        let mut times = Vec::new();
        for number in 0..ANSWERED {
            let asked = Instant::now();
            at_once.put(message(ASKED, number as u64)).wait()?;
            answers.recv()?;
            times.push(asked.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        halves.push(times[ANSWERED / 2]);
        slowest.push(times[ANSWERED * 99 / 100]);

        let start = Instant::now();
        for number in 0..ANSWERED {
            if number >= 64 {
                answers.recv()?;
            }
            at_once.put(message(ASKED, number as u64)).wait()?;
        }
        (0..64).try_for_each(|_| answers.recv())?;
        windows.push(ANSWERED as f64 / start.elapsed().as_secs_f64());
    }
    println!("messages of {SIZE} bytes from one process to another: {:.0} a second", median(rates));
    println!("a message and its answer: p50 {:.0} us, p99 {:.0} us", median(halves), median(slowest));
    println!("messages that are answered, 64 under way: {:.0} a second", median(windows));
    drop(other.stdin.take());
    other.wait()?;
    Ok(())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
