//! The TLS of one connection: bytes in, bytes out. The library shakes hands; then it hands the keys over, and `records` does
//! the rest. Neither keeps bytes: what has come and is not complete stays with the caller, who shows it at each call.

use std::io;
use tokio_rustls::rustls::ProtocolVersion;
use tokio_rustls::rustls::server::UnbufferedServerConnection;
use tokio_rustls::rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};

use super::Acceptor;
use super::failure::Failure;
use super::keys::Keys;
use super::records::{Records, Version};
use super::secrets::Secrets;
use crate::handover::{Damaged, Decoder, Encoder};
use crate::telemetry::metrics::labels::Handshake;

/// The head of a record; the last two bytes are the length of what follows (RFC 8446, section 5.1).
const HEAD: usize = 5;

/// The state of one connection.
pub struct Session(State);

// Nearly all are open: another box would only make each of them larger.
#[allow(clippy::large_enum_variant)]
enum State {
    Shaking(Box<Shaking>),
    Open(Records),
    /// The handshake has failed.
    Failed,
}

/// A handshake.
struct Shaking {
    connection: UnbufferedServerConnection,
    secrets: Secrets,
    /// The bytes at the beginning of what has come that the library has taken in, and keeps there: whole records with parts
    /// of a message (RFC 8446, section 5.1). It puts those parts together where they lie, so the heads between them are lost.
    taken_in: usize,
}

/// How far the library has come with what it was shown.
enum Step {
    /// There is more to do.
    On,
    /// It needs more to go on.
    Blocked,
    /// The handshake is over, and nothing has to be sent first.
    Over,
}

impl Session {
    /// A connection whose handshake is to come.
    pub fn new(acceptor: &Acceptor) -> Result<Session, Failure> {
        let connection = UnbufferedServerConnection::new(acceptor.config.clone())?;
        Ok(Session(State::Shaking(Box::new(Shaking { connection, secrets: Secrets::default(), taken_in: 0 }))))
    }

    /// Whether the handshake is over.
    pub fn is_open(&self) -> bool {
        matches!(self.0, State::Open(_))
    }

    /// Whether the client has said that it sends no more (`close_notify`).
    pub fn has_ended(&self) -> bool {
        matches!(&self.0, State::Open(records) if records.has_ended())
    }

    /// Takes the records at the beginning of `input`: the content of each goes to `plain`, what must be sent is put at the
    /// end of `out`. Returns how many bytes are done with. The others, as they are then, must be at the beginning of
    /// `input` at the next call. After a failure `out` has what tells the client.
    pub fn read(
        &mut self,
        input: &mut [u8],
        plain: impl FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), Failure>) {
        let mut used = 0;
        if !self.is_open()
            && let State::Shaking(mut shaking) = std::mem::replace(&mut self.0, State::Failed)
        {
            let (taken, shaken) = shaking.read(input, out);
            used = taken;
            let state = shaken.and_then(|over| match over {
                true => shaking.records().map(State::Open),
                false => Ok(State::Shaking(shaking)),
            });
            match state {
                Ok(state) => self.0 = state,
                Err(failure) => return (used, Err(failure)),
            }
        }
        match &mut self.0 {
            State::Open(records) => {
                let (more, read) = records.read(input.get_mut(used..).unwrap_or_default(), plain, out);
                (used + more, read)
            }
            State::Shaking(_) => (used, Ok(())),
            State::Failed => (used, Err(unexpected(&"a handshake that has failed"))),
        }
    }

    /// Enciphers bytes and puts them at the end of `out`. After a failure `out` has what tells the client.
    pub fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        match &mut self.0 {
            State::Open(records) => records.write(bytes, out),
            State::Shaking(_) | State::Failed => Err(unexpected(&"something to write before the handshake is over")),
        }
    }

    /// Tells the client that nothing more will come (`close_notify`): puts that at the end of `out`. Before the handshake is
    /// over there is nothing to end.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if let State::Open(records) = &mut self.0 {
            records.end(out);
        }
    }

    /// Writes it for a successor process, if its handshake is over. Nothing may be enciphered here from then on.
    pub fn save(&self, out: &mut Encoder) {
        if let State::Open(records) = &self.0 {
            records.save(out);
        }
    }

    /// Reads what [`Session::save`] has written.
    pub fn restore(from: &mut Decoder<'_>) -> Result<Session, Damaged> {
        Records::restore(from).map(|records| Session(State::Open(records)))
    }
}

impl Shaking {
    /// Takes records until the handshake is over (true), or more must come. The library is shown one record more at a time:
    /// so it sees none of those that follow the handshake.
    fn read(&mut self, input: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<bool, Failure>) {
        let Shaking { connection, secrets, taken_in } = self;
        let (mut used, mut whole, mut shown, mut is_blocked) = (0, *taken_in, *taken_in, true);
        loop {
            if std::mem::take(&mut is_blocked) {
                let (length, is_whole) = record(&input[shown..]);
                shown += length;
                whole = if is_whole { shown } else { whole };
            }
            let (discard, step) = secrets.heard(|| step(connection, &mut input[used..shown], out));
            used += discard;
            match step {
                Ok(Step::On) => {}
                Ok(Step::Over) if used < shown => {
                    return (used, Err(unexpected(&"something left of the handshake")));
                }
                Ok(Step::Over) => return (used, Ok(true)),
                Ok(Step::Blocked) if shown == input.len() => {
                    *taken_in = whole - used;
                    return (used, Ok(false));
                }
                Ok(Step::Blocked) => is_blocked = true,
                Err(failure) => {
                    tell(connection, &mut input[used..shown], out);
                    return (used, Err(failure));
                }
            }
        }
    }

    /// The keys that it has come to.
    fn records(self) -> Result<Records, Failure> {
        let Shaking { connection, secrets, .. } = self;
        let version = connection.protocol_version();
        let (agreed, _) = connection.dangerous_into_kernel_connection()?;
        let (version, client, server) = match (version, &secrets.client, &secrets.server) {
            (Some(ProtocolVersion::TLSv1_3), Some(client), Some(server)) => {
                (Version::Tls13, Some(&client[..]), Some(&server[..]))
            }
            (Some(ProtocolVersion::TLSv1_2), ..) => (Version::Tls12, None, None),
            (version, ..) => return Err(unexpected(&format!("keys of {version:?}"))),
        };
        match (Keys::of(agreed.tx, server), Keys::of(agreed.rx, client)) {
            (Some(sends), Some(receives)) => Ok(Records::new(version, sends, receives)),
            _ => Err(unexpected(&"keys that are unknown")),
        }
    }
}

/// The length of the record at the beginning, or of what there is of it; whether it is whole.
fn record(input: &[u8]) -> (usize, bool) {
    let length = |head: &[u8; HEAD]| HEAD + usize::from(u16::from_be_bytes([head[3], head[4]]));
    match input.first_chunk().map(length) {
        Some(length) if length <= input.len() => (length, true),
        _ => (input.len(), false),
    }
}

/// One step of the library; how many bytes at the beginning of `input` are done with.
fn step(
    connection: &mut UnbufferedServerConnection,
    input: &mut [u8],
    out: &mut Vec<u8>,
) -> (usize, Result<Step, Failure>) {
    let UnbufferedStatus { discard, state } = connection.process_tls_records(input);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out).map(|()| Step::On),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Step::On)
        }
        // By TLS 1.3 a server may send before the handshake is over.
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Blocked),
        Ok(state) => Err(unexpected(&state)),
        Err(e) => Err(e.into()),
    };
    match step {
        Ok(Step::Blocked) if !connection.is_handshaking() => (discard, Ok(Step::Over)),
        step => (discard, step),
    }
}

/// After a failure: what tells the client of it (an alert) is put at the end of `out`. Asked again, the library would take the
/// record that broke it for a new one.
fn tell(connection: &mut UnbufferedServerConnection, input: &mut [u8], out: &mut Vec<u8>) {
    let UnbufferedStatus { state, .. } = connection.process_tls_records(input);
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
        // A failure here leaves the client without an alert.
        let _ = encode(&mut data, out);
    }
}

/// Puts what must be sent at the end of `out`.
fn encode<T>(data: &mut EncodeTlsData<'_, T>, out: &mut Vec<u8>) -> Result<(), Failure> {
    let start = out.len();
    // How much it is, is told by a buffer that is too small.
    let Err(EncodeError::InsufficientSize(e)) = data.encode(&mut []) else { return Ok(()) };
    out.resize(start + e.required_size, 0);
    data.encode(&mut out[start..]).map(drop).map_err(|e| io::Error::other(e).into())
}

fn unexpected(what: &dyn std::fmt::Debug) -> Failure {
    Failure::new(Handshake::Malformed, format!("unexpected state of the protocol: {what:?}"))
}

#[cfg(test)]
mod tests;
