//! One certificate with its chain and its key.

use trellis_pki::certify::{CertifyError, Key, Parent, Seen, Wanted};
use zeroize::Zeroizing;

use super::{ISSUER, pem, unfit};
use crate::{
    craft::{Failure, Making},
    issuer::{Refused, Server},
    sources::Obstacle,
};

/// Who signs it.
pub(super) enum Signer {
    Itself,
    Parent(Box<Parent>),
    Mesh { companion: bool },
}

pub(super) struct Pair {
    /// The certificate first, without the root.
    pub chain: String,
    pub key: Zeroizing<String>,
    pub seen: Seen,
    own: String,
}

impl Pair {
    pub fn make(signer: &Signer, wanted: &Wanted, key: Key, making: &Making<'_>) -> Result<Self, Failure> {
        let now = making.now;
        let (der, between) = match signer {
            Signer::Itself => (wanted.self_signed(&key, now).map_err(|error| said(&error))?, String::new()),
            Signer::Parent(parent) => {
                let der = parent.issue(wanted, &key, now).map_err(|error| said(&error))?;
                (der, parent.intermediates().map(pem).collect())
            }
            Signer::Mesh { companion } => (by_mesh(*companion, wanted, &key, making)?, String::new()),
        };
        let seen = Seen::read(&der).map_err(|error| said(&error))?;
        let own = pem(&der);
        let key = key.pem().map_err(|error| Obstacle::Refused { why: error.to_string() })?;
        Ok(Self { chain: format!("{own}{between}"), key, seen, own })
    }

    /// Itself alone, in PEM.
    pub fn own(&self) -> Vec<u8> {
        self.own.clone().into_bytes()
    }
}

fn by_mesh(companion: bool, wanted: &Wanted, key: &Key, making: &Making<'_>) -> Result<Vec<u8>, Failure> {
    let Some(mesh) = making.mesh else {
        return Err(Obstacle::NotReady { field: ISSUER, what: "the CA of the mesh".to_owned() }.into());
    };
    let Some(public) = key.mesh_public_key() else {
        let why = format!("{} is none of the mesh: use ML-DSA-65 or ECDSA-P256", key.kind());
        return Err(Obstacle::Unfit { field: "spec.algorithm", why }.into());
    };
    let names: Vec<String> =
        wanted.names.iter().filter_map(|name| name.as_dns()).map(str::to_owned).collect();
    let id = &making.object.id;
    let server = Server {
        namespace: &id.namespace,
        object: &id.name,
        names: &names,
        key: public,
        companion,
        life: wanted.life,
        now: making.now,
    };
    mesh.certify(&server).map_err(|refused| match refused {
        Refused::Denied { field, why } => Obstacle::Unfit { field, why }.into(),
        Refused::Unable(why) => Failure::Unable(why),
    })
}

/// An issuer that cannot issue now is as good as none; what is wrong with the wish, its author has to mend.
fn said(error: &CertifyError) -> Failure {
    match error {
        CertifyError::IssuerNotValid { .. } | CertifyError::IssuerEnds { .. } => {
            Obstacle::NotReady { field: ISSUER, what: error.to_string() }.into()
        }
        CertifyError::Signer(_) | CertifyError::Key(_) => Failure::Unable(error.to_string()),
        error => unfit("spec", error).into(),
    }
}
