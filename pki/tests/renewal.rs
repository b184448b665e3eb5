//! A certificate's life on a simulated clock.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops here")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trellis_pki::issue::BACKDATE;
use trellis_pki::renewal::{Renewal, STARTUP_ATTEMPTS, Step};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Asked,
    Checked(Duration),
    GaveUp,
}

/// Runs `renewal` on a clock that jumps to whatever is due; `answer` plays the CA.
struct Life<A> {
    renewal: Renewal,
    now: SystemTime,
    answer: A,
    log: Vec<(Duration, Event)>,
}

impl<A: FnMut(SystemTime) -> bool> Life<A> {
    fn new(jitter: f64, answer: A) -> Self {
        Self { renewal: Renewal::new(jitter), now: start(), answer, log: Vec::new() }
    }

    fn note(&mut self, event: Event) {
        self.log.push((self.now.duration_since(start()).unwrap(), event));
    }

    fn run_until(&mut self, end: SystemTime) {
        while self.now < end {
            match self.renewal.poll(self.now) {
                Step::Renew => {
                    self.note(Event::Asked);
                    let now = self.now;
                    match (self.answer)(now) {
                        true => self.renewal.issued(now - BACKDATE, now - BACKDATE + DAY, now),
                        false => self.renewal.failed(now),
                    }
                }
                Step::Check { expires_in } => self.note(Event::Checked(expires_in)),
                Step::Sleep(wait) => {
                    assert!(wait > Duration::ZERO, "a machine that sleeps for nothing spins");
                    assert!(wait <= HOUR, "never blind for longer than an hour");
                    self.now += wait;
                }
                Step::GiveUp => {
                    self.note(Event::GaveUp);
                    return;
                }
            }
        }
    }

    fn asked(&self) -> Vec<Duration> {
        self.log.iter().filter(|(_, event)| *event == Event::Asked).map(|(at, _)| *at).collect()
    }

    fn checks(&self) -> Vec<(Duration, Duration)> {
        let checked = |(at, event): &(Duration, Event)| match event {
            Event::Checked(left) => Some((*at, *left)),
            _ => None,
        };
        self.log.iter().filter_map(checked).collect()
    }
}

#[test]
fn two_days_renew_in_their_windows_and_are_checked_each_hour() {
    for jitter in [0.0, 0.25, 0.5, 1.0] {
        let mut life = Life::new(jitter, |_| true);
        life.run_until(start() + DAY * 2);
        let asked = life.asked();
        assert_eq!(asked[0], Duration::ZERO);
        assert_eq!(asked.len(), 3, "at the start and twice after, with jitter {jitter}: {asked:?}");
        for pair in asked.windows(2) {
            let wanted = HOUR * 20 + (HOUR * 2).mul_f64(jitter);
            assert_eq!(pair[1] - pair[0], wanted, "jitter {jitter}");
        }
        let checks = life.checks();
        for day in 0..2 {
            let within = |(at, _): &&(Duration, Duration)| (DAY * day..DAY * (day + 1)).contains(at);
            let count = checks.iter().filter(within).count();
            assert!(count >= 24, "day {day} has {count} checks with jitter {jitter}");
        }
        let always_alive = checks.iter().all(|(_, left)| *left > HOUR);
        assert!(always_alive, "no certificate comes near its end while renewals succeed");
    }
}

#[test]
fn a_day_without_the_ca_is_checked_every_hour_and_says_what_is_left() {
    let began = start();
    let mut life = Life::new(0.5, move |now| now == began);
    life.run_until(start() + DAY);
    let checks = life.checks();
    assert!(checks.len() >= 24, "{}", checks.len());
    for (at, left) in &checks {
        assert_eq!(*left, DAY - BACKDATE - *at);
    }
    life.run_until(start() + DAY + HOUR * 3);
    let (_, left) = *life.checks().last().unwrap();
    assert_eq!(left, Duration::ZERO, "an ended certificate is still reported");
}

#[test]
fn failures_back_off_to_five_minutes_and_never_end_a_running_workload() {
    for jitter in [0.0, 1.0] {
        let began = start();
        let mut life = Life::new(jitter, move |now| now == began);
        life.run_until(start() + DAY * 2);
        assert!(!life.log.iter().any(|(_, event)| *event == Event::GaveUp));
        let asked = life.asked();
        let waits: Vec<_> = asked[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        let share = 0.5 + 0.5 * jitter;
        let wanted =
            [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300].map(|s| Duration::from_secs(s).mul_f64(share));
        assert_eq!(waits[..wanted.len()], wanted, "jitter {jitter}");
        assert_eq!(waits.last(), wanted.last(), "and so on for hours");
    }
}

#[test]
fn the_ca_returns_and_life_goes_on_as_before() {
    let (began, outage_ends) = (start(), start() + HOUR * 30);
    let mut life = Life::new(0.0, move |now| now == began || now >= outage_ends);
    life.run_until(start() + HOUR * 60);
    let asked = life.asked();
    let recovered = *asked.iter().find(|at| **at >= HOUR * 30).unwrap();
    assert!(recovered < HOUR * 30 + Duration::from_secs(300), "within one delay: {recovered:?}");
    let next = *asked.iter().find(|at| **at > recovered).unwrap();
    assert_eq!(next - recovered, HOUR * 20);
}

#[test]
fn a_start_without_the_ca_is_given_up_after_five_attempts() {
    let mut life = Life::new(1.0, |_| false);
    life.run_until(start() + DAY);
    assert_eq!(life.asked().len() as u32, STARTUP_ATTEMPTS);
    let (at, event) = *life.log.last().unwrap();
    assert_eq!((at, event), (Duration::from_secs(1 + 2 + 4 + 8), Event::GaveUp));
    assert_eq!(life.renewal.poll(life.now + DAY), Step::GiveUp, "and stays given up");
    life.renewal.renew_now();
    assert_eq!(life.renewal.poll(life.now + DAY), Step::GiveUp);
}

#[test]
fn a_start_may_stumble() {
    let mut left = 4;
    let mut life = Life::new(0.0, move |_| {
        left -= 1;
        left < 0
    });
    life.run_until(start() + HOUR);
    assert_eq!(life.asked().len(), 5);
    assert!(!life.log.iter().any(|(_, event)| *event == Event::GaveUp));
}

#[test]
fn one_attempt_is_under_way_at_most() {
    let mut renewal = Renewal::new(0.0);
    assert_eq!(renewal.poll(start()), Step::Renew);
    for seconds in 0..10 {
        let step = renewal.poll(start() + Duration::from_secs(seconds));
        assert!(matches!(step, Step::Sleep(_)), "{step:?}");
    }
    renewal.renew_now();
    assert!(matches!(renewal.poll(start()), Step::Sleep(_)), "not even when it is asked for");
}

#[test]
fn a_swap_can_be_asked_for_at_any_time() {
    let mut renewal = Renewal::new(0.0);
    assert_eq!(renewal.poll(start()), Step::Renew);
    renewal.issued(start() - BACKDATE, start() - BACKDATE + DAY, start());
    assert_eq!(renewal.poll(start()), Step::Check { expires_in: DAY - BACKDATE });
    assert!(matches!(renewal.poll(start()), Step::Sleep(_)));
    renewal.renew_now();
    assert_eq!(renewal.poll(start()), Step::Renew);
}

#[test]
fn checks_go_on_while_an_attempt_is_under_way() {
    let mut renewal = Renewal::new(0.0);
    renewal.poll(start());
    renewal.issued(start() - BACKDATE, start() - BACKDATE + DAY, start());
    renewal.renew_now();
    assert_eq!(renewal.poll(start()), Step::Renew);
    assert!(matches!(renewal.poll(start() + HOUR), Step::Check { .. }));
}

#[test]
fn clocks_that_disagree_with_the_issuer_neither_miss_the_end_nor_storm_the_ca() {
    // Behind by two hours, ahead by two, ahead by almost the whole life.
    for (ahead, not_before) in
        [(false, start() + HOUR * 2), (true, start() - HOUR * 2), (true, start() - HOUR * 23)]
    {
        let not_after = not_before + DAY;
        let mut renewal = Renewal::new(1.0);
        assert_eq!(renewal.poll(start()), Step::Renew);
        renewal.issued(not_before, not_after, start());
        let mut now = start();
        let due = loop {
            match renewal.poll(now) {
                Step::Renew => break now,
                Step::Check { .. } => {}
                Step::Sleep(wait) => now += wait,
                Step::GiveUp => panic!("gave up"),
            }
        };
        assert!(due <= not_after, "ahead {ahead}: before the end");
        assert!(due >= start() + HOUR, "ahead {ahead}: not at once");
    }
}

#[test]
fn a_clock_that_is_set_back_does_not_silence_the_checks() {
    let mut renewal = Renewal::new(0.0);
    renewal.poll(start());
    renewal.issued(start() - BACKDATE, start() - BACKDATE + DAY, start());
    assert!(matches!(renewal.poll(start()), Step::Check { .. }));
    let back = start() - DAY;
    assert_eq!(renewal.poll(back), Step::Sleep(HOUR));
    assert!(matches!(renewal.poll(back + HOUR), Step::Check { .. }));
}

#[test]
fn short_lives_are_renewed_in_proportion() {
    let life = Duration::from_secs(240);
    let mut renewal = Renewal::new(0.0);
    renewal.poll(start());
    renewal.issued(start(), start() + life, start());
    let mut now = start();
    let mut checks = 0;
    while let step = renewal.poll(now)
        && step != Step::Renew
    {
        match step {
            Step::Sleep(wait) => now += wait,
            _ => checks += 1,
        }
    }
    assert_eq!(now, start() + Duration::from_secs(200));
    assert!(checks >= 19, "{checks}");
}

#[test]
fn a_senseless_jitter_is_none() {
    for (jitter, share) in [(f64::NAN, 0.0), (-1.0, 0.0), (7.0, 1.0), (f64::INFINITY, 0.0)] {
        let mut life = Life::new(jitter, |_| true);
        life.run_until(start() + DAY);
        assert_eq!(life.asked()[1], HOUR * 20 + (HOUR * 2).mul_f64(share), "{jitter}");
    }
}

#[test]
fn what_a_workload_can_live_without_is_asked_for_until_it_comes() {
    let mut now = start();
    let mut renewal = Renewal::patient(0.5);
    for _ in 0..40 {
        assert_eq!(renewal.poll(now), Step::Renew);
        renewal.failed(now);
        let Step::Sleep(pause) = renewal.poll(now) else { panic!("it does not wait") };
        assert!(pause <= Duration::from_secs(5 * 60), "{pause:?}");
        now += pause;
    }
}
