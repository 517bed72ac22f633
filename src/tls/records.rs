//! The records of a connection after its handshake, as TLS 1.3 (RFC 8446) and 1.2 (RFC 5246) want them. All that is kept of
//! a connection is plain data: the keys, how many records there were, and a few flags. So it takes little memory, and may
//! go over to another process.
//!
//! Content is passed on; a close_notify is noted; a change of keys is followed, and answered before anything else is sent.
//! Everything else ends the connection with an alert. Records that bring nothing are counted, since they cost time.

use ring::aead::LessSafeKey;
use tokio_rustls::rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

use super::failure::Failure;
use super::keys::{Keys, open, seal};
use crate::handover::{Damaged, Decoder, Encoder};

/// The most bytes of a record's content (RFC 8446, section 5.1).
pub(super) const CONTENT: usize = 16 * 1024;
/// The head of a record: its type, the version, the length of what follows.
const HEAD: usize = 5;
/// What a record ends with.
const TAG: usize = 16;
/// The part of the nonce that records of AES-GCM begin with in TLS 1.2 (RFC 5288, section 3).
const EXPLICIT: usize = 8;
/// The most records in a row that bring nothing.
const FRUITLESS: u8 = 32;
/// A change of keys, as a message of the handshake: its type, its length, whether one is wanted in return (RFC 8446,
/// section 4.6.3).
const KEY_UPDATE: usize = 5;

/// The types of records (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
/// The types of messages of the handshake.
const CLIENT_HELLO: u8 = 1;
const UPDATE: u8 = 24;
/// The levels of alerts (RFC 5246, section 7.2).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

/// A connection whose handshake is over.
pub(super) struct Records {
    version: Version,
    sends: Keys,
    receives: Keys,
    /// The other end has said that it sends no more.
    ended: bool,
    /// It wants other keys from here.
    wants_update: bool,
    /// It has been refused another handshake (TLS 1.2).
    refused: bool,
    /// The last records that brought nothing.
    fruitless: u8,
    /// The beginning of a change of keys.
    message: [u8; KEY_UPDATE],
    /// The bytes of that.
    begun: u8,
}

/// Why the connection can't go on; the alert that tells the other end, unless that knows.
struct Broken(Option<AlertDescription>, Failure);

impl Broken {
    fn by(alert: AlertDescription, error: impl Into<Error>) -> Broken {
        Broken(Some(alert), error.into().into())
    }

    /// Something came that may not come.
    fn unexpected(what: &'static str) -> Broken {
        Broken::by(AlertDescription::UnexpectedMessage, InvalidMessage::UnexpectedMessage(what))
    }

    /// Nothing more can be enciphered.
    fn exhausted() -> Broken {
        Broken(Some(AlertDescription::CloseNotify), Error::EncryptError.into())
    }
}

impl Records {
    /// With these keys for each direction.
    pub(super) fn new(version: Version, sends: Keys, receives: Keys) -> Records {
        Records {
            version,
            sends,
            receives,
            ended: false,
            wants_update: false,
            refused: false,
            fruitless: 0,
            message: [0; KEY_UPDATE],
            begun: 0,
        }
    }

    /// Whether the other end has said that it sends no more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the whole records at the beginning of `input`; the content of each goes to `plain`, and what must be sent at
    /// once to the end of `out`. Returns how many bytes are done with. After a failure `out` has what tells the other end.
    pub(super) fn read(
        &mut self,
        input: &mut [u8],
        mut plain: impl FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> (usize, Result<(), Failure>) {
        let (mut used, mut key) = (0, None);
        while !self.ended {
            let rest = input.get_mut(used..).unwrap_or_default();
            match self.take(rest, &mut key, &mut plain, out) {
                Ok(0) => break,
                Ok(taken) => used += taken,
                Err(Broken(alert, failure)) => {
                    if let Some(alert) = alert {
                        // Without a number left, the other end is not told.
                        let _ = self.seal(ALERT, &[FATAL, alert.into()], None, out);
                    }
                    return (used, Err(failure));
                }
            }
        }
        (used, Ok(()))
    }

    /// Enciphers bytes and puts them at the end of `out`. After a failure `out` has what tells the other end.
    pub(super) fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let mut key = None;
        for content in bytes.chunks(CONTENT) {
            let sent = self.change_keys(&mut key, out).and_then(|()| self.seal(DATA, content, key.as_ref(), out));
            if let Err(Broken(alert, failure)) = sent {
                if alert.is_some() {
                    self.end(out);
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Tells the other end that nothing more will come: puts a close_notify at the end of `out`.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        // It can't fail unless something has failed before.
        let _ = self.seal(ALERT, &[WARNING, AlertDescription::CloseNotify.into()], None, out);
    }

    /// Takes a record; 0: it is not whole. `key`: the cipher that receives, once there was one to decipher.
    fn take(
        &mut self,
        input: &mut [u8],
        key: &mut Option<LessSafeKey>,
        plain: &mut impl FnMut(&[u8]),
        out: &mut Vec<u8>,
    ) -> Result<usize, Broken> {
        let Some(&head) = input.first_chunk::<HEAD>() else { return Ok(0) };
        let length = self.length(head)?;
        let Some(body) = input.get_mut(HEAD..HEAD + length) else { return Ok(0) };
        if key.is_none() {
            *key = self.receives.ready().ok();
        }
        let undecipherable = || Broken::by(AlertDescription::BadRecordMac, Error::DecryptError);
        let ready = key.as_ref().ok_or_else(undecipherable)?;
        let (kind, content) = self.decipher(head, body, ready).ok_or_else(undecipherable)??;
        if self.begun > 0 && kind != HANDSHAKE {
            // RFC 8446, section 5.1
            let error = PeerMisbehaved::MessageInterleavedWithHandshakeMessage;
            return Err(Broken::by(AlertDescription::UnexpectedMessage, error));
        }
        match kind {
            ALERT | HANDSHAKE if content.is_empty() => {
                // RFC 8446, sections 5.1 and 5.4; RFC 5246, section 6.2.1
                return Err(Broken::by(AlertDescription::UnexpectedMessage, InvalidMessage::InvalidEmptyPayload));
            }
            DATA if !content.is_empty() => {
                self.fruitless = 0;
                plain(content);
                return Ok(HEAD + length);
            }
            DATA => {}
            ALERT => self.alert(content)?,
            HANDSHAKE if self.version == Version::Tls13 => {
                if self.update(content)? {
                    *key = None;
                }
            }
            HANDSHAKE => self.refuse(content, out)?,
            _ => return Err(Broken::unexpected("type of a record")),
        }
        self.fruitless += 1;
        if self.fruitless > FRUITLESS {
            return Err(Broken::by(AlertDescription::UnexpectedMessage, PeerMisbehaved::TooManyEmptyFragments));
        }
        Ok(HEAD + length)
    }

    /// The length of what follows a head that may come.
    fn length(&self, head: [u8; HEAD]) -> Result<usize, Broken> {
        let (kind, length) = (head[0], usize::from(u16::from_be_bytes([head[3], head[4]])));
        // RFC 8446, section 5.2; RFC 5246, section 6.2.3
        let (expected, most) = match self.version {
            // The version has no meaning there, and may be anything.
            Version::Tls13 => (kind == DATA, CONTENT + 256),
            Version::Tls12 if head[1..3] != [3, 3] => {
                let error = InvalidMessage::UnknownProtocolVersion;
                return Err(Broken::by(AlertDescription::ProtocolVersion, error));
            }
            // A change_cipher_spec has no place after the handshake.
            Version::Tls12 => (matches!(kind, ALERT | HANDSHAKE | DATA), CONTENT + 2048),
        };
        if !expected {
            return Err(Broken::unexpected("type of a record"));
        }
        if length > most {
            return Err(Broken::by(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord));
        }
        Ok(length)
    }

    /// The type and the content of a record. None: it can't be deciphered.
    fn decipher<'a>(
        &mut self,
        head: [u8; HEAD],
        body: &'a mut [u8],
        key: &LessSafeKey,
    ) -> Option<Result<(u8, &'a [u8]), Broken>> {
        let (number, nonce) = self.receives.number()?;
        let oversized = || Broken::by(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord);
        if self.version == Version::Tls13 {
            let inner = open(key, nonce, &head, body, 0).ok()?;
            // The type follows the content, zeros may follow the type (RFC 8446, section 5.2).
            let kind = inner.iter().rposition(|byte| *byte != 0);
            return Some(match kind {
                _ if inner.len() > CONTENT + 1 => Err(oversized()),
                None => Err(Broken::unexpected("a record of zeros")),
                Some(at) => Ok((inner[at], &inner[..at])),
            });
        }
        let (mut nonce, mut from) = (nonce, 0);
        if self.receives.cipher().is_gcm() {
            nonce[..4].copy_from_slice(&self.receives.salt());
            nonce[4..].copy_from_slice(body.first_chunk::<EXPLICIT>()?);
            from = EXPLICIT;
        }
        let length = body.len().checked_sub(from + TAG)?;
        let content = open(key, nonce, &additional(number, head[0], length), body, from).ok()?;
        Some(if content.len() > CONTENT { Err(oversized()) } else { Ok((head[0], content)) })
    }

    /// RFC 8446, section 6; RFC 5246, section 7.2
    fn alert(&mut self, content: &[u8]) -> Result<(), Broken> {
        let &[level, description] = content else {
            return Err(Broken::by(AlertDescription::DecodeError, InvalidMessage::MessageTooShort));
        };
        let (description, warns) = (AlertDescription::from(description), level == WARNING);
        match description {
            AlertDescription::CloseNotify => self.ended = true,
            // Some say so before a close_notify.
            AlertDescription::UserCanceled if warns => {}
            _ if warns && self.version == Version::Tls12 => {}
            _ => return Err(Broken(None, Error::AlertReceived(description).into())),
        }
        Ok(())
    }

    /// A message of the handshake by TLS 1.3, or a part of one; true: the keys have changed.
    fn update(&mut self, content: &[u8]) -> Result<bool, Broken> {
        let begun = usize::from(self.begun);
        for (into, byte) in self.message[begun..].iter_mut().zip(content) {
            *into = *byte;
            self.begun += 1;
        }
        let whole = match self.message.split_at(self.begun.into()).0 {
            [kind, ..] if *kind != UPDATE => return Err(Broken::unexpected("message of the handshake")),
            message @ [_, length @ .., _] if message.len() == KEY_UPDATE && *length != [0, 0, 1] => {
                return Err(Broken::by(AlertDescription::DecodeError, InvalidMessage::TrailingData("KeyUpdate")));
            }
            message => message.len() == KEY_UPDATE,
        };
        if !whole {
            return Ok(false);
        }
        if begun + content.len() > KEY_UPDATE {
            // What follows would be enciphered by the keys before (RFC 8446, section 5.1).
            let error = PeerMisbehaved::KeyEpochWithPendingFragment;
            return Err(Broken::by(AlertDescription::UnexpectedMessage, error));
        }
        self.begun = 0;
        match self.message[KEY_UPDATE - 1] {
            0 => {}
            1 => self.wants_update = true,
            _ => return Err(Broken::by(AlertDescription::IllegalParameter, InvalidMessage::InvalidKeyUpdate)),
        }
        self.receives = self.receives.next().ok_or_else(Broken::exhausted)?;
        Ok(true)
    }

    /// A message of the handshake by TLS 1.2: another handshake is refused, once (RFC 5246, section 7.2.2).
    fn refuse(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        if content.first() != Some(&CLIENT_HELLO) {
            return Err(Broken::unexpected("message of the handshake"));
        }
        if std::mem::replace(&mut self.refused, true) {
            let error = PeerMisbehaved::TooManyRenegotiationRequests;
            return Err(Broken::by(AlertDescription::UnexpectedMessage, error));
        }
        self.seal(ALERT, &[WARNING, AlertDescription::NoRenegotiation.into()], None, out)
    }

    /// Makes the key ready; changes it before, where that is due: the other end has asked for it, or it has enciphered all
    /// that one may (RFC 8446, sections 4.6.3 and 5.5).
    fn change_keys(&mut self, key: &mut Option<LessSafeKey>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let used_up = self.sends.sequence >= self.sends.cipher().limit();
        if used_up && self.version == Version::Tls12 {
            return Err(Broken::exhausted());
        }
        if used_up || self.wants_update {
            // None is wanted in return.
            self.seal(HANDSHAKE, &[UPDATE, 0, 0, 1, 0], None, out)?;
            self.sends = self.sends.next().ok_or_else(Broken::exhausted)?;
            self.wants_update = false;
            *key = None;
        }
        if key.is_none() {
            *key = Some(self.sends.ready().map_err(|_| Broken::exhausted())?);
        }
        Ok(())
    }

    /// Enciphers a record and puts it at the end of `out`. `key`: the cipher that sends, if it is ready.
    fn seal(&mut self, kind: u8, content: &[u8], key: Option<&LessSafeKey>, out: &mut Vec<u8>) -> Result<(), Broken> {
        let made;
        let key = match key {
            Some(key) => key,
            None => {
                made = self.sends.ready().map_err(|_| Broken::exhausted())?;
                &made
            }
        };
        let (number, nonce) = self.sends.number().ok_or_else(Broken::exhausted)?;
        let (start, explicit) = (out.len(), self.version == Version::Tls12 && self.sends.cipher().is_gcm());
        let (inner, before) = (self.version == Version::Tls13, if explicit { EXPLICIT } else { 0 });
        let length = before + content.len() + usize::from(inner) + TAG;
        let [high, low] = (length as u16).to_be_bytes();
        let head = [if inner { DATA } else { kind }, 3, 3, high, low];
        out.reserve(HEAD + length);
        out.extend_from_slice(&head);
        if explicit {
            out.extend_from_slice(&nonce[nonce.len() - EXPLICIT..]);
        }
        out.extend_from_slice(content);
        if inner {
            out.push(kind);
        }
        let enciphered = &mut out[start + HEAD + before..];
        let tag = match inner {
            true => seal(key, nonce, &head, enciphered),
            false => seal(key, nonce, &additional(number, kind, content.len()), enciphered),
        };
        match tag {
            Ok(tag) => out.extend_from_slice(tag.as_ref()),
            Err(_) => {
                out.truncate(start);
                return Err(Broken::exhausted());
            }
        }
        Ok(())
    }
}

/// A connection on its way to a successor process.
impl Records {
    /// Writes it. Nothing may be enciphered here any more, or two records would have one number.
    pub(super) fn save(&self, out: &mut Encoder) {
        out.byte((self.version == Version::Tls13).into());
        self.sends.save(out);
        self.receives.save(out);
        [self.ended, self.wants_update, self.refused].into_iter().for_each(|flag| out.byte(flag.into()));
        out.byte(self.fruitless);
        out.data(&self.message[..self.begun.into()]);
    }

    /// Reads what [`Records::save`] has written.
    pub(super) fn restore(from: &mut Decoder<'_>) -> Result<Records, Damaged> {
        let version = if from.flag()? { Version::Tls13 } else { Version::Tls12 };
        let mut records = Records::new(version, Keys::read(from)?, Keys::read(from)?);
        (records.ended, records.wants_update, records.refused) = (from.flag()?, from.flag()?, from.flag()?);
        records.fruitless = from.byte()?.min(FRUITLESS);
        let begun = from.data()?;
        if begun.len() >= KEY_UPDATE {
            return Err(Damaged("a message of TLS"));
        }
        records.message[..begun.len()].copy_from_slice(begun);
        records.begun = begun.len() as u8;
        Ok(records)
    }
}

/// For tests: the other end of a connection.
#[cfg(any(test, fuzzing))]
impl Records {
    /// Enciphers a record of any type.
    pub(super) fn seal_any(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> bool {
        self.seal(kind, content, None, out).is_ok()
    }

    /// Changes the key if the other end has done so with the last record.
    pub(super) fn follow(&mut self, other: &Records) {
        if other.receives.sequence == 0
            && self.sends.sequence > 0
            && let Some(next) = self.sends.next()
        {
            self.sends = next;
        }
    }
}

/// What a record of TLS 1.2 is authenticated with besides its content (RFC 5246, section 6.2.3.3).
fn additional(number: u64, kind: u8, length: usize) -> [u8; 13] {
    let mut data = [0; 13];
    data[..8].copy_from_slice(&number.to_be_bytes());
    data[8..11].copy_from_slice(&[kind, 3, 3]);
    data[11..].copy_from_slice(&(length as u16).to_be_bytes());
    data
}

#[cfg(test)]
mod tests;
