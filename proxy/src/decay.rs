//! How what was seen loses its weight with time.

/// What is left of it after so many times the span in which it falls to a third.
///
/// That is e to the power of `-spans`, a little less for large ones: near enough, and without the mathematics
/// of libc, a library of which a third of a megabyte would be resident for this alone.
pub fn left(spans: f64) -> f64 {
    const STEPS: i32 = 256;
    (1.0 - spans / f64::from(STEPS)).clamp(0.0, 1.0).powi(STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_as_an_exponential_does() {
        assert_eq!(left(0.0), 1.0);
        assert_eq!(left(1e9), 0.0);
        for spans in [0.001, 0.1, 0.5, 1.0, 2.0, 4.0] {
            let (left, exact) = (left(spans), (-spans).exp());
            assert!((left - exact).abs() < 0.002, "{spans}: {left} instead of {exact}");
        }
    }
}
