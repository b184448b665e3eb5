//! What a gateway proves itself with to applications that it speaks to in their own TLS. Connections that were
//! made with one proof carry nothing under another.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use trellis_api::proto::discovery as wire;
use trellis_pki::public::Certificate;

#[derive(Clone, Default)]
pub enum Proof {
    /// It is not to.
    #[default]
    Needless,
    With(Arc<Certificate>),
    /// It is to, and cannot: nobody is spoken to in TLS.
    Missing,
}

impl Proof {
    /// One that has not changed stays the same. Otherwise the Secret that is of no use, where there is one, and why.
    pub fn read<'a>(
        wire: &'a wire::Gateway,
        before: Option<&Self>,
    ) -> Result<Self, (Option<&'a str>, String)> {
        let Some(wire::Certificate { source, chain_pem, key_pem }) = &wire.client_certificate else {
            return match wire.client_certificate_invalid.as_str() {
                "" => Ok(Self::Needless),
                why => Err((None, why.to_owned())),
            };
        };
        match before {
            Some(Self::With(same)) if same.is_of(source, chain_pem.as_bytes(), key_pem) => {
                Ok(Self::With(same.clone()))
            }
            _ => match Certificate::read(source, chain_pem.as_bytes(), key_pem) {
                Ok(certificate) => Ok(Self::With(Arc::new(certificate))),
                Err(why) => Err((Some(source), why.to_string())),
            },
        }
    }

    fn place(&self) -> (u8, *const Certificate) {
        match self {
            Self::Needless => (0, std::ptr::null()),
            Self::With(certificate) => (1, Arc::as_ptr(certificate)),
            Self::Missing => (2, std::ptr::null()),
        }
    }
}

impl PartialEq for Proof {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Proof {}

impl Hash for Proof {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (kind, certificate) = self.place();
        (kind, certificate as usize).hash(state);
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needless => f.write_str("Needless"),
            Self::With(certificate) => f.debug_tuple("With").field(&certificate.source).finish(),
            Self::Missing => f.write_str("Missing"),
        }
    }
}
