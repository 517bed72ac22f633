//! The TLS that is in force at each port. Certificates are loaded again while connections come in: so each connection asks
//! here.

use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Acceptor, Certificate};
use crate::config::{Config, Protocol, Tls};
use crate::telemetry::language::{Both, Language};

/// A port of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// One of `engine.servers`, by its position.
    Server(usize),
    /// `engine.apiServer`
    Api,
    /// `center.apiServer`
    Center,
}

/// What is wrong with the files of a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct Wrong {
    /// The section: `engine.servers[0].tls`.
    pub key: String,
    /// What is wrong, with the file.
    pub what: Both,
}

impl Wrong {
    /// In one of the languages.
    pub fn in_language(&self, language: Language) -> String {
        format!("{}: {}", self.key, self.what.in_language(language))
    }
}

/// The TLS of all ports.
#[derive(Debug)]
pub struct Ports {
    servers: Vec<ArcSwapOption<Acceptor>>,
    api: ArcSwapOption<Acceptor>,
    center: ArcSwapOption<Acceptor>,
}

/// All ports of a configuration, each with its section's key and settings, and whether its clients speak HTTP.
fn all(config: &Config) -> impl Iterator<Item = (Port, String, &Tls, bool)> {
    let servers = config.servers.iter().enumerate().map(|(at, server)| {
        let key = server.listen.key.strip_suffix("port").unwrap_or(&server.listen.key);
        (Port::Server(at), format!("{key}tls"), &server.tls, server.protocol == Protocol::Websocket)
    });
    let apis = [
        (Port::Api, "engine.apiServer.tls".to_owned(), &config.api.tls, true),
        (Port::Center, "center.apiServer.tls".to_owned(), &config.center_tls, true),
    ];
    // A port that this process does not listen on needs no files.
    let open = |port: &Port| match port {
        Port::Server(_) | Port::Api => config.role.engine,
        Port::Center => config.role.center,
    };
    servers.chain(apis).filter(move |(port, ..)| open(port))
}

/// The files that the ports of a configuration need, each once.
pub fn files(config: &Config) -> Vec<String> {
    let mut files: Vec<String> = Vec::new();
    for (_, _, tls, _) in all(config) {
        let more = tls.certificates.iter().flat_map(|more| [&more.cert, &more.key]);
        for file in [&tls.cert, &tls.key, &tls.client_ca].into_iter().chain(more) {
            if !file.is_empty() && !files.contains(file) {
                files.push(file.clone());
            }
        }
    }
    files
}

/// Loads the files of all ports as a start would. Returns what is to be told of the certificates, or all that is wrong.
pub fn warnings(config: &Config) -> Result<Vec<Both>, Vec<Wrong>> {
    Ports::load(config).map(|ports| ports.warnings(SystemTime::now()))
}

impl Ports {
    /// Loads the files of all ports; returns all that is wrong.
    pub fn load(config: &Config) -> Result<Ports, Vec<Wrong>> {
        let ports = Ports {
            servers: config.servers.iter().map(|_| ArcSwapOption::empty()).collect(),
            api: ArcSwapOption::empty(),
            center: ArcSwapOption::empty(),
        };
        let wrong = ports.reload(config);
        if wrong.is_empty() { Ok(ports) } else { Err(wrong) }
    }

    /// Loads the files again. A port whose files are wrong keeps what it has; returns what is wrong.
    pub fn reload(&self, config: &Config) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (port, key, settings, http) in all(config) {
            match Acceptor::load(settings, http) {
                Ok(loaded) => {
                    if let Some(slot) = self.slot(port) {
                        slot.store(loaded.map(Arc::new));
                    }
                }
                Err(all) => wrong.extend(all.into_iter().map(|what| Wrong { key: key.clone(), what })),
            }
        }
        wrong
    }

    /// Takes over what other ports have.
    pub fn take(&self, other: &Ports) {
        let pairs = self.servers.iter().zip(&other.servers);
        for (own, other) in pairs.chain([(&self.api, &other.api), (&self.center, &other.center)]) {
            own.store(other.load_full());
        }
    }

    fn slot(&self, port: Port) -> Option<&ArcSwapOption<Acceptor>> {
        match port {
            Port::Server(at) => self.servers.get(at),
            Port::Api => Some(&self.api),
            Port::Center => Some(&self.center),
        }
    }

    /// The TLS of a port; None: it is without.
    pub fn of(&self, port: Port) -> Option<Arc<Acceptor>> {
        self.slot(port)?.load_full()
    }

    /// The certificates of all ports, each file once.
    pub fn certificates(&self) -> Vec<Certificate> {
        let mut found: Vec<Certificate> = Vec::new();
        for slot in self.servers.iter().chain([&self.api, &self.center]) {
            let Some(acceptor) = slot.load_full() else { continue };
            for certificate in &acceptor.certificates {
                if found.iter().all(|other| other.file != certificate.file) {
                    found.push(certificate.clone());
                }
            }
        }
        found
    }

    /// What is to be told of certificates that end soon, or have ended.
    pub fn warnings(&self, now: SystemTime) -> Vec<Both> {
        self.certificates().iter().filter_map(|certificate| certificate.warning(now)).collect()
    }
}
