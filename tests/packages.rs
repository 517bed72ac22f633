//! What is made to be installed: the Debian package, the container image, the tarball, the manifests for Kubernetes; and the clients for back
//! ends, whose own tests run against the real program. Each needs tools that may be missing.

mod common;

use common::links::{dead, pages};
use common::optional::{Missing, Outcome, need};
use common::process::Process;
use common::{eventually, get, write_config};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const CONNMIX: &str = env!("CARGO_BIN_EXE_connmix");

/// How `packaging/try.py` says that this machine can't.
const SKIPPED: i32 = 77;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A command in the folder of the sources.
fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).env("CONNMIX", CONNMIX).env("PYTHONDONTWRITEBYTECODE", "1");
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs it to its end, which must be a good one; what it printed.
fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", said(&output));
    said(&output)
}

/// Runs a trial of a package; the machine may not be able to.
fn trial(what: &str, package: &Path) -> Outcome {
    let output = command("python3", &["packaging/try.py", what]).arg(package).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        Some(SKIPPED) => Err(Missing::because(said(&output).trim().to_owned())),
        _ => panic!("{}", said(&output)),
    }
}

async fn the_debian_package_is_installed_and_serves_and_is_removed() -> Outcome {
    need("dpkg-deb", &["--version"])?;
    need("python3", &["--version"])?;
    let dir = tempfile::tempdir().unwrap();
    let mut build = command("packaging/deb/build.sh", &[CONNMIX]);
    build.arg(dir.path()).env("COMPRESSION", "none");
    let said = run(build);
    let package = Path::new(said.lines().last().unwrap());
    let listed = run(command("dpkg-deb", &["--contents", package.to_str().unwrap()]));
    for file in
        ["etc/connmix/connmix.yaml", "lib/systemd/system/connmix.service", "usr/share/doc/connmix/THIRD-PARTY.txt.gz"]
    {
        assert!(listed.contains(&format!("./{file}")), "{file} in {listed}");
    }
    let is_test = |line: &str| line.contains(" ./etc/") && line.ends_with("_test.lua");
    assert!(!listed.lines().any(is_test), "{listed}");
    let files = dir.path().join("files");
    run(command("dpkg-deb", &["--extract", package.to_str().unwrap(), files.to_str().unwrap()]));
    let doc = files.join("usr/share/doc/connmix");
    assert!(pages(&doc).len() > 70);
    assert_eq!(dead(&doc), [""; 0]);
    // The folder of examples that Debian asks for.
    assert!(doc.join("examples/chat/chat.lua").is_file() && doc.join("examples/logrotate").is_file());
    trial("deb", package)?;
    if need("systemd-nspawn", &["--version"]).is_ok() {
        trial("systemd", package)?;
    }
    Ok(())
}

fn files_of_the_image(dir: &Path) -> PathBuf {
    let files = dir.join("root");
    let mut build = command("packaging/image/rootfs.sh", &[CONNMIX]);
    build.arg(&files).env("THIRD_PARTY", root().join("LICENSE-MIT"));
    run(build);
    files
}

async fn the_image_runs_in_a_container() -> Outcome {
    need("ldd", &["--version"])?;
    need("podman", &["--version"])?;
    let dir = tempfile::tempdir().unwrap();
    trial("container", &files_of_the_image(dir.path()))
}

/// As the rule in the package says, with another path; `systemctl` is the test's own.
async fn logrotate_moves_the_log_away_and_no_line_is_lost() -> Outcome {
    need("logrotate", &["--version"])?;
    need("gzip", &["--version"])?;
    let dir = tempfile::tempdir().unwrap();
    let (config, log) = (dir.path().join("connmix.yaml"), dir.path().join("logs/connmix.log"));
    fs::write(dir.path().join("entry.lua"), "function on_message() end").unwrap();
    write_config(&config, "", "workers: 1", "");
    let logging = "logging: {filename: logs/connmix.log, rotate: false, access: true}";
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("logging: {filename: ''}", logging)).unwrap();
    let engine = Process::ready(dir.path(), &["single"]);

    let write = |name: &str, text: String, mode| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    };
    let rule = fs::read_to_string(root().join("packaging/systemd/logrotate")).unwrap();
    let rule = write("rule", rule.replace("/var/log/connmix/connmix.log", log.to_str().unwrap()), 0o644);
    fs::create_dir(dir.path().join("bin")).unwrap();
    let signals = "kill --kill-whom=main --signal=USR1 connmix.service";
    let systemctl = format!(
        "#!/bin/sh\ncase \"$*\" in\n'--quiet is-active connmix.service') ;;\n'{signals}') kill -USR1 {} ;;\n*) exit 1 ;;\nesac\n",
        engine.pid()
    );
    write("bin/systemctl", systemctl, 0o755);
    let path = format!("{}:{}", dir.path().join("bin").display(), std::env::var("PATH").unwrap());

    // logrotate leaves an empty file where it is.
    eventually("the file has lines, too", async || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains(" is ready; ")).then_some(())
    })
    .await;
    // While calls go on that have a line each.
    let api = engine.api();
    let done = Arc::new(AtomicBool::new(false));
    let is_done = done.clone();
    let calls = tokio::spawn(async move {
        let mut n = 0;
        while !is_done.load(Relaxed) {
            get(api, &format!("/{n}")).await;
            n += 1;
        }
        n
    });
    for _ in 0..3 {
        let mut logrotate = command("logrotate", &["--force", "--state"]);
        logrotate.arg(dir.path().join("state")).arg(&rule).env("PATH", &path);
        run(logrotate);
        eventually("the log is opened anew", async || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("SIGUSR1")).then_some(())
        })
        .await;
    }
    done.store(true, Relaxed);
    let calls: u32 = calls.await.unwrap();
    assert_eq!(engine.stop().code, Some(0));
    let mut files: Vec<_> = fs::read_dir(log.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["connmix.log", "connmix.log.1", "connmix.log.2.gz", "connmix.log.3.gz"]);
    let whole: String = files.iter().map(|file| run(command("gzip", &["-dcf", file.to_str().unwrap()]))).collect();
    let path = |line: &str| line.split(" access: GET /").nth(1)?.split(' ').next()?.parse().ok();
    let mut logged: Vec<u32> = whole.lines().filter_map(path).collect();
    logged.sort();
    assert!(logged.iter().copied().eq(0..calls), "{calls} calls: {logged:?}");
    Ok(())
}

async fn the_images_files_serve_alone_and_as_the_cluster_of_the_manifests() -> Outcome {
    need("ldd", &["--version"])?;
    need("python3", &["--version"])?;
    let dir = tempfile::tempdir().unwrap();
    let files = files_of_the_image(dir.path());
    if cfg!(feature = "cluster") {
        trial("image", &files)?;
    }
    // The same files are the same image. The beginning of the program will do, and is packed at once.
    let program = fs::read(CONNMIX).unwrap();
    fs::write(files.join("usr/bin/connmix"), &program[..4096]).unwrap();
    let image = |name: &str| {
        let image = dir.path().join(name);
        let mut pack = command("packaging/image/oci.py", &[]);
        pack.arg(&files).arg(&image);
        run(pack);
        fs::read(image).unwrap()
    };
    assert!(image("one.tar") == image("two.tar"));
    Ok(())
}

async fn the_tarball_runs_as_it_is_and_its_checksum_holds() -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let mut build = command("packaging/tarball.sh", &[CONNMIX]);
    build.arg(dir.path()).env("THIRD_PARTY", root().join("LICENSE-MIT")).env("LEVEL", "1");
    let said = run(build);
    let tarball = said.lines().last().unwrap();
    let here = |program: &str, args: &[&str]| {
        let mut command = command(program, args);
        command.current_dir(dir.path());
        run(command)
    };
    assert!(here("sha256sum", &["-c", "SHA256SUMS"]).contains(": OK"));
    here("tar", &["-xzf", tarball]);
    let folder = dir.path().join(Path::new(tarball).file_name().unwrap().to_str().unwrap().trim_end_matches(".tar.gz"));
    let mut check = command(folder.join("bin/connmix").to_str().unwrap(), &["check"]);
    check.current_dir(&folder);
    assert!(run(check).contains("no problems"));
    assert_eq!(dead(&folder), [""; 0]);
    Ok(())
}

async fn the_manifests_are_valid_for_kubernetes() -> Outcome {
    need("python3", &["-c", "import kubernetes_validate, yaml"])?;
    assert!(run(command("packaging/kubernetes/check.py", &[])).contains("manifests are valid"));
    Ok(())
}

async fn what_workflows_name_is_there() -> Outcome {
    let folder = root().join(".github/workflows");
    let mut named = 0;
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let words = text.split(|c: char| c.is_whitespace() || c == '"');
        for path in words.filter(|word| word.starts_with("packaging/") || word.starts_with(".ci/")) {
            assert!(root().join(path).exists(), "{path}");
            named += 1;
        }
    }
    assert!(named > 6, "{named}");
    Ok(())
}

async fn the_python_client_passes_its_tests() -> Outcome {
    need("python3", &["-c", "import sys; assert sys.version_info >= (3, 10)"])?;
    let mut tests = command("python3", &["-m", "unittest", "discover", "-s", "tests", "-t", "."]);
    tests.current_dir(root().join("clients/python"));
    assert!(run(tests).contains("Ran 11 tests"));
    Ok(())
}

async fn the_node_client_passes_its_tests() -> Outcome {
    let exists = "process.exit(typeof WebSocket === 'function' ? 0 : 1)";
    let flag = "--experimental-websocket";
    let flags: &[&str] = if need("node", &["-e", exists]).is_ok() { &[] } else { &[flag] };
    need("node", &[flags, &["-e", exists]].concat())?;
    let said = run(command("node", &[flags, &["--test", "clients/node/test.mjs"]].concat()));
    assert!(said.contains("pass 9") && said.contains("fail 0"), "{said}");
    Ok(())
}

async fn the_php_client_passes_its_tests() -> Outcome {
    need("php", &["-r", "exit(PHP_VERSION_ID >= 80100 ? 0 : 1);"])?;
    assert!(run(command("php", &["clients/php/tests/run.php"])).contains("8 passed, 0 failed"));
    Ok(())
}

async fn the_go_client_passes_its_tests() -> Outcome {
    need("go", &["version"])?;
    let mut tests = command("go", &["test", "-count=1", "-timeout=300s", "."]);
    tests.current_dir(root().join("clients/go"));
    assert!(run(tests).contains("ok"));
    Ok(())
}

async fn the_csharp_client_passes_its_tests() -> Outcome {
    need("dotnet", &["--version"])?;
    assert!(run(command("dotnet", &["run", "--project", "clients/csharp/tests"])).contains("5 passed, 0 failed"));
    Ok(())
}

async fn every_client_names_the_version_that_the_engine_has() -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("python/pyproject.toml", format!("version = \"{version}\"")),
        ("node/package.json", format!("\"version\": \"{version}\"")),
        ("js/package.json", format!("\"version\": \"{version}\"")),
        ("csharp/src/Connmix.csproj", format!("<Version>{version}</Version>")),
    ] {
        let text = fs::read_to_string(root().join("clients").join(file)).unwrap();
        assert!(text.contains(&line), "{file}");
    }
    Ok(())
}

optional_tests! {
    the_debian_package_is_installed_and_serves_and_is_removed,
    logrotate_moves_the_log_away_and_no_line_is_lost,
    the_images_files_serve_alone_and_as_the_cluster_of_the_manifests,
    the_image_runs_in_a_container,
    the_tarball_runs_as_it_is_and_its_checksum_holds,
    the_manifests_are_valid_for_kubernetes,
    what_workflows_name_is_there,
    the_python_client_passes_its_tests,
    the_node_client_passes_its_tests,
    the_php_client_passes_its_tests,
    the_go_client_passes_its_tests,
    the_csharp_client_passes_its_tests,
    every_client_names_the_version_that_the_engine_has,
}
