use std::time::Duration;

use super::*;

struct Bed {
    names: Names,
    now: Instant,
}

fn place() -> Place {
    Place { kind: MessageKind::ConfigMap, namespace: "shop".to_owned() }
}

fn name(name: &str) -> Name {
    place().name(name)
}

fn version(version: &str) -> (String, String) {
    let (name, version) = version.split_once('@').unwrap();
    (name.to_owned(), version.to_owned())
}

fn there(version: &str) -> Answer {
    Ok(Some(Read { version: version.to_owned(), marks: marks(version) }))
}

fn marks(version: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("message".to_owned(), format!("mark of {version}"))])
}

fn busy(asked: Option<Duration>) -> Answer {
    Err(Trouble::Busy { asked, why: "no time".to_owned() })
}

impl Bed {
    /// With one name, and this much there.
    fn new(there: &[&str]) -> Self {
        let mut bed = Self { names: Names::default(), now: Instant::now() };
        assert_eq!(bed.names.begin(name("a")), Some(place()));
        bed.all(there);
        bed
    }

    /// The same, which was read.
    fn read(at: &str) -> Self {
        let mut bed = Self::new(&[at]);
        bed.reads(at);
        bed
    }

    fn all(&mut self, there: &[&str]) {
        self.names.told(&place(), Seen::All(there.iter().map(|there| version(there)).collect()));
    }

    fn applied(&mut self, at: &str) {
        self.names.told(&place(), Seen::Applied(version(at)));
    }

    fn gone(&mut self, at: &str) {
        self.names.told(&place(), Seen::Gone(version(at)));
    }

    fn take(&mut self) -> Reading {
        self.names.take(self.now).unwrap()
    }

    fn answer(&mut self, reading: Reading, answer: Answer) {
        self.names.answered(reading, answer, self.now, 1.0);
    }

    /// It is read, and this found.
    fn reads(&mut self, at: &str) {
        let (of, version) = version(at);
        let reading = self.take();
        assert_eq!(reading.name, name(&of));
        self.answer(reading, there(&version));
        self.found(&of, Named::Items(marks(&version)));
    }

    fn found(&mut self, of: &str, what: Named) {
        assert_eq!(self.names.found(), [(name(of), what)]);
    }

    /// Nothing is read, now or later, and nothing was found.
    fn rests(&mut self) {
        assert_eq!((self.names.take(self.now), self.names.next()), (None, None));
        assert_eq!(self.names.found(), []);
    }
}

#[tokio::test]
async fn what_is_there_is_read_once_and_what_is_not_there_never() {
    let mut bed = Bed::new(&["foreign@1", "a@2"]);
    bed.reads("a@2");
    bed.rests();
    let mut bed = Bed::new(&["foreign@1"]);
    bed.found("a", Named::Nothing);
    bed.rests();
}

#[tokio::test]
async fn before_everything_was_listed_nothing_is_read() {
    let mut names = Names::default();
    assert_eq!(names.begin(name("a")), Some(place()));
    assert_eq!(names.begin(name("b")), None, "the place is watched already");
    assert_eq!((names.take(Instant::now()), names.found()), (None, Vec::new()));
}

#[tokio::test]
async fn what_nobody_refers_to_is_never_read_however_often_it_changes() {
    let mut bed = Bed::read("a@1");
    for number in 2..100 {
        bed.applied(&format!("foreign@{number}"));
    }
    bed.gone("foreign@100");
    bed.rests();
}

#[tokio::test]
async fn a_change_is_read_once_and_what_is_known_is_not_read_again() {
    let mut bed = Bed::read("a@1");
    bed.applied("a@1");
    bed.all(&["a@1", "foreign@3"]);
    bed.rests();
    bed.applied("a@2");
    bed.applied("a@3");
    bed.reads("a@3");
    bed.rests();
}

#[tokio::test]
async fn what_begins_to_be_wanted_while_its_place_is_watched_is_read_at_once() {
    let mut bed = Bed::read("a@1");
    assert_eq!(bed.names.begin(name("b")), None);
    bed.reads("b@1");
    assert_eq!(bed.names.begin(name("c")), None);
    let reading = bed.take();
    bed.answer(reading, Ok(None));
    bed.found("c", Named::Nothing);
    bed.rests();
    bed.applied("c@7");
    bed.reads("c@7");
}

#[tokio::test]
async fn of_what_changes_while_it_is_read_the_last_is_found() {
    // The answer is from before the change.
    let mut bed = Bed::read("a@1");
    bed.applied("a@2");
    let reading = bed.take();
    bed.applied("a@3");
    assert_eq!(bed.names.take(bed.now), None, "it is being read");
    bed.answer(reading, there("2"));
    bed.found("a", Named::Items(marks("2")));
    bed.reads("a@3");
    bed.rests();
    // The answer has the change in it.
    bed.applied("a@4");
    let reading = bed.take();
    bed.applied("a@5");
    bed.answer(reading, there("5"));
    bed.found("a", Named::Items(marks("5")));
    bed.rests();
    // The answer is ahead of the watch.
    bed.applied("a@6");
    bed.reads("a@7");
    bed.rests();
    bed.applied("a@7");
    bed.rests();
}

#[tokio::test]
async fn what_is_gone_and_what_comes_again_is_seen() {
    let mut bed = Bed::read("a@1");
    bed.gone("a@2");
    let reading = bed.take();
    bed.applied("a@3");
    bed.answer(reading, Ok(None));
    bed.found("a", Named::Nothing);
    bed.reads("a@3");
    bed.rests();
    // While nobody watched.
    bed.all(&["foreign@9"]);
    let reading = bed.take();
    bed.answer(reading, Ok(None));
    bed.found("a", Named::Nothing);
    bed.rests();
    bed.all(&["a@12"]);
    bed.reads("a@12");
    // Gone while it is read.
    bed.applied("a@13");
    let reading = bed.take();
    bed.gone("a@14");
    bed.answer(reading, there("13"));
    assert_eq!(bed.names.found().len(), 1);
    let reading = bed.take();
    bed.answer(reading, Ok(None));
    bed.found("a", Named::Nothing);
    bed.rests();
}

#[tokio::test]
async fn what_nobody_wants_any_more_is_not_found_and_holds_no_place() {
    let mut bed = Bed::new(&["a@1", "b@1"]);
    assert_eq!(bed.names.begin(name("b")), None);
    let (a, b) = (bed.take(), bed.take());
    assert_eq!(bed.names.end(&b.name), None);
    assert_eq!(bed.names.begin(name("b")), None);
    let again = bed.take();
    bed.answer(b, there("1"));
    assert_eq!(bed.names.found(), [], "that is the answer to somebody else");
    bed.answer(again, there("2"));
    bed.found("b", Named::Items(marks("2")));
    assert_eq!(bed.names.end(&name("b")), None);
    assert_eq!(bed.names.end(&name("a")), Some(place()), "it was the last one");
    assert_eq!(bed.names.end(&name("a")), None);
    bed.answer(a, there("1"));
    bed.all(&["a@1"]);
    bed.applied("a@2");
    bed.rests();
    assert!(bed.names.places.is_empty() && bed.names.open == 0);
}

#[tokio::test]
async fn at_most_so_many_are_read_at_once_whoever_still_waits_for_them() {
    let mut bed = Bed::new(&[]);
    bed.names.found();
    let all: Vec<Name> = (0..3 * READS).map(|number| name(&format!("n{number}"))).collect();
    all.iter().for_each(|name| assert_eq!(bed.names.begin(name.clone()), None));
    let mut open: Vec<Reading> = (0..READS).map(|_| bed.take()).collect();
    assert_eq!(bed.names.take(bed.now), None);
    let left = open.pop().unwrap();
    bed.names.end(&left.name);
    assert_eq!(bed.names.take(bed.now), None, "its answer has not come");
    bed.answer(left, there("1"));
    open.push(bed.take());
    assert_eq!(bed.names.take(bed.now), None);
    // Nobody is woken for what there is no room for.
    let failed = open.pop().unwrap();
    bed.answer(failed, busy(None));
    assert!(bed.names.next().is_some());
    bed.take();
    assert_eq!(bed.names.next(), None);
}

#[tokio::test]
async fn whoever_has_no_time_is_asked_again_and_nothing_is_lost() {
    let mut bed = Bed::read("a@1");
    bed.names.begin(name("b"));
    bed.reads("b@1");
    bed.applied("a@2");
    let minute = Duration::from_secs(60);
    for answer in
        [busy(None), Err(Trouble::Changed), Err(Trouble::Refused("no".to_owned())), busy(Some(minute * 2))]
    {
        let reading = bed.take();
        bed.applied("a@3");
        bed.answer(reading, answer);
        assert_eq!((bed.names.take(bed.now), bed.names.found()), (None, Vec::new()));
        // Others go on meanwhile.
        let number = bed.names.begun.to_string();
        bed.applied(&format!("b@{number}"));
        bed.reads(&format!("b@{number}"));
        bed.now = bed.names.next().unwrap();
    }
    bed.reads("a@3");
    bed.rests();
}

#[tokio::test]
async fn what_may_not_be_looked_at_is_closed_until_it_may() {
    let mut bed = Bed::read("a@1");
    bed.applied("a@2");
    let reading = bed.take();
    bed.names.told(&place(), Seen::Closed);
    bed.found("a", Named::Closed);
    bed.answer(reading, there("2"));
    bed.names.nudge("shop");
    bed.rests();
    assert_eq!(bed.names.begin(name("b")), None);
    bed.found("b", Named::Closed);
    bed.all(&["a@2"]);
    bed.found("b", Named::Nothing);
    bed.reads("a@2");
    bed.rests();
}

#[tokio::test]
async fn what_may_not_be_read_is_closed_by_itself() {
    let mut bed = Bed::read("a@1");
    bed.names.begin(name("b"));
    let reading = bed.take();
    bed.answer(reading, Err(Trouble::Forbidden("no".to_owned())));
    bed.found("b", Named::Closed);
    assert_eq!(bed.names.take(bed.now), None);
    bed.names.nudge("bank");
    assert_eq!(bed.names.take(bed.now), None);
    bed.names.nudge("shop");
    bed.reads("b@1");
    bed.names.nudge("shop");
    bed.rests();
    // And by itself, though nobody says that it may.
    bed.applied("b@2");
    let reading = bed.take();
    bed.answer(reading, Err(Trouble::Forbidden("no".to_owned())));
    bed.found("b", Named::Closed);
    bed.now = bed.names.next().unwrap();
    bed.reads("b@2");
}
