use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trellis_api::trust::KeyAlgorithm;
use trellis_pki::{
    certify::Role,
    clock::{Clock, ManualClock},
    key::PrivateKey,
    leaf::Leaf,
};

use super::*;
use crate::trust::{
    Keys, Making, Store,
    store::{Folder, Read},
};

const HOUR: Duration = Duration::from_secs(60 * 60);

struct Bed {
    servers: Arc<Servers>,
    registry: Registry,
    now: SystemTime,
    store: (Store, Making),
    authority: Authority,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        let store = Store::Folder(Folder::new(folder.path().join("root")));
        let keys = Keys::default();
        let making = Making {
            trust_domain: "cluster.local".to_owned(),
            validity: 3650 * 24 * HOUR,
            keys: keys.clone(),
        };
        let read = store.open(&making, KeyAlgorithm::MlDsa65, clock.now()).await.unwrap();
        let authority = Authority::new("cluster.local", keys, read).unwrap();
        let registry = Registry::new();
        let audit = Audit::unwritten(clock.clone(), &registry);
        let own = ("cluster.local", "trellis-system");
        let algorithms = [Algorithm::MlDsa65, Algorithm::MlDsa44];
        let servers = Arc::new(Servers::new(authority.clone(), audit, own, &algorithms, &registry));
        Self { servers, registry, now: clock.now(), store: (store, making), authority, _folder: folder }
    }

    fn ask(
        &self,
        names: &[&str],
        algorithm: Algorithm,
        companion: bool,
        life: Duration,
    ) -> Result<Vec<u8>, Refused> {
        let key = PrivateKey::generate(algorithm).unwrap();
        self.ask_for(names, &key, companion, life)
    }

    fn ask_for(
        &self,
        names: &[&str],
        key: &PrivateKey,
        companion: bool,
        life: Duration,
    ) -> Result<Vec<u8>, Refused> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let (names, key) = (names.as_slice(), key.public_key());
        self.servers.certify(&Server {
            namespace: "shop",
            object: "web",
            names,
            key,
            companion,
            life,
            now: self.now,
        })
    }
}

fn denied(outcome: Result<Vec<u8>, Refused>) -> (&'static str, String) {
    match outcome {
        Err(Refused::Denied { field, why }) => (field, why),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_is_certified_for_a_day_and_is_no_member() {
    let bed = Bed::new().await;
    let der = bed.ask(&["web.shop.svc"], Algorithm::MlDsa65, false, HOUR * 1000).unwrap();
    let seen = Seen::read(&der).unwrap();
    assert_eq!((seen.role, seen.subject.as_str()), (Role::Leaf, ""));
    assert_eq!(seen.not_after, seen.not_before + MESH_LIFE, "however long a life was asked for");
    assert!(seen.not_before <= bed.now && bed.now < seen.not_after);
    assert!(Leaf::parse(&der).is_err(), "whoever looks for an identity in it finds none");
    let metrics = bed.registry.prometheus();
    let line = "trellis_ca_servers_issued_total{key=\"ML-DSA-65\",signature=\"ML-DSA-65\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn what_the_mesh_would_not_give_it_does_not_give_here_either() {
    let bed = Bed::new().await;
    for name in
        ["trellis-ca.trellis-system.svc", "web.other.svc", "web", "spiffe://cluster.local/ns/a/sa/b", "a b"]
    {
        let (field, why) = denied(bed.ask(&[name], Algorithm::MlDsa65, false, HOUR));
        assert!(field == "spec.dnsNames" && why.contains("none of this namespace"), "{why}");
    }
    let (field, _) = denied(bed.ask(&["a b.shop.svc"], Algorithm::MlDsa65, false, HOUR));
    assert_eq!(field, "spec.dnsNames", "what leads there and is no name");
    let (field, why) = denied(bed.ask(&["web.shop.svc"], Algorithm::MlDsa87, false, HOUR));
    assert_eq!(field, "spec.algorithm");
    assert!(why.contains("ML-DSA-65, ML-DSA-44"), "{why}");
    let (field, why) = denied(bed.ask(&["web.shop.svc"], Algorithm::EcdsaP256, true, HOUR));
    assert!(field == "spec.hybrid" && why.contains("trellis trust companion"), "{why}");
}

#[tokio::test]
async fn who_was_issued_something_hears_of_other_anchors_and_denied_keys_get_nothing() {
    let bed = Bed::new().await;
    let mut anchors = bed.servers.anchors();
    let first = anchors.borrow_and_update().clone();
    assert_eq!(first.issuing, bed.authority.current().issuer.anchor().fingerprint().to_string());
    assert!(first.pem.contains("BEGIN CERTIFICATE") && first.companion.is_none());
    let (_stop, shutdown) = watch::channel(false);
    let _following = tokio::spawn(bed.servers.clone().follow(shutdown));
    let key = PrivateKey::generate(Algorithm::MlDsa65).unwrap();
    let current = bed.authority.current();
    let mut state = current.state().clone();
    state.denied = vec![Denied::Key(key.public_key().fingerprint()).to_string()];
    state.revision += 1;
    let revision = state.revision;
    let vault = current.vault.with(state);
    let (store, making) = &bed.store;
    let version = store.write(&vault, Some(&current.version)).await.unwrap().unwrap();
    bed.authority.take(Read { vault, version }).unwrap();
    let (field, why) = denied(bed.ask_for(&["web.shop.svc"], &key, false, HOUR));
    assert!(field == "spec.issuerRef" && why.contains("trellis trust allow"), "{why}");
    // A mesh with another root, a revision later: that is heard of, and the denial was not.
    let other = tempfile::tempdir().unwrap();
    let other = Store::Folder(Folder::new(other.path().join("root")));
    let mut read = other.open(making, KeyAlgorithm::MlDsa65, bed.now).await.unwrap();
    read.vault.state.revision = revision + 1;
    bed.authority.take(read).unwrap();
    anchors.changed().await.unwrap();
    let second = anchors.borrow_and_update().clone();
    assert_eq!(second.issuing, bed.authority.current().issuer.anchor().fingerprint().to_string());
    assert!(second.issuing != first.issuing && second.bundle != first.bundle && second.pem != first.pem);
}
