//! References to other objects. Without a namespace they mean the object's own; another one has to allow it
//! by a ReferenceGrant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Problem;

/// Another object, whose kind the field says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The object's own when empty. Another namespace has to allow it by a ReferenceGrant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
}

/// Where a message or a signature stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct MessageReference {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The object's own when empty. Another namespace has to allow it by a ReferenceGrant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// Secret, unless it says ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<MessageKind>,
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum MessageKind {
    #[default]
    Secret,
    ConfigMap,
}

impl Reference {
    /// The namespace that is meant by an object of `own`.
    pub fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().filter(|other| !other.is_empty()).unwrap_or(own)
    }
}

impl MessageReference {
    /// The namespace that is meant by an object of `own`.
    pub fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().filter(|other| !other.is_empty()).unwrap_or(own)
    }

    pub fn kind(&self) -> MessageKind {
        self.kind.unwrap_or_default()
    }
}

impl MessageKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

impl Reference {
    pub(super) fn check(&self, field: &str) -> Vec<Problem> {
        check_name(field, &self.name, self.namespace.as_deref())
    }
}

impl MessageReference {
    pub(super) fn check(&self, field: &str) -> Vec<Problem> {
        check_name(field, &self.name, self.namespace.as_deref())
    }
}

fn check_name(field: &str, name: &str, namespace: Option<&str>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !is_subdomain(name) {
        problems.push(Problem::new(format!("{field}.name"), name, "is no name of an object"));
    }
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty() && !is_label(namespace)) {
        problems.push(Problem::new(format!("{field}.namespace"), namespace, "is no name of a namespace"));
    }
    problems
}

pub(super) fn check_accounts(accounts: &[String]) -> Vec<Problem> {
    let remedy = "use NAME, of a ServiceAccount in this namespace, or NAMESPACE/NAME";
    let is_account = |account: &str| match account.split_once('/') {
        Some((namespace, name)) => is_label(namespace) && is_subdomain(name),
        None => is_subdomain(account),
    };
    let mut problems: Vec<Problem> = accounts
        .iter()
        .enumerate()
        .filter(|(_, account)| !is_account(account))
        .map(|(at, account)| Problem::new(format!("spec.allowedServiceAccounts[{at}]"), account, remedy))
        .collect();
    if accounts.len() > MOST_ACCOUNTS {
        let remedy = format!("has {} entries: use at most {MOST_ACCOUNTS}", accounts.len());
        problems.push(Problem::new("spec.allowedServiceAccounts", "", remedy));
    }
    problems
}

pub(super) fn check_account(account: Option<&str>) -> Vec<Problem> {
    let wrong = account.filter(|account| !is_subdomain(account));
    let remedy = "is no name of a ServiceAccount; those of other namespaces cannot be named";
    wrong.map(|account| Problem::new("spec.serviceAccountName", account, remedy)).into_iter().collect()
}

/// An item of a Secret or ConfigMap.
pub(super) fn check_item(field: &str, item: &str) -> Vec<Problem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if (1..=253).contains(&item.len()) && item.bytes().all(allowed) {
        return Vec::new();
    }
    vec![Problem::new(field, item, "use letters, digits, '-', '_' and '.', as keys of a Secret are")]
}

pub(super) fn check_context(context: Option<&str>) -> Vec<Problem> {
    let wrong = context.filter(|context| context.len() > MOST_CONTEXT);
    let remedy = format!("has more than {MOST_CONTEXT} bytes, which is the most that can be signed along");
    wrong.map(|context| Problem::new("spec.context", context, remedy)).into_iter().collect()
}

/// Bytes in hex, up to `most` of them. What stands there is not repeated: it is long, or somebody's secret.
pub(super) fn check_hex(field: &str, hex: Option<&str>, most: usize) -> Vec<Problem> {
    let Some(hex) = hex else { return Vec::new() };
    let remedy = if hex.len() % 2 == 1 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "is no hex: use pairs of 0-9 and a-f".to_owned()
    } else if hex.len() > most * 2 {
        format!("has {} bytes: use at most {most}", hex.len() / 2)
    } else {
        return Vec::new();
    };
    vec![Problem::new(field, "", remedy)]
}

const MOST_ACCOUNTS: usize = 64;
const MOST_CONTEXT: usize = 255;

pub(super) fn is_label(name: &str) -> bool {
    name.len() <= 63 && !name.contains('.') && is_subdomain(name)
}

pub(super) fn is_subdomain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.iter().all(|&byte| plain(byte) || byte == b'-')
            && bytes.first().is_some_and(|&byte| plain(byte))
            && bytes.last().is_some_and(|&byte| plain(byte))
    };
    name.len() <= 253 && name.split('.').all(is_part)
}
