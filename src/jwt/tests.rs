//! Tokens and keys that another library has made (`tests/tools/jwt.py`), and what is wrong with changed ones.

use super::*;

const NOW: f64 = 1_500_000_000.0;

fn fixture() -> Json {
    serde_json::from_str(include_str!("../../tests/fixtures/jwt.json")).unwrap()
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap()
}

/// For the audience of the fixture's tokens.
fn ours() -> Demands {
    Demands { audience: vec!["push".into()], ..Demands::default() }
}

fn checked(token: &Json, keys: &Keys) -> Result<Map<String, Json>, TokenError> {
    verify(text(token).as_bytes(), keys, &ours(), NOW)
}

/// The keys of the fixture, each with the name of its algorithm.
fn all(fixture: &Json) -> Vec<(&'static str, Keys)> {
    let key = |name: &str| match name {
        "HS256" => text(&fixture["secret"]).to_owned(),
        name => text(&fixture["pem"][name]).to_owned(),
    };
    Algorithm::ALL.iter().map(|(name, _)| (*name, Keys::read(key(name).as_bytes()).unwrap())).collect()
}

#[test]
fn a_token_is_accepted_with_its_own_key_alone() {
    let fixture = fixture();
    for (name, keys) in all(&fixture) {
        for (alg, _) in Algorithm::ALL {
            let result = checked(&fixture["tokens"][alg], &keys);
            if alg == name {
                assert_eq!(result.unwrap()["sub"], "42", "{alg}");
            } else {
                assert_eq!(result, Err(TokenError::NoKey(format!(": {alg}"))), "{alg} with a key for {name}");
            }
        }
    }
    let pkcs1 = Keys::read(text(&fixture["pkcs1"]).as_bytes()).unwrap();
    checked(&fixture["tokens"]["RS256"], &pkcs1).unwrap();
}

#[test]
fn a_set_of_web_keys_has_keys_by_their_ids() {
    let fixture = fixture();
    let keys = Keys::read(fixture["jwks"].to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 3, "one is of an unknown kind");
    for alg in ["RS256", "ES256", "EdDSA"] {
        checked(&fixture["tokens"][alg], &keys).unwrap();
        checked(&fixture["named"][alg], &keys).unwrap();
    }
    assert_eq!(checked(&fixture["unknown"], &keys), Err(TokenError::NoKey(": EdDSA (kid unknown)".into())));
    let one = Keys::read(fixture["jwks"]["keys"][1].to_string().as_bytes()).unwrap();
    checked(&fixture["named"]["ES256"], &one).unwrap();
    let secret = r#"{"keys": [{"kty": "oct", "k": "eA"}]}"#.as_bytes();
    assert_eq!(Keys::read(secret).unwrap().len(), 1);
    assert_eq!(Keys::read_set(secret, false).err(), Some(KeysError::None), "a server's set has no secrets");
    let other_use = fixture["jwks"]["keys"][0].to_string().replace("\"sig\"", "\"enc\"");
    assert_eq!(Keys::read(other_use.as_bytes()).err(), Some(KeysError::None));
}

#[test]
fn a_public_key_is_no_secret() {
    let fixture = fixture();
    for alg in ["RS256", "ES256", "EdDSA"] {
        let pem = text(&fixture["pem"][alg]);
        let keys = Keys::read(pem.as_bytes()).unwrap();
        assert_eq!(checked(&fixture["confused"][alg], &keys), Err(TokenError::NoKey(": HS256".into())), "{alg}");
        let bare: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(Keys::read(bare.as_bytes()).err(), Some(KeysError::Bare), "{alg}");
        assert_eq!(Keys::read(&BASE64.decode(bare).unwrap()).err(), Some(KeysError::Bare), "{alg}");
    }
    assert_eq!(Keys::read(text(&fixture["private"]).as_bytes()).err(), Some(KeysError::Private));
    let certificate = text(&fixture["pem"]["RS256"]).replace("PUBLIC KEY", "CERTIFICATE");
    assert_eq!(Keys::read(certificate.as_bytes()).err(), Some(KeysError::Certificate));
    assert_eq!(Keys::read(b"").err(), Some(KeysError::Empty));
    assert!(matches!(Keys::read(b"-----BEGIN PUBLIC KEY-----\nx").err(), Some(KeysError::Pem(_))));
    assert!(matches!(Keys::read(b"{\"a\": 1}").err(), Some(KeysError::Json(_))));
}

use base64::prelude::BASE64_STANDARD as BASE64;

/// The parts of a token, changed, with the signature that it had.
fn with_header(token: &Json, header: &str) -> Json {
    let rest = text(token).split_once('.').unwrap().1;
    format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header)).into()
}

#[test]
fn what_is_changed_or_unsigned_is_refused() {
    let fixture = fixture();
    let keys = all(&fixture).into_iter().fold(Keys::default(), |mut all, (_, keys)| {
        all.add(keys);
        all
    });
    for (alg, _) in Algorithm::ALL {
        let token = text(&fixture["tokens"][alg]);
        for at in [token.find('.').unwrap() + 3, token.len() - 20] {
            let mut changed = token.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let result = verify(&changed, &keys, &ours(), NOW);
            assert_eq!(result, Err(TokenError::Signature), "{alg}");
        }
    }
    let token = &fixture["tokens"]["HS256"];
    for (header, wanted) in [
        (r#"{"alg":"none"}"#, TokenError::Algorithm("none".into())),
        (r#"{"alg":"hs256"}"#, TokenError::Algorithm("hs256".into())),
        (r#"{"alg":"HS384"}"#, TokenError::Algorithm("HS384".into())),
        (r#"{"alg":"RS256"}"#, TokenError::Signature),
        (r#"{"alg":"ES256"}"#, TokenError::Signature),
        (r#"{"alg":"EdDSA"}"#, TokenError::Signature),
        (r#"{"alg":"HS256", "typ":"JWT"}"#, TokenError::Signature),
        (r#"{"alg":["HS256"]}"#, TokenError::Form("its header names no algorithm (alg)")),
        (r#"{"alg":"HS256","kid":1}"#, TokenError::Form("its kid is no string")),
        ("[]", TokenError::Form("its header is no JSON object in base64url")),
    ] {
        assert_eq!(checked(&with_header(token, header), &keys), Err(wanted), "{header}");
    }
    assert_eq!(checked(&fixture["crit"], &keys), Err(TokenError::Form("its header demands extensions (crit)")));
    for token in ["", "a", "a.b", "..", "a.b.c.d", "é.é.é"] {
        let result = verify(token.as_bytes(), &keys, &ours(), NOW);
        assert!(matches!(result, Err(TokenError::Form(_))), "{token}: {result:?}");
    }
    let long = "a".repeat(MAX_TOKEN + 1);
    assert_eq!(verify(long.as_bytes(), &keys, &ours(), NOW), Err(TokenError::Form("it is too long")));
}

#[test]
fn claims_are_checked() {
    let fixture = fixture();
    let keys = Keys::read(text(&fixture["secret"]).as_bytes()).unwrap();
    let token = text(&fixture["tokens"]["HS256"]).as_bytes();
    let at = |demands: &Demands, now: f64| verify(token, &keys, demands, now).map(drop);
    let with = |change: fn(&mut Demands)| {
        let mut demands = ours();
        change(&mut demands);
        at(&demands, NOW)
    };
    assert_eq!(at(&ours(), 1_999_999_999.0), Ok(()));
    assert_eq!(at(&ours(), 2_000_000_000.0), Err(TokenError::Expired));
    assert_eq!(at(&Demands { leeway: 5.0, ..ours() }, 2_000_000_004.0), Ok(()));
    assert_eq!(at(&ours(), 1_000_000_000.0), Ok(()));
    assert_eq!(at(&ours(), 999_999_999.0), Err(TokenError::NotYet));
    assert_eq!(at(&Demands { leeway: 5.0, ..ours() }, 999_999_999.0), Ok(()));
    // RFC 7519, section 4.1.3: who is not among the audience must refuse.
    assert_eq!(at(&Demands::default(), NOW), Err(TokenError::Audience));
    assert_eq!(with(|d| d.audience = vec!["other".into()]), Err(TokenError::Audience));
    assert_eq!(with(|d| d.audience = vec!["other".into(), "web".into()]), Ok(()));
    assert_eq!(with(|d| d.issuer = vec!["https://id.example".into()]), Ok(()));
    assert_eq!(with(|d| d.issuer = vec!["https://other.example".into()]), Err(TokenError::Issuer));
    assert_eq!(with(|d| d.algorithms = vec![Algorithm::EdDsa]), Err(TokenError::Algorithm("HS256".into())));
    assert_eq!(with(|d| d.required = vec!["jti".into()]), Err(TokenError::Claim("jti".into(), "is missing")));
    let bare = text(&fixture["bare"]).as_bytes();
    assert!(verify(bare, &keys, &Demands::default(), NOW).is_ok());
    assert_eq!(verify(bare, &keys, &ours(), NOW), Err(TokenError::Audience));
    let claims = serde_json::from_str::<Map<String, Json>>(r#"{"exp": "soon"}"#).unwrap();
    assert_eq!(check(&claims, &Demands::default(), NOW), Err(TokenError::Claim("exp".into(), "is no number")));
}
