//! The process before, as its successor knows it: what it offers, and whether this one can take it.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::faults::crash_point;
use super::handover::name;
use super::listeners::Listeners;
use super::member::Member;
use super::mesh;
use crate::config::Config;
use crate::handover::{Damaged, Decoder, Kind, Link, VERSION};
use crate::ids::NodeNumber;
use crate::worker::{Listener, Role};

/// The longest that the process before may take to offer something.
const NEXT: Duration = Duration::from_secs(30);

/// The process before, which offers everything that it has.
pub struct Before {
    pub(super) link: Link,
    /// Its number.
    pub process: u32,
    /// It only wants to know whether it could.
    pub dry: bool,
    node: NodeNumber,
    /// What it is to the others of its cluster, if it has one.
    pub(super) member: Option<Member>,
    /// By the name of each: where it was to listen, and its socket.
    listeners: Vec<(String, String, OwnedFd)>,
}

impl Before {
    /// Hears what the process before offers.
    pub fn hear(mut link: Link) -> Result<Before, String> {
        let heard = link.patience(Some(NEXT)).and_then(|()| link.receive());
        let frame = heard.map_err(|e| format!("the process before can't be heard: {e}"))?;
        match Kind::of(frame.kind) {
            Some(Kind::Offer) => {}
            Some(Kind::Refused) => return Err(String::from_utf8_lossy(&frame.bytes).into_owned()),
            _ => return Err("the process before offers nothing".to_owned()),
        }
        let mut from = Decoder::new(&frame.bytes);
        let damaged = |e: Damaged| e.to_string();
        if from.u32().map_err(damaged)? != VERSION {
            return Err("the process before hands over in another form: it needs a restart".to_owned());
        }
        let read = || -> Result<_, Damaged> {
            let (process, dry) = (from.u32()?, from.flag()?);
            let node = u16::try_from(from.u32()?).ok().and_then(NodeNumber::new).ok_or(Damaged("a node's number"))?;
            let member = from.option(Member::read)?;
            let names = from.list(|from| Ok((from.text()?.to_owned(), from.text()?.to_owned())))?;
            if names.len() != frame.files.len() {
                return Err(Damaged("the listeners"));
            }
            Ok((process, dry, node, member, names))
        };
        let (process, dry, node, member, names) = { read }().map_err(damaged)?;
        let listeners = names.into_iter().zip(frame.files).map(|((name, at), file)| (name, at, file)).collect();
        crash_point("heard");
        Ok(Before { link, process, dry, node, member, listeners })
    }

    /// The number of its node, which stays.
    pub fn node(&self) -> NodeNumber {
        self.node
    }

    /// Its listeners, as this configuration names them. An error says what is not as it was: that needs a restart.
    pub fn listeners(&mut self, config: &Config) -> Result<Listeners, String> {
        mesh::fits(self.member.as_ref(), config)?;
        let mut roles: Vec<Role> = (0..config.servers.len()).map(Role::Server).collect();
        roles.extend(config.role.engine.then_some(Role::Api));
        roles.extend(config.role.center.then_some(Role::Center));
        let mut taken = Vec::new();
        for role in roles {
            let listen = match role {
                Role::Server(server) => &config.servers[server].listen,
                Role::Api => &config.api.listen,
                Role::Center => &config.center,
            };
            let (name, wanted) = (name(role), listen.addr.to_string());
            let Some(at) = self.listeners.iter().position(|(known, ..)| *known == name) else {
                return Err(format!("{name} is new: that needs a restart"));
            };
            let (_, before, socket) = self.listeners.swap_remove(at);
            if before != wanted {
                return Err(format!("{}: {before} -> {wanted}: that needs a restart", listen.key));
            }
            taken.push(Listener { role, socket: TcpListener::from(socket) });
        }
        crash_point("listeners");
        match self.listeners.first() {
            Some((name, ..)) => Err(format!("{name} is gone: that needs a restart")),
            None => Listeners::of(taken, config).map_err(|e| e.to_string()),
        }
    }

    /// Whether its listeners are in this process's network (network_namespaces(7)). In another one they end with it. The system
    /// may be too old to say.
    pub fn is_in_this_network(&self) -> bool {
        let own = UnixDatagram::unbound().ok().and_then(|socket| network(&socket));
        let is_here = |there: Option<u64>| own.is_none() || there.is_none() || there == own;
        self.listeners.iter().all(|(.., socket)| is_here(network(socket)))
    }

    /// Tells it that everything has come, and waits until that is this process's own.
    pub(super) fn take(&mut self) -> Result<(), String> {
        let heard = self.link.send(Kind::Taken as u8, &[], &[]).and_then(|()| {
            crash_point("taken");
            // As long as it takes: when a bound is over, the process before may have said so just now.
            self.link.patience(None)?;
            self.link.receive()
        });
        match heard.map(|frame| Kind::of(frame.kind)) {
            Ok(Some(Kind::Given)) => Ok(()),
            _ => Err("nothing was taken over: the process before has ended, or did not wait any longer".to_owned()),
        }
    }

    /// Tells it that this process can't take over.
    pub fn refuse(&mut self, why: &str) {
        let _ = self.link.send(Kind::Refused as u8, why.as_bytes(), &[]);
    }

    /// Tells it that this process is ready; or, if that was all it wanted to know, that it could be.
    pub fn ready(&mut self, said: &str) -> Result<(), String> {
        self.link
            .send(Kind::Ready as u8, said.as_bytes(), &[])
            .map_err(|e| format!("the process before has ended: {e}"))
    }
}

/// Which network a socket is in (SO_NETNS_COOKIE, since Linux 5.14).
fn network(socket: &impl AsRawFd) -> Option<u64> {
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let (of, into) = (socket.as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: `cookie` and `length` are writable for as long as the call lasts.
    let told = unsafe { libc::getsockopt(of, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, into, &raw mut length) };
    (told == 0).then_some(cookie)
}
