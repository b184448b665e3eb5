//! Filters of HTTP and gRPC routes, as proxies read them.

use trellis_api::{
    gateway::{
        HeaderModifier, HttpCors, HttpFilter, PathModifier, RequestMirror, RequestRedirect, UrlRewrite,
    },
    proto::discovery::{self as proto, filter::Filter, path_change::Change},
};

use super::reference::References;

/// The filters, or what is wrong with the first that cannot be obeyed: one that was left out would let
/// requests do what its author wanted to prevent.
pub fn filters(
    given: Option<&Vec<HttpFilter>>,
    field: &str,
    references: &mut References,
) -> Result<Vec<proto::Filter>, String> {
    let before = references.found.len();
    let all = given.into_iter().flatten().enumerate();
    let all = all.map(|(at, filter)| {
        let filter = one(filter, references).map_err(|wrong| format!("{field}[{at}]{wrong}"))?;
        Ok(proto::Filter { filter: Some(filter) })
    });
    let all = all.collect::<Result<Vec<_>, String>>();
    if all.is_err() {
        references.found.truncate(before);
    }
    all
}

fn one(filter: &HttpFilter, references: &mut References) -> Result<Filter, String> {
    fn content<'a, T>(content: &'a Option<T>, field: &str) -> Result<&'a T, String> {
        content.as_ref().ok_or_else(|| format!(".{field}: is not there, though `type` says so; add it"))
    }
    match filter.r#type.as_str() {
        "RequestHeaderModifier" => Ok(Filter::RequestHeaders(headers(content(
            &filter.request_header_modifier,
            "requestHeaderModifier",
        )?))),
        "ResponseHeaderModifier" => Ok(Filter::ResponseHeaders(headers(content(
            &filter.response_header_modifier,
            "responseHeaderModifier",
        )?))),
        "RequestRedirect" => redirect(content(&filter.request_redirect, "requestRedirect")?),
        "URLRewrite" => rewrite(content(&filter.url_rewrite, "urlRewrite")?),
        "RequestMirror" => mirror(content(&filter.request_mirror, "requestMirror")?, references),
        "CORS" => Ok(Filter::Cors(cors(content(&filter.cors, "cors")?))),
        other => Err(format!(".type: {other} is no filter that Trellis has; remove it")),
    }
}

fn headers(given: &HeaderModifier) -> proto::HeaderChange {
    let list = |headers: &Option<Vec<trellis_api::gateway::Header>>| {
        let headers = headers.iter().flatten();
        headers.map(|one| proto::Header { name: one.name.clone(), value: one.value.clone() }).collect()
    };
    proto::HeaderChange {
        set: list(&given.set),
        add: list(&given.add),
        remove: given.remove.clone().unwrap_or_default(),
    }
}

fn redirect(given: &RequestRedirect) -> Result<Filter, String> {
    let status = match given.status_code.unwrap_or(302) {
        code @ (301 | 302 | 303 | 307 | 308) => code as u32,
        code => {
            return Err(format!(
                ".requestRedirect.statusCode: {code} is no redirect; use 301, 302, 303, 307 or 308"
            ));
        }
    };
    let scheme = given.scheme.clone().unwrap_or_default();
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        return Err(format!(".requestRedirect.scheme: {scheme:?} is not known; use http or https"));
    }
    let port = given.port.map_or(Ok(0), |port| {
        u16::try_from(port)
            .map_err(|_| format!(".requestRedirect.port: {port} is not a port; use 1 to 65535"))
    })?;
    Ok(Filter::Redirect(proto::Redirect {
        scheme,
        hostname: given.hostname.clone().unwrap_or_default(),
        path: path(given.path.as_ref(), ".requestRedirect.path")?,
        port: port.into(),
        status,
    }))
}

fn rewrite(given: &UrlRewrite) -> Result<Filter, String> {
    Ok(Filter::Rewrite(proto::Rewrite {
        hostname: given.hostname.clone().unwrap_or_default(),
        path: path(given.path.as_ref(), ".urlRewrite.path")?,
    }))
}

fn path(given: Option<&PathModifier>, field: &str) -> Result<Option<proto::PathChange>, String> {
    let Some(given) = given else { return Ok(None) };
    let change = match (given.r#type.as_str(), &given.replace_full_path, &given.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), _) => Change::Full(path.clone()),
        ("ReplacePrefixMatch", _, Some(prefix)) => Change::Prefix(prefix.clone()),
        (other, ..) => {
            return Err(format!(
                "{field}.type: {other} is not known, or its value is not there; use ReplaceFullPath with \
                 replaceFullPath, or ReplacePrefixMatch with replacePrefixMatch"
            ));
        }
    };
    Ok(Some(proto::PathChange { change: Some(change) }))
}

fn mirror(given: &RequestMirror, references: &mut References) -> Result<Filter, String> {
    let (numerator, denominator) = match (given.percent, &given.fraction) {
        (Some(percent), _) => (percent, 100),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, None) => (1, 1),
    };
    let (Ok(numerator), Ok(denominator)) = (u32::try_from(numerator), u32::try_from(denominator)) else {
        return Err(".requestMirror: its share is below nothing; use 0 or more".into());
    };
    if denominator == 0 || numerator > denominator {
        return Err(format!(
            ".requestMirror: {numerator} of {denominator} is not a share of requests; use at most all of them"
        ));
    }
    let to = &given.backend_ref;
    let backend =
        references.add(to.group.as_deref(), to.kind.as_deref(), to.namespace.as_deref(), &to.name, to.port);
    Ok(Filter::Mirror(proto::Mirror {
        backend: Some(backend),
        numerator,
        denominator,
        invalid: String::new(),
    }))
}

fn cors(given: &HttpCors) -> proto::Cors {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    proto::Cors {
        allow_origins: list(&given.allow_origins),
        allow_credentials: given.allow_credentials.unwrap_or(false),
        allow_methods: list(&given.allow_methods),
        allow_headers: list(&given.allow_headers),
        expose_headers: list(&given.expose_headers),
        max_age: given.max_age.and_then(|age| u32::try_from(age).ok()).unwrap_or(5),
    }
}
