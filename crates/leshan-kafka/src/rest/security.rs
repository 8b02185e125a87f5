//! Credentials of devices, and what the server shows them.
//!
//! Bodies of both dialects are taken: `{"endpoint", "tls": {"mode": "psk", "details": {"identity", "key"}}}` and, as in
//! 2018, `{"endpoint", "psk": {"identity", "key"}}`. A key is never shown again: where Leshan has it stands [`HIDDEN`].

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use openssl::base64::encode_block;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use serde_json::{Value, json};

use super::{Refused, Web, shape};
use crate::credentials::{Credential, CredentialError, SecretKey};

/// What stands in the place of a key.
const HIDDEN: &str = "********";

type Answer = Result<Response, Refused>;

/// GET `/api/security/clients`.
pub(super) async fn list(State(web): State<Arc<Web>>) -> Json<Vec<Value>> {
    let all = web.credentials.list();
    let all = all
        .iter()
        .map(|(endpoint, credential)| shown(endpoint, credential));
    Json(all.collect())
}

/// PUT `/api/security/clients`.
pub(super) async fn put(State(web): State<Arc<Web>>, body: Bytes) -> Answer {
    let (endpoint, credential) = parse(&body)?;
    let credentials = web.credentials.clone();
    let of = endpoint.clone();
    changed(move || credentials.put(&endpoint, credential)).await?;
    tracing::info!(endpoint = of, "a credential was set");
    Ok(StatusCode::OK.into_response())
}

/// DELETE `/api/security/clients/<ep>`.
pub(super) async fn delete(State(web): State<Arc<Web>>, Path(endpoint): Path<String>) -> Answer {
    let credentials = web.credentials.clone();
    if changed(move || credentials.delete(&endpoint)).await? {
        Ok(StatusCode::OK.into_response())
    } else {
        Ok(Json(json!({ "message": "not_found" })).into_response())
    }
}

/// GET `/api/security/server`: the certificate, or the public key where there is no certificate.
pub(super) async fn server(State(web): State<Arc<Web>>) -> Json<Value> {
    let Some(key) = &web.server_key else {
        return Json(json!({}));
    };
    let public = public_key(&key.public_key_der);
    Json(match &key.certificate_der {
        Some(der) => json!({ "certificate": { "pubkey": public, "b64Der": encode_block(der) } }),
        None => json!({ "pubkey": public }),
    })
}

/// It takes a disk's sync.
async fn changed<T: Send + 'static>(
    change: impl FnOnce() -> Result<T, CredentialError> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::task::spawn_blocking(change).await {
        Ok(done) => done.map_err(refused),
        Err(_) => Err(Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is stopping",
        )),
    }
}

fn refused(error: CredentialError) -> Refused {
    let status = match error {
        CredentialError::Invalid(_) => {
            return wrong(&error.to_string());
        }
        // As Leshan's for what is not unique.
        CredentialError::InUse { .. } => StatusCode::BAD_REQUEST,
        CredentialError::FromFile(_) => StatusCode::CONFLICT,
        CredentialError::Full => StatusCode::INSUFFICIENT_STORAGE,
        _ => {
            tracing::error!(%error, "a credential can't be kept");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    Refused::new(status, error.to_string())
}

/// Leshan's words for a body that makes no sense. What the body says is not told: it may be a key.
fn wrong(reason: &str) -> Refused {
    Refused::new(
        StatusCode::BAD_REQUEST,
        format!("Invalid request body: {reason}"),
    )
}

fn shown(endpoint: &str, credential: &Credential) -> Value {
    let tls = match credential {
        Credential::PreSharedKey { identity, .. } => {
            json!({ "mode": "psk", "details": { "identity": identity, "key": HIDDEN } })
        }
        Credential::RawPublicKey { spki } => {
            json!({ "mode": "rpk", "details": { "key": shape::hex(spki) } })
        }
        Credential::TrustedCertificate => json!({ "mode": "x509" }),
        Credential::PinnedCertificate { der } => {
            json!({ "mode": "x509", "details": { "certificate": encode_block(der) } })
        }
    };
    json!({ "endpoint": endpoint, "tls": tls })
}

fn parse(body: &[u8]) -> Result<(String, Credential), Refused> {
    let json: Value = serde_json::from_slice(body).map_err(|_| wrong("it is not JSON"))?;
    let text = |of: &Value, name: &str| {
        of.get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| wrong(&format!("{name} is missing, or no string")))
    };
    let endpoint = text(&json, "endpoint")?;
    let nothing = Value::Null;
    // The dialect of 2018 names the kind by the member.
    let (mode, details) = match json.get("tls") {
        Some(tls) => (text(tls, "mode")?, tls.get("details").unwrap_or(&nothing)),
        None => {
            let of = |mode: &str| Some((mode.to_owned(), json.get(mode)?));
            let (mode, details) = of("psk")
                .or_else(|| of("rpk"))
                .or_else(|| of("x509"))
                .ok_or_else(|| {
                    wrong("a member \"tls\" is missing (or \"psk\", \"rpk\", \"x509\"); OSCORE is not supported")
                })?;
            (mode, details)
        }
    };
    let credential = match mode.as_str() {
        "psk" => {
            let key = text(details, "key")?;
            if key == HIDDEN {
                return Err(wrong("a key is never shown: write the key itself"));
            }
            Credential::PreSharedKey {
                identity: text(details, "identity")?,
                key: SecretKey::from_hex(&key)
                    .map_err(|_| wrong("key has to be written in hex, two digits a byte"))?,
            }
        }
        "rpk" => Credential::RawPublicKey {
            spki: match details.get("key") {
                Some(_) => from_hex(&text(details, "key")?)
                    .ok_or_else(|| wrong("key has to be written in hex, two digits a byte"))?,
                None => from_point(
                    &text(details, "x")?,
                    &text(details, "y")?,
                    &text(details, "params")?,
                )
                .ok_or_else(|| wrong("x, y and params are no point of the curve secp256r1"))?,
            },
        },
        "x509" => match details.get("certificate") {
            Some(_) => Credential::PinnedCertificate {
                der: openssl::base64::decode_block(&text(details, "certificate")?)
                    .map_err(|_| wrong("certificate has to be DER in base64"))?,
            },
            None if *details == json!(false) => {
                return Err(wrong("\"x509\": false names no credential"));
            }
            None => Credential::TrustedCertificate,
        },
        _ => return Err(wrong("mode is none of psk, rpk and x509")),
    };
    Ok((endpoint, credential))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok()
}

/// A public key by its coordinates, as the pages of 2018 send it.
fn from_point(x: &str, y: &str, params: &str) -> Option<Vec<u8>> {
    if !matches!(params, "secp256r1" | "prime256v1" | "P-256") {
        return None;
    }
    let number = |hex: &str| {
        (hex.len() <= 66)
            .then(|| BigNum::from_hex_str(hex).ok())
            .flatten()
    };
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).ok()?;
    let key = EcKey::from_public_key_affine_coordinates(&group, &*number(x)?, &*number(y)?).ok()?;
    PKey::from_ec_key(key).ok()?.public_key_to_der().ok()
}

/// A public key in Leshan's form; of other curves than P-256 only the DER.
fn public_key(der: &[u8]) -> Value {
    let coordinates = || {
        let key = PKey::public_key_from_der(der).ok()?.ec_key().ok()?;
        let mut context = BigNumContext::new().ok()?;
        let (mut x, mut y) = (BigNum::new().ok()?, BigNum::new().ok()?);
        let point = key.public_key();
        point
            .affine_coordinates(key.group(), &mut x, &mut y, &mut context)
            .ok()?;
        let hex = |number: &BigNum| shape::hex(&number.to_vec());
        (key.group().curve_name() == Some(Nid::X9_62_PRIME256V1)).then(|| (hex(&x), hex(&y)))
    };
    let mut json = json!({ "b64Der": encode_block(der) });
    if let Some((x, y)) = coordinates() {
        json["x"] = json!(x);
        json["y"] = json!(y);
        // Java's name of the curve.
        json["params"] = json!("secp256r1 [NIST P-256,X9.62 prime256v1] (1.2.840.10045.3.1.7)");
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(body: &str) -> Result<String, String> {
        match parse(body.as_bytes()) {
            Ok((endpoint, credential)) => {
                assert_eq!(endpoint, "dev");
                Ok(shown(&endpoint, &credential)["tls"]["mode"]
                    .as_str()
                    .unwrap()
                    .to_owned())
            }
            Err(refused) => Err(refused.reason().to_owned()),
        }
    }

    const X: &str = "8bd50f73e21d8fa3042c83d21e85570ecdeef0c1149beb054fc9263fab6d430b";
    const Y: &str = "f8b9c918746fa1897192b28f2f2af2a1deedf2818de4c276c315ff70d4a57d88";

    #[test]
    fn bodies_of_both_dialects_say_the_same() {
        let psk = parse(
            br#"{"endpoint":"dev","tls":{"mode":"psk","details":{"identity":"id","key":"0aFF"}}}"#,
        );
        let of_2018 = parse(br#"{"endpoint":"dev","psk":{"identity":"id","key":"0aff"}}"#);
        assert_eq!(psk.ok().unwrap(), of_2018.ok().unwrap());

        let point =
            format!(r#"{{"endpoint":"dev","rpk":{{"x":"{X}","y":"{Y}","params":"secp256r1"}}}}"#);
        let (_, by_point) = parse(point.as_bytes()).ok().unwrap();
        let Credential::RawPublicKey { spki } = &by_point else {
            panic!("{by_point:?}");
        };
        let der = shape::hex(spki);
        let by_der =
            format!(r#"{{"endpoint":"dev","tls":{{"mode":"rpk","details":{{"key":"{der}"}}}}}}"#);
        assert_eq!(parse(by_der.as_bytes()).ok().unwrap().1, by_point);
        assert_eq!(public_key(spki)["x"], X);
        assert_eq!(public_key(spki)["y"], Y);

        assert_eq!(kind(r#"{"endpoint":"dev","x509":true}"#).unwrap(), "x509");
        assert_eq!(
            kind(r#"{"endpoint":"dev","tls":{"mode":"x509"}}"#).unwrap(),
            "x509"
        );
    }

    #[test]
    fn a_key_is_neither_shown_nor_told() {
        let body = br#"{"endpoint":"dev","psk":{"identity":"id","key":"0102030405060708"}}"#;
        let (endpoint, credential) = parse(body).ok().unwrap();
        assert_eq!(
            shown(&endpoint, &credential),
            json!({"endpoint": "dev", "tls": {"mode": "psk", "details": {"identity": "id", "key": "********"}}})
        );
        for body in [
            r#"{"endpoint":"dev","psk":{"identity":"id","key":"0102zz"}}"#,
            r#"{"endpoint":"dev","psk":{"identity":"id","key":"0102zz"}"#,
            r#"{"endpoint":"dev","psk":{"key":"0102zz"}}"#,
            r#"{"endpoint":"dev","psk":"0102zz"}"#,
        ] {
            let reason = kind(body).unwrap_err();
            assert!(!reason.contains("0102"), "{reason}");
        }
    }

    #[test]
    fn bodies_that_make_no_sense_are_refused() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"endpoint":"dev"}"#,
            r#"{"endpoint":7,"psk":{"identity":"id","key":"01"}}"#,
            r#"{"endpoint":"dev","tls":{}}"#,
            r#"{"endpoint":"dev","tls":{"mode":"psk"}}"#,
            r#"{"endpoint":"dev","tls":{"mode":"oscore","details":{}}}"#,
            r#"{"endpoint":"dev","oscore":{"rid":"01","sid":"02","msec":"03"}}"#,
            r#"{"endpoint":"dev","x509":false}"#,
            r#"{"endpoint":"dev","rpk":{"key":"xyz"}}"#,
            r#"{"endpoint":"dev","rpk":{"x":"01","y":"02","params":"secp256r1"}}"#,
            r#"{"endpoint":"dev","tls":{"mode":"psk","details":{"identity":"id","key":"********"}}}"#,
        ] {
            assert!(kind(body).is_err(), "{body}");
        }
    }
}
