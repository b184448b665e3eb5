//! Tables of the conformance suite of Gateway API, and what it leaves out.
