//! Each way of being good, and each way of being bad.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as URL_SAFE;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Good,
    Invalid,
    Expired,
}

use Expected::{Expired, Good, Invalid};

/// The keys of one provider, one of each kind, and a key that is nobody's.
struct Keys {
    rsa: SigningKey,
    p256: SigningKey,
    p384: SigningKey,
    ed: SigningKey,
    /// Published with `alg`: RS384.
    rsa_384: SigningKey,
    /// Published for encryption.
    encrypting: SigningKey,
    /// Published with `key_ops` that do not verify.
    wrapping: SigningKey,
    /// A secret that was published by mistake.
    leaked: SigningKey,
    stranger_rsa: SigningKey,
    stranger_p256: SigningKey,
}

impl Keys {
    fn new() -> Self {
        Self {
            rsa: SigningKey::rsa("rsa"),
            p256: SigningKey::p256("p256"),
            p384: SigningKey::p384("p384"),
            ed: SigningKey::ed25519("ed"),
            rsa_384: SigningKey::rsa("rsa-384"),
            encrypting: SigningKey::rsa("enc"),
            wrapping: SigningKey::p256("wrap"),
            leaked: SigningKey::secret("leaked", &[7; 48]),
            stranger_rsa: SigningKey::rsa("rsa"),
            stranger_p256: SigningKey::p256("p256"),
        }
    }

    fn published(&self) -> Vec<Value> {
        let mut keys: Vec<Value> =
            [&self.rsa, &self.p256, &self.p384, &self.ed, &self.leaked].map(SigningKey::jwk).into();
        keys.push(with(&self.rsa_384.jwk(), "alg", json!("RS384")));
        keys.push(with(&self.encrypting.jwk(), "use", json!("enc")));
        keys.push(with(&self.wrapping.jwk(), "key_ops", json!(["wrapKey"])));
        // What is not known here must not spoil the rest.
        keys.push(json!({"kty": "EC", "crv": "secp256k1", "kid": "k1", "x": "AA", "y": "AA"}));
        keys.push(json!({"kty": "AKP", "kid": "ml", "alg": "ML-DSA-44"}));
        keys.push(json!("not an object"));
        keys
    }
}

fn header(alg: &str, kid: &str) -> Value {
    json!({"alg": alg, "typ": "JWT", "kid": kid})
}

fn part(value: &Value) -> String {
    identity::encode(value.to_string())
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn vectors(keys: &Keys, iss: &str) -> Vec<(&'static str, String, Expected)> {
    let base = claims(iss);
    let good = keys.rsa.token(&base);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let rsa = |claims: &Value| keys.rsa.token(claims);
    let claim = |name: &str, value: Value| rsa(&with(&base, name, value));
    let head_with =
        |name: &str, value: Value| keys.rsa.token_with(&with(&header("RS256", "rsa"), name, value), &base);
    let hmac_with = |secret: &[u8], alg: &str, kid: &str| {
        SigningKey::secret(kid, secret).token_with(&header(alg, kid), &base)
    };
    let text = |header: &str, claims: &str| keys.rsa.token_of_text("RS256", header, claims);
    let plain_header = header("RS256", "rsa").to_string();
    let mut flipped = URL_SAFE.decode(signature).unwrap();
    flipped[20] ^= 1;
    let pem_like = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        identity::encode(keys.rsa.public())
    );

    vec![
        // Good ones, of each kind of key.
        ("RS256", good.clone(), Good),
        ("RS384", keys.rsa.token_with(&header("RS384", "rsa"), &base), Good),
        ("RS512", keys.rsa.token_with(&header("RS512", "rsa"), &base), Good),
        ("PS256", keys.rsa.token_with(&header("PS256", "rsa"), &base), Good),
        ("PS384", keys.rsa.token_with(&header("PS384", "rsa"), &base), Good),
        ("PS512", keys.rsa.token_with(&header("PS512", "rsa"), &base), Good),
        ("ES256", keys.p256.token(&base), Good),
        ("ES384", keys.p384.token(&base), Good),
        ("EdDSA", keys.ed.token(&base), Good),
        (
            "a key bound to RS384 with RS384",
            keys.rsa_384.token_with(&header("RS384", "rsa-384"), &base),
            Good,
        ),
        ("an access token by RFC 9068", head_with("typ", json!("at+JWT")), Good),
        ("no typ", head_with("typ", Value::Null), Good),
        ("a thumbprint in the header", head_with("x5t", json!("AA")), Good),
        ("without kid, where one key fits", keys.p256.token_with(&json!({"alg": "ES256"}), &base), Good),
        (
            "several audiences, one of them ours",
            claim("aud", json!(["https://idp/userinfo", AUDIENCE])),
            Good,
        ),
        ("times with fractions", claim("exp", json!(NOW as f64 + 600.5)), Good),
        ("expired within the leeway", claim("exp", json!(NOW - 59)), Good),
        ("not before within the leeway", claim("nbf", json!(NOW + 60)), Good),
        ("a clock a little ahead", claim("iat", json!(NOW + 200)), Good),
        ("no iat and no jti", rsa(&with(&with(&base, "iat", Value::Null), "jti", Value::Null)), Good),
        // No signature, or a changed one.
        ("alg none", format!("{}.{body}.", part(&json!({"alg": "none"}))), Invalid),
        (
            "alg None with a signature",
            format!("{}.{body}.{signature}", part(&json!({"alg": "None"}))),
            Invalid,
        ),
        ("alg nOnE, kid of a key", format!("{}.{body}.{signature}", part(&header("nOnE", "rsa"))), Invalid),
        ("no alg", format!("{}.{body}.{signature}", part(&json!({"kid": "rsa"}))), Invalid),
        (
            "alg of another type",
            format!("{}.{body}.{signature}", part(&json!({"alg": ["RS256"], "kid": "rsa"}))),
            Invalid,
        ),
        ("no signature", format!("{message}."), Invalid),
        ("a changed bit of the signature", format!("{message}.{}", identity::encode(&flipped)), Invalid),
        ("half a signature", format!("{message}.{}", &signature[..signature.len() / 2]), Invalid),
        (
            "the signature of other claims",
            format!("{head}.{}.{signature}", part(&with(&base, "sub", json!("eve")))),
            Invalid,
        ),
        (
            "an all-zero ES256 signature",
            {
                let token = keys.p256.token(&base);
                format!("{}.{}", token.rsplit_once('.').unwrap().0, identity::encode([0; 64]))
            },
            Invalid,
        ),
        // Keys and algorithms that do not belong together.
        ("HS256 with the public key", hmac_with(&keys.rsa.public(), "HS256", "rsa"), Invalid),
        ("HS256 with the public key as PEM", hmac_with(pem_like.as_bytes(), "HS256", "rsa"), Invalid),
        ("HS512 with the public key", hmac_with(&keys.ed.public(), "HS512", "ed"), Invalid),
        ("HS256 with an empty key", hmac_with(b"", "HS256", "rsa"), Invalid),
        ("HS256 with a secret that was published", keys.leaked.token(&base), Invalid),
        ("says ES256, signed with RSA", keys.rsa.token_with(&header("ES256", "rsa"), &base), Invalid),
        ("says RS256, signed with P-256", keys.p256.token_with(&header("RS256", "p256"), &base), Invalid),
        ("says ES384, signed with P-256", keys.p256.token_with(&header("ES384", "p256"), &base), Invalid),
        (
            "says PS256, signed as RS256",
            keys.rsa.token_of_text("RS256", &header("PS256", "rsa").to_string(), &base.to_string()),
            Invalid,
        ),
        ("says ES512", keys.p256.token_with(&header("ES512", "p256"), &base), Invalid),
        ("says rs256 in lower case", keys.rsa.token_with(&header("rs256", "rsa"), &base), Invalid),
        ("a key bound to RS384 with RS256", keys.rsa_384.token(&base), Invalid),
        ("a key for encryption", keys.encrypting.token(&base), Invalid),
        ("a key for wrapping", keys.wrapping.token(&base), Invalid),
        ("the kid of another key", keys.rsa.token_with(&header("RS256", "rsa-384"), &base), Invalid),
        ("a stranger's RSA key under a known kid", keys.stranger_rsa.token(&base), Invalid),
        ("a stranger's P-256 key under a known kid", keys.stranger_p256.token(&base), Invalid),
        (
            "without kid, where several keys fit",
            keys.rsa.token_with(&json!({"alg": "RS384"}), &base),
            Invalid,
        ),
        ("an unknown kid", keys.rsa.token_with(&header("RS256", "nobody"), &base), Invalid),
        ("a path as kid", keys.rsa.token_with(&header("RS256", "../../etc/passwd"), &base), Invalid),
        ("a kid that is a number", head_with("kid", json!(1)), Invalid),
        ("a kid that is too long", head_with("kid", json!("k".repeat(300))), Invalid),
        // Headers that bring keys along or ask for another reading.
        (
            "a key of its own (jwk)",
            keys.stranger_rsa
                .token_with(&with(&header("RS256", "rsa"), "jwk", keys.stranger_rsa.jwk()), &base),
            Invalid,
        ),
        ("jku", head_with("jku", json!("https://evil.example/keys")), Invalid),
        ("x5u", head_with("x5u", json!("https://evil.example/chain")), Invalid),
        ("x5c", head_with("x5c", json!(["MIIB"])), Invalid),
        ("crit", head_with("crit", json!(["exp"])), Invalid),
        ("b64", head_with("b64", json!(false)), Invalid),
        ("compressed", head_with("zip", json!("DEF")), Invalid),
        ("a logout token", head_with("typ", json!("logout+jwt")), Invalid),
        // Claims.
        ("another issuer", claim("iss", json!("https://evil.example")), Invalid),
        ("the issuer with a slash", claim("iss", json!(format!("{iss}/"))), Invalid),
        ("the relay itself as issuer", claim("iss", json!("tunnel-relay")), Invalid),
        ("no issuer", claim("iss", Value::Null), Invalid),
        ("issuers as a list", claim("iss", json!([iss])), Invalid),
        ("another audience", claim("aud", json!("https://other.example")), Invalid),
        (
            "an audience that begins like ours",
            claim("aud", json!(format!("{AUDIENCE}.evil.example"))),
            Invalid,
        ),
        ("no audience", claim("aud", Value::Null), Invalid),
        ("no audience in the list", claim("aud", json!([])), Invalid),
        ("audience as an object", claim("aud", json!({AUDIENCE: true})), Invalid),
        ("expired", claim("exp", json!(NOW - 60)), Expired),
        ("expired long ago", claim("exp", json!(1)), Expired),
        ("no expiry", claim("exp", Value::Null), Invalid),
        ("expiry as text", claim("exp", json!("1900000000")), Invalid),
        ("expiry below zero", claim("exp", json!(-1)), Invalid),
        ("not yet valid", claim("nbf", json!(NOW + 61)), Invalid),
        ("nbf as text", claim("nbf", json!("0")), Invalid),
        ("issued far in the future", claim("iat", json!(NOW + 4_000)), Invalid),
        ("no subject", claim("sub", Value::Null), Invalid),
        ("a subject that is a number", claim("sub", json!(7)), Invalid),
        ("a subject that is a list", claim("sub", json!(["ann"])), Invalid),
        ("an empty subject", claim("sub", json!("")), Invalid),
        ("a subject with a line break", claim("sub", json!("ann\r\nx: y")), Invalid),
        ("a subject beyond ASCII", claim("sub", json!("änn")), Invalid),
        ("a subject that is too long", claim("sub", json!("a".repeat(300))), Invalid),
        // Forms.
        (
            "a claim that comes twice",
            text(&plain_header, &base.to_string().replacen('{', "{\"sub\":\"eve\",", 1)),
            Invalid,
        ),
        (
            "a header member that comes twice",
            text(&plain_header.replacen('{', "{\"alg\":\"RS256\",", 1), &base.to_string()),
            Invalid,
        ),
        ("claims that are a list", text(&plain_header, "[]"), Invalid),
        ("claims and something more", text(&plain_header, &format!("{base} {{}}")), Invalid),
        ("padding", format!("{message}.{signature}=="), Invalid),
        ("a space within", format!("{head}. {body}.{signature}"), Invalid),
        ("two parts", message.to_owned(), Invalid),
        ("four parts", format!("{good}.x"), Invalid),
        ("five parts, as encrypted ones have", format!("{head}.AA.AA.{body}.{signature}"), Invalid),
        ("too long", claim("groups", json!("g".repeat(TOKEN_MAX_BYTES))), Invalid),
        ("garbage", "garbage".to_owned(), Invalid),
    ]
}

#[tokio::test]
async fn each_vector_is_judged_as_specified() {
    let keys = Keys::new();
    let provider = IdentityProvider::start(&[]).await;
    provider.change(|behaviour| behaviour.keys = keys.published());
    let iss = provider.issuer();
    let bench = Bench::new(vec![
        issuer("idp", &iss, KeySource::Discovery),
        // Another issuer's keys must not help.
        issuer("other", "https://evil.example", KeySource::Jwks("http://127.0.0.1:9/keys".parse().unwrap())),
    ]);
    let vectors = vectors(&keys, &iss);
    assert!(vectors.len() >= 60, "{}", vectors.len());
    for (what, token, expected) in &vectors {
        let judged = match bench.verify(token).await {
            Ok(principal) => {
                assert_eq!(&*principal.subject, "idp:ann", "{what}");
                Good
            }
            Err(TokenError::Expired) => Expired,
            // The other issuer has no keys, so nothing is said of its tokens; that is no acceptance either.
            Err(TokenError::IssuerAway) if *what == "another issuer" => Invalid,
            Err(TokenError::Invalid) => Invalid,
            Err(error) => panic!("{what}: {error}"),
        };
        assert_eq!(judged, *expected, "{what}");
    }
    println!("measured: token vectors {}", vectors.len());
}

#[tokio::test]
async fn only_the_algorithms_of_the_settings_are_taken() {
    let (rsa, p256) = (SigningKey::rsa("r"), SigningKey::p256("e"));
    let provider = IdentityProvider::start(&[&rsa, &p256]).await;
    let iss = provider.issuer();
    let strict =
        IssuerSettings { algorithms: vec!["ES256".into()], ..issuer("idp", &iss, KeySource::Discovery) };
    let bench = Bench::new(vec![strict]);
    assert!(bench.verify(&p256.token(&claims(&iss))).await.is_ok());
    assert_eq!(bench.verify(&rsa.token(&claims(&iss))).await.unwrap_err(), TokenError::Invalid);
}

#[tokio::test]
async fn tokens_as_auth0_keycloak_and_supabase_make_them_are_read() {
    let (rsa, p256) = (SigningKey::rsa("r"), SigningKey::p256("e"));
    let provider = IdentityProvider::start(&[&rsa]).await;
    let mut jwk = p256.jwk();
    jwk["key_ops"] = json!(["verify"]);
    jwk["ext"] = json!(true);
    jwk["alg"] = json!("ES256");
    provider.change(|behaviour| behaviour.keys.push(jwk));
    let iss = provider.issuer();
    let source = || KeySource::Jwks(provider.keys_url().parse().unwrap());

    let auth0 = IssuerSettings {
        tier_claim: Some("https://relay.example/tier".into()),
        scope_claim: Some("scope".into()),
        ..issuer("auth0", &iss, source())
    };
    let token = rsa.token(&json!({
        "iss": iss, "sub": "auth0|64f0", "aud": [AUDIENCE, "https://tenant.eu.auth0.com/userinfo"], "iat": NOW,
        "exp": NOW + 86_400, "azp": "client", "scope": "openid offline_access tunnel inference",
        "https://relay.example/tier": "premium",
    }));
    let principal = Bench::new(vec![auth0]).verify(&token).await.unwrap();
    assert_eq!((&*principal.subject, principal.tier.as_deref()), ("auth0:auth0|64f0", Some("premium")));
    assert_eq!(principal.scopes.as_str(), "tunnel inference");
    assert!(principal.token_id.starts_with("sha256-"), "there is no jti");

    let keycloak = IssuerSettings {
        tenant_claim: "organization.id".into(),
        scope_claim: Some("resource_access.relay.roles".into()),
        ..issuer("kc", &iss, source())
    };
    let token = rsa.token(&json!({
        "exp": NOW + 300, "iat": NOW, "jti": "onrtac:2f5c", "iss": iss, "aud": AUDIENCE, "sub": "5e1f", "typ": "Bearer",
        "azp": "tunneld", "sid": "x", "organization": {"id": "acme"},
        "resource_access": {"relay": {"roles": ["inference", "viewer"]}},
    }));
    let principal = Bench::new(vec![keycloak]).verify(&token).await.unwrap();
    assert_eq!((&*principal.subject, &*principal.token_id), ("kc:acme", "onrtac:2f5c"));
    assert_eq!(principal.scopes.as_str(), "inference");

    let supabase = IssuerSettings {
        audiences: vec!["authenticated".into()],
        tier_claim: Some("app_metadata.tier".into()),
        ..issuer("supabase", &iss, source())
    };
    let token = p256.token(&json!({
        "iss": iss, "sub": "0b1c", "aud": "authenticated", "exp": NOW + 3_600, "iat": NOW, "role": "authenticated",
        "aal": "aal1", "session_id": "s", "is_anonymous": false, "app_metadata": {"tier": "free", "provider": "email"},
    }));
    let principal = Bench::new(vec![supabase]).verify(&token).await.unwrap();
    assert_eq!((&*principal.subject, principal.tier.as_deref()), ("supabase:0b1c", Some("free")));
    assert_eq!(principal.scopes.as_str(), "tunnel inference account");
}
