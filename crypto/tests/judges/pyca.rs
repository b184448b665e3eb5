//! pyca/cryptography, on the OpenSSL that it brings.

use super::*;

/// Reads our key, signs with a context, and verifies what we signed; writes its own key in seed form.
const SIGN: &str = "
import sys
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import mldsa
private = s.load_pem_private_key(open('private.pem', 'rb').read(), None)
public = s.load_pem_public_key(open('public.pem', 'rb').read())
message, context = open('message', 'rb').read(), open('context', 'rb').read()
public.verify(open('signature', 'rb').read(), message, context)
open('theirs', 'wb').write(private.sign(message, context))
own = getattr(mldsa, sys.argv[1]).generate()
open('own.pem', 'wb').write(own.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
open('own', 'wb').write(own.sign(message, context))
";

/// Opens our ciphertext, and encapsulates to our key.
const SHARE: &str = "
from cryptography.hazmat.primitives import serialization as s
private = s.load_pem_private_key(open('private.pem', 'rb').read(), None)
public = s.load_pem_public_key(open('public.pem', 'rb').read())
open('opened', 'wb').write(private.decapsulate(open('ciphertext', 'rb').read()))
secret, ciphertext = public.encapsulate()
open('secret', 'wb').write(secret)
open('theirs', 'wb').write(ciphertext)
";

#[test]
fn it_signs_and_verifies_with_our_keys_and_we_with_its() {
    let desk = Desk::new();
    for algorithm in [SignatureAlgorithm::MlDsa44, SignatureAlgorithm::MlDsa65, SignatureAlgorithm::MlDsa87] {
        let key = PrivateKey::Signature(signing_key(algorithm));
        desk.put("private.pem", key.pem().unwrap().as_bytes());
        desk.put("public.pem", key.public_key().pem());
        let key = signer_of(key);
        let class = format!("{}PrivateKey", algorithm.name().replace('-', ""));
        for (message, context) in [(&b"a message"[..], &b""[..]), (b"", b""), (b"", b"a context")] {
            desk.put("message", message);
            desk.put("context", context);
            desk.put("signature", key.sign(message, context).unwrap());
            desk.run(&needed("TRELLIS_TEST_PYTHON"), &["-c", SIGN, &class]);
            assert_eq!(key.public_key().verify(message, context, &desk.get("theirs")), Ok(()));
            let own = signer_of(PrivateKey::read(&desk.get("own.pem"), Some(algorithm.into())).unwrap());
            assert_eq!(own.public_key().verify(message, context, &desk.get("own")), Ok(()));
        }
    }
}

#[test]
fn it_shares_secrets_with_us() {
    let desk = Desk::new();
    for algorithm in [KemAlgorithm::MlKem768, KemAlgorithm::MlKem1024] {
        let key = PrivateKey::Kem(kem_key(algorithm));
        desk.put("private.pem", key.pem().unwrap().as_bytes());
        desk.put("public.pem", key.public_key().pem());
        let key = kem_of(key);
        let made = key.public_key().encapsulate().unwrap();
        desk.put("ciphertext", &made.ciphertext);
        desk.run(&needed("TRELLIS_TEST_PYTHON"), &["-c", SHARE]);
        assert!(desk.get("opened") == made.shared_secret.as_bytes(), "{algorithm}");
        assert!(
            key.decapsulate(&desk.get("theirs")).unwrap().as_bytes() == desk.get("secret"),
            "{algorithm}"
        );
    }
}
