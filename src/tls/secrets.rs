//! The secrets of a handshake by TLS 1.3, of which the keys of both directions are made, and the keys after those. The
//! library tells them to the one who logs keys: in the middle of a call, in the thread of its caller, who finds them here. So
//! they are those of the connection that is shaking hands, and nothing is logged.

use std::cell::RefCell;
use tokio_rustls::rustls::KeyLog;
use zeroize::Zeroizing;

thread_local! {
    static TOLD: RefCell<Secrets> = const { RefCell::new(Secrets { client: None, server: None }) };
}

/// A secret of TLS 1.3, as long as its hash.
type Secret = Zeroizing<Vec<u8>>;

/// The secrets of a connection, as far as the handshake has got.
#[derive(Default)]
pub(super) struct Secrets {
    /// Of what the client sends.
    pub(super) client: Option<Secret>,
    /// Of what it is sent.
    pub(super) server: Option<Secret>,
}

impl Secrets {
    /// Calls the library for one connection; what it tells meanwhile is added.
    pub(super) fn heard<T>(&mut self, call: impl FnOnce() -> T) -> T {
        TOLD.take();
        let done = call();
        let Secrets { client, server } = TOLD.take();
        self.client = client.or(self.client.take());
        self.server = server.or(self.server.take());
        done
    }
}

/// Where the library tells them.
#[derive(Debug)]
pub(super) struct Telling;

impl KeyLog for Telling {
    fn will_log(&self, label: &str) -> bool {
        // As RFC 8446, section 7.1, has them.
        matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }

    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let secret = Some(Zeroizing::new(secret.to_vec()));
        TOLD.with_borrow_mut(|told| match label {
            "CLIENT_TRAFFIC_SECRET_0" => told.client = secret,
            "SERVER_TRAFFIC_SECRET_0" => told.server = secret,
            _ => {}
        });
    }
}
