//! What this node is to the others of its cluster, as far as a successor process has to be the same.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::cluster::protocol::Run;
use crate::config::Config;
use crate::handover::{Damaged, Decoder, Encoder};
use crate::secret::Secret;

/// The key that is not shown.
const SECRET: &str = "cluster.secret";

/// A process of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its run, which its successors go on with.
    pub run: Run,
    /// How many processes have been that run before.
    pub generation: u32,
    /// `host:port` each where it listens for other nodes.
    pub listens_on: Vec<String>,
    /// What has to stay as it is: keys with their values.
    fixed: Vec<(String, String)>,
}

impl Member {
    /// The first process of a node.
    pub(super) fn new(run: Run, config: &Config, secret: &Secret, listens_on: Vec<String>) -> Member {
        Member { run, generation: 0, listens_on, fixed: fixed(config, secret) }
    }

    /// Its successor.
    pub(super) fn next(&self) -> Member {
        Member { generation: self.generation + 1, ..self.clone() }
    }

    /// Whether a process with this configuration could go on. An error says what is not as it was.
    pub(super) fn fits(&self, config: &Config, secret: &Secret) -> Result<(), String> {
        for ((key, before), (_, now)) in self.fixed.iter().zip(fixed(config, secret)) {
            if *before == now {
                continue;
            }
            return Err(match key == SECRET {
                true => format!("{SECRET} is another one: that needs a restart of all nodes"),
                false => format!("{key}: {before} -> {now}: that needs a restart"),
            });
        }
        Ok(())
    }

    pub(super) fn write(&self, out: &mut Encoder) {
        out.u64(self.run.0);
        out.u32(self.generation);
        out.count(self.listens_on.len());
        self.listens_on.iter().for_each(|at| out.data(at.as_bytes()));
        out.count(self.fixed.len());
        for (key, value) in &self.fixed {
            out.data(key.as_bytes());
            out.data(value.as_bytes());
        }
    }

    pub(super) fn read(from: &mut Decoder<'_>) -> Result<Member, Damaged> {
        let text = |from: &mut Decoder<'_>| Ok::<_, Damaged>(from.text()?.to_owned());
        let (run, generation) = (Run(from.u64()?), from.u32()?);
        let (listens_on, fixed) = (from.list(text)?, from.list(|from| Ok((text(from)?, text(from)?)))?);
        Ok(Member { run, generation, listens_on, fixed })
    }
}

/// Always the same keys, in the same order.
fn fixed(config: &Config, secret: &Secret) -> Vec<(String, String)> {
    let (listen, cluster) = (config.listen(), &config.cluster);
    let tls = match (cluster.tls_cert.is_empty(), cluster.tls_ca.is_empty()) {
        (true, _) => "off",
        (false, true) => "on",
        (false, false) => "on, with a ca",
    };
    let pairs = [
        (listen.key.as_str(), listen.addr.to_string()),
        ("engine.centerRegistry", config.centers.join(", ")),
        ("cluster.tls", tls.to_owned()),
        ("cluster.advertise.mesh", cluster.advertise_mesh.clone().unwrap_or_else(|| "unset".to_owned())),
        (SECRET, digest(secret)),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// What tells whether a secret is another one.
fn digest(secret: &Secret) -> String {
    // A key of any length will do: the library's error has no cause here.
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.expose().as_bytes());
    let mac = mac.unwrap_or_else(|_| Hmac::new(&Default::default())).chain_update(b"connmix successor");
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}
