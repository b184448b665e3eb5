use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use trellis_api::crypto::{Spec, VersionState, Word};
use trellis_pki::{algorithm::Algorithm, issue::Issuer as MeshIssuer, key::PrivateKey};

use super::*;
use crate::{
    id::{Group, Id},
    issuer::{Anchors, Issuer, Refused, Server},
    kept::{Facts, Kept, State},
    lifecycle::{Step, Taken},
    marks::Marks,
    tally::Shown,
    trade::{Decision, Keeper, Look, Trade},
    view::Looked,
};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TRADE: &Keeper<Certificate> = &Keeper::<Certificate>::NEW;

/// Objects with their Secrets, and what the machinery would do with them, without an API server.
struct World {
    now: SystemTime,
    objects: BTreeMap<String, Object>,
    kept: BTreeMap<String, Vec<(Kept, Content)>>,
    marks: Marks,
    mesh: Option<Mesh>,
    /// Certificates that were made.
    made: usize,
}

struct Mesh {
    issuing: MeshIssuer,
    companion: Option<MeshIssuer>,
    anchors: watch::Sender<Anchors>,
    asked: Mutex<Vec<String>>,
}

impl Mesh {
    fn new(now: SystemTime, companion: bool) -> Self {
        let root = |algorithm| {
            MeshIssuer::new_root("cluster.local", PrivateKey::generate(algorithm).unwrap(), now, DAY * 365)
                .unwrap()
        };
        let (issuing, companion) = (root(Algorithm::MlDsa65), companion.then(|| root(Algorithm::EcdsaP256)));
        let print = |issuer: &MeshIssuer| issuer.anchor().fingerprint().to_string();
        let pem = |issuer: &MeshIssuer| x509_pem("CERTIFICATE", &issuer.anchor().der);
        let anchors = Anchors {
            issuing: print(&issuing),
            companion: companion.as_ref().map(print),
            bundle: print(&issuing),
            pem: pem(&issuing) + &companion.as_ref().map(pem).unwrap_or_default(),
        };
        Self { issuing, companion, anchors: watch::Sender::new(anchors), asked: Mutex::default() }
    }
}

impl Issuer for Mesh {
    fn anchors(&self) -> watch::Receiver<Anchors> {
        self.anchors.subscribe()
    }

    fn certify(&self, wanted: &Server<'_>) -> Result<Vec<u8>, Refused> {
        self.asked.lock().push(format!("{}/{} {}", wanted.namespace, wanted.object, wanted.names.join(" ")));
        let names: Vec<_> =
            wanted.names.iter().map(|name| trellis_pki::certify::Name::dns(name).unwrap()).collect();
        let issuer = if wanted.companion { self.companion.as_ref().unwrap() } else { &self.issuing };
        let issued = issuer.issue_server(&names, wanted.key, wanted.life, wanted.now);
        issued.map_err(|error| Refused::Unable(error.to_string()))
    }
}

impl World {
    fn new() -> Self {
        Self {
            now: UNIX_EPOCH + Duration::from_secs(1_790_000_000),
            objects: BTreeMap::new(),
            kept: BTreeMap::new(),
            marks: Marks::new(Secret::copy_of(&[7; 32])),
            mesh: None,
            made: 0,
        }
    }

    fn put(&mut self, name: &str, spec: Value) {
        let problems = serde_json::from_value::<CertificateSpec>(spec.clone()).unwrap().check();
        assert_eq!(problems, [], "{spec}");
        let before = self.objects.get(name);
        let object = Object {
            id: Id::new(Group::Trellis, Kind::Certificate, "shop", name),
            uid: format!("uid-{name}"),
            resource_version: "1".to_owned(),
            generation: before.map_or(1, |before| before.generation + 1),
            deleting: false,
            rotate: before.and_then(|before| before.rotate.clone()),
            spec: spec.to_string().into(),
            status: before.map_or_else(|| "null".into(), |before| before.status.clone()),
            shown: before.map_or_else(|| Shown::of("null"), |before| before.shown),
        };
        self.objects.insert(name.to_owned(), object);
    }

    fn spec(&self, name: &str) -> CertificateSpec {
        serde_json::from_str(&self.objects[name].spec).unwrap()
    }

    fn looked(&self, name: &str) -> Looked {
        let mut found = Vec::new();
        for ask in Certificate::asks(&self.spec(name)) {
            match ask {
                Ask::Object { to, .. } => {
                    let active =
                        self.kept.get(&to.name).and_then(|all| all.iter().find(|(kept, _)| !kept.archive));
                    let (Some((active, _)), Some(object)) = (active, self.objects.get(&to.name)) else {
                        return Looked::Missing(Obstacle::NotReady { field: ISSUER, what: to.name });
                    };
                    found.push(Found::Object(Box::new(Source {
                        id: object.id.clone(),
                        uid: object.uid.clone(),
                        spec: object.spec(),
                        active: Arc::new(active.clone()),
                        archives: Vec::new(),
                    })));
                }
                Ask::Mesh { field } => match &self.mesh {
                    Some(mesh) => found.push(Found::Mesh(Box::new(mesh.anchors.borrow().clone()))),
                    None => return Looked::Missing(Obstacle::NotReady { field, what: "mesh".to_owned() }),
                },
                Ask::Item { .. } => panic!("certificates read no items"),
            }
        }
        Looked::Found(found)
    }

    fn look(&self, name: &str) -> Look {
        let kept =
            self.kept.get(name).into_iter().flatten().map(|(kept, _)| Arc::new(kept.clone())).collect();
        let (object, looked) = (self.objects[name].clone(), self.looked(name));
        Look { object, kept, taken: Taken::No, looked, closed: None, dependants: Vec::new() }
    }

    /// Takes steps until there is none, and writes the status.
    fn attend(&mut self, name: &str) -> Decision {
        for _ in 0..24 {
            let look = self.look(name);
            let mut decision = TRADE.decide(&look, self.now);
            let Some(step) = decision.course.step.take() else {
                self.conclude(name, &look, &decision);
                return decision;
            };
            if let Err(obstacle) = self.take(name, &decision, step) {
                decision.obstacle = Some(obstacle);
                self.conclude(name, &look, &decision);
                return decision;
            }
        }
        panic!("{name} never comes to rest");
    }

    fn conclude(&mut self, name: &str, look: &Look, decision: &Decision) {
        let active = decision.course.active.as_ref().map(|kept| kept.name.clone());
        let content = self.kept.get(name).into_iter().flatten();
        let content =
            content.clone().find(|(kept, _)| Some(&kept.name) == active.as_ref()).map(|(_, content)| content);
        let status = TRADE.status(look, decision, content, self.now).unwrap();
        self.objects.get_mut(name).unwrap().status = status.to_string().into();
    }

    fn take(&mut self, name: &str, decision: &Decision, step: Step) -> Result<(), Obstacle> {
        let object = self.objects[name].clone();
        match step {
            Step::Make { version, over, why, .. } => {
                let recipe = decision.recipe.as_ref().unwrap();
                let content_of = |kept: &Kept| {
                    let all = self.kept.values().flatten();
                    all.clone()
                        .find(|(one, _)| one.uid == kept.uid)
                        .map(|(_, content)| content.clone())
                        .unwrap()
                };
                let inputs = recipe.needs.iter().map(|need| match need {
                    Need::Kept(kept) => Input::Kept(kept.clone(), content_of(kept)),
                    Need::Item(_) => panic!("certificates are made of no items"),
                });
                let inputs = inputs.collect();
                let before = over.as_ref().map(|over| content_of(over));
                let made = TRADE.make(&Making {
                    object: &object,
                    marks: &self.marks,
                    recipe,
                    inputs,
                    now: self.now,
                    before: before.as_ref(),
                    asked: why == crate::lifecycle::Why::Asked,
                    mesh: self.mesh.as_ref().map(|mesh| mesh as &dyn Issuer),
                });
                let made = made.map_err(|failure| match failure {
                    Failure::Obstacle(obstacle) => obstacle,
                    other => panic!("{other:?}"),
                })?;
                self.made += 1;
                let facts = Facts {
                    version,
                    fingerprint: made.fingerprint,
                    algorithm: made.algorithm,
                    made_of: recipe.made_of.clone(),
                    form: made.form,
                    since: Some(self.now),
                    until: TRADE.until(&made.content),
                    rotated: object.rotate.clone(),
                    ..Facts::default()
                };
                self.keep(name, &TRADE.secret(&object).unwrap(), facts, made.content, false);
            }
            Step::Archive { of } => {
                let content = self.content_of(name, &of.name);
                let facts = Facts { retired: None, ..of.facts.clone() };
                self.keep(name, &format!("{}-v{}", of.name, of.version()), facts, content, true);
            }
            Step::Restore { from, .. } => {
                let content = self.content_of(name, &from.name);
                let facts = Facts { since: Some(self.now), retired: None, ..from.facts.clone() };
                self.keep(name, &TRADE.secret(&object).unwrap(), facts, content, false);
            }
            Step::Unretire { archive } => {
                let all = self.kept.get_mut(name).unwrap();
                all.iter_mut().find(|(kept, _)| kept.name == archive.name).unwrap().0.facts.retired = None;
            }
            Step::Retire { archive } => {
                let now = self.now;
                let all = self.kept.get_mut(name).unwrap();
                let one = all.iter_mut().find(|(kept, _)| kept.name == archive.name).unwrap();
                one.0.facts.retired = Some(now);
            }
            Step::Destroy { archive } => {
                self.kept.get_mut(name).unwrap().retain(|(kept, _)| kept.name != archive.name)
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn keep(&mut self, name: &str, secret: &str, facts: Facts, content: Content, archive: bool) {
        let kept = Kept {
            namespace: "shop".to_owned(),
            name: secret.to_owned(),
            uid: format!("uid-{secret}"),
            resource_version: "1".to_owned(),
            owner: format!("uid-{name}"),
            archive,
            state: State::Sound,
            content_mark: None,
            type_: "kubernetes.io/tls".to_owned(),
            facts,
            labelled: true,
        };
        let all = self.kept.entry(name.to_owned()).or_default();
        all.retain(|(known, _)| known.name != secret);
        all.push((kept, content));
    }

    fn content_of(&self, name: &str, secret: &str) -> Content {
        self.kept[name].iter().find(|(kept, _)| kept.name == secret).unwrap().1.clone()
    }

    fn content(&self, name: &str) -> Content {
        self.content_of(name, &TRADE.secret(&self.objects[name]).unwrap())
    }

    fn seen(&self, name: &str) -> Seen {
        leaf(&self.content(name), CERTIFICATE).unwrap()
    }

    fn status(&self, name: &str) -> CertificateStatus {
        serde_json::from_str(&self.objects[name].status).unwrap()
    }

    fn text(&self, name: &str, item: &str) -> String {
        String::from_utf8(self.content(name).get(item).unwrap().to_vec()).unwrap()
    }
}

fn ca(more: Value) -> Value {
    merged(
        json!({ "commonName": "Shop Root", "certType": "ca", "algorithm": "ML-DSA-44", "days": 365 }),
        more,
    )
}

fn below(issuer: &str, more: Value) -> Value {
    let spec = json!({ "domain": "web.shop.example", "algorithm": "ML-DSA-44", "days": 90, "issuerRef": { "name": issuer } });
    merged(spec, more)
}

fn merged(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn unfit_with(decision: &Decision, part: &str) {
    let said = decision.obstacle.as_ref().expect("an obstacle").message();
    assert!(said.contains(part), "{said}");
}

#[test]
fn a_certificate_that_signs_itself_says_so_in_its_status() {
    let mut world = World::new();
    world.put("web", json!({ "domain": "web.shop.example, api.shop.example", "days": 30 }));
    let decision = world.attend("web");
    assert!(decision.obstacle.is_none());
    let (status, seen) = (world.status("web"), world.seen("web"));
    assert_eq!(status.standing.status, Word::Success);
    assert_eq!(status.standing.algorithm.as_deref(), Some("ML-DSA-65"));
    assert_eq!(status.subject.as_deref(), Some("CN=web.shop.example"));
    assert_eq!((status.issuer, status.serial_number), (status.subject, Some(seen.serial.clone())));
    assert_eq!(status.certificate_fingerprint.as_deref(), seen.fingerprint.get(..10));
    assert_eq!(status.standing.full_fingerprint.as_deref(), Some(seen.fingerprint.as_str()));
    assert_eq!(status.not_after, Some(rfc3339(seen.not_after)));
    assert_eq!(
        status.renewal_time,
        Some(rfc3339(seen.not_after - DAY * 10)),
        "a third of its life before its end"
    );
    assert_eq!(decision.course.wake, Some(seen.not_after - DAY * 10));
    assert_eq!(world.text("web", CERTIFICATE), world.text("web", AUTHORITY));
    assert!(world.text("web", KEY).starts_with("-----BEGIN PRIVATE KEY-----"));
    // Nothing changes while nothing is due.
    let before = world.objects["web"].status.clone();
    world.now += DAY * 19;
    world.attend("web");
    assert_eq!((world.made, &world.objects["web"].status), (1, &before));
}

#[test]
fn a_year_of_renewals_goes_by_without_a_gap() {
    let mut world = World::new();
    world.put("root", ca(json!({ "days": 100 })));
    world.put("web", below("root", json!({ "days": 30 })));
    let end = world.now + DAY * 365;
    let (mut root_key, mut web_keys) = (None, Vec::new());
    while world.now < end {
        let wakes = ["root", "web"].map(|name| world.attend(name).course.wake.unwrap());
        let (root, web) = (world.seen("root"), world.seen("web"));
        assert!(web.not_before <= world.now && world.now < web.not_after && web.not_after <= root.not_after);
        // Archives end with what they hold.
        assert!(world.kept["web"].len() <= 3 && world.kept["root"].len() <= 2);
        assert_eq!(
            *root_key.get_or_insert(world.text("root", KEY)),
            world.text("root", KEY),
            "a CA keeps its key"
        );
        web_keys.push(world.text("web", KEY));
        let next = wakes.into_iter().min().unwrap();
        assert!(next > world.now, "no time stands still");
        world.now = next;
    }
    web_keys.dedup();
    assert!((17..=30).contains(&web_keys.len()), "{} certificates of 30 days", web_keys.len());
    let versions = world.status("web").standing.versions;
    assert!(versions.iter().any(|version| version.state == VersionState::Destroyed));
}

#[test]
fn a_chain_goes_to_its_root_and_follows_its_issuers() {
    let mut world = World::new();
    world.put("web", below("middle", json!({})));
    world.put(
        "middle",
        ca(json!({ "commonName": "Shop Middle", "days": 180, "issuerRef": { "name": "root" } })),
    );
    let decision = world.attend("web");
    assert!(decision.obstacle.as_ref().is_some_and(Obstacle::is_absence));
    assert_eq!(world.status("web").standing.status, Word::Pending);
    world.put("root", ca(json!({ "maxPathLength": 1 })));
    for name in ["root", "middle", "web"] {
        world.attend(name);
    }
    let chain = certificates(world.content("web").get(CERTIFICATE).unwrap()).unwrap();
    let seen: Vec<Seen> = chain.iter().map(|der| Seen::read(der).unwrap()).collect();
    let subjects: Vec<&str> = seen.iter().map(|seen| seen.subject.as_str()).collect();
    assert_eq!(
        subjects,
        ["CN=web.shop.example", "CN=Shop Middle"],
        "the leaf first, and the root is not sent"
    );
    assert_eq!(world.text("web", AUTHORITY), world.text("root", CERTIFICATE));
    assert_eq!(world.status("web").issuer.as_deref(), Some("CN=Shop Middle"));

    let (serial, key) = (world.seen("web").serial, world.text("middle", KEY));
    world.objects.get_mut("root").unwrap().rotate = Some("now".to_owned());
    for name in ["root", "middle", "web"] {
        world.attend(name);
    }
    assert_ne!(world.seen("web").serial, serial, "a new root is a new chain");
    assert_eq!(world.text("middle", KEY), key, "and not a new key of the CA below it");
    assert_eq!(world.text("web", AUTHORITY), world.text("root", CERTIFICATE));
}

#[test]
fn what_is_seen_in_the_certificate_asks_for_another_and_nothing_else_does() {
    let mut world = World::new();
    world.put("root", ca(json!({})));
    world.put("web", below("root", json!({})));
    world.attend("root");
    world.attend("web");
    let mut made = world.made;
    for (changes, another) in [
        (json!({ "renewBefore": "10d" }), false),
        (json!({ "rotation": { "grace": "5d" } }), false),
        (json!({ "dnsNames": ["api.shop.example"] }), true),
        (json!({ "usages": ["client auth"] }), true),
        (json!({ "organization": "Acme" }), true),
        (json!({ "algorithm": "ECDSA-P384" }), true),
        (json!({ "days": 60 }), true),
        (json!({ "issuerRef": null, "certType": "server" }), true),
    ] {
        world.put("web", below("root", changes.clone()));
        world.attend("web");
        assert_eq!(world.made > made, another, "{changes}");
        made = world.made;
    }
    assert_eq!(world.status("web").standing.algorithm.as_deref(), Some("ML-DSA-44"));
}

#[test]
fn an_issuer_that_may_not_issue_is_told_from_one_that_cannot_yet() {
    let mut world = World::new();
    world.put("plain", json!({ "domain": "plain.example", "algorithm": "ML-DSA-44" }));
    world.put("root", ca(json!({ "maxPathLength": 0 })));
    world.attend("plain");
    world.attend("root");
    world.put("web", below("plain", json!({})));
    unfit_with(&world.attend("web"), "QuantumCertificate shop/plain is no CA: set certType: ca");
    assert_eq!(world.status("web").standing.status, Word::Failed);
    world.put("web", below("root", json!({ "hybrid": { "algorithm": "ECDSA-P256" } })));
    unfit_with(&world.attend("web"), "set spec.hybrid there as well");
    world.put("web", below("root", json!({ "certType": "ca", "commonName": "Low" })));
    unfit_with(&world.attend("web"), "raise its maxPathLength");
    world.put("web", below("root", json!({ "commonName": "Shop Root" })));
    unfit_with(&world.attend("web"), "subject is that of its issuer");
    world.put("web", below("root", json!({})));
    assert!(world.attend("web").obstacle.is_none());
    // An issuer whose end is near issues nothing that would not outlive the minute.
    world.now = world.seen("root").not_after - Duration::from_secs(60);
    world.objects.remove("web");
    world.kept.remove("web");
    world.put("web", below("root", json!({})));
    unfit_with(&world.attend("web"), "renew the issuer first");
    assert_eq!(world.status("web").standing.status, Word::Pending);
}

#[test]
fn a_life_that_the_issuer_cuts_is_renewed_in_time_and_not_all_the_time() {
    let mut world = World::new();
    world.put("root", ca(json!({ "days": 10, "renewBefore": "1d" })));
    world.attend("root");
    world.now += DAY * 5;
    world.put("web", below("root", json!({})));
    let wake = world.attend("web").course.wake.unwrap();
    let until = world.seen("web").not_after;
    assert_eq!(until, world.seen("root").not_after, "not beyond its issuer");
    assert!(wake > world.now + DAY && wake < until, "30 days before its end were long ago");
    world.now = wake;
    world.attend("web");
    assert_eq!(world.made, 3);
}

#[test]
fn what_nobody_can_renew_stays_until_its_end_and_then_says_so() {
    let mut world = World::new();
    world.put("root", ca(json!({})));
    world.put("web", below("root", json!({ "days": 30 })));
    world.attend("root");
    world.attend("web");
    let (until, serial) = (world.seen("web").not_after, world.seen("web").serial);
    world.kept.remove("root");
    world.now = until - DAY;
    let decision = world.attend("web");
    assert_eq!(decision.course.wake, Some(until), "nothing to do before, but for the issuer to come back");
    let standing = world.status("web").standing;
    assert_eq!((standing.status, world.seen("web").serial), (Word::Success, serial));
    assert_eq!(standing.condition("SourceAvailable").unwrap().status, "False");
    world.now = until;
    assert_eq!(world.attend("web").course.wake, None);
    let standing = world.status("web").standing;
    assert_eq!(
        (standing.status, standing.condition("Ready").unwrap().reason.as_str()),
        (Word::Failed, "Expired")
    );
    world.put("root", ca(json!({})));
    world.objects.get_mut("root").unwrap().status = "null".into();
    world.attend("root");
    world.attend("web");
    assert_eq!(world.status("web").standing.status, Word::Success, "and all is well again");
}

#[test]
fn an_older_version_comes_back_while_it_is_wished() {
    let mut world = World::new();
    world.put("web", json!({ "domain": "web.example", "days": 90, "algorithm": "ML-DSA-44" }));
    world.attend("web");
    let first = world.seen("web").serial;
    world.now += DAY * 61;
    world.attend("web");
    assert_ne!(world.seen("web").serial, first);
    world.put("web", json!({ "domain": "web.example", "days": 90, "algorithm": "ML-DSA-44", "version": 1 }));
    world.attend("web");
    assert_eq!((world.seen("web").serial, world.made), (first, 2));
    assert_eq!(world.status("web").standing.version, Some(1));
}

#[test]
fn of_a_hybrid_both_are_for_the_same_names_and_each_has_its_own_chain() {
    let mut world = World::new();
    let hybrid = json!({ "hybrid": { "algorithm": "ECDSA-P384" } });
    world.put("root", ca(hybrid.clone()));
    world.put("web", below("root", json!({ "hybrid": { "algorithm": "ECDSA-P256" } })));
    world.attend("root");
    world.attend("web");
    let content = world.content("web");
    let [first, second] = [CERTIFICATE, CLASSICAL_CERTIFICATE].map(|item| leaf(&content, item).unwrap());
    assert_eq!(first.subject, second.subject);
    let kinds = [KEY, CLASSICAL_KEY]
        .map(|item| Key::from_pem(content.get(item).unwrap()).ok().unwrap().kind().name());
    assert_eq!(kinds, ["ML-DSA-44", "ECDSA-P256"]);
    let roots = certificates(content.get(AUTHORITY).unwrap()).unwrap();
    assert_eq!(roots.len(), 2, "either verifies by ca.crt");
    // The classical one is signed by the classical root, as who cannot verify the other needs it.
    let algorithm = |der: &[u8]| {
        let oid_of_ml_dsa = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03];
        der.windows(oid_of_ml_dsa.len()).any(|window| window == oid_of_ml_dsa)
    };
    let second = certificates(content.get(CLASSICAL_CERTIFICATE).unwrap()).unwrap();
    assert!(!algorithm(&second[0]), "nothing in it is ML-DSA");
    world.put("web", below("root", json!({})));
    world.attend("web");
    assert!(world.content("web").get(CLASSICAL_CERTIFICATE).is_none(), "what is not wished is not there");
    // Below a classical CA the second one needs no second CA.
    world.put("old", ca(json!({ "algorithm": "ECDSA-P256" })));
    world.put("api", below("old", hybrid));
    world.attend("old");
    assert!(world.attend("api").obstacle.is_none());
}

#[test]
fn the_mesh_issues_for_a_day_and_what_it_issued_follows_its_anchors() {
    let mut world = World::new();
    let spec = |more: Value| {
        merged(json!({ "dnsNames": ["web.shop.svc"], "issuerRef": { "kind": "MeshCA" } }), more)
    };
    world.put("web", spec(json!({ "days": 30 })));
    assert!(world.attend("web").obstacle.as_ref().is_some_and(Obstacle::is_absence));
    world.mesh = Some(Mesh::new(world.now - DAY, false));
    let decision = world.attend("web");
    assert!(decision.recipe.unwrap().note.unwrap().contains("for 24 h at most"));
    let seen = world.seen("web");
    assert_eq!(seen.not_after, seen.not_before + HOUR * 24);
    assert_eq!(world.status("web").renewal_time, Some(rfc3339(seen.not_after - HOUR * 8)));
    assert_eq!(*world.mesh.as_ref().unwrap().asked.lock(), ["shop/web web.shop.svc"]);
    world.put("web", spec(json!({ "hybrid": { "algorithm": "ECDSA-P256" } })));
    unfit_with(&world.attend("web"), "trellis trust companion");
    world.mesh = Some(Mesh::new(world.now - DAY, true));
    assert!(world.attend("web").obstacle.is_none());
    assert_ne!(world.seen("web").issuer, seen.issuer, "another anchor is another certificate");
    assert_eq!(world.text("web", AUTHORITY), world.mesh.as_ref().unwrap().anchors.borrow().pem);
    assert!(leaf(&world.content("web"), CLASSICAL_CERTIFICATE).is_some());
}

#[test]
fn what_is_found_in_a_secret_is_a_certificate_with_its_key_or_nothing() {
    let mut world = World::new();
    world.put("web", json!({ "domain": "web.example", "hybrid": { "algorithm": "ECDSA-P256" } }));
    world.put("other", json!({ "domain": "web.example" }));
    world.attend("web");
    world.attend("other");
    let (content, object) = (world.content("web"), &world.objects["web"]);
    let found = |content: &Content| {
        let status = Value::Null;
        let salvage = Salvage { object, marks: &world.marks, content, algorithm: None, status: &status };
        Certificate::salvage(&world.spec("web"), &salvage)
    };
    assert!(found(&content)[0].content == content);
    assert!(found(&content.clone().with("more", Secret::copy_of(b"x")))[0].content == content);
    assert!(
        found(&content.clone().with(KEY, world.content("other").secret(KEY).unwrap().clone())).is_empty()
    );
    assert!(found(&content.clone().with(CERTIFICATE, Secret::copy_of(b"x"))).is_empty());
    let half = content.clone().with(CLASSICAL_KEY, Secret::copy_of(b"x"));
    assert!(found(&half)[0].content.get(CLASSICAL_CERTIFICATE).is_none());
}

#[test]
fn what_admission_lets_pass_can_be_issued() {
    let mut texts: Vec<String> =
        ["", "a", "*", ".", "-", "/", "=", ",", "+", "\\", "\"", "\0", "ä", " ", "@", ":", "%"]
            .iter()
            .map(|text| (*text).to_owned())
            .collect();
    for _ in 0..2 {
        let more: Vec<String> = texts
            .iter()
            .take(17)
            .flat_map(|a| ["a", "*.", "b.c", "@d", ":e", "%41"].map(|b| format!("{a}{b}")))
            .collect();
        texts.extend(more.iter().cloned());
        texts.extend(more.iter().map(|text| format!("{text}.example")));
    }
    texts.extend(["a".repeat(63), "a".repeat(64), "a".repeat(65), format!("{}.example", "a.".repeat(120))]);
    let key = Key::generate(KeyKind::Mesh(Algorithm::MlDsa44)).ok().unwrap();
    let mut passed = 0;
    for text in &texts {
        for spec in [
            json!({ "domain": text }),
            json!({ "dnsNames": [text] }),
            json!({ "uris": [text], "domain": "a.example" }),
            json!({ "emails": [text], "domain": "a.example" }),
            json!({ "ipAddresses": [text], "domain": "a.example" }),
            json!({ "commonName": text, "domain": "a.example" }),
            json!({ "organization": text, "organizationalUnit": text, "domain": "a.example" }),
        ] {
            let spec: CertificateSpec =
                serde_json::from_value(merged(json!({ "algorithm": "ML-DSA-44" }), spec)).unwrap();
            if !spec.check().is_empty() {
                continue;
            }
            passed += 1;
            let wanted =
                wanted::of(&spec).unwrap_or_else(|obstacle| panic!("{spec:?}: {}", obstacle.message()));
            let der = wanted.self_signed(&key, UNIX_EPOCH + DAY * 20_000);
            assert!(der.is_ok(), "{spec:?}: {der:?}");
        }
    }
    assert!(passed > 100, "{passed}");
}
