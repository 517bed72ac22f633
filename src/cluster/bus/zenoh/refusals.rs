//! Who is refused before there is a link, and why. Zenoh tells that to the one that is refused, and to its own log alone.
//! So a few of its events are read here, and become an event of the bus in words of ours. None of Zenoh's own texts gets any
//! further: they may hold what is secret.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio::task;

use crate::cluster::bus::{Event, Refusal};
use crate::telemetry::log;

/// Where Zenoh logs the handshakes of links that others make.
const ACCEPT: &str = "zenoh_transport::unicast::establishment::accept";
/// Where it logs those of TLS.
const TLS: &str = "zenoh_link_tls::unicast";
/// The most handshakes whose address is remembered. Zenoh has 100 under way at most.
const MOST: usize = 256;

/// Tells of links that are refused from now on, if the log is open.
pub(super) fn listen(events: mpsc::Sender<Event>) {
    let under_way = Mutex::<HashMap<task::Id, SocketAddr>>::default();
    log::overhear(&[ACCEPT, TLS], move |target, text| {
        let refusal = match target {
            ACCEPT => {
                let mut under_way = under_way.lock().unwrap_or_else(PoisonError::into_inner);
                handshake(&mut under_way, task::try_id(), text)
            }
            _ => tls(text),
        };
        // If the mesh is overrun, it is told the next time.
        refusal.into_iter().for_each(|refusal| drop(events.try_send(Event::Refused(refusal))));
    });
}

/// What an event of a handshake says. One task carries out one handshake: its first event has the address.
fn handshake(under_way: &mut HashMap<task::Id, SocketAddr>, task: Option<task::Id>, text: &str) -> Option<Refusal> {
    if let Some(begun) = text.strip_prefix("Establishment Accept InitSyn: ") {
        if under_way.len() >= MOST {
            under_way.clear();
        }
        under_way.extend(task.zip(address(begun)));
        return None;
    }
    if text.starts_with("Establishment Accept ") {
        return None;
    }
    let from = task.and_then(|task| under_way.remove(&task)).or_else(|| address(text));
    // That is as it should be: of two links that both ends make at the same moment, one is closed; and who dials a run that
    // is no more, and finds another one at its address, ends the handshake (INVALID).
    let expected = ["New transport link accepted", "Received a close message (reason INVALID)"];
    if expected.iter().any(|expected| text.starts_with(expected)) || text.contains("MAX_LINKS") {
        return None;
    }
    let why = if text.contains("Invalid password") || text.contains("Invalid user") {
        "its cluster.secret is another one"
    } else if text.contains("UsrPwd") {
        "it has no cluster.secret, or speaks another version of the mesh"
    } else if text.contains("unsupported Zenoh protocol version") {
        "it speaks another version of the mesh"
    } else if text.contains("Received a close message") {
        "it does not want this node; is its cluster.secret the same?"
    } else {
        "it is no node of a cluster, or has another cluster.tls"
    };
    Some(Refusal { from, why })
}

/// What an event of a TLS handshake says. It does not tell the address.
fn tls(text: &str) -> Option<Refusal> {
    let failed = text.strip_suffix(". Hint: increase the system open file limit.")?;
    let why = if failed.contains("alert") {
        "it does not accept this node's certificate; is its cluster.tls.ca the same?"
    } else if failed.contains("ertificate") {
        "its certificate is none of cluster.tls.ca, or it shows none"
    } else {
        "it speaks no TLS, and this node has a cluster.tls"
    };
    Some(Refusal { from: None, why })
}

/// The address of the other end in a text such as `tcp/10.0.0.1:6786 => tcp/10.0.0.2:40000. Received: ...`.
fn address(text: &str) -> Option<SocketAddr> {
    let (_, rest) = text.split_once(" => ")?;
    let rest = rest.strip_prefix("tcp/").or_else(|| rest.strip_prefix("tls/")).unwrap_or(rest);
    let end = rest.find([' ', ',']).unwrap_or(rest.len());
    rest[..end].trim_end_matches(['.', ':']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_found_in_zenohs_words() {
        let of = |text| address(text).map(|at| at.to_string());
        let want = Some("10.0.0.2:40000".to_owned());
        assert_eq!(of("tcp/10.0.0.1:6786 => tcp/10.0.0.2:40000. Received: InitSyn"), want);
        assert_eq!(of("Rejecting InitSyn on tls/[::1]:1 => tls/[fe80::1]:2 because of"), Some("[fe80::1]:2".into()));
        assert_eq!(of("no link at all"), None);
    }

    #[test]
    fn tls_that_fails_says_why() {
        let why = |text: &str| tls(&format!("{text}. Hint: increase the system open file limit.")).unwrap().why;
        assert!(why("received fatal alert: DecryptError").contains("does not accept this node's"));
        assert!(why("invalid peer certificate: UnknownIssuer").contains("none of cluster.tls.ca"));
        assert!(why("peer sent no certificates").contains("none of cluster.tls.ca"));
        assert!(why("received corrupt message of type InvalidContentType").contains("speaks no TLS"));
        assert_eq!(tls("Accepted TLS connection"), None);
    }

    #[tokio::test]
    async fn a_refusal_has_the_address_that_its_handshake_began_with() {
        tokio::spawn(async {
            let (mut under_way, task) = (HashMap::new(), task::try_id());
            let begun = "Establishment Accept InitSyn: tcp/10.0.0.1:6786 => tcp/10.0.0.2:40000. Received: ...";
            let mut hear = |text| handshake(&mut under_way, task, text);
            assert_eq!(hear(begun), None);
            let refusal = hear("UsrPwd extension - Recv OpenSyn. Invalid password. at x.rs:1.").unwrap();
            assert_eq!(refusal.from, Some(([10, 0, 0, 2], 40000).into()));
            assert!(refusal.why.contains("cluster.secret is another"));
            assert_eq!(hear(begun), None);
            assert_eq!(hear("New transport link accepted from 1 to 2"), None);
            assert_eq!(hear("anything else").unwrap().from, None);
        })
        .await
        .unwrap();
    }
}
