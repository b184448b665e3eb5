//! Secrets and ConfigMaps that objects refer to by name: however many there are, a watch for all of a kind and
//! namespace, and each is read when it changes, and no other ever.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use trellis_crypto::PublicKey;
use trellis_fake_api::{Asked, Fate};

use crate::{
    bed::{Bed, bytes, condition, secret_path},
    faults::Dice,
};

const HOUR: Duration = Duration::from_secs(3600);
const PAIR: &str = "QuantumSignatureKeyPair";
const SIGN: &str = "QuantumSignMessage";
const SECRET: &str = "Secret";
const MAP: &str = "ConfigMap";
/// More than are read at once.
const STUCK: usize = 20;
/// For each of the nine kinds in both groups, grants, RoleBindings, our Secrets in the namespace, and names of both
/// kinds.
const WATCHES: usize = 2 * 9 + 5;

/// Everything that a controller asked.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<Vec<Asked>>>);

impl Ears {
    /// Whose requests are decided over like this.
    fn lead(bed: &mut Bed, judge: impl Fn(&Asked) -> Fate + Send + Sync + 'static) -> Self {
        let ears = Self::default();
        let heard = ears.clone();
        bed.lead(bed.api.client_judged(Box::new(move |asked| {
            heard.0.lock().push(asked.clone());
            judge(asked)
        })));
        ears
    }

    /// What is asked since this was asked last.
    fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.0.lock())
    }

    /// Of it, how often each path was read by itself.
    fn gets(&self) -> HashMap<String, usize> {
        let mut gets = HashMap::new();
        for asked in self.take().iter().filter(|asked| asked.gets()) {
            *gets.entry(asked.path.clone()).or_default() += 1;
        }
        gets
    }
}

fn at(kind: &str, name: &str) -> String {
    match kind {
        MAP => format!("/api/v1/namespaces/shop/configmaps/{name}"),
        _ => secret_path("shop", name),
    }
}

/// They take turns.
fn kind(number: usize) -> &'static str {
    if number.is_multiple_of(2) { SECRET } else { MAP }
}

fn write(bed: &Bed, kind: &str, name: &str, text: &str) {
    let metadata = json!({ "name": name, "namespace": "shop", "uid": name });
    let data = if kind == MAP { json!(text) } else { json!(STANDARD.encode(text)) };
    let object = json!({ "kind": kind, "metadata": metadata, "data": { "message": data } });
    bed.api.put(&at(kind, name), object);
}

fn sign(bed: &Bed, kind: &str, name: &str) {
    let spec = json!({ "privateKeyRef": { "name": "pair" }, "messageRef": { "name": name, "kind": kind } });
    bed.create(SIGN, name, spec);
}

fn pair(bed: &Bed) {
    bed.create(PAIR, "pair", json!({ "algorithm": "ML-DSA-44" }));
}

/// Waits until what is kept for an object is a signature of this.
async fn signed(bed: &Bed, name: &str, text: &str) {
    let pair = bed.secret_until("pair", "there is a key", |pair| !bytes(pair, "public-key").is_empty()).await;
    let PublicKey::Signature(key) = PublicKey::read(&bytes(&pair, "public-key"), None).unwrap() else {
        panic!("no key for signatures");
    };
    let of = |secret: &Value| key.verify(text.as_bytes(), b"", &bytes(secret, "signature")).is_ok();
    bed.secret_until(&format!("{name}-signature"), &format!("{name} is signed: {text}"), of).await;
}

/// Waits until an object says of its message what stands in the way.
async fn told(bed: &Bed, name: &str, reason: &str) {
    let told = |status: &Value| {
        condition(status, "SourceAvailable")["reason"] == reason || crate::bed::reason(status) == reason
    };
    bed.until(SIGN, name, &format!("{name} is told {reason}"), told).await;
}

/// As many as are signed within seconds in a build that is not optimised. Nothing of it depends on how many.
const MANY: usize = 5_000;

#[tokio::test(start_paused = true)]
async fn five_thousand_signed_messages_cost_no_watch_of_their_own_and_at_rest_nothing() {
    let mut bed = Bed::idle();
    let ears = Ears::lead(&mut bed, |_| Fate::Pass);
    pair(&bed);
    let name = |number: usize| format!("m{number:05}");
    for number in 0..MANY {
        write(&bed, kind(number), &name(number), "hello");
        sign(&bed, kind(number), &name(number));
    }
    for number in 0..MANY {
        bed.success(SIGN, &name(number)).await;
        assert!(bed.api.watches().len() <= WATCHES, "{:?}", bed.api.watches());
    }
    assert_eq!(bed.api.watches().len(), WATCHES);
    bed.rests(HOUR).await;
    // A controller that begins reads each once, and then rests.
    bed.kill();
    let ears = {
        ears.take();
        Ears::lead(&mut bed, |_| Fate::Pass)
    };
    bed.rests(HOUR).await;
    let gets = ears.gets();
    for number in 0..MANY {
        assert_eq!(gets.get(&at(kind(number), &name(number))), Some(&1), "{}", name(number));
    }
    assert_eq!(gets.len(), MANY + 1, "and the key for fingerprints");
    bed.rests(HOUR).await;
    assert_eq!(ears.gets(), HashMap::new(), "at rest nothing is read");
    assert_eq!(bed.api.watches().len(), WATCHES);
    // One changes: what concerns it is done, and nothing else.
    for (number, text) in [(700, "hallo"), (701, "salve")] {
        let before = bed.api.writes();
        write(&bed, kind(number), &name(number), text);
        signed(&bed, &name(number), text).await;
        bed.rests(HOUR).await;
        let own = [format!("{}-signature", name(number)), format!("{}/status", name(number))];
        let written = bed.api.written().split_off(before);
        assert!(written.iter().all(|path| own.iter().any(|own| path.ends_with(own))), "{written:?}");
        assert_eq!(written.len(), own.len(), "{written:?}");
        let mut gets = ears.gets();
        // To see what is there now, and to sign it.
        assert_eq!(gets.remove(&at(kind(number), &name(number))), Some(2));
        let own = ["pair".to_owned(), own[0].clone(), name(number)];
        assert!(gets.keys().all(|path| own.iter().any(|own| path.ends_with(own))), "{gets:?}");
    }
    // What says nothing new is read once, and nothing is done.
    let writes = bed.api.writes();
    write(&bed, SECRET, &name(2), "hello");
    bed.rests(HOUR).await;
    assert_eq!((ears.gets(), bed.api.writes()), (HashMap::from([(at(SECRET, &name(2)), 1)]), writes));
    // The last one that refers to a place ends its watch.
    (0..MANY).filter(|number| kind(*number) == MAP).for_each(|number| {
        assert!(bed.api.remove(&bed.path("shop", SIGN, &name(number))));
    });
    bed.rests(HOUR).await;
    let maps = bed.api.watches().into_iter().filter(|path| path.ends_with("/configmaps"));
    assert_eq!((maps.count(), bed.api.watches().len()), (0, WATCHES - 1));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_refers_to_is_never_read_though_it_changes_all_the_time() {
    let mut bed = Bed::idle();
    let ears = Ears::lead(&mut bed, |_| Fate::Pass);
    pair(&bed);
    for kind in [SECRET, MAP] {
        write(&bed, kind, &kind.to_lowercase(), "hello");
        sign(&bed, kind, &kind.to_lowercase());
        bed.success(SIGN, &kind.to_lowercase()).await;
    }
    bed.rests(HOUR).await;
    ears.take();
    let (sent, writes) = (bed.api.sent(), bed.api.writes());
    for second in 0..3600 {
        for kind in [SECRET, MAP] {
            write(&bed, kind, "foreign", &second.to_string());
            write(&bed, kind, &format!("foreign-{second}"), "comes");
            bed.api.remove(&at(kind, &format!("foreign-{second}")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((ears.gets(), bed.api.sent(), bed.api.writes()), (HashMap::new(), sent, writes));
    let collections = ["/secrets", "/configmaps"];
    let whole = ears.take().into_iter().find(|asked| {
        collections.iter().any(|one| asked.path.ends_with(one))
            && !asked.metadata
            && !asked.query.contains("labelSelector=")
    });
    assert!(whole.is_none(), "{whole:?}");
}

#[tokio::test(start_paused = true)]
async fn what_goes_comes_and_is_wanted_later_is_signed_as_it_is() {
    for kind in [SECRET, MAP] {
        let mut bed = Bed::idle();
        let ears = Ears::lead(&mut bed, |_| Fate::Pass);
        pair(&bed);
        // What is not there when its place is looked at, nobody reads.
        sign(&bed, kind, "first");
        told(&bed, "first", "SourceNotFound").await;
        assert_eq!(ears.gets().get(&at(kind, "first")), None);
        write(&bed, kind, "first", "one");
        signed(&bed, "first", "one").await;
        bed.rests(HOUR).await;
        ears.take();
        // While the watch is open: what is there, and what is not.
        write(&bed, kind, "second", "two");
        sign(&bed, kind, "second");
        signed(&bed, "second", "two").await;
        sign(&bed, kind, "third");
        told(&bed, "third", "SourceNotFound").await;
        let listed = ears.take().iter().any(|asked| asked.metadata && !asked.watches());
        assert!(!listed, "nobody lists for that");
        write(&bed, kind, "third", "three");
        signed(&bed, "third", "three").await;
        // Deleted, and made anew: at once, and later.
        assert!(bed.api.remove(&at(kind, "first")));
        write(&bed, kind, "first", "eins");
        signed(&bed, "first", "eins").await;
        assert!(bed.api.remove(&at(kind, "first")));
        told(&bed, "first", "SourceNotFound").await;
        bed.rests(HOUR).await;
        write(&bed, kind, "first", "uno");
        signed(&bed, "first", "uno").await;
        bed.rests(HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_again_and_is_the_same_is_not_read_again() {
    for kind in [SECRET, MAP] {
        let mut bed = Bed::idle();
        let expire = Arc::new(Mutex::new(false));
        let expires = expire.clone();
        let ears = Ears::lead(&mut bed, move |asked| {
            if *expires.lock() && asked.metadata && asked.watches() { Fate::Expire } else { Fate::Pass }
        });
        pair(&bed);
        for name in ["same", "changes", "goes"] {
            write(&bed, kind, name, "one");
            sign(&bed, kind, name);
            signed(&bed, name, "one").await;
        }
        bed.rests(HOUR).await;
        *expire.lock() = true;
        bed.rests(HOUR).await;
        ears.take();
        bed.rests(HOUR).await;
        let asked = ears.take();
        assert!(asked.iter().any(|asked| asked.metadata && !asked.watches()), "it is listed again");
        assert_eq!(asked.iter().filter(|asked| asked.gets()).count(), 0);
        // What happened meanwhile is seen.
        write(&bed, kind, "changes", "two");
        assert!(bed.api.remove(&at(kind, "goes")));
        signed(&bed, "changes", "two").await;
        told(&bed, "goes", "SourceNotFound").await;
        *expire.lock() = false;
        bed.rests(HOUR).await;
        assert_eq!(ears.gets().get(&at(kind, "same")), None);
    }
}

#[tokio::test(start_paused = true)]
async fn of_what_changes_while_it_is_read_the_last_is_signed() {
    for kind in [SECRET, MAP] {
        let mut bed = Bed::idle();
        pair(&bed);
        write(&bed, kind, "message", "0");
        sign(&bed, kind, "message");
        let (api, path) = (bed.api.clone(), at(kind, "message"));
        let left = Mutex::new(5_u32);
        let text = move |number: u32| match kind {
            MAP => json!(number.to_string()),
            _ => json!(STANDARD.encode(number.to_string())),
        };
        // It changes before each of the first answers comes, and after it was made.
        let reading = path.clone();
        Ears::lead(&mut bed, move |asked| {
            let mut left = left.lock();
            if asked.gets() && asked.path == reading && *left > 0 {
                *left -= 1;
                let (api, path, left) = (api.clone(), path.clone(), *left);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    api.edit(&path, |object| object["data"]["message"] = text(left));
                });
                return Fate::Late(Duration::from_millis(100));
            }
            Fate::Pass
        });
        tokio::time::sleep(HOUR).await;
        signed(&bed, "message", "0").await;
        bed.success(SIGN, "message").await;
        bed.rests(HOUR).await;
        assert!(bed.api.remove(&at(kind, "message")));
        told(&bed, "message", "SourceNotFound").await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_cannot_answer_is_asked_again_and_others_go_on() {
    let codes = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::CONFLICT,
        StatusCode::GONE,
    ];
    for fate in codes.map(Fate::Refuse).into_iter().chain([Fate::Vanish, Fate::Lose]) {
        let mut bed = Bed::idle();
        pair(&bed);
        let (stuck, count) = (Arc::new(Mutex::new(true)), Arc::new(Mutex::new(0)));
        let (sticks, asked_for) = (stuck.clone(), count.clone());
        Ears::lead(&mut bed, move |asked| {
            if *sticks.lock() && asked.gets() && asked.path.contains("/stuck-") {
                *asked_for.lock() += 1;
                return fate;
            }
            Fate::Pass
        });
        let name = |number: usize| format!("stuck-{number}");
        for number in 0..STUCK {
            write(&bed, SECRET, &name(number), "one");
            sign(&bed, SECRET, &name(number));
        }
        if matches!(fate, Fate::Vanish | Fate::Lose) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(*count.lock(), 8, "so many are read at once");
        }
        for kind in [SECRET, MAP] {
            write(&bed, kind, &kind.to_lowercase(), "one");
            sign(&bed, kind, &kind.to_lowercase());
            signed(&bed, &kind.to_lowercase(), "one").await;
            write(&bed, kind, &kind.to_lowercase(), "two");
            signed(&bed, &kind.to_lowercase(), "two").await;
        }
        (0..STUCK).for_each(|number| write(&bed, SECRET, &name(number), "two"));
        let before = *count.lock();
        tokio::time::sleep(HOUR).await;
        let asked = (*count.lock() - before) / STUCK;
        assert!((30..150).contains(&asked), "{fate:?}: each was asked for {asked} times in an hour");
        *stuck.lock() = false;
        for number in 0..STUCK {
            signed(&bed, &name(number), "two").await;
        }
        bed.rests(HOUR).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_now_and_then_loses_no_change_of_a_message() {
    let codes = [
        StatusCode::CONFLICT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::GONE,
    ];
    for seed in 0..8 {
        let mut bed = Bed::idle();
        let (dice, end) = (Dice::new(seed), Dice::new(seed + 100));
        pair(&bed);
        Ears::lead(&mut bed, move |asked| match dice.roll(if asked.watches() { 10 } else { 6 }) {
            0 => Fate::Refuse(codes[usize::try_from(dice.roll(4)).unwrap()]),
            1 if asked.watches() => Fate::Expire,
            1 if asked.gets() => Fate::Late(Duration::from_millis(dice.roll(2_000))),
            2 if asked.gets() => Fate::Wait(Duration::from_millis(dice.roll(2_000))),
            _ => Fate::Pass,
        });
        for round in 0..20 {
            for number in 0..10 {
                let (name, kind) = (format!("message-{number}"), kind(number));
                if round == 0 {
                    sign(&bed, kind, &name);
                }
                if end.roll(4) == 0 {
                    bed.api.remove(&at(kind, &name));
                }
                write(&bed, kind, &name, &format!("{number} in round {round}"));
                tokio::time::sleep(Duration::from_millis(end.roll(500))).await;
            }
        }
        // Whoever signs is refused now and then as well, and waits ever longer.
        tokio::time::sleep(HOUR).await;
        for number in 0..10 {
            signed(&bed, &format!("message-{number}"), &format!("{number} in round 19")).await;
        }
    }
}

fn binding() -> Value {
    json!({
        "kind": "RoleBinding", "metadata": { "name": "allows", "namespace": "shop",
            "labels": { "crypto.trellis.dev/access": "secrets" } },
        "roleRef": { "kind": "ClusterRole", "name": "trellis-crypto-secrets" },
    })
}

const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings/allows";

#[tokio::test(start_paused = true)]
async fn what_may_not_be_looked_at_is_named_and_read_when_it_may() {
    // The right to names alone, without one to what is there, is as good as none.
    let whole = |asked: &Asked| asked.path == "/api/v1/namespaces/shop/configmaps";
    let named = |asked: &Asked| asked.gets() && asked.path.contains("/configmaps/");
    for closed in [whole as fn(&Asked) -> bool, named] {
        let mut bed = Bed::idle();
        let shut = Arc::new(Mutex::new(true));
        let is_shut = shut.clone();
        let ears = Ears::lead(&mut bed, move |asked| {
            if *is_shut.lock() && closed(asked) { Fate::Refuse(StatusCode::FORBIDDEN) } else { Fate::Pass }
        });
        pair(&bed);
        write(&bed, MAP, "message", "one");
        sign(&bed, MAP, "message");
        told(&bed, "message", "NoAccess").await;
        // Others need no such right.
        write(&bed, SECRET, "secret", "one");
        sign(&bed, SECRET, "secret");
        signed(&bed, "secret", "one").await;
        bed.rests(HOUR).await;
        // One that begins later is told at once.
        let before = tokio::time::Instant::now();
        write(&bed, MAP, "later", "one");
        sign(&bed, MAP, "later");
        told(&bed, "later", "NoAccess").await;
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        ears.take();
        tokio::time::sleep(HOUR).await;
        let asked = ears.take().iter().filter(|asked| closed(asked)).count();
        assert!((10..=240).contains(&asked), "asked {asked} times in an hour");
        *shut.lock() = false;
        let before = tokio::time::Instant::now();
        bed.api.put(BINDING, binding());
        signed(&bed, "message", "one").await;
        signed(&bed, "later", "one").await;
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        // And without anybody who says so.
        *shut.lock() = true;
        write(&bed, MAP, "message", "two");
        tokio::time::sleep(HOUR).await;
        *shut.lock() = false;
        tokio::time::sleep(HOUR).await;
        signed(&bed, "message", "two").await;
    }
}
