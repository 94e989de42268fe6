//! An identity provider on loopback, with keys of every kind: what it publishes, how often it was asked, when it fails.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Encodes as tokens do.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key that signs.
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    kind: Kind,
}

enum Kind {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl SigningKey {
    pub(crate) fn rsa(kid: &str) -> Self {
        Self::new(kid, Kind::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn p256(kid: &str) -> Self {
        Self::new(kid, Kind::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()))
    }

    pub(crate) fn p384(kid: &str) -> Self {
        Self::new(kid, Kind::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()))
    }

    pub(crate) fn ed25519(kid: &str) -> Self {
        Self::new(kid, Kind::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    pub(crate) fn secret(kid: &str, secret: &[u8]) -> Self {
        Self::new(kid, Kind::Secret(secret.to_vec()))
    }

    fn new(kid: &str, kind: Kind) -> Self {
        Self { kid: kid.to_owned(), kind }
    }

    /// The algorithm that such keys are mostly used with.
    pub(crate) fn alg(&self) -> &'static str {
        match self.kind {
            Kind::Rsa(_) => "RS256",
            Kind::P256(_) => "ES256",
            Kind::P384(_) => "ES384",
            Kind::Ed25519(_) => "EdDSA",
            Kind::Secret(_) => "HS256",
        }
    }

    /// The public half, as providers publish it; of a secret the secret.
    pub(crate) fn jwk(&self) -> Value {
        let kid = &self.kid;
        match &self.kind {
            Kind::Rsa(key) => {
                let (n, e) = rsa_components(key.public_key().as_ref());
                json!({"kty": "RSA", "kid": kid, "use": "sig", "n": encode(n), "e": encode(e)})
            }
            Kind::P256(key) => ec_jwk(kid, "P-256", key),
            Kind::P384(key) => ec_jwk(kid, "P-384", key),
            Kind::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key())})
            }
            Kind::Secret(secret) => json!({"kty": "oct", "kid": kid, "k": encode(secret)}),
        }
    }

    /// The bytes of the public half.
    pub(crate) fn public(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Rsa(key) => key.public_key().as_ref().to_vec(),
            Kind::P256(key) | Kind::P384(key) => key.public_key().as_ref().to_vec(),
            Kind::Ed25519(key) => key.public_key().as_ref().to_vec(),
            Kind::Secret(_) => Vec::new(),
        }
    }

    /// Signs, whatever the header says, in the way that `alg` means for this kind of key.
    fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.kind {
            Kind::Rsa(key) => {
                let encoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Kind::P256(key) | Kind::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Kind::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Kind::Secret(secret) => {
                let algorithm = match alg {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
            }
        }
    }

    /// Makes a token with its own header.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.alg(), "typ": "JWT", "kid": self.kid}), claims)
    }

    /// Makes a token with this header.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let alg = header["alg"].as_str().unwrap_or_default().to_owned();
        self.token_of_text(&alg, &header.to_string(), &claims.to_string())
    }

    /// Makes a token of these very texts.
    pub(crate) fn token_of_text(&self, alg: &str, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        format!("{message}.{}", encode(self.sign(alg, message.as_bytes())))
    }
}

fn ec_jwk(kid: &str, curve: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "kid": kid, "x": encode(x), "y": encode(y)})
}

/// Reads modulus and exponent out of a key in DER (RFC 8017 §A.1.1).
fn rsa_components(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, at) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            _ => ((usize::from(der[2]) << 8) | usize::from(der[3]), 4),
        };
        (&der[at..at + length], &der[at + length..])
    }
    let (both, _) = element(der);
    let (n, rest) = element(both);
    let (e, _) = element(rest);
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
    (number(n), number(e))
}

/// What the provider does now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// The keys that it publishes.
    pub(crate) keys: Vec<Value>,
    /// What its documents answer instead of 200.
    pub(crate) status: Option<u16>,
    /// Who the discovery document says it is, where that is not the truth.
    pub(crate) says_issuer: Option<String>,
    pub(crate) cache_control: Option<String>,
    /// How long it thinks about the keys.
    pub(crate) delay: Duration,
    /// What it sends instead of its keys.
    pub(crate) raw: Option<String>,
}

/// A provider. It ends with this.
pub(crate) struct IdentityProvider {
    addr: SocketAddr,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct State {
    behaviour: Mutex<Behaviour>,
    fetches: Mutex<Vec<Instant>>,
    discoveries: Mutex<Vec<Instant>>,
}

impl IdentityProvider {
    pub(crate) async fn start(keys: &[&SigningKey]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&served);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&state), addr, request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    connection.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        let provider = Self { addr, state, _serving: serving };
        provider.publish(keys);
        provider
    }

    /// What stands in `iss`.
    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn keys_url(&self) -> String {
        format!("http://{}/keys", self.addr)
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        self.change(|behaviour| behaviour.keys = keys.iter().map(|key| key.jwk()).collect());
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    /// When its keys were asked for.
    pub(crate) fn fetches(&self) -> Vec<Instant> {
        self.state.fetches.lock().unwrap().clone()
    }

    /// How often its discovery document was asked for.
    pub(crate) fn n_discoveries(&self) -> usize {
        self.state.discoveries.lock().unwrap().len()
    }
}

async fn answer(
    state: Arc<State>,
    addr: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut behaviour = state.behaviour.lock().unwrap().clone();
    let mut is_keys = false;
    let body = match request.uri().path() {
        "/.well-known/openid-configuration" => {
            state.discoveries.lock().unwrap().push(Instant::now());
            let issuer = behaviour.says_issuer.unwrap_or_else(|| format!("http://{addr}"));
            json!({"issuer": issuer, "jwks_uri": format!("http://{addr}/keys")}).to_string()
        }
        "/keys" => {
            state.fetches.lock().unwrap().push(Instant::now());
            is_keys = true;
            behaviour.raw.take().unwrap_or_else(|| json!({"keys": behaviour.keys}).to_string())
        }
        _ => {
            behaviour.status = Some(404);
            String::new()
        }
    };
    if is_keys {
        tokio::time::sleep(behaviour.delay).await;
    }
    let mut response = Response::builder()
        .status(behaviour.status.unwrap_or(200))
        .header("content-type", "application/json")
        // Where it redirects, that is where.
        .header("location", format!("http://{addr}/elsewhere"));
    if let Some(cache_control) = behaviour.cache_control {
        response = response.header("cache-control", cache_control);
    }
    Ok(response.body(Full::new(Bytes::from(body))).unwrap())
}
