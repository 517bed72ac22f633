#!/usr/bin/env python3
"""Makes a container image of a root file system without a container engine.

oci.py FOLDER IMAGE.tar [TAG]      an OCI archive, for `podman load`, `skopeo copy oci-archive:...` and `docker load` (25 or later)

FOLDER is what rootfs.sh has made. The same folder gives the same image, bit by bit: every file is root's but for the folders of
the program's user, with the date of SOURCE_DATE_EPOCH (0 unless set).
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from datetime import datetime, timezone
from pathlib import Path

DATE = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
USER = 65532
OWNED = {"run/connmix"}
MACHINES = {62: "amd64", 183: "arm64", 243: "riscv64"}


def architecture(program):
    """Of the program, by its ELF header."""
    return MACHINES[int.from_bytes(program.read_bytes()[18:20], "little")]


def layer(root):
    """The files as a tar, uncompressed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            entry = tar.gettarinfo(path, str(path.relative_to(root)))
            owned = entry.name in OWNED
            entry.uid = entry.gid = USER if owned else 0
            entry.uname = entry.gname = "connmix" if owned else "root"
            entry.mtime = DATE
            with open(path, "rb") if entry.isreg() else io.BytesIO() as data:
                tar.addfile(entry, data if entry.isreg() else None)
    return out.getvalue()


def main(root, target, tag):
    blobs = {}

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    files = layer(root)
    date = datetime.fromtimestamp(DATE, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    config = {
        "created": date,
        "architecture": architecture(root / "usr/bin/connmix"),
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "WorkingDir": "/etc/connmix",
            "Entrypoint": ["/usr/bin/connmix"],
            "Cmd": ["single", "-f", "/etc/connmix/connmix.yaml"],
            "StopSignal": "SIGTERM",
            "ExposedPorts": {f"{port}/tcp": {} for port in (6786, 6787, 6788, 6789, 6790)},
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(files).hexdigest()]},
        "history": [{"created": date, "created_by": "packaging/image/oci.py"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [blob("layer.v1.tar+gzip", gzip.compress(files, 6, mtime=0))],
    }
    entry = blob("manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": f"docker.io/library/connmix:{tag}"}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    blobs["index.json"] = json.dumps(index).encode()
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in blobs.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), DATE
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "latest")
