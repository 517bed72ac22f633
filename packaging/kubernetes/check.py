#!/usr/bin/env python3
"""Holds the manifests of this folder against Kubernetes' own schemas, strictly: no field that is not known, none of a wrong type.

check.py [VERSION]      of Kubernetes, 1.31 unless told; needs the package kubernetes-validate (pip install kubernetes-validate)
"""

import sys
from pathlib import Path

import kubernetes_validate
import yaml

FOLDER = Path(__file__).resolve().parent


def main(version):
    count = 0
    names = set()
    for file in sorted(FOLDER.glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest["kind"] == "Kustomization":
                missing = [name for name in manifest["resources"] if not (FOLDER / name).exists()]
                assert not missing, missing
                continue
            kubernetes_validate.validate(manifest, version, strict=True)
            name = (manifest["kind"], manifest["metadata"]["name"])
            assert name not in names, name
            names.add(name)
            # What a workload or a service selects is what its pods are labelled with.
            spec = manifest.get("spec", {})
            if "template" in spec:
                assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"], name
            count += 1
    print(f"{count} manifests are valid for Kubernetes {version}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "1.31")
