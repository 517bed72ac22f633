#!/usr/bin/env python3
"""Prints tests/fixtures/jwt.json: keys, and tokens that are signed with them. Wants the package cryptography."""

import base64
import hashlib
import hmac
import json

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

SECRET = "a secret of thirty-two bytes, or more"
CLAIMS = {
    "sub": "42", "iss": "https://id.example", "aud": ["push", "web"], "nbf": 1000000000, "exp": 2000000000,
    "rooms": ["a", "b"], "id": 9007199254740993, "n": 1.5, "admin": True, "none": None,
}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(n):
    return b64(n.to_bytes((n.bit_length() + 7) // 8, "big"))


RSA, EC, ED = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
KEYS = {"RS256": RSA, "ES256": EC, "EdDSA": ED}


def sign(alg, data):
    if alg == "HS256":
        return hmac.digest(SECRET.encode(), data, hashlib.sha256)
    if alg == "RS256":
        return RSA.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if alg == "EdDSA":
        return ED.sign(data)
    r, s = utils.decode_dss_signature(EC.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(alg, claims=CLAIMS, **header):
    signed = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": alg, "typ": "JWT", **header}, claims))
    return f"{signed}.{b64(sign(alg, signed.encode()))}"


def pem(key, form=serialization.PublicFormat.SubjectPublicKeyInfo):
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def jwk(alg):
    public = KEYS[alg].public_key()
    if alg == "RS256":
        n = public.public_numbers()
        return {"kty": "RSA", "kid": "rsa", "use": "sig", "alg": alg, "n": number(n.n), "e": number(n.e)}
    if alg == "ES256":
        n = public.public_numbers()
        return {"kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(n.x.to_bytes(32, "big")), "y": b64(n.y.to_bytes(32, "big"))}
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(raw)}


KIDS = {"RS256": "rsa", "ES256": "ec", "EdDSA": "ed"}
print(json.dumps({
    "secret": SECRET,
    "pem": {alg: pem(key) for alg, key in KEYS.items()},
    "pkcs1": pem(RSA, serialization.PublicFormat.PKCS1),
    "private": ED.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode(),
    "jwks": {"keys": [jwk(alg) for alg in KEYS] + [{"kty": "EC", "crv": "P-521", "kid": "other"}]},
    "tokens": {alg: token(alg) for alg in ("HS256", "RS256", "ES256", "EdDSA")},
    "named": {alg: token(alg, kid=kid) for alg, kid in KIDS.items()},
    "unknown": token("EdDSA", kid="unknown"),
    # Signed with the text of a public key as the secret.
    "confused": {alg: (lambda s: f"{s}.{b64(hmac.digest(pem(key).encode(), s.encode(), hashlib.sha256))}")(
        token("HS256").rsplit(".", 1)[0]) for alg, key in KEYS.items()},
    "crit": token("EdDSA", crit=["b64"], b64=False),
    "bare": token("HS256", {"sub": "42"}),
}, indent=1))
