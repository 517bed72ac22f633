//! The listening sockets, bound before anything else is started.

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::{Config, Listen, Server, UNSENT_LIMIT};
use crate::telemetry::language::{Both, system};
use crate::worker::{Listener, Role};

/// Connections that may wait to be accepted; the system caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// A port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {addr}: {source}")]
pub struct BindError {
    /// The key that named it.
    pub key: String,
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl BindError {
    /// For a terminal.
    pub fn spoken(&self) -> String {
        let BindError { key, addr, source } = self;
        let why = system(source);
        let text = Both { en: self.to_string(), zh: format!("{key}: 无法监听 {addr}：{}", why.zh) };
        text.spoken().to_owned()
    }
}

/// Where a running engine is reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Addresses {
    /// The servers, in the configuration's order.
    pub servers: Vec<SocketAddr>,
    /// `engine.apiServer`
    pub api: SocketAddr,
    /// `center.apiServer`
    pub center: SocketAddr,
}

/// All sockets that a configuration names.
pub struct Listeners {
    /// Each with the address that the configuration names.
    list: Vec<(Listener, SocketAddr)>,
    pub(super) addresses: Addresses,
}

impl Listeners {
    /// Binds them all, or names every one that could not be bound.
    pub fn bind(config: &Config) -> Result<Listeners, Vec<BindError>> {
        let (mut list, mut servers, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let unsent = |role| match role {
            Role::Server(i) => config.servers.get(i).map_or(UNSENT_LIMIT, |server: &Server| server.limits.unsent_limit),
            Role::Api | Role::Center => UNSENT_LIMIT,
        };
        let mut one = |role: Role, listen: &Listen| match bind(listen.addr, unsent(role)) {
            Ok((socket, addr)) => {
                list.push((Listener { role, socket }, listen.addr));
                addr
            }
            Err(source) => {
                errors.push(BindError { key: listen.key.clone(), addr: listen.addr, source });
                listen.addr
            }
        };
        for (i, server) in config.servers.iter().enumerate() {
            servers.push(one(Role::Server(i), &server.listen));
        }
        let api = if config.role.engine { one(Role::Api, &config.api.listen) } else { config.api.listen.addr };
        let center = if config.role.center { one(Role::Center, &config.center) } else { config.center.addr };
        if config.is_of_mesh() {
            // The bus binds its own socket a little later. Whether it can is checked here, where the key is known.
            let listen = if config.role.center { &config.registry } else { &config.mesh_point };
            if let Err(source) = bind(listen.addr, 0) {
                errors.push(BindError { key: listen.key.clone(), addr: listen.addr, source });
            }
        }
        if errors.is_empty() {
            Ok(Listeners { list, addresses: Addresses { servers, api, center } })
        } else {
            Err(errors)
        }
    }

    /// Those that the process before has bound: each that this configuration names, servers first.
    pub(super) fn of(list: Vec<Listener>, config: &Config) -> io::Result<Listeners> {
        let mut addresses = Addresses { servers: Vec::new(), api: config.api.listen.addr, center: config.center.addr };
        let mut wanted = Vec::new();
        for listener in list {
            let at = listener.socket.local_addr()?;
            let named = match listener.role {
                Role::Server(server) => {
                    addresses.servers.push(at);
                    config.servers.get(server).map_or(at, |server| server.listen.addr)
                }
                Role::Api => std::mem::replace(&mut addresses.api, at),
                Role::Center => std::mem::replace(&mut addresses.center, at),
            };
            wanted.push((listener, named));
        }
        Ok(Listeners { list: wanted, addresses })
    }

    /// The same sockets, duplicated for one more worker.
    pub(super) fn for_worker(&self) -> io::Result<Vec<Listener>> {
        self.list.iter().map(|(listener, _)| listener.try_clone()).collect()
    }

    /// The sockets themselves, each with the address that the configuration names.
    pub(super) fn into_list(self) -> Vec<(Listener, SocketAddr)> {
        self.list
    }
}

/// `unsent`: the bytes that the system may hold unsent for an accepted socket; 0 = as many as it likes.
fn bind(addr: SocketAddr, unsent: usize) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait until the last run's connections are forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Small messages go out at once. On Linux an accepted socket inherits this from its listener, which saves a call
    // for each.
    socket.set_tcp_nodelay(true)?;
    if unsent > 0 {
        // Inherited as well. Otherwise the system buffers megabytes for a client that reads nothing.
        socket.set_tcp_notsent_lowat(u32::try_from(unsent).unwrap_or(u32::MAX))?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_do_not_wait_to_fill_packets() {
        let (listener, addr) = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 4096).unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        let accepted = listener.accept().unwrap().0;
        assert!(accepted.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&accepted).tcp_notsent_lowat().unwrap(), 4096);
    }
}
