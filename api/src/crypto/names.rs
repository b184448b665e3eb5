//! Labels, annotations and names of objects that belong to the cryptographic resources.

/// Label of each Secret that was made for an object: the object's kind. The controller sees no others.
pub const KIND_LABEL: &str = "crypto.trellis.dev/kind";
/// Label of each of them: the object's uid.
pub const OWNER_LABEL: &str = "crypto.trellis.dev/owner";
/// Label of a Secret that keeps a version that was replaced: its number.
pub const VERSION_LABEL: &str = "crypto.trellis.dev/version";

/// Annotation of an object: each new value asks for a new version.
pub const ROTATE: &str = "crypto.trellis.dev/rotate";

/// Annotations of a Secret that was made for an object. What is in it: the number of its version,
pub const SECRET_VERSION: &str = "crypto.trellis.dev/secret-version";
/// its fingerprint, in full,
pub const FINGERPRINT: &str = "crypto.trellis.dev/fingerprint";
/// the one that it had under the cluster's former key for fingerprints,
pub const FORMERLY: &str = "crypto.trellis.dev/formerly";
/// its algorithm,
pub const ALGORITHM: &str = "crypto.trellis.dev/algorithm";
/// an HMAC over all of its data under the cluster's key, by which damage is seen,
pub const CONTENT: &str = "crypto.trellis.dev/content";
/// a digest of what it was made of: the fields of the spec that decide it, and its inputs,
pub const MADE_OF: &str = "crypto.trellis.dev/made-of";
/// in which form it is written,
pub const FORM: &str = "crypto.trellis.dev/form";
/// when this version came into use,
pub const SINCE: &str = "crypto.trellis.dev/since";
/// when it ends by itself,
pub const UNTIL: &str = "crypto.trellis.dev/until";
/// when it went out of use,
pub const RETIRED: &str = "crypto.trellis.dev/retired";
/// when it was taken over, of what somebody else had made,
pub const ADOPTED: &str = "crypto.trellis.dev/adopted";
/// and the value of [`ROTATE`] that it answers.
pub const ROTATED: &str = "crypto.trellis.dev/rotated";
/// Annotation by which the owner of a Secret gives it to an object: KIND/NAME.
pub const ADOPT: &str = "crypto.trellis.dev/adopt";

/// ClusterRole that operators bind in a namespace to let the controller keep Secrets there.
pub const SECRETS_ROLE: &str = "trellis-crypto-secrets";
/// Label of such a RoleBinding, by which the controller notices it: [`ACCESS_SECRETS`].
pub const ACCESS_LABEL: &str = "crypto.trellis.dev/access";
pub const ACCESS_SECRETS: &str = "secrets";

/// Secret in the control plane's namespace with the key of fingerprints of what is secret, and its item.
pub const FINGERPRINT_KEY_SECRET: &str = "trellis-crypto-fingerprint-key";
pub const FINGERPRINT_KEY: &str = "key";

/// The characters of a fingerprint that people compare.
pub const SHORT_FINGERPRINT: usize = 10;

/// The Secret that keeps a version.
pub fn archive(secret: &str, version: u32) -> String {
    format!("{secret}-v{version}")
}

/// The longest name of a Secret that leaves room for the names of its versions.
pub const MAX_SECRET_NAME: usize = 240;
