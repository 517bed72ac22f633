//! The process before, as its successor knows it: what it offers, and whether this one can take it.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

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

/// For tests: the process ends here, as if it had crashed, if the file that this variable names holds the point's name. While
/// it holds `wait ` and the name, it stops here, and says so in a second file.
#[cfg(debug_assertions)]
pub(super) fn crash_point(point: &str) {
    let Some(file) = std::env::var_os("CONNMIX_CRASH_AT").map(std::path::PathBuf::from) else { return };
    let wanted = || std::fs::read_to_string(&file).unwrap_or_default();
    while wanted().trim().strip_prefix("wait ") == Some(point) {
        let _ = std::fs::write(file.with_extension("waits"), point);
        std::thread::sleep(Duration::from_millis(5));
    }
    if wanted().trim() == point {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
pub(super) fn crash_point(_: &str) {}

impl Before {
    /// Hears what the process before offers.
    pub fn hear(mut link: Link) -> Result<Before, String> {
        let heard = link.patience(Some(NEXT)).and_then(|()| link.receive());
        let frame = heard.map_err(|e| format!("the process before can't be heard: {e}"))?;
        if Kind::of(frame.kind) != Some(Kind::Offer) {
            return Err("the process before offers nothing".to_owned());
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
