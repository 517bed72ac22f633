//! Watches the files of the ports' TLS: a changed certificate, key or `clientCa` is loaded at once, for new connections,
//! and certificates that end soon are told once a day.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::Config;
use crate::script::program::{Stamp, shown, stamp};
use crate::telemetry::language::Language;
use crate::telemetry::metrics::labels::ReloadResult;
use crate::telemetry::metrics::{GaugeFunction, Kind, Metrics, Of};
use crate::tls::{Ports, Wrong, files};

/// How long files must be unchanged before they are loaded: a certificate and its key are saved one after the other.
const REST: Duration = Duration::from_millis(150);
/// How often it is told that a certificate ends soon.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// The files as last seen, and what is made of them.
pub(super) struct Certificates {
    ports: Arc<Ports>,
    /// The files when they were last loaded, with or without success.
    loaded: Vec<(String, Stamp)>,
    /// A change that has not been taken up, and since when the files have been like that.
    change: Option<(Vec<(String, Stamp)>, Instant)>,
    reminded: Instant,
}

impl Certificates {
    /// Loads the certificates of a configuration; returns all that is wrong.
    pub(super) fn load(config: &Config) -> Result<Certificates, Vec<Wrong>> {
        // Looked at before they are read: what changes meanwhile, or before the first look, is noticed.
        let loaded = look(config);
        let ports = Arc::new(Ports::load(config)?);
        Ok(Certificates { ports, loaded, change: None, reminded: Instant::now() })
    }

    /// The TLS of all ports.
    pub(super) fn ports(&self) -> &Arc<Ports> {
        &self.ports
    }

    /// Logs which certificates end soon.
    pub(super) fn tell(&self) {
        tell(&self.ports);
    }

    /// Looks at the files, and loads them if they have changed.
    pub(super) fn look(&mut self, config: &Config, metrics: &Metrics) {
        if self.reminded.elapsed() > REMIND {
            self.reminded = Instant::now();
            tell(&self.ports);
        }
        let now = look(config);
        if now == self.loaded {
            self.change = None;
            return;
        }
        match &self.change {
            Some((files, since)) if *files == now => {
                if since.elapsed() < REST {
                    return;
                }
            }
            _ => {
                self.change = Some((now, Instant::now()));
                return;
            }
        }
        (self.loaded, self.change) = (now, None);
        let wrong = self.ports.reload(config);
        for wrong in &wrong {
            tracing::error!("{wrong}; new connections get the certificates from before");
        }
        metrics.reloads.certificates.one(if wrong.is_empty() { ReloadResult::Ok } else { ReloadResult::Error });
        if wrong.is_empty() {
            let names = self.ports.certificates().iter().map(|one| shown(Path::new(&one.file))).collect::<Vec<_>>();
            tracing::info!("loaded certificates: {}", names.join(", "));
        }
        tell(&self.ports);
    }

    /// Takes what a new configuration has, loaded before it was accepted.
    pub(super) fn take(&mut self, new: Certificates) {
        self.ports.take(&new.ports);
        (self.loaded, self.change) = (new.loaded, None);
        tell(&self.ports);
    }
}

fn look(config: &Config) -> Vec<(String, Stamp)> {
    files(config).into_iter().map(|file| (file.clone(), stamp(Path::new(&file)))).collect()
}

/// Logs which certificates end soon.
fn tell(ports: &Ports) {
    ports.warnings(SystemTime::now()).iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// All that is wrong, one a line.
pub(super) fn lines(wrong: &[Wrong], language: Language) -> String {
    wrong.iter().map(|wrong| wrong.in_language(language)).collect::<Vec<_>>().join("\n")
}

/// Loads the certificates of all ports as a start would, and returns what is to be told of them; or all that is wrong.
pub fn check_certificates(config: &Config, language: Language) -> Result<Vec<String>, String> {
    let warnings = crate::tls::warnings(config).map_err(|wrong| lines(&wrong, language))?;
    Ok(warnings.iter().map(|warning| warning.in_language(language).to_owned()).collect())
}

/// The figures of the certificates.
pub(super) fn measure(metrics: &Metrics, ports: &Arc<Ports>) {
    let ports = ports.clone();
    let read = move || {
        let now = SystemTime::now();
        let all = ports.certificates();
        all.iter().map(|one| (shown(Path::new(&one.file)), one.seconds_left(now))).collect()
    };
    metrics.watch(GaugeFunction {
        of: Of::Center,
        kind: Kind::Gauge,
        name: "connmix_tls_certificate_expires_seconds",
        help: "Seconds until a certificate ends; negative once it has.",
        label: Some("file"),
        read: Box::new(read),
    });
}
