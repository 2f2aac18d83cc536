//! What signs callbacks: one secret for each tenant that has its own, one for all others.
//!
//! Invariant: a secret is in no log and no `Debug`.

use std::fmt;
use std::str::FromStr;

use ffpool_schema::callback::{signature_header, signed};
use ffpool_schema::message::hex;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A secret shorter than this can be guessed.
const MIN_SECRET: usize = 16;

/// A secret with its id, which the receiver finds it by.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackSecret {
    tenant: Option<String>,
    key: String,
    secret: String,
}

impl fmt::Debug for CallbackSecret {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallbackSecret").field("tenant", &self.tenant).field("key", &self.key).finish_non_exhaustive()
    }
}

impl FromStr for CallbackSecret {
    type Err = String;

    /// `[<tenant>/]<key id>:<secret>`.
    fn from_str(text: &str) -> Result<CallbackSecret, String> {
        let expected = "`<key id>:<secret>` or `<tenant>/<key id>:<secret>` is expected";
        let (name, secret) = text.split_once(':').ok_or(expected)?;
        let (tenant, key) = match name.rsplit_once('/') {
            Some((tenant, key)) => (Some(tenant.to_owned()), key),
            None => (None, name),
        };
        let is_plain =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if key.is_empty() || !is_plain(key) || tenant.as_ref().is_some_and(String::is_empty) {
            return Err(format!("{expected}; a key id has letters, digits, `-`, `_` and `.`"));
        }
        if secret.len() < MIN_SECRET {
            return Err(format!("the secret of the key `{key}` is shorter than {MIN_SECRET} characters"));
        }
        Ok(CallbackSecret { tenant, key: key.to_owned(), secret: secret.to_owned() })
    }
}

impl CallbackSecret {
    /// The value of the signature's header for a body that is sent at this time.
    #[must_use]
    pub fn sign(&self, unix_secs: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(&signed(unix_secs, body));
        signature_header(unix_secs, &self.key, &hex(&mac.finalize().into_bytes()))
    }
}

/// Every secret.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<CallbackSecret>);

impl Secrets {
    /// From the setting.
    ///
    /// # Errors
    /// When a tenant has two: nobody could say which signs.
    pub fn new(secrets: Vec<CallbackSecret>) -> Result<Secrets, String> {
        for (index, secret) in secrets.iter().enumerate() {
            if secrets[..index].iter().any(|earlier| earlier.tenant == secret.tenant) {
                let whose = secret
                    .tenant
                    .as_ref()
                    .map_or("jobs without one of their own".to_owned(), |name| format!("the tenant {name}"));
                return Err(format!("FFPOOL_CALLBACK_SECRET has two secrets for {whose}: one is expected"));
            }
        }
        Ok(Secrets(secrets))
    }

    /// The secret that signs a tenant's callbacks.
    #[must_use]
    pub fn of(&self, tenant: Option<&str>) -> Option<&CallbackSecret> {
        let own = tenant.and_then(|tenant| self.0.iter().find(|secret| secret.tenant.as_deref() == Some(tenant)));
        own.or_else(|| self.0.iter().find(|secret| secret.tenant.is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> CallbackSecret {
        text.parse().unwrap()
    }

    #[test]
    fn the_signature_is_hmac_sha256_over_time_and_body() {
        // Made with: printf '17.{}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let signed = secret("k1:0123456789abcdef").sign(17, b"{}");
        assert_eq!(signed, "t=17,k=k1,v1=47fbe0b0fc46f5c1c83c07456c70992bb9ad376f5f8bd7e3c695a76445ac2cbc");
    }

    #[test]
    fn a_tenant_signs_with_its_own_and_everybody_else_with_the_common_one() {
        let all = Secrets::new(vec![secret("k1:0123456789abcdef"), secret("acme/a1:fedcba9876543210:x")]).unwrap();
        let key = |tenant: Option<&str>| all.of(tenant).map(|secret| secret.key.clone());
        assert_eq!(key(None).as_deref(), Some("k1"));
        assert_eq!(key(Some("acme")).as_deref(), Some("a1"));
        assert_eq!(key(Some("other")).as_deref(), Some("k1"));
        let own = Secrets::new(vec![secret("acme/a1:fedcba9876543210")]).unwrap();
        assert!(own.of(None).is_none() && own.of(Some("other")).is_none());
        Secrets::new(vec![secret("k1:0123456789abcdef"), secret("k2:0123456789abcdef")]).unwrap_err();
    }

    #[test]
    fn what_is_no_secret_is_refused_and_none_is_shown() {
        for wrong in ["", "k1", "k1:short", ":0123456789abcdef", "/k1:0123456789abcdef", "a b:0123456789abcdef"] {
            wrong.parse::<CallbackSecret>().unwrap_err();
        }
        assert!(!format!("{:?}", secret("k1:0123456789abcdef")).contains("0123456789"));
    }
}
