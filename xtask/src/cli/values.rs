//! How single values are read, and what is said of those that are none.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

/// An amount of memory in MiB.
pub fn megabytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        _ => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a number of MiB, such as 512, 512M or 2G".to_owned())?;
    match number.checked_mul(factor) {
        Some(size @ 16..=1_048_576) => Ok(size),
        _ => Err("outside 16M to 1024G".to_owned()),
    }
}

/// The scenarios of the sample task `storm`.
const SCENARIOS: [&str; 13] = [
    "mix",
    "sweep",
    "random",
    "same-page",
    "cow",
    "churn",
    "brk",
    "huge",
    "file",
    "kill",
    "exec",
    "timer",
    "shortage",
];

/// A list of scenarios.
pub fn scenarios(text: &str) -> Result<String, String> {
    match text.split(',').find(|name| !SCENARIOS.contains(name)) {
        Some(unknown) => Err(format!(
            "there is no scenario `{unknown}`{}; there are {}",
            closest(unknown, SCENARIOS).map_or_else(String::new, |name| format!(" (`{name}`?)")),
            SCENARIOS.join(", ")
        )),
        None => Ok(text.to_owned()),
    }
}

/// A length of time.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).map_err(|error| error.to_string())
}

/// A length of time that is some.
pub fn positive_seconds(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("no time at all: nothing would begin".to_owned()),
        some => Ok(some),
    }
}

/// A variable of the environment.
pub fn variable(text: OsString) -> Result<OsString, String> {
    match text.as_bytes().iter().position(|&byte| byte == b'=') {
        None => {
            let name = text.display();
            Err(format!(
                "it has no value: write {name}=VALUE, or {name}= for an empty one"
            ))
        }
        Some(0) => Err("it has no name: write NAME=VALUE".to_owned()),
        Some(_) => Ok(text),
    }
}

/// The name of a page.
pub fn html_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    match file.extension().and_then(|end| end.to_str()) {
        Some("html" | "htm") => Ok(file),
        _ => Err("the report is a page: name a file that ends in .html".to_owned()),
    }
}

/// The name of a picture.
pub fn svg_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    match file.extension().and_then(|end| end.to_str()) {
        Some("svg") => Ok(file),
        _ => Err("the profile is a picture: name a file that ends in .svg".to_owned()),
    }
}

/// The known word that a person may have meant: the one with the fewest letters between the two, if these are few.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = word.chars().count().div_ceil(3);
    let distances = known.into_iter().map(|name| (distance(word, name), name));
    distances
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, remove, replace or swap with the next one to make one word the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let width = other.len() + 1;
    let mut table = vec![0; (one.len() + 1) * width];
    for i in 0..=one.len() {
        for j in 0..width {
            table[i * width + j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let changed = usize::from(one[i - 1] != other[j - 1]);
                    let mut least = (table[(i - 1) * width + j] + 1)
                        .min(table[i * width + j - 1] + 1)
                        .min(table[(i - 1) * width + j - 1] + changed);
                    if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                        least = least.min(table[(i - 2) * width + j - 2] + 1);
                    }
                    least
                }
            };
        }
    }
    table[table.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert_eq!(megabytes("2G"), Ok(2048));
        for wrong in ["", "M", "5", "1.5G", "-1", "99999999999999999999G"] {
            assert!(megabytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_closest_word_is_near() {
        let names = ["hello", "heap", "wild", "touch"];
        assert_eq!(closest("heloo", names), Some("hello"));
        assert_eq!(closest("tuoch", names), Some("touch"));
        assert_eq!(closest("bogus", names), None);
        assert_eq!(closest("", names), None);
    }

    #[test]
    fn variables_have_a_name_and_a_value() {
        assert_eq!(variable("A=b=c".into()), Ok("A=b=c".into()));
        assert!(variable("FOO".into()).unwrap_err().contains("FOO=VALUE"));
        assert!(variable("=x".into()).is_err());
    }
}
