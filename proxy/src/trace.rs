//! Traces: which requests get a span, and what those who come next are told about it.
//!
//! Beside an application, its own word counts: what is sampled gets a span, and of what belongs to no trace
//! yet a share may begin one. At a gateway it is a stranger's word: the trace begins anew there, linked to
//! the one that the client named.

use std::sync::Arc;

use http::HeaderMap;
use rand::{Rng, RngExt};
use trellis_api::annotations::TraceSampling;
use trellis_telemetry::otlp::spans::{Span, Spans};

pub mod context;

use context::{BAGGAGE, Context, Said, TRACEPARENT, TRACESTATE};

/// Decides, and takes spans for the collector.
#[derive(Default)]
pub struct Tracer {
    /// Nothing where no span is made.
    making: Option<Making>,
}

struct Making {
    spans: Arc<Spans>,
    /// Of what belongs to no trace yet.
    share: f64,
}

/// A span that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub context: Context,
    /// The span that this one is within.
    pub parent: Option<u64>,
    /// A trace that this one has to do with.
    pub link: Option<Context>,
}

/// Whose word about traces it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Application,
    Stranger,
}

impl Tracer {
    pub fn new(spans: Option<Arc<Spans>>, sampling: TraceSampling) -> Self {
        let making = match (spans, sampling) {
            (Some(spans), TraceSampling::Share(share)) => Some(Making { spans, share }),
            (None, _) | (_, TraceSampling::Disabled) => None,
        };
        Self { making }
    }

    /// Whether anything is to be done about what a request says.
    pub fn reads(&self, word: Word) -> bool {
        self.making.is_some() || word == Word::Stranger
    }

    /// Whether a span is made of a request, whose headers then say so.
    pub fn request(&self, headers: &mut HeaderMap, word: Word, random: &mut impl Rng) -> Option<Open> {
        let share = self.making.as_ref().map(|making| making.share);
        match word {
            Word::Application => share.and_then(|share| of_application(headers, share, random)),
            Word::Stranger => of_stranger(headers, share, random),
        }
    }

    /// A span within the one that a peer's proxy names.
    pub fn within(&self, context: Context, random: &mut impl Rng) -> Option<Open> {
        (self.making.is_some() && context.is_sampled()).then(|| Open {
            context: context.within(id(random)),
            parent: Some(context.span),
            link: None,
        })
    }

    /// Hands a span to the collector.
    pub fn tell(&self, span: Span) {
        if let Some(making) = &self.making {
            making.spans.offer(span);
        }
    }
}

fn of_application(headers: &mut HeaderMap, share: f64, random: &mut impl Rng) -> Option<Open> {
    match Said::of(headers) {
        Said::Context(context) => {
            if !context::is_state_sound(headers) {
                headers.remove(TRACESTATE);
            }
            if !context.is_sampled() {
                return None;
            }
            let open = Open { context: context.within(id(random)), parent: Some(context.span), link: None };
            say(headers, open.context);
            Some(open)
        }
        Said::Nothing => begin(headers, share, None, random),
        Said::Malformed => {
            headers.remove(TRACEPARENT);
            headers.remove(TRACESTATE);
            begin(headers, share, None, random)
        }
    }
}

/// As with all that a client says about where it comes from, none of it goes on.
fn of_stranger(headers: &mut HeaderMap, share: Option<f64>, random: &mut impl Rng) -> Option<Open> {
    let claimed = match Said::of(headers) {
        Said::Context(claimed) => Some(claimed),
        Said::Nothing | Said::Malformed => None,
    };
    for name in [TRACEPARENT, TRACESTATE, BAGGAGE] {
        headers.remove(name);
    }
    begin(headers, share?, claimed, random)
}

/// A trace that begins here: whether it is sampled is decided for all who come next.
fn begin(headers: &mut HeaderMap, share: f64, link: Option<Context>, random: &mut impl Rng) -> Option<Open> {
    if share == 0.0 {
        return None;
    }
    let sampled = random.random_bool(share);
    let context = Context::new(trace(random), id(random), sampled);
    headers.remove(TRACESTATE);
    say(headers, context);
    sampled.then_some(Open { context, parent: None, link })
}

fn say(headers: &mut HeaderMap, context: Context) {
    if let Some(header) = context.header() {
        headers.insert(TRACEPARENT, header);
    }
}

/// Zero stands for none.
fn id(random: &mut impl Rng) -> u64 {
    random.random_range(1..=u64::MAX)
}

fn trace(random: &mut impl Rng) -> u128 {
    random.random_range(1..=u128::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn said(parent: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !parent.is_empty() {
            headers.insert(TRACEPARENT, HeaderValue::from_str(parent).unwrap());
            headers.insert(TRACESTATE, HeaderValue::from_static("rojo=1"));
            headers.insert(BAGGAGE, HeaderValue::from_static("user=1"));
        }
        headers
    }

    fn parent(headers: &HeaderMap) -> Option<Context> {
        Context::read(headers.get(TRACEPARENT)?.as_bytes())
    }

    #[test]
    fn what_is_sampled_gets_a_span_within_the_applications() {
        let (mut random, mut headers) = (StdRng::seed_from_u64(1), said(SAMPLED));
        let open = of_application(&mut headers, 0.0, &mut random).unwrap();
        assert_eq!(
            (open.context.trace, open.parent),
            (0x0af7651916cd43dd8448eb211c80319c, Some(0xb7ad6b7169203331))
        );
        assert_eq!(parent(&headers), Some(open.context), "those who come next are within ours");
        assert_eq!(headers[TRACESTATE], "rojo=1");
    }

    #[test]
    fn what_is_not_sampled_passes_as_it_is() {
        let (mut random, mut headers) = (StdRng::seed_from_u64(1), said(UNSAMPLED));
        assert_eq!(of_application(&mut headers, 1.0, &mut random), None);
        assert_eq!(headers, said(UNSAMPLED));
    }

    #[test]
    fn a_malformed_trace_begins_anew_without_its_state() {
        let mut random = StdRng::seed_from_u64(1);
        for broken in ["00-x", &SAMPLED.replace("0af7", "0AF7"), &SAMPLED.replace("00-", "ff-")] {
            let mut headers = said(broken);
            assert_eq!(of_application(&mut headers, 0.0, &mut random), None);
            assert!(!headers.contains_key(TRACEPARENT) && !headers.contains_key(TRACESTATE), "{broken}");
            let mut headers = said(broken);
            let open = of_application(&mut headers, 1.0, &mut random).unwrap();
            assert_ne!(open.context.trace, 0x0af7651916cd43dd8448eb211c80319c);
            assert_eq!((open.parent, parent(&headers)), (None, Some(open.context)));
            assert!(!headers.contains_key(TRACESTATE));
        }
        let mut headers = said(SAMPLED);
        headers.insert(TRACESTATE, HeaderValue::from_static("no member"));
        assert!(of_application(&mut headers, 0.0, &mut random).is_some());
        assert!(!headers.contains_key(TRACESTATE));
    }

    #[test]
    fn a_share_of_what_belongs_to_no_trace_begins_one_and_the_rest_is_told_not_to() {
        let mut random = StdRng::seed_from_u64(7);
        let mut sampled = 0;
        for _ in 0..10_000 {
            let mut headers = HeaderMap::new();
            let open = of_application(&mut headers, 0.1, &mut random);
            sampled += usize::from(open.is_some());
            assert_eq!(parent(&headers).unwrap().is_sampled(), open.is_some());
        }
        assert!((900..1_100).contains(&sampled), "{sampled}");
        let mut headers = HeaderMap::new();
        assert_eq!(of_application(&mut headers, 0.0, &mut random), None);
        assert!(headers.is_empty(), "who samples nothing decides nothing");
    }

    #[test]
    fn a_strangers_trace_is_linked_and_not_continued() {
        let mut random = StdRng::seed_from_u64(1);
        for share in [None, Some(0.0)] {
            let mut headers = said(SAMPLED);
            assert_eq!(of_stranger(&mut headers, share, &mut random), None);
            assert!(headers.is_empty(), "{headers:?}");
        }
        let mut headers = said(SAMPLED);
        let open = of_stranger(&mut headers, Some(1.0), &mut random).unwrap();
        assert_ne!(open.context.trace, 0x0af7651916cd43dd8448eb211c80319c);
        assert_eq!((open.parent, open.link), (None, Context::read(SAMPLED.as_bytes())));
        assert_eq!((headers.len(), parent(&headers)), (1, Some(open.context)));
    }

    #[test]
    fn without_a_collector_an_applications_word_passes_untouched() {
        let (mut random, mut headers) = (StdRng::seed_from_u64(1), said("00-x"));
        let tracer = Tracer::new(None, TraceSampling::Share(1.0));
        assert_eq!(tracer.request(&mut headers, Word::Application, &mut random), None);
        assert_eq!(headers, said("00-x"));
        assert!(!tracer.reads(Word::Application));
        let context = Context::read(SAMPLED.as_bytes()).unwrap();
        assert_eq!(tracer.within(context, &mut random), None);
    }
}
