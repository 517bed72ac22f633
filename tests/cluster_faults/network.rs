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
    let (one, two) = (network.engine(1, registry), network.engine(2, registry));
    settled(&center, &[&one, &two]).await;
    let (mut of_one, mut of_two) = (member(one.ws(), "room").await, member(two.ws(), "room").await);
    for node in [&one, &two] {
        publish_until(node.api, "room", "before", reached(2)).await;
    }
    for (from, to) in directions {
        network.cut(*from, *to);
    }
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < Duration::from_secs(12) {
        for node in [&one, &two] {
            let asked = Instant::now();
            let reply = publish(node.api, "room", &format!("during {number}")).await;
            println!("{:?} {} {reply} {:?}", start.elapsed(), node.api, asked.elapsed());
            number += 1;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (from, to) in directions {
        network.heal(*from, *to);
    }
    let healed = Instant::now();
    for node in [&one, &two] {
        publish_until(node.api, "room", "after", reached(2)).await;
        println!("healed {:?}", healed.elapsed());
    }
    read_to(&mut of_one, "after").await;
    read_to(&mut of_two, "after").await;
    becomes_whole(&[&one, &two], "healed").await;
    for node in [&center, &one, &two] {
        println!("-- {}\n{}", node.api, node.process.lines().join("\n"));
    }
}
