//! Cuts of a real network: each engine has a network namespace of its own, all on one bridge. One direction is cut by a wrong
//! hardware address: packets leave, and nobody takes them.

use super::*;

/// The namespaces; gone when dropped.
struct Network {
    name: String,
    /// Addresses are `net`.1, `net`.2; this machine has `net`.254.
    net: String,
}

fn ip(args: &str) -> Outcome {
    let out = Command::new("ip").args(args.split(' ')).output();
    match out {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(Missing::because(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr).trim()))),
        Err(error) => Err(Missing::because(format!("ip does not run here: {error}"))),
    }
}

impl Network {
    fn new(tag: &str) -> Result<Network, Missing> {
        let pid = std::process::id();
        // Of the addresses for tests of networks (RFC 2544): nobody else has them.
        let half = if tag == "a" { 18 } else { 19 };
        let network = Network { name: format!("cm{tag}{pid}"), net: format!("198.{half}.{}", pid % 256) };
        let Network { name, net } = &network;
        ip(&format!("link add {name} type bridge"))?;
        ip(&format!("addr add {net}.254/24 dev {name}"))?;
        ip(&format!("link set {name} up"))?;
        for n in 1..=2 {
            ip(&format!("netns add {name}-{n}"))?;
            ip(&format!("link add {name}-{n} type veth peer name eth0 netns {name}-{n}"))?;
            ip(&format!("link set {name}-{n} master {name} up"))?;
            ip(&format!("-n {name}-{n} addr add {net}.{n}/24 dev eth0"))?;
            ip(&format!("-n {name}-{n} link set eth0 up"))?;
            ip(&format!("-n {name}-{n} link set lo up"))?;
        }
        Ok(network)
    }

    fn address(&self, n: usize) -> IpAddr {
        format!("{}.{n}", self.net).parse().unwrap()
    }

    /// From now on nothing of the first one reaches the second.
    fn cut(&self, from: usize, to: usize) {
        let Network { name, net } = self;
        let cut = format!("-n {name}-{from} neigh replace {net}.{to} lladdr 02:00:00:00:00:ff nud permanent dev eth0");
        assert!(ip(&cut).is_ok());
    }

    fn heal(&self, from: usize, to: usize) {
        let Network { name, net } = self;
        assert!(ip(&format!("-n {name}-{from} neigh del {net}.{to} dev eth0")).is_ok());
    }

    /// An engine on it.
    fn engine(&self, n: usize, registry: SocketAddr) -> Node {
        let namespace = format!("{}-{n}", self.name);
        let wrapper = ["ip", "netns", "exec", &namespace];
        Node::start(&Place { wrapper: &wrapper, host: self.address(n), ..Place::new("engine", registry) })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for n in 1..=2 {
            // The kernel may keep a namespace for the sockets in it; its interface goes at once.
            let _ = ip(&format!("link del {}-{n}", self.name));
            let _ = ip(&format!("netns del {}-{n}", self.name));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}

pub async fn a_cut_in_one_direction_heals() -> Outcome {
    let network = Network::new("a")?;
    cut(&network, &[(1, 2)]).await;
    Ok(())
}

pub async fn a_cut_in_both_directions_heals() -> Outcome {
    let network = Network::new("b")?;
    cut(&network, &[(1, 2), (2, 1)]).await;
    Ok(())
}

/// Two engines that reach their center all the time, and each other no more.
async fn cut(network: &Network, directions: &[(usize, usize)]) {
    let registry = SocketAddr::new(network.address(254), free_port());
    let center = Node::start(&Place::new("center", registry));
    let engines = [1, 2].map(|n| network.engine(n, registry));
    let [one, two] = &engines;
    settled(&center, &[one, two]).await;
    let mut members = [member(one.ws(), "room").await, member(two.ws(), "room").await];
    for node in &engines {
        publish_until(node.api, "room", "before", reached(2)).await;
    }
    for (from, to) in directions {
        network.cut(*from, *to);
    }
    // Each is answered soon, and reaches its own client at least, until both know by the center that the other one is there.
    let (mut sent, mut unanswered) = ([0; 2], [0; 2]);
    eventually("each misses the other one", async || {
        let mut missed = 0;
        for (at, node) in engines.iter().enumerate() {
            let asked = Instant::now();
            let reply = publish(node.api, "room", &format!("{at} {}", sent[at])).await;
            assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
            sent[at] += 1;
            let known = [reached(2), reached(1), json!({"s": 1, "f": 0, "u": 1})];
            assert!(known.contains(&reply), "{reply}");
            unanswered[at] += usize::from(reply == known[2]);
            let (_, page) = get(node.api, "/metrics").await;
            missed += usize::from(page.lines().any(|line| line == "connmix_engine_mesh_missed 1"));
        }
        (missed == 2).then_some(())
    })
    .await;
    assert!(unanswered.iter().all(|n| *n > 0), "{unanswered:?}");
    for node in &engines {
        assert_eq!(publish(node.api, "room", "missed").await, json!({"s": 1, "f": 0, "u": 1}));
    }
    for (from, to) in directions {
        network.heal(*from, *to);
    }
    for node in &engines {
        publish_until(node.api, "room", "after", reached(2)).await;
    }
    // Nobody was closed, and what was published on the own node has come, in order.
    for (at, member) in members.iter_mut().enumerate() {
        let mut came = Vec::new();
        loop {
            match member.text().await {
                text if text == "after" => break,
                text => came.extend(text.strip_prefix(&format!("{at} ")).map(|n| n.parse::<usize>().unwrap())),
            }
        }
        assert_eq!(came, (0..sent[at]).collect::<Vec<_>>());
    }
    becomes_whole(&[one, two], "healed").await;
}
