//! Where the nodes of a cluster at home listen: the first engine and the center where the file says, the others beside
//! that.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::config::{Config, Home};
use crate::telemetry::language::spoken;

/// How far the ports of one node are from those of the one before.
const STEP: u32 = 10;
/// How many ports are tried for one listener.
const TRIED: u32 = 1000;

/// The center, and then so many engines. Nodes link to each other over loopback alone.
pub(super) fn plan(config: &Config, engines: u16) -> Result<Vec<Home>, String> {
    let configured: Vec<SocketAddr> = config.servers.iter().map(|server| server.listen.addr).collect();
    let (api, center) = (config.api.listen.addr, config.center.addr);
    let first = configured.iter().chain([&api, &center]).map(SocketAddr::port);
    let mut ports = Ports(first.collect());
    let loopback = |port| SocketAddr::new(IpAddr::from(Ipv4Addr::LOCALHOST), port);
    let registry = ports.known(loopback(config.registry.addr.port()), 0)?;
    let mesh_point = loopback(config.mesh_point.addr.port());
    let base = Home { number: 0, servers: configured, api, center, registry, mesh_point };
    let mut homes = vec![base.clone()];
    for number in 1..=engines {
        let away = u32::from(number) - 1;
        let mut beside = |addr: SocketAddr| if away == 0 { Ok(addr) } else { ports.beside(addr, away) };
        let servers = base.servers.iter().map(|addr| beside(*addr)).collect::<Result<_, _>>()?;
        let api = beside(api)?;
        homes.push(Home { number, servers, api, mesh_point: ports.known(mesh_point, away)?, ..base.clone() });
    }
    Ok(homes)
}

/// The ports that are taken.
struct Ports(HashSet<u16>);

impl Ports {
    /// A port so many steps beside another, or the next free one. 0 stays 0: the system chooses.
    fn beside(&mut self, addr: SocketAddr, away: u32) -> Result<SocketAddr, String> {
        if addr.port() == 0 {
            return Ok(addr);
        }
        let from = u32::from(addr.port()) + away * STEP;
        let ports = (from..from + TRIED).map_while(|port| u16::try_from(port).ok());
        let free = |port: &u16| !self.0.contains(port) && TcpListener::bind((addr.ip(), *port)).is_ok();
        let port = ports
            .into_iter()
            .find(free)
            .ok_or_else(|| spoken!("no port is free beside {addr}", "{addr} 旁边没有空闲的端口"))?;
        self.0.insert(port);
        Ok(SocketAddr::new(addr.ip(), port))
    }

    /// The same, known now even where the system chooses.
    fn known(&mut self, addr: SocketAddr, away: u32) -> Result<SocketAddr, String> {
        if addr.port() != 0 {
            return self.beside(addr, away);
        }
        let chosen = TcpListener::bind(addr).and_then(|listener| listener.local_addr());
        let chosen = chosen.map_err(|e| {
            let ip = addr.ip();
            spoken!("no port is free on {ip}: {e}", "{ip} 上没有空闲的端口：{e}")
        })?;
        self.0.insert(chosen.port());
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::defaults;

    #[test]
    fn every_listener_has_a_port_of_its_own_and_the_first_engine_those_of_the_file() {
        let mut config = defaults();
        let listeners: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        config.servers[0].listen.addr = listeners[0].local_addr().unwrap();
        let homes = plan(&config, 16).unwrap();
        assert_eq!(homes.len(), 17);
        assert_eq!((homes[1].servers[0], homes[1].api), (config.servers[0].listen.addr, config.api.listen.addr));
        let of = |home: &Home| vec![home.servers[0], home.api, home.mesh_point];
        let mut all: Vec<SocketAddr> = homes[1..].iter().flat_map(of).collect();
        all.extend([homes[0].center, homes[0].registry]);
        let ports: HashSet<u16> = all.iter().map(SocketAddr::port).collect();
        assert_eq!(ports.len(), all.len(), "{all:?}");
        for home in &homes {
            assert!(home.registry == homes[0].registry && home.mesh_point.ip().is_loopback());
        }
    }

    #[test]
    fn a_port_that_the_system_chooses_is_left_to_it_but_where_others_must_know_it() {
        let mut config = defaults();
        for listen in [&mut config.api.listen, &mut config.center, &mut config.registry, &mut config.mesh_point] {
            listen.addr.set_port(0);
        }
        let homes = plan(&config, 2).unwrap();
        assert!(homes.iter().all(|home| home.api.port() == 0 && home.center.port() == 0));
        let ports: HashSet<u16> = homes.iter().skip(1).map(|home| home.mesh_point.port()).collect();
        assert!(ports.len() == 2 && !ports.contains(&0) && homes[0].registry.port() != 0);
    }
}
