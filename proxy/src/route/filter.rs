//! What a rule, or one of its backends, does to requests and answers. Each kind stands once, but mirrors,
//! of which there may be several; the order in which a route lists them changes nothing. A preflight is
//! answered first, then a redirect; what is neither gets its headers and its target changed, and is sent on
//! and mirrored so. An answer gets its CORS headers, and is then changed.

use http::{HeaderName, HeaderValue};
use trellis_api::proto::discovery as wire;

use super::{Invalid, host};

mod change;
pub mod cors;
mod mirror;
mod path;
mod redirect;
mod rewrite;

pub use self::{
    change::HeaderChange,
    cors::Cors,
    mirror::Mirror,
    path::PathChange,
    redirect::{Entry, Redirect},
    rewrite::Rewrite,
};

#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub cors: Option<Cors>,
    pub redirect: Option<Redirect>,
    pub request: Option<HeaderChange>,
    pub rewrite: Option<Rewrite>,
    pub response: Option<HeaderChange>,
    pub mirrors: Vec<Mirror>,
}

impl Filters {
    pub fn read(wire: &[wire::Filter]) -> Result<Self, Invalid> {
        use wire::filter::Filter;
        let mut filters = Self::default();
        for (index, filter) in wire.iter().enumerate() {
            let read = match &filter.filter {
                Some(Filter::RequestHeaders(wire)) => once(&mut filters.request, HeaderChange::read(wire)),
                Some(Filter::ResponseHeaders(wire)) => once(&mut filters.response, HeaderChange::read(wire)),
                Some(Filter::Redirect(wire)) => once(&mut filters.redirect, Redirect::read(wire)),
                Some(Filter::Rewrite(wire)) => once(&mut filters.rewrite, Rewrite::read(wire)),
                Some(Filter::Cors(wire)) => once(&mut filters.cors, Cors::read(wire)),
                Some(Filter::Mirror(wire)) => {
                    filters.mirrors.push(Mirror::read(wire));
                    Ok(())
                }
                None => Err(Invalid::new(format_args!("this proxy does not know its kind; a newer one may"))),
            };
            read.map_err(|why| why.of(format_args!("filter {} ({})", index + 1, kind(filter))))?;
        }
        if filters.redirect.is_some() && filters.rewrite.is_some() {
            return Err(Invalid::new(format_args!(
                "a redirect and a rewrite stand in one list of filters; use one of them"
            )));
        }
        Ok(filters)
    }

    /// A prefix can be replaced only where one matched.
    pub(super) fn needs_prefix(&self) -> bool {
        let of_prefix = |change: Option<&PathChange>| matches!(change, Some(PathChange::Prefix(_)));
        of_prefix(self.redirect.as_ref().and_then(Redirect::path))
            || of_prefix(self.rewrite.as_ref().and_then(Rewrite::path))
    }
}

fn once<T>(place: &mut Option<T>, read: Result<T, Invalid>) -> Result<(), Invalid> {
    if place.is_some() {
        return Err(Invalid::new(format_args!("there is one of its kind already; put both into one")));
    }
    *place = Some(read?);
    Ok(())
}

pub(super) fn kind(filter: &wire::Filter) -> &'static str {
    use wire::filter::Filter;
    match filter.filter {
        Some(Filter::RequestHeaders(_)) => "request headers",
        Some(Filter::ResponseHeaders(_)) => "response headers",
        Some(Filter::Redirect(_)) => "redirect",
        Some(Filter::Rewrite(_)) => "rewrite",
        Some(Filter::Mirror(_)) => "mirror",
        Some(Filter::Cors(_)) => "CORS",
        None => "unknown",
    }
}

fn header_name(name: &str) -> Result<HeaderName, Invalid> {
    HeaderName::try_from(name)
        .map_err(|_| Invalid::new(format_args!("{name:?} is no name of a header; use letters, digits and -")))
}

/// A host that a filter puts in place of another.
fn hostname(name: &str) -> Result<HeaderValue, Invalid> {
    let invalid =
        || Invalid::new(format_args!("hostname {name:?} is no name of a host; give one without port"));
    match host::split(name) {
        Ok((_, None)) => HeaderValue::from_str(name).map_err(|_| invalid()),
        _ => Err(invalid()),
    }
}
