//! A signed token in its compact form (RFC 7515 §3.1), read strictly and judged by others.
//!
//! Nothing here is trusted: the signature has not been looked at.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::TokenError;
use super::key::Algorithm;

/// Longest token that is looked at, in bytes. Own tokens have about 350, those of providers that list groups several
/// thousand.
pub(super) const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// Longest key id, in bytes. Providers use thumbprints and numbers.
pub(super) const KEY_ID_MAX_BYTES: usize = 256;

/// Header members that a token is refused for: they bring a key along, or say where to fetch one, or ask for a reading
/// that is not done here. An issuer that is honest needs none of them.
const REFUSED_MEMBERS: [&str; 8] = ["jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"];

/// What `typ` may say, without regard to case. Anything else is another kind of thing that the same key has signed: a
/// logout token, a security event.
const TYPES: [&str; 4] = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];

/// A token taken apart.
pub(super) struct Jwt<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) claims: Map<String, Value>,
    /// What the signature is over.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Takes a token apart. What two readers could understand in two ways is refused: members that come twice, base64
    /// with padding or spare bits, parts too many.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenError::Invalid);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Invalid)?;
        let mut header = object(header)?;
        if REFUSED_MEMBERS.iter().any(|member| header.contains_key(*member)) {
            return Err(TokenError::Invalid);
        }
        match header.get("typ") {
            None => {}
            Some(Value::String(kind)) if TYPES.iter().any(|known| kind.eq_ignore_ascii_case(known)) => {}
            Some(_) => return Err(TokenError::Invalid),
        }
        let algorithm =
            header.get("alg").and_then(Value::as_str).and_then(Algorithm::of).ok_or(TokenError::Invalid)?;
        let key_id = match header.remove("kid") {
            None => None,
            Some(Value::String(id)) if id.len() <= KEY_ID_MAX_BYTES => Some(id),
            Some(_) => return Err(TokenError::Invalid),
        };
        Ok(Self {
            algorithm,
            key_id,
            claims: object(claims)?,
            signed: signed.as_bytes(),
            signature: decode(signature)?,
        })
    }

    /// Returns the claim `iss`, which says whose keys to try and nothing more.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Invalid)
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    match serde_json::from_slice(&decode(part)?) {
        Ok(Strict(Value::Object(members))) => Ok(members),
        Ok(_) | Err(_) => Err(TokenError::Invalid),
    }
}

/// JSON in which no object has a member twice.
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without members that come twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number without end"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a member comes twice"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(text: &str) -> bool {
        serde_json::from_str::<Strict>(text).is_ok()
    }

    #[test]
    fn a_member_that_comes_twice_is_refused_at_any_depth() {
        assert!(strict(r#"{"a":1,"b":{"a":[1.5,null,true,"x",-1]}}"#));
        assert!(!strict(r#"{"a":1,"a":1}"#));
        assert!(!strict(r#"{"b":[{"a":1,"a":2}]}"#));
        assert!(!strict(r#"{"sub":"a","\u0073ub":"b"}"#), "however the name is spelled");
        assert!(!strict(&"[".repeat(100_000)), "depth is bounded");
    }
}
