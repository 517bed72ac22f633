#!/usr/bin/env python3
"""Tries a package where it can do no harm: in namespaces of its own, as root.

try.py deb PACKAGE.deb      installs it in a copy of this machine's root that is thrown away (an overlay), runs the unit's command as its
                            user, sends a message, upgrades, removes and purges it
try.py systemd PACKAGE.deb  the same with a systemd that runs in a container of that copy: the service as it is, its sandbox too
try.py image FOLDER         runs the root file system of the image as its user, read-only, alone and as the cluster of
                            packaging/kubernetes, and sends messages
try.py container FOLDER     makes the image of that root file system and runs it with Podman

Prints what it did, and exits with 0; with 77 where that can't be tried on this machine, and says why.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients/python"))
sys.dont_write_bytecode = True
from connmix.websocket import Closed, WebSocket  # noqa: E402

PATIENCE = float(os.environ.get('PATIENCE', 60))
TOKEN = "a-token-for-the-trial"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def run(*command, **more):
    """Runs a command to its end, which must be a good one; returns what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"failed with {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def eventually(what, condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    said = "\n".join(program.said() for program in Program.all)
    sys.exit(f"it never came to that: {what}\n{said}")


def request(url, body=None, token=None):
    """The status and the body of the answer; None while nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(url, body and json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError:
        return None


def is_ready(port, token=None):
    eventually(f"port {port} is ready", lambda: (request(f"http://127.0.0.1:{port}/readyz") or (0,))[0] == 200)


def deliver(clients, api, path, channel, subscription, token=None, host="127.0.0.1"):
    """Subscribes a client at one place and publishes at another."""

    async def go():
        ws = await WebSocket.connect(f"ws://{host}:{clients}{path}")
        ws.send(json.dumps(subscription))
        assert json.loads(await asyncio.wait_for(ws.receive(), PATIENCE)) == {"result": True}
        publish = {"c": channel, "d": "Hello"}
        status, reply = await asyncio.to_thread(request, f"http://127.0.0.1:{api}/v1/mesh/publish", publish, token)
        assert (status, json.loads(reply)) == (200, {"E": None, "r": {"s": 1, "f": 0}}), (status, reply)
        assert await asyncio.wait_for(ws.receive(), PATIENCE) == "Hello"
        ws.close()

    asyncio.run(go())
    print("a message is delivered")


class Program:
    """A running program and its output."""

    all = []

    def __init__(self, *command, **more):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, **more)
        Program.all.append(self)

    def said(self):
        self.log.seek(0)
        return self.log.read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        if code != 0:
            sys.exit(f"ended with {code}\n{self.said()}")


# The Debian package


def unit(path):
    """The command of a unit, and its variables."""
    text = path.read_text()
    command = re.search(r"^ExecStart=(.*)$", text, re.M)[1]
    role = re.search(r"^Environment=CONNMIX_ROLE=(.*)$", text, re.M)[1]
    return command.replace("${CONNMIX_ROLE}", role).split(), re.search(r"^User=(.*)$", text, re.M)[1]


def overlay(package, *programs):
    """A copy of this machine's root that is gone when this process is, with the package in it."""
    for program in programs:
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            skip(f"{program} is missing")
    work = tempfile.mkdtemp()
    root = f"{work}/root"
    run("mount", "-t", "tmpfs", "tmpfs", work)
    for folder in ("upper", "work", "root"):
        os.mkdir(f"{work}/{folder}")
    overlay = f"lowerdir=/,upperdir={work}/upper,workdir={work}/work"
    if subprocess.run(["mount", "-t", "overlay", "overlay", "-o", overlay, root], stderr=subprocess.DEVNULL).returncode != 0:
        skip("this machine has no overlay of its root")
    shutil.copy(package, f"{root}/connmix.deb")
    return root


def across(*reload, token=None):
    """Runs a command that replaces the process, while a client is connected, which notices nothing; returns what the command said."""

    async def go():
        ws = await WebSocket.connect("ws://127.0.0.1:6790/barrage-videos")
        ws.send(json.dumps({"op": "subscribe", "channel": "8@video"}))
        assert json.loads(await asyncio.wait_for(ws.receive(), PATIENCE))["result"]
        said = await asyncio.to_thread(run, *reload)
        publish = {"c": "video:8", "d": "still here"}
        assert await asyncio.to_thread(request, "http://127.0.0.1:6789/v1/mesh/publish", publish, token)
        assert await asyncio.wait_for(ws.receive(), PATIENCE) == "still here"
        return said

    return asyncio.run(go())


def deb(package):
    os.chroot(overlay(package, "dpkg", "adduser", "ip", "runuser"))
    os.chdir("/")
    # Nothing of the machine's services: scripts of packages see no systemd that runs.
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("mount", "-t", "proc", "proc", "/proc")
    run("ip", "link", "set", "lo", "up")
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8")

    # Triggers make indexes of the machine's own manual pages, which takes long and tells nothing.
    run("dpkg", "--no-triggers", "--install", "connmix.deb")
    print("it is installed")
    entry = run("getent", "passwd", "connmix").strip().split(":")
    assert entry[6] == "/usr/sbin/nologin", entry
    config = Path("/etc/connmix/connmix.yaml")
    assert (config.stat().st_mode & 0o777, config.group()) == (0o640, "connmix"), oct(config.stat().st_mode)
    assert config.read_text().count("/var/log/connmix/connmix.log") == 1
    file = Path("/lib/systemd/system/connmix.service")
    if shutil.which("systemd-analyze"):
        said = run("systemd-analyze", "verify", "--man=no", str(file))
        assert "connmix" not in said, said
        said = run("systemd-analyze", "security", "--offline=true", "--threshold=30", "--no-pager", str(file))
        print(said.strip().splitlines()[-1].lstrip("→ "))
    run("runuser", "-u", "connmix", "--", "connmix", "check", "-f", str(config))
    run("runuser", "-u", "connmix", "--", "connmix", "check", "--production", "-f", str(config))

    command, user = unit(file)
    program = Program("runuser", "-u", user, "--", *command, cwd="/etc/connmix")
    is_ready(6789)
    deliver(6790, 6789, "/barrage-videos", "video:7", {"op": "subscribe", "channel": "7@video"})
    # The first child of runuser is the engine.
    pid = int(Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text().split()[0])
    assert Path(f"/proc/{pid}").owner() == "connmix"
    log = next(Path("/var/log/connmix").glob("connmix.*.log"))
    assert log.owner() == "connmix"
    config.write_text(config.read_text() + "shutdownTimeout: 9\n")
    os.kill(pid, signal.SIGHUP)
    eventually("the configuration is read again", lambda: "shutdownTimeout" in log.read_text())
    script = Path("/etc/connmix/lua/entry.websocket.lua")
    script.write_text(script.read_text().replace("""'{"result":true}'""", """'{"result":true,"edited":true}'"""))
    eventually("the script is live", lambda: "entry.websocket.lua" in log.read_text().split("shutdownTimeout")[-1])

    # What a reload does: another process takes over, and a client that is connected notices nothing.
    reload = re.search(r"^ExecReload=(.*)$", file.read_text(), re.M)[1].split()
    successor = int(re.search(r"process (\d+) has", across("runuser", "-u", user, "--", *reload))[1])
    assert successor != pid and program.process.wait(PATIENCE) == 0, program.said()
    print("a reload keeps connections")
    os.kill(successor, signal.SIGTERM)
    # Its parent has ended, so that it is this process's child: the first one of this namespace.
    assert os.waitstatus_to_exitcode(os.waitpid(successor, 0)[1]) == 0

    run("dpkg", "--no-triggers", "--install", "connmix.deb")
    assert "edited" in script.read_text() and "shutdownTimeout: 9" in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o640
    print("an upgrade keeps what was changed")
    run("dpkg", "--no-triggers", "--remove", "connmix")
    assert not Path("/usr/bin/connmix").exists() and config.exists() and log.exists()
    run("dpkg", "--no-triggers", "--purge", "connmix")
    left = [path for path in ("/etc/connmix", "/etc/default/connmix", "/var/log/connmix", "/usr/share/doc/connmix") if Path(path).exists()]
    assert not left, left
    print("it is removed")


# The package under systemd

UNITS = {
    "trial.target": "[Unit]\nRequires=basic.target trial.service\nAfter=basic.target\n",
    "trial.service": "[Unit]\nAfter=basic.target\nDefaultDependencies=no\n[Service]\nType=oneshot\nWorkingDirectory=/trial\n"
    "ExecStart={python} -u packaging/try.py inside package\nStandardOutput=file:/result\nStandardError=file:/result\n"
    "ExecStopPost=/bin/systemctl poweroff --force --force\n",
}


def systemd(package):
    root = Path(overlay(package, "dpkg", "adduser", "systemd-nspawn"))
    for file in ("packaging/try.py", *(str(path.relative_to(ROOT)) for path in (ROOT / "clients/python/connmix").glob("*.py"))):
        (root / "trial" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / "trial" / file)
    for name, text in UNITS.items():
        (root / "etc/systemd/system" / name).write_text(text.format(python=sys.executable))
    for name in ("dbus.socket", "dbus.service"):  # not needed, and not everywhere
        (root / "etc/systemd/system" / name).symlink_to("/dev/null")
    (root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", f"--directory={root}", "--boot"]
    try:
        subprocess.run(
            [*command, "systemd.unit=trial.target"], timeout=3 * PATIENCE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        pass
    result = root / "result"
    if not result.exists():
        skip("systemd does not start in a container of this machine")
    said = result.read_text()
    print(said, end="")
    if not said.endswith("it is removed\n"):
        sys.exit(1)


def rotate():
    """logrotate moves the log away as the rule in the package says, and the service goes on with a new file."""
    config, log = Path("/etc/connmix/connmix.yaml"), Path("/var/log/connmix/connmix.log")
    config.write_text(config.read_text().replace("logging:\n", "logging:\n  rotate: false\n", 1))
    run("systemctl", "restart", "connmix")
    is_ready(6789)
    # It says so after its port has. Before that the log may be empty, and logrotate leaves empty ones where they are.
    eventually("the log has lines", lambda: log.exists() and "is ready" in log.read_text())
    rule = shutil.copy("/usr/share/doc/connmix/examples/logrotate", "/etc/logrotate.d/connmix")
    for count in (1, 2):
        run("logrotate", "--force", "--state", "/logrotate.state", rule)
        eventually("the log is opened anew", lambda: log.exists() and "SIGUSR1" in log.read_text())
        names = sorted(path.name for path in log.parent.glob("connmix.log*"))
        assert names == ["connmix.log", "connmix.log.1", "connmix.log.2.gz"][: count + 1], names
        assert log.owner() == "connmix"
    os.unlink(rule)
    print("logrotate moves the log away")


def documented(page, heading, language):
    """The first block of that language below a heading of the documentation that is installed."""
    text = Path(f"/usr/share/doc/connmix/docs/{page}").read_text()
    return text.split(f"\n{heading}\n", 1)[1].split(f"```{language}\n", 1)[1].split("```", 1)[0]


def chat():
    """A chat room with presence, made, tested, deployed and asked about as the documentation says, behind nginx with TLS where it is there."""
    work = tempfile.mkdtemp()
    run("connmix", "new", "my-chat", "--template", "chat", cwd=work)
    work += "/my-chat"
    # "Show who is online" of how-do-i.md: the rule, and what others are told of a client. A room of one for the question below.
    config, script = Path(work, "connmix.yaml"), Path(work, "lua/chat.lua")
    rules = '  channels:\n    - {match: "room:small", maxSubscribers: 1}\n    - {match: "room:", presence: true}\n  servers:\n'
    config.write_text(config.read_text().replace("  servers:\n", rules) + "trustedProxies: [127.0.0.1]\n")
    subscribe = "conn:subscribe(channel)"
    assert subscribe in script.read_text()
    script.write_text(script.read_text().replace(subscribe, 'conn:subscribe(channel, {info = {name = conn:context_value("name")}})'))
    commands = documented("operations.md", "### A project as the service", "sh").replace("sudo ", "")
    run("sh", "-ec", commands, cwd=work)
    is_ready(6789)
    print("a project becomes the service")

    url, trust = "ws://127.0.0.1:6790/chat", []
    if shutil.which("nginx"):
        name = "push.example.com"
        with open("/etc/hosts", "a") as hosts:
            hosts.write(f"127.0.0.1 {name}\n")
        make = documented("tls.md", "## One to try with", "sh").replace("localhost", name)
        run("sh", "-ec", make.replace("try.", f"/etc/ssl/{name}."))
        site = documented("operations.md", "## Behind nginx", "nginx").replace("location = /ws", "location = /chat")
        Path("/trial.conf").write_text(f"events {{}}\nerror_log stderr;\nhttp {{\naccess_log off;\n{site}}}\n")
        proxy = Program("nginx", "-c", "/trial.conf", "-g", "daemon off;")
        eventually("nginx serves", lambda: proxy.process.poll() is not None or socket.socket().connect_ex(("127.0.0.1", 443)) == 0)
        url, trust = f"wss://{name}/chat", ["--ca", f"/etc/ssl/{name}.pem"]

    clients = []

    def client(name, *lines):
        at = subprocess.Popen(["connmix", "client", *trust, f"{url}?name={name}", "--wait", "60"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        clients.append(at)
        for line in lines:
            at.stdin.write(json.dumps(line) + "\n")
            answer = ""
            while '"op":' not in answer:
                answer = at.stdout.readline()
                assert answer, name
        return at

    def called(path, body=None):
        return json.loads(request(f"http://127.0.0.1:6789{path}", body)[1])["r"]

    def join(room):
        return {"op": "join", "room": room}

    def people(room):
        return {one["i"]["name"]: one["c"] for one in called("/v1/mesh/presence", {"c": f"room:{room}"})["clients"]}

    client("Ann", join("tea"))
    client("Bob", join("tea"))
    eventually("Ann and Bob are in the room", lambda: sorted(people("tea")) == ["Ann", "Bob"])
    ids = people("tea")
    clients[1].stdin.write('{"op":"quit","room":"tea"}\n')
    eventually("Bob has left", lambda: sorted(people("tea")) == ["Ann"])
    gone = client("Cid", join("tea"))
    eventually("Cid is in the room", lambda: "Cid" in people("tea"))
    ids |= people("tea")
    gone.kill()
    eventually("Cid is gone", lambda: "Cid" not in people("tea"))
    client("Dan", join("hall"), join("small"))
    client("Eve", join("hall"), join("small"))
    ids |= people("hall")
    published = called("/v1/mesh/publish", {"c": "room:tea", "d": "tea is ready", "id": "m-1"})
    assert published == {"s": 1, "f": 0}, published
    for who, about, verdict in (
        ("Ann", ["m-1"], "subscribed"), ("Bob", ["m-1"], "left"), ("Cid", ["m-1"], "closed"), ("Dan", ["m-1"], "never subscribed"),
        ("Eve", ["--channel", "room:small"], "refused"),
    ):
        said = run("connmix", "why", ids[who], *about)
        assert said.startswith(f"client {ids[who]}: {verdict}\n"), said
    print("connmix why tells five of a chat's clients apart" + (", behind nginx with TLS" if trust else ""))
    for at in clients:
        at.kill()
    if trust:
        proxy.stop()
    # What somebody has put there stays when the package is purged.
    Path("/etc/connmix/lua/chat.lua").unlink()
    Path("/etc/connmix/lua/chat_test.lua").unlink()


def inside(_):
    """What `systemd` runs in the container."""

    def of(name):
        return run("systemctl", "show", "connmix", "--value", "--property", name).strip()

    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8")
    install = ("dpkg", "--no-triggers", "--install", "/connmix.deb")
    run(*install)
    is_ready(6789)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{of('MainPID')}/status").read_text().splitlines() if ":\t" in line)
    # A filter of system calls; no new privileges; of capabilities that to bind ports below 1024 alone.
    assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("2", "1", 1 << 10), status
    print("it runs in its sandbox")

    async def stop():
        ws = await WebSocket.connect("ws://127.0.0.1:6790/barrage-videos")
        stopping = asyncio.ensure_future(asyncio.to_thread(run, "systemctl", "stop", "connmix"))
        try:
            await asyncio.wait_for(ws.receive(), PATIENCE)
        except Closed as e:
            assert e.code == 1012, e
        await stopping

    asyncio.run(stop())
    assert of("Result") == "success" and of("ActiveState") == "inactive"
    print("a stop tells clients to come back")
    run("systemctl", "start", "connmix")
    is_ready(6789)
    for command in (("systemctl", "reload", "connmix"), install):
        before = of("MainPID")
        across(*command)
        eventually("systemd knows of the successor", lambda: of("ActiveState") == "active" and of("MainPID") not in (before, "0"))
        print(f"connections stay: {command[0]} {command[-1]}")
    # A successor is told to stop as its predecessor would have been.
    asyncio.run(stop())
    assert of("Result") == "success" and of("ActiveState") == "inactive"
    print("a stop after a reload tells clients, too")
    if shutil.which("logrotate"):
        rotate()
    chat()
    run("dpkg", "--no-triggers", "--purge", "connmix")
    assert of("ActiveState") != "active" and not Path("/etc/connmix").exists()
    print("it is removed", flush=True)


# The image


def block(name):
    """A file of the ConfigMap."""
    text = (ROOT / "packaging/kubernetes/config.yaml").read_text()
    lines = re.search(rf"^  {re.escape(name)}: \|\n((?:    .*\n|\n)+)", text, re.M)[1]
    return re.sub(r"^    ", "", lines, flags=re.M)


def contain(tree, args, mounts=(), environment=(), address="127.0.0.1"):
    """Starts the image's program as its user, with nothing but the root file system, /proc and what is mounted; nothing can be written."""
    root = tempfile.mkdtemp()
    run("mount", "--bind", tree, root)
    run("mount", "-o", "remount,bind,ro", root)
    os.makedirs(f"{tree}/proc", exist_ok=True)
    run("mount", "-t", "proc", "proc", f"{root}/proc")
    for source, target in mounts:
        run("mount", "--bind", source, root + target)
    command = [shutil.which("chroot", path="/usr/sbin:/usr/bin"), "--userspec=65532:65532", "--groups=", root, "/usr/bin/connmix", *args]
    return Program(*command, env=dict(environment), cwd="/")


def image(folder):
    # Mounts need places that a container engine makes.
    tree = tempfile.mkdtemp() + "/root"
    shutil.copytree(folder, tree, symlinks=True)
    run("ip", "link", "set", "lo", "up")
    single = ["single", "-f", "/etc/connmix/connmix.yaml"]
    lost = contain(tree, single)
    assert lost.process.wait(PATIENCE) == 1 and "CONNMIX_TOKEN" in lost.said(), lost.said()
    print("without a token it says what is missing")
    program = contain(tree, single, environment={"CONNMIX_TOKEN": TOKEN})
    is_ready(6789)
    assert request("http://127.0.0.1:6789/v1/mesh/publish", {"c": "a", "d": "b"})[0] == 401
    deliver(6790, 6789, "/barrage-videos", "video:7", {"op": "subscribe", "channel": "7@video"}, TOKEN)
    program.stop()

    # A center and two engines, as packaging/kubernetes has them; each pod has an address of its own there, so here each has its ports.
    work = Path(tempfile.mkdtemp())
    (work / "hosts").write_text("127.0.0.1 localhost connmix-center\n")
    (work / "secrets").mkdir()
    (work / "secrets/cluster").write_text("a-secret-for-the-trial\n")
    (work / "secrets/token").write_text(TOKEN + "\n")
    os.chmod(work, 0o755)
    (Path(tree) / "run/secrets/connmix").mkdir(parents=True, exist_ok=True)
    (Path(tree) / "etc/hosts").touch()
    nodes = []
    for role, shift in (("center", 0), ("engine", 10), ("engine", 20)):
        folder = work / f"{role}{shift}"
        folder.mkdir()
        text = block("connmix.yaml").replace("drainDelay: 5", "drainDelay: 0")  # nobody comes any more
        for port in (6788, 6789, 6790):
            text = text.replace(f"port: {port}", f"port: {port + shift * 10}")
        (folder / "connmix.yaml").write_text(text)
        (folder / "entry.lua").write_text(block("entry.lua"))
        mounts = [(folder, "/etc/connmix"), (work / "secrets", "/run/secrets/connmix"), (work / "hosts", "/etc/hosts")]
        nodes.append(contain(tree, [role, "-f", "/etc/connmix/connmix.yaml"], mounts))
    is_ready(6787)
    is_ready(6889)
    is_ready(6989)
    eventually("the center knows both", lambda: len(json.loads(request("http://127.0.0.1:6787/v1/nodes", token=TOKEN)[1])["nodes"]) == 2)
    # Subscribed on one engine, published on the other.
    deliver(6890, 6989, "/ws", "news", {"op": "subscribe", "channel": "news"}, TOKEN)
    for node in nodes:
        node.stop()
    print("it is a cluster")


def container(tree):
    runtime = next((name for name in ("runc", "crun") if shutil.which(name, path="/usr/sbin:/usr/bin")), None)
    if not shutil.which("podman") or not runtime:
        skip("no podman, or neither runc nor crun")
    run("ip", "link", "set", "lo", "up")
    work = Path(tempfile.mkdtemp())
    run(sys.executable, ROOT / "packaging/image/oci.py", tree, work / "image.tar", "trial")
    # Nothing of it stays on this machine.
    podman = ["podman", "--root", work / "images", "--runroot", work / "run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
              "--runtime", runtime]
    name = run(*podman, "load", "--quiet", "--input", work / "image.tar").strip().removeprefix("Loaded image: ")
    # The engine's own defaults may be more than this machine allows.
    alike = ["--network", "host", "--read-only", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
    start = ["run", "--detach", *alike]
    probe = subprocess.run([*podman, "run", "--rm", *alike, name, "--version"], capture_output=True, text=True)
    if not probe.stdout.startswith("connmix"):
        skip(f"no container runs here: {probe.stderr.strip()}")

    def ended(container):
        return run(*podman, "wait", container).strip()

    lost = run(*podman, *start, name).strip()
    assert ended(lost) == "1" and "CONNMIX_TOKEN" in run(*podman, "logs", lost)
    print("without a token it says what is missing")
    trial = run(*podman, *start, "--env", f"CONNMIX_TOKEN={TOKEN}", name).strip()
    is_ready(6789)
    deliver(6790, 6789, "/barrage-videos", "video:7", {"op": "subscribe", "channel": "7@video"}, TOKEN)
    upgrade = [*podman, "exec", trial, "/usr/bin/connmix", "upgrade", "-f", "/etc/connmix/connmix.yaml"]
    refused = subprocess.run(upgrade, capture_output=True, text=True)
    assert refused.returncode == 1 and "container" in refused.stderr, refused
    deliver(6790, 6789, "/barrage-videos", "video:7", {"op": "subscribe", "channel": "7@video"}, TOKEN)
    print("an upgrade that would end the container is refused")
    run(*podman, "stop", "--time", "30", trial)
    assert ended(trial) == "0", run(*podman, "logs", trial)
    print("it stops when it is told to")

    # The containers of docs/restart.md, by its own commands.
    page = (ROOT / "docs/restart.md").read_text().split("### With containers")[1]
    key, commands = re.search(r"```yaml\n(.*?)```\s+```sh\n(.*?)```", page, re.S).groups()
    shutil.copytree(f"{tree}/etc/connmix", work / "etc")
    with open(work / "etc/connmix.yaml", "a") as config:
        config.write("\n" + key)
    # The network stands there.
    more = shlex.join([*alike[2:], "--env", f"CONNMIX_TOKEN={TOKEN}"])
    command = shlex.join(map(str, podman))
    docker = f'docker() {{ if [ "$1" = run ]; then shift; {command} run {more} "$@"; else {command} "$@"; fi; }}\n'
    first, later = commands.replace(" /etc/connmix:", f" {work}/etc:").split("# Later")
    for version in "12":
        run(*podman, "tag", name, f"connmix:{version}")
    run("sh", "-e", "-c", docker + first)
    is_ready(6789)
    said = across("sh", "-e", "-c", f"{docker}# Later{later}", token=TOKEN)
    assert "took over 1 clients by /run/connmix/single.sock" in said, said
    left = run(*podman, "ps", "--all", "--format", "{{.Names}}").split()
    assert "connmix-2" in left and "connmix-1" not in left, left
    run(*podman, "stop", "--time", "30", "connmix-2")
    print("the next container takes over")


def main():
    trials = {"deb": deb, "systemd": systemd, "image": image, "container": container, "inside": inside}
    if len(sys.argv) != 3 or sys.argv[1] not in trials:
        sys.exit(__doc__)
    if os.geteuid() != 0:
        skip("root is needed")
    what, argument = sys.argv[1:]
    if what == "inside":
        return inside(argument)
    if os.environ.get("CONNMIX_TRIAL") is None:
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if subprocess.run([*command, "ip", "link"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
            skip("this machine has no namespaces, or no `ip`")
        sys.exit(subprocess.run([*command, sys.executable, *sys.argv], env={**os.environ, "CONNMIX_TRIAL": "1"}).returncode)
    trials[what](str(Path(argument).resolve()))


if __name__ == "__main__":
    main()
